//! Operations that answer several tensors, or take a sequence of steps: recorded as simpler ones.
//! After an error nothing of them is left in the session.

mod cells;

use cells::{GruWeights, LstmWeights};

use crate::error::Error;
use crate::op::{
    Activation, Binary, Direction, Gru, GruCell, GruCellOperands, GruOperands, Lstm, LstmCell,
    LstmCellOperands, LstmOperands, Op, Splits, Unary,
};
use crate::rules::{self, Descriptor, recurrent};
use crate::session::{Session, TensorId};
use crate::shape::Dims;
use crate::types::DataType;

impl Session {
    /// Cuts a tensor along `axis` (WebNN `split`).
    pub fn split(&mut self, input: TensorId, splits: &Splits<'_>, axis: u32) -> Result<Vec<TensorId>, Error> {
        let descriptor = self.describe("split", input)?;
        let parts = rules::split(descriptor, splits, axis)?;
        record(self, "split", |r| {
            let mut starts = Dims::splat(0, descriptor.shape.rank());
            let mut sizes = descriptor.shape;
            let mut results = Vec::with_capacity(parts.len());
            for &size in &parts {
                sizes.as_mut_slice()[axis as usize] = size;
                results.push(r.op(Op::Slice { starts, sizes, strides: None }, &[input])?);
                starts.as_mut_slice()[axis as usize] += size;
            }
            Ok(results)
        })
    }

    /// One step of a gated recurrent unit: the new hidden state (WebNN `gruCell`).
    pub fn gru_cell(&mut self, operands: &GruCellOperands, cell: &GruCell) -> Result<TensorId, Error> {
        const NAME: &str = "gru-cell";
        let of = |id| self.describe(NAME, id);
        let optional = |id: Option<TensorId>| id.map(&of).transpose();
        let result = recurrent::gru_cell(
            &GruCellOperands {
                input: of(operands.input)?,
                weight: of(operands.weight)?,
                recurrent_weight: of(operands.recurrent_weight)?,
                hidden_state: of(operands.hidden_state)?,
                bias: optional(operands.bias)?,
                recurrent_bias: optional(operands.recurrent_bias)?,
            },
            cell,
        )?;
        let made = record(self, NAME, |r| {
            let o = operands;
            let gru = GruWeights::new(r, cell, o.weight, o.recurrent_weight, o.bias, o.recurrent_bias)?;
            let input = r.wide(o.input)?;
            let given = gru.input_part(r, input)?;
            let hidden = r.wide(o.hidden_state)?;
            let hidden = gru.step(r, given, hidden)?;
            Ok(vec![r.narrow(hidden, result.data_type)?])
        })?;
        one(&made, NAME)
    }

    /// A gated recurrent unit over a sequence (WebNN `gru`): the last hidden state (directions,
    /// batch, hidden size), and where wanted all of them (steps, directions, batch, hidden size).
    pub fn gru(&mut self, operands: &GruOperands, gru: &Gru) -> Result<Vec<TensorId>, Error> {
        const NAME: &str = "gru";
        let of = |id| self.describe(NAME, id);
        let optional = |id: Option<TensorId>| id.map(&of).transpose();
        let input = of(operands.input)?;
        let results = recurrent::gru(
            &GruOperands {
                input,
                weight: of(operands.weight)?,
                recurrent_weight: of(operands.recurrent_weight)?,
                bias: optional(operands.bias)?,
                recurrent_bias: optional(operands.recurrent_bias)?,
                initial_hidden_state: optional(operands.initial_hidden_state)?,
            },
            gru,
        )?;
        let o = operands;
        record(self, NAME, |r| {
            let all = Sequence::new(r, o.input, gru.direction, gru.steps, gru.return_sequence)?;
            let (mut last, mut every) = (Vec::new(), Vec::new());
            for direction in 0..gru.direction.count() {
                let weight = r.part(o.weight, direction)?;
                let recurrent = r.part(o.recurrent_weight, direction)?;
                let bias = r.optional_part(o.bias, direction)?;
                let recurrent_bias = r.optional_part(o.recurrent_bias, direction)?;
                let weights = GruWeights::new(r, &gru.cell, weight, recurrent, bias, recurrent_bias)?;
                let given = weights.input_part(r, all.rows)?;
                let mut hidden = r.state(o.initial_hidden_state, direction, &results[0])?;
                let mut states = Vec::new();
                for step in all.steps(direction) {
                    let given = all.step_rows(r, given, step)?;
                    hidden = weights.step(r, given, hidden)?;
                    all.keep(&mut states, hidden);
                }
                last.push(hidden);
                every.push(states);
            }
            let mut made = vec![all.stack(r, &last, &results[0])?];
            if let Some(result) = results.get(1) {
                made.push(all.sequence(r, every, result)?);
            }
            Ok(made)
        })
    }

    /// One step of a long short-term memory: the new hidden and cell states (WebNN `lstmCell`).
    pub fn lstm_cell(
        &mut self,
        operands: &LstmCellOperands,
        cell: &LstmCell,
    ) -> Result<[TensorId; 2], Error> {
        const NAME: &str = "lstm-cell";
        let of = |id| self.describe(NAME, id);
        let optional = |id: Option<TensorId>| id.map(&of).transpose();
        let [result, _] = recurrent::lstm_cell(
            &LstmCellOperands {
                input: of(operands.input)?,
                weight: of(operands.weight)?,
                recurrent_weight: of(operands.recurrent_weight)?,
                hidden_state: of(operands.hidden_state)?,
                cell_state: of(operands.cell_state)?,
                bias: optional(operands.bias)?,
                recurrent_bias: optional(operands.recurrent_bias)?,
                peephole_weight: optional(operands.peephole_weight)?,
            },
            cell,
        )?;
        let o = operands;
        let made = record(self, NAME, |r| {
            let biases = [o.bias, o.recurrent_bias];
            let lstm = LstmWeights::new(r, cell, o.weight, o.recurrent_weight, biases, o.peephole_weight)?;
            let input = r.wide(o.input)?;
            let given = lstm.input_part(r, input)?;
            let states = [r.wide(o.hidden_state)?, r.wide(o.cell_state)?];
            let [hidden, memory] = lstm.step(r, given, states)?;
            Ok(vec![r.narrow(hidden, result.data_type)?, r.narrow(memory, result.data_type)?])
        })?;
        match made[..] {
            [hidden, memory] => Ok([hidden, memory]),
            _ => Err(Error::device(NAME, "made too few tensors (a bug in Warren)")),
        }
    }

    /// A long short-term memory over a sequence (WebNN `lstm`): the last hidden and cell states
    /// (directions, batch, hidden size), and where wanted all hidden states (steps, directions,
    /// batch, hidden size).
    pub fn lstm(&mut self, operands: &LstmOperands, lstm: &Lstm) -> Result<Vec<TensorId>, Error> {
        const NAME: &str = "lstm";
        let of = |id| self.describe(NAME, id);
        let optional = |id: Option<TensorId>| id.map(&of).transpose();
        let results = recurrent::lstm(
            &LstmOperands {
                input: of(operands.input)?,
                weight: of(operands.weight)?,
                recurrent_weight: of(operands.recurrent_weight)?,
                bias: optional(operands.bias)?,
                recurrent_bias: optional(operands.recurrent_bias)?,
                peephole_weight: optional(operands.peephole_weight)?,
                initial_hidden_state: optional(operands.initial_hidden_state)?,
                initial_cell_state: optional(operands.initial_cell_state)?,
            },
            lstm,
        )?;
        let o = operands;
        record(self, NAME, |r| {
            let all = Sequence::new(r, o.input, lstm.direction, lstm.steps, lstm.return_sequence)?;
            let (mut last, mut cells, mut every) = (Vec::new(), Vec::new(), Vec::new());
            for direction in 0..lstm.direction.count() {
                let weight = r.part(o.weight, direction)?;
                let recurrent = r.part(o.recurrent_weight, direction)?;
                let biases =
                    [r.optional_part(o.bias, direction)?, r.optional_part(o.recurrent_bias, direction)?];
                let peephole = r.optional_part(o.peephole_weight, direction)?;
                let weights = LstmWeights::new(r, &lstm.cell, weight, recurrent, biases, peephole)?;
                let given = weights.input_part(r, all.rows)?;
                let mut states = [
                    r.state(o.initial_hidden_state, direction, &results[0])?,
                    r.state(o.initial_cell_state, direction, &results[1])?,
                ];
                let mut hidden = Vec::new();
                for step in all.steps(direction) {
                    let given = all.step_rows(r, given, step)?;
                    states = weights.step(r, given, states)?;
                    all.keep(&mut hidden, states[0]);
                }
                last.push(states[0]);
                cells.push(states[1]);
                every.push(hidden);
            }
            let mut made = vec![all.stack(r, &last, &results[0])?, all.stack(r, &cells, &results[1])?];
            if let Some(result) = results.get(2) {
                made.push(all.sequence(r, every, result)?);
            }
            Ok(made)
        })
    }
}

fn one(made: &[TensorId], name: &'static str) -> Result<TensorId, Error> {
    made.first().copied().ok_or_else(|| Error::device(name, "made no tensor (a bug in Warren)"))
}

/// Records what `work` does, and lets go of every handle on the way but those it answers.
fn record(
    session: &mut Session,
    name: &'static str,
    work: impl FnOnce(&mut Recorder<'_>) -> Result<Vec<TensorId>, Error>,
) -> Result<Vec<TensorId>, Error> {
    let mut recorder = Recorder { session, name, made: Vec::new() };
    let result = work(&mut recorder);
    let Recorder { session, made, .. } = recorder;
    let kept = result.as_deref().unwrap_or_default();
    for id in made {
        if !kept.contains(&id) {
            session.release(id);
        }
    }
    result
}

struct Recorder<'a> {
    session: &'a mut Session,
    /// To name in errors.
    name: &'static str,
    made: Vec<TensorId>,
}

impl Recorder<'_> {
    fn op(&mut self, op: Op, inputs: &[TensorId]) -> Result<TensorId, Error> {
        let name = self.name;
        let id = self.session.record(op, inputs).map_err(|error| Error { operation: name, ..error })?;
        self.made.push(id);
        Ok(id)
    }

    fn binary(&mut self, op: Binary, a: TensorId, b: TensorId) -> Result<TensorId, Error> {
        self.op(Op::Binary(op), &[a, b])
    }

    fn describe(&self, id: TensorId) -> Result<Descriptor, Error> {
        self.session.describe(self.name, id)
    }

    /// As float32: states are rounded to float16 only where they are answered.
    fn wide(&mut self, id: TensorId) -> Result<TensorId, Error> {
        match self.describe(id)?.data_type {
            DataType::Float16 => self.op(Op::Cast { to: DataType::Float32 }, &[id]),
            _ => Ok(id),
        }
    }

    fn narrow(&mut self, id: TensorId, to: DataType) -> Result<TensorId, Error> {
        match to {
            DataType::Float16 => self.op(Op::Cast { to }, &[id]),
            _ => Ok(id),
        }
    }

    fn reshape(&mut self, id: TensorId, dims: &[u32]) -> Result<TensorId, Error> {
        self.op(Op::Reshape { shape: rules::checked_shape(self.name, dims)? }, &[id])
    }

    /// `count` rows (or elements) from `start` on, or columns where `axis` is 1.
    fn cut(&mut self, id: TensorId, axis: usize, start: u32, count: u32) -> Result<TensorId, Error> {
        let mut sizes = self.describe(id)?.shape;
        let mut starts = Dims::splat(0, sizes.rank());
        starts.as_mut_slice()[axis] = start;
        sizes.as_mut_slice()[axis] = count;
        self.op(Op::Slice { starts, sizes, strides: None }, &[id])
    }

    /// Index `at` of the first dimension, without that dimension.
    fn part(&mut self, id: TensorId, at: u32) -> Result<TensorId, Error> {
        let shape = self.describe(id)?.shape;
        let part = self.cut(id, 0, at, 1)?;
        self.reshape(part, &shape.as_slice()[1..])
    }

    fn optional_part(&mut self, id: Option<TensorId>, at: u32) -> Result<Option<TensorId>, Error> {
        id.map(|id| self.part(id, at)).transpose()
    }

    /// The state (batch, hidden size) that a direction starts with: zeros if none is given.
    fn state(&mut self, given: Option<TensorId>, at: u32, like: &Descriptor) -> Result<TensorId, Error> {
        match given {
            Some(id) => {
                let part = self.part(id, at)?;
                self.wide(part)
            }
            None => {
                let shape = Dims::new(&like.shape.as_slice()[1..]).unwrap_or_default();
                self.op(Op::Fill { data_type: DataType::Float32, shape, value: 0.0 }, &[])
            }
        }
    }

    /// a * b transposed + c.
    fn product(&mut self, a: TensorId, b: TensorId, c: Option<TensorId>) -> Result<TensorId, Error> {
        let op = Op::Gemm { alpha: 1.0, beta: 1.0, a_transpose: false, b_transpose: true };
        match c {
            Some(c) => self.op(op, &[a, b, c]),
            None => self.op(op, &[a, b]),
        }
    }

    fn apply(&mut self, activation: Activation, id: TensorId) -> Result<TensorId, Error> {
        let unary = match activation {
            Activation::Relu => Unary::Relu,
            Activation::Sigmoid => Unary::Sigmoid,
            Activation::Tanh => Unary::Tanh,
        };
        self.op(Op::Unary(unary), &[id])
    }
}

/// The input of a sequence, and how its results are put together.
struct Sequence {
    /// The input as (steps * batch, input size), float32: its share of the gates is one product
    /// for all steps.
    rows: TensorId,
    batch: u32,
    count: u32,
    direction: Direction,
    wanted: bool,
}

impl Sequence {
    fn new(
        r: &mut Recorder<'_>,
        input: TensorId,
        direction: Direction,
        count: u32,
        wanted: bool,
    ) -> Result<Sequence, Error> {
        let shape = r.describe(input)?.shape;
        let (batch, size) = (shape.as_slice()[1], shape.as_slice()[2]);
        let rows = r.reshape(input, &[count.saturating_mul(batch), size])?;
        let rows = r.wide(rows)?;
        Ok(Sequence { rows, batch, count, direction, wanted })
    }

    /// Steps in the order in which direction number `direction` takes them.
    fn steps(&self, direction: u32) -> impl Iterator<Item = u32> + use<> {
        let backward = direction == 1 || self.direction == Direction::Backward;
        let count = self.count;
        (0..count).map(move |i| if backward { count - 1 - i } else { i })
    }

    fn step_rows(&self, r: &mut Recorder<'_>, given: TensorId, step: u32) -> Result<TensorId, Error> {
        r.cut(given, 0, step * self.batch, self.batch)
    }

    fn keep(&self, states: &mut Vec<TensorId>, state: TensorId) {
        if self.wanted {
            states.push(state);
        }
    }

    /// States of the directions as one tensor.
    fn stack(
        &self,
        r: &mut Recorder<'_>,
        states: &[TensorId],
        result: &Descriptor,
    ) -> Result<TensorId, Error> {
        let joined = r.op(Op::Concat { axis: 0 }, states)?;
        let shaped = r.reshape(joined, result.shape.as_slice())?;
        r.narrow(shaped, result.data_type)
    }

    /// States of every step, in the steps' order, for each direction.
    fn sequence(
        &self,
        r: &mut Recorder<'_>,
        states: Vec<Vec<TensorId>>,
        result: &Descriptor,
    ) -> Result<TensorId, Error> {
        let dims = result.shape.as_slice();
        let mut directions = Vec::with_capacity(states.len());
        for (direction, mut states) in states.into_iter().enumerate() {
            if direction == 1 || self.direction == Direction::Backward {
                states.reverse();
            }
            let joined = r.op(Op::Concat { axis: 0 }, &states)?;
            directions.push(r.reshape(joined, &[dims[0], 1, dims[2], dims[3]])?);
        }
        let joined = r.op(Op::Concat { axis: 1 }, &directions)?;
        r.narrow(joined, result.data_type)
    }
}
