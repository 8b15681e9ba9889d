//! One step of each recurrent network, recorded.

use super::Recorder;
use crate::error::Error;
use crate::op::{Binary, GruCell, GruLayout, LstmCell, LstmLayout, Op};
use crate::session::TensorId;

/// Weights of one direction of a gated recurrent unit, float32, biases put where they cost least.
pub(super) struct GruWeights {
    weight: TensorId,
    /// Added to the input's share of all gates.
    bias: Option<TensorId>,
    recurrent: TensorId,
    /// Added to the state's share.
    recurrent_bias: Option<TensorId>,
    /// The recurrent weight's rows for the new gate, and for the two others.
    apart: Option<(TensorId, TensorId)>,
    cell: GruCell,
}

impl GruWeights {
    /// Widens the weights and splits them where the reset gate comes before the product.
    pub fn new(
        r: &mut Recorder<'_>,
        cell: &GruCell,
        weight: TensorId,
        recurrent: TensorId,
        bias: Option<TensorId>,
        recurrent_bias: Option<TensorId>,
    ) -> Result<GruWeights, Error> {
        let h = cell.hidden_size;
        let weight = r.wide(weight)?;
        let recurrent = r.wide(recurrent)?;
        let mut bias = bias.map(|b| r.wide(b)).transpose()?;
        let mut recurrent_bias = recurrent_bias.map(|b| r.wide(b)).transpose()?;
        let mut apart = None;
        if !cell.reset_after {
            // Both biases are added before anything else happens.
            if let (Some(a), Some(b)) = (bias, recurrent_bias) {
                bias = Some(r.binary(Binary::Add, a, b)?);
            }
            bias = bias.or(recurrent_bias);
            recurrent_bias = None;
            apart = Some((r.cut(recurrent, 0, 2 * h, h)?, r.cut(recurrent, 0, 0, 2 * h)?));
        }
        Ok(GruWeights { weight, bias, recurrent, recurrent_bias, apart, cell: *cell })
    }

    /// The share of all gates that input rows have.
    pub fn input_part(&self, r: &mut Recorder<'_>, rows: TensorId) -> Result<TensorId, Error> {
        r.product(rows, self.weight, self.bias)
    }

    /// The new state from the input's share of the gates (batch, 3h) and the old state.
    pub fn step(&self, r: &mut Recorder<'_>, given: TensorId, hidden: TensorId) -> Result<TensorId, Error> {
        let h = self.cell.hidden_size;
        let (at_z, at_r) = match self.cell.layout {
            GruLayout::Zrn => (0, h),
            GruLayout::Rzn => (h, 0),
        };
        let [outer, inner] = self.cell.activations;
        let (update, new) = match self.apart {
            None => {
                let own = r.product(hidden, self.recurrent, self.recurrent_bias)?;
                let both = r.binary(Binary::Add, given, own)?;
                let both = r.cut(both, 1, 0, 2 * h)?;
                let gates = r.apply(outer, both)?;
                let update = r.cut(gates, 1, at_z, h)?;
                let reset = r.cut(gates, 1, at_r, h)?;
                let own = r.cut(own, 1, 2 * h, h)?;
                let own = r.binary(Binary::Mul, reset, own)?;
                let given = r.cut(given, 1, 2 * h, h)?;
                (update, r.binary(Binary::Add, given, own)?)
            }
            Some((new_rows, others)) => {
                let first = r.cut(given, 1, 0, 2 * h)?;
                let both = r.product(hidden, others, Some(first))?;
                let gates = r.apply(outer, both)?;
                let update = r.cut(gates, 1, at_z, h)?;
                let reset = r.cut(gates, 1, at_r, h)?;
                let left = r.binary(Binary::Mul, reset, hidden)?;
                let given = r.cut(given, 1, 2 * h, h)?;
                (update, r.product(left, new_rows, Some(given))?)
            }
        };
        let new = r.apply(inner, new)?;
        let kept = r.binary(Binary::Mul, update, hidden)?;
        let share = r.op(Op::Linear { alpha: -1.0, beta: 1.0 }, &[update])?;
        let taken = r.binary(Binary::Mul, share, new)?;
        r.binary(Binary::Add, kept, taken)
    }
}

/// Weights of one direction of a long short-term memory, float32.
pub(super) struct LstmWeights {
    weight: TensorId,
    /// Both biases' sum.
    bias: Option<TensorId>,
    recurrent: TensorId,
    /// For the input, output and forget gates.
    peephole: Option<[TensorId; 3]>,
    cell: LstmCell,
}

impl LstmWeights {
    /// Widens the weights.
    pub fn new(
        r: &mut Recorder<'_>,
        cell: &LstmCell,
        weight: TensorId,
        recurrent: TensorId,
        biases: [Option<TensorId>; 2],
        peephole: Option<TensorId>,
    ) -> Result<LstmWeights, Error> {
        let weight = r.wide(weight)?;
        let recurrent = r.wide(recurrent)?;
        let [a, b] = biases;
        let (a, b) = (a.map(|id| r.wide(id)).transpose()?, b.map(|id| r.wide(id)).transpose()?);
        let bias = match (a, b) {
            (Some(a), Some(b)) => Some(r.binary(Binary::Add, a, b)?),
            (a, b) => a.or(b),
        };
        let h = cell.hidden_size;
        let peephole = match peephole {
            Some(id) => {
                let all = r.wide(id)?;
                Some([r.cut(all, 0, 0, h)?, r.cut(all, 0, h, h)?, r.cut(all, 0, 2 * h, h)?])
            }
            None => None,
        };
        Ok(LstmWeights { weight, bias, recurrent, peephole, cell: *cell })
    }

    /// The share of all gates that input rows have.
    pub fn input_part(&self, r: &mut Recorder<'_>, rows: TensorId) -> Result<TensorId, Error> {
        r.product(rows, self.weight, self.bias)
    }

    /// The new states from the input's share of the gates (batch, 4h) and the old states.
    pub fn step(
        &self,
        r: &mut Recorder<'_>,
        given: TensorId,
        [hidden, memory]: [TensorId; 2],
    ) -> Result<[TensorId; 2], Error> {
        let h = self.cell.hidden_size;
        let [at_i, at_o, at_f, at_g] = match self.cell.layout {
            LstmLayout::Iofg => [0, h, 2 * h, 3 * h],
            LstmLayout::Ifgo => [0, 3 * h, h, 2 * h],
        };
        let [outer, inner, last] = self.cell.activations;
        let gates = r.product(hidden, self.recurrent, Some(given))?;
        let gate = |r: &mut Recorder<'_>, at: u32, peephole: Option<TensorId>| {
            let mut gate = r.cut(gates, 1, at, h)?;
            if let Some(weight) = peephole {
                let seen = r.binary(Binary::Mul, memory, weight)?;
                gate = r.binary(Binary::Add, seen, gate)?;
            }
            r.apply(outer, gate)
        };
        let input = gate(r, at_i, self.peephole.map(|p| p[0]))?;
        let forget = gate(r, at_f, self.peephole.map(|p| p[2]))?;
        // The specification's emulation gives this gate too the old cell state.
        let output = gate(r, at_o, self.peephole.map(|p| p[1]))?;
        let new = r.cut(gates, 1, at_g, h)?;
        let new = r.apply(inner, new)?;
        let kept = r.binary(Binary::Mul, forget, memory)?;
        let taken = r.binary(Binary::Mul, input, new)?;
        let memory = r.binary(Binary::Add, kept, taken)?;
        let shown = r.apply(last, memory)?;
        Ok([r.binary(Binary::Mul, output, shown)?, memory])
    }
}
