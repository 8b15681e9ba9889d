//! Recurrent networks and `split` against plain loops written from the WebNN specification.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod plain;

use plain::*;
use proptest::prelude::*;
use warren_tensor::*;

const ACTIVATIONS: [Activation; 3] = [Activation::Relu, Activation::Sigmoid, Activation::Tanh];

fn apply(a: Activation, x: f64) -> f64 {
    match a {
        Activation::Relu => x.max(0.0),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

/// Weights of all directions, h being the hidden size.
struct Weights {
    h: usize,
    weight: Dense,
    recurrent: Dense,
    bias: Option<Dense>,
    recurrent_bias: Option<Dense>,
    peephole: Option<Dense>,
}

impl Weights {
    fn noise(d: usize, gates: usize, h: usize, size: usize, given: [bool; 3], seed: u64) -> Weights {
        let make = |on: bool, shape: &[usize], salt: u64| on.then(|| Dense::noise(shape, seed ^ salt));
        Weights {
            h,
            weight: Dense::noise(&[d, gates * h, size], seed ^ 1),
            recurrent: Dense::noise(&[d, gates * h, h], seed ^ 2),
            bias: make(given[0], &[d, gates * h], 3),
            recurrent_bias: make(given[1], &[d, gates * h], 4),
            peephole: make(given[2], &[d, 3 * h], 5),
        }
    }

    /// The input's share of a gate's unit, its bias included.
    fn given(&self, d: usize, row: usize, x: &[f64]) -> f64 {
        let own: f64 = x.iter().enumerate().map(|(i, v)| self.weight.at(&[d, row, i]) * v).sum();
        own + self.bias.as_ref().map_or(0.0, |b| b.at(&[d, row]))
    }

    fn state(&self, d: usize, row: usize, h: &[f64]) -> f64 {
        let own: f64 = h.iter().enumerate().map(|(i, v)| self.recurrent.at(&[d, row, i]) * v).sum();
        own + self.recurrent_bias.as_ref().map_or(0.0, |b| b.at(&[d, row]))
    }

    fn gru(&self, d: usize, cell: &GruCell, x: &[f64], hidden: &[f64]) -> Vec<f64> {
        let h = self.h;
        let [z0, r0] = if cell.layout == GruLayout::Zrn { [0, h] } else { [h, 0] };
        let [outer, inner] = cell.activations;
        let gate = |row: usize| apply(outer, self.given(d, row, x) + self.state(d, row, hidden));
        let reset: Vec<f64> = (0..h).map(|u| gate(r0 + u)).collect();
        let left: Vec<f64> = reset.iter().zip(hidden).map(|(r, v)| r * v).collect();
        let unit = |u: usize| {
            let row = 2 * h + u;
            let own = match cell.reset_after {
                true => reset[u] * self.state(d, row, hidden),
                false => self.state(d, row, &left),
            };
            let (z, n) = (gate(z0 + u), apply(inner, self.given(d, row, x) + own));
            z * hidden[u] + (1.0 - z) * n
        };
        (0..h).map(unit).collect()
    }

    fn lstm(&self, d: usize, cell: &LstmCell, x: &[f64], hidden: &[f64], c: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let h = self.h;
        let starts =
            if cell.layout == LstmLayout::Iofg { [0, h, 2 * h, 3 * h] } else { [0, 3 * h, h, 2 * h] };
        let [outer, inner, last] = cell.activations;
        let (mut next_hidden, mut next_cell) = (Vec::new(), Vec::new());
        for (u, &before) in c.iter().enumerate() {
            let sum = |start: usize| self.given(d, start + u, x) + self.state(d, start + u, hidden);
            let seen = |i: usize| self.peephole.as_ref().map_or(0.0, |p| p.at(&[d, i * h + u])) * before;
            let [i, o, f] = [0, 1, 2].map(|g| apply(outer, sum(starts[g]) + seen(g)));
            let next = f * before + i * apply(inner, sum(starts[3]));
            next_cell.push(next);
            next_hidden.push(o * apply(last, next));
        }
        (next_hidden, next_cell)
    }
}

fn row(d: &Dense, at: &[usize], len: usize) -> Vec<f64> {
    (0..len)
        .map(|i| {
            let mut index = at.to_vec();
            index.push(i);
            d.at(&index)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gated_units(steps in 1..5usize, batch in 1..4usize, size in 1..5usize, h in 1..5usize, direction in 0..3usize, after in any::<bool>(), zrn in any::<bool>(), a in prop::array::uniform2(0..3usize), given in prop::array::uniform3(any::<bool>()), sequence in any::<bool>(), seed in any::<u64>(), w in 0..2usize) {
        let direction = [Direction::Forward, Direction::Backward, Direction::Both][direction];
        let d = direction.count() as usize;
        let weights = Weights::noise(d, 3, h, size, [given[0], given[1], false], seed);
        let x = Dense::noise(&[steps, batch, size], seed ^ 8);
        let start = given[2].then(|| Dense::noise(&[d, batch, h], seed ^ 9));
        let cell = GruCell { hidden_size: h as u32, reset_after: after, layout: if zrn { GruLayout::Zrn } else { GruLayout::Rzn }, activations: a.map(|i| ACTIVATIONS[i]) };
        let mut last = Dense::from_fn(&[d, batch, h], |_| 0.0);
        let mut every = Dense::from_fn(&[steps, d, batch, h], |_| 0.0);
        for dir in 0..d {
            let backward = dir == 1 || direction == Direction::Backward;
            for b in 0..batch {
                let mut hidden = start.as_ref().map_or(vec![0.0; h], |s| row(s, &[dir, b], h));
                for i in 0..steps {
                    let step = if backward { steps - 1 - i } else { i };
                    hidden = weights.gru(dir, &cell, &row(&x, &[step, b], size), &hidden);
                    every.data[((step * d + dir) * batch + b) * h..][..h].copy_from_slice(&hidden);
                }
                last.data[(dir * batch + b) * h..][..h].copy_from_slice(&hidden);
            }
        }
        // Relu as a gate lets states grow without bound; what is left when large ones cancel is noise.
        prop_assume!(every.data.iter().all(|v| v.abs() < 10.0));
        let mut s = session(w);
        let (before, input) = (s.pending(), put(&mut s, &x));
        let operands = GruOperands {
            input,
            weight: put(&mut s, &weights.weight),
            recurrent_weight: put(&mut s, &weights.recurrent),
            bias: weights.bias.as_ref().map(|b| put(&mut s, b)),
            recurrent_bias: weights.recurrent_bias.as_ref().map(|b| put(&mut s, b)),
            initial_hidden_state: start.as_ref().map(|h| put(&mut s, h)),
        };
        let gru = Gru { steps: steps as u32, cell, return_sequence: sequence, direction };
        let made = s.gru(&operands, &gru).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(made.len(), 1 + usize::from(sequence));
        close(&get(&mut s, made[0]), &last, 1e-4)?;
        if sequence { close(&get(&mut s, made[1]), &every, 1e-4)?; }
        made.iter().for_each(|&id| s.release(id));
        prop_assert_eq!(s.pending(), before, "what was recorded on the way is gone");
        // One step is the cell.
        if d == 1 && steps == 1 && let Some(start) = &start {
            let flat = |d: &Dense| Dense { shape: d.shape[1..].to_vec(), data: d.data.clone() };
            let operands = GruCellOperands {
                input: put(&mut s, &flat(&x)),
                weight: put(&mut s, &flat(&weights.weight)),
                recurrent_weight: put(&mut s, &flat(&weights.recurrent)),
                hidden_state: put(&mut s, &flat(start)),
                bias: weights.bias.as_ref().map(|b| put(&mut s, &flat(b))),
                recurrent_bias: weights.recurrent_bias.as_ref().map(|b| put(&mut s, &flat(b))),
            };
            let made = s.gru_cell(&operands, &cell).map_err(|e| TestCaseError::fail(e.to_string()))?;
            close(&get(&mut s, made), &flat(&last), 1e-4)?;
        }
    }

    #[test]
    fn long_short_term_memories(steps in 1..5usize, batch in 1..4usize, size in 1..5usize, h in 1..5usize, direction in 0..3usize, iofg in any::<bool>(), a in prop::array::uniform3(0..3usize), given in prop::array::uniform5(any::<bool>()), sequence in any::<bool>(), seed in any::<u64>(), w in 0..2usize) {
        let direction = [Direction::Forward, Direction::Backward, Direction::Both][direction];
        let d = direction.count() as usize;
        let weights = Weights::noise(d, 4, h, size, [given[0], given[1], given[2]], seed);
        let x = Dense::noise(&[steps, batch, size], seed ^ 8);
        let start = given[3].then(|| Dense::noise(&[d, batch, h], seed ^ 9));
        let start_cell = given[4].then(|| Dense::noise(&[d, batch, h], seed ^ 10));
        let cell = LstmCell { hidden_size: h as u32, layout: if iofg { LstmLayout::Iofg } else { LstmLayout::Ifgo }, activations: a.map(|i| ACTIVATIONS[i]) };
        let mut last = [(); 2].map(|_| Dense::from_fn(&[d, batch, h], |_| 0.0));
        let mut every = Dense::from_fn(&[steps, d, batch, h], |_| 0.0);
        for dir in 0..d {
            let backward = dir == 1 || direction == Direction::Backward;
            for b in 0..batch {
                let first = |s: &Option<Dense>| s.as_ref().map_or(vec![0.0; h], |s| row(s, &[dir, b], h));
                let mut states = (first(&start), first(&start_cell));
                for i in 0..steps {
                    let step = if backward { steps - 1 - i } else { i };
                    states = weights.lstm(dir, &cell, &row(&x, &[step, b], size), &states.0, &states.1);
                    every.data[((step * d + dir) * batch + b) * h..][..h].copy_from_slice(&states.0);
                }
                last[0].data[(dir * batch + b) * h..][..h].copy_from_slice(&states.0);
                last[1].data[(dir * batch + b) * h..][..h].copy_from_slice(&states.1);
            }
        }
        prop_assume!(every.data.iter().chain(&last[1].data).all(|v| v.abs() < 10.0));
        let mut s = session(w);
        let operands = LstmOperands {
            input: put(&mut s, &x),
            weight: put(&mut s, &weights.weight),
            recurrent_weight: put(&mut s, &weights.recurrent),
            bias: weights.bias.as_ref().map(|b| put(&mut s, b)),
            recurrent_bias: weights.recurrent_bias.as_ref().map(|b| put(&mut s, b)),
            peephole_weight: weights.peephole.as_ref().map(|b| put(&mut s, b)),
            initial_hidden_state: start.as_ref().map(|h| put(&mut s, h)),
            initial_cell_state: start_cell.as_ref().map(|h| put(&mut s, h)),
        };
        let lstm = Lstm { steps: steps as u32, cell, return_sequence: sequence, direction };
        let made = s.lstm(&operands, &lstm).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(made.len(), 2 + usize::from(sequence));
        // Relu lets states grow: compared by their own size.
        close(&get(&mut s, made[0]), &last[0], 2e-4)?;
        close(&get(&mut s, made[1]), &last[1], 2e-4)?;
        if sequence { close(&get(&mut s, made[2]), &every, 2e-4)?; }
        if d == 1 && steps == 1 && let (Some(start), Some(start_cell)) = (&start, &start_cell) {
            let flat = |d: &Dense| Dense { shape: d.shape[1..].to_vec(), data: d.data.clone() };
            let operands = LstmCellOperands {
                input: put(&mut s, &flat(&x)),
                weight: put(&mut s, &flat(&weights.weight)),
                recurrent_weight: put(&mut s, &flat(&weights.recurrent)),
                hidden_state: put(&mut s, &flat(start)),
                cell_state: put(&mut s, &flat(start_cell)),
                bias: weights.bias.as_ref().map(|b| put(&mut s, &flat(b))),
                recurrent_bias: weights.recurrent_bias.as_ref().map(|b| put(&mut s, &flat(b))),
                peephole_weight: weights.peephole.as_ref().map(|b| put(&mut s, &flat(b))),
            };
            let made = s.lstm_cell(&operands, &cell).map_err(|e| TestCaseError::fail(e.to_string()))?;
            close(&get(&mut s, made[0]), &flat(&last[0]), 2e-4)?;
            close(&get(&mut s, made[1]), &flat(&last[1]), 2e-4)?;
        }
    }

    #[test]
    fn splits(to in shape(1..=4, 6), axis in 0..4usize, parts in prop::collection::vec(1..4u32, 1..5), equal in any::<bool>(), seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let mut to = to;
        let parts = if equal { vec![parts[0]; parts.len()] } else { parts };
        to[axis] = parts.iter().sum::<u32>() as usize;
        let x = Dense::noise(&to, seed);
        let mut s = session(w);
        let id = put(&mut s, &x);
        let how = if equal { Splits::Count(parts.len() as u32) } else { Splits::Sizes(&parts) };
        let made = s.split(id, &how, axis as u32).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(made.len(), parts.len());
        let mut from = 0;
        for (id, &part) in made.iter().zip(&parts) {
            let mut shape = to.clone();
            shape[axis] = part as usize;
            let want = Dense::from_fn(&shape, |o| { let mut at = o.to_vec(); at[axis] += from; x.at(&at) });
            close(&get(&mut s, *id), &want, 0.0)?;
            from += part as usize;
        }
    }
}

#[test]
fn a_refused_network_leaves_nothing_behind() {
    let config = EngineConfig { threads: 1, max_pending_nodes: 100, ..EngineConfig::default() };
    let engine = std::sync::Arc::new(Engine::new(config).unwrap());
    let mut s = Session::new(engine, Budget::new(1 << 30), std::sync::Arc::default());
    let steps = 1000;
    let operands = GruOperands {
        input: put(&mut s, &Dense::noise(&[steps, 1, 2], 1)),
        weight: put(&mut s, &Dense::noise(&[1, 9, 2], 1)),
        recurrent_weight: put(&mut s, &Dense::noise(&[1, 9, 3], 1)),
        bias: None,
        recurrent_bias: None,
        initial_hidden_state: None,
    };
    let error = s.gru(&operands, &Gru::new(steps as u32, 3)).unwrap_err();
    assert_eq!((error.kind, error.operation), (ErrorKind::OutOfMemory, "gru"));
    assert_eq!(s.pending(), 0);
    let error = s.gru(&operands, &Gru::new(steps as u32, 4)).unwrap_err();
    assert!(error.message.contains("[1, 12, 2]") && error.message.contains("[1, 9, 2]"), "{error}");
}
