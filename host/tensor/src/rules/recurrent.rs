//! Rules of the recurrent networks: what they take, and what each of their results is.

use super::{Descriptor, float};
use crate::error::Error;
use crate::op::{Gru, GruCell, GruCellOperands, GruOperands, Lstm, LstmCell, LstmCellOperands, LstmOperands};
use crate::shape::MAX_ELEMENTS;

/// Checks one operand after the other against the input's type and the expected shapes.
struct Check {
    name: &'static str,
    input: Descriptor,
}

impl Check {
    fn new(name: &'static str, input: Descriptor) -> Result<Check, Error> {
        float(name, "input", input.data_type)?;
        Ok(Check { name, input })
    }

    fn operand(&self, what: &str, found: Option<Descriptor>, shape: &[u64]) -> Result<(), Error> {
        let Some(found) = found else {
            return Ok(());
        };
        let dims = found.shape.as_slice();
        let fits = dims.len() == shape.len() && dims.iter().zip(shape).all(|(&d, &s)| u64::from(d) == s);
        if fits && found.data_type == self.input.data_type {
            return Ok(());
        }
        Err(Error::invalid(
            self.name,
            format!(
                "{what} is {} {:?}, must be {} {shape:?} for input {:?}",
                found.data_type, found.shape, self.input.data_type, self.input.shape
            ),
        ))
    }

    /// The input's dimensions, as many as there should be.
    fn input<const N: usize>(&self) -> Result<[u64; N], Error> {
        let dims: Vec<u64> = self.input.shape.as_slice().iter().map(|&d| u64::from(d)).collect();
        dims.try_into().map_err(|_| {
            Error::invalid(self.name, format!("input {:?} must be of rank {N}", self.input.shape))
        })
    }

    /// The hidden size, if so many times of it are still a dimension.
    fn hidden(&self, size: u32, times: u64) -> Result<u64, Error> {
        let size = u64::from(size);
        if size == 0 || size * times > MAX_ELEMENTS {
            return Err(Error::invalid(
                self.name,
                format!("hidden-size {size} must be above 0 and not huge"),
            ));
        }
        Ok(size)
    }

    fn steps(&self, given: u32, found: u64) -> Result<(), Error> {
        if given == 0 || u64::from(given) != found {
            return Err(Error::invalid(
                self.name,
                format!(
                    "steps {given} must be above 0 and the first dimension of input {:?}",
                    self.input.shape
                ),
            ));
        }
        Ok(())
    }

    fn result(&self, shape: &[u64]) -> Result<Descriptor, Error> {
        let dims: Vec<u32> = shape.iter().map(|&d| d.min(u64::from(u32::MAX)) as u32).collect();
        Ok(Descriptor { data_type: self.input.data_type, shape: super::checked_shape(self.name, &dims)? })
    }
}

/// The result of `gru-cell`.
pub(crate) fn gru_cell(o: &GruCellOperands<Descriptor>, c: &GruCell) -> Result<Descriptor, Error> {
    let check = Check::new("gru-cell", o.input)?;
    let h = check.hidden(c.hidden_size, 6)?;
    let [batch, size] = check.input()?;
    check.operand("weight", Some(o.weight), &[3 * h, size])?;
    check.operand("recurrent-weight", Some(o.recurrent_weight), &[3 * h, h])?;
    check.operand("hidden-state", Some(o.hidden_state), &[batch, h])?;
    check.operand("bias", o.bias, &[3 * h])?;
    check.operand("recurrent-bias", o.recurrent_bias, &[3 * h])?;
    check.result(&[batch, h])
}

/// The results of `gru`: last hidden state, and the sequence where it is wanted.
pub(crate) fn gru(o: &GruOperands<Descriptor>, g: &Gru) -> Result<Vec<Descriptor>, Error> {
    let check = Check::new("gru", o.input)?;
    let (h, d) = (check.hidden(g.cell.hidden_size, 6)?, u64::from(g.direction.count()));
    let [steps, batch, size] = check.input()?;
    check.steps(g.steps, steps)?;
    check.operand("weight", Some(o.weight), &[d, 3 * h, size])?;
    check.operand("recurrent-weight", Some(o.recurrent_weight), &[d, 3 * h, h])?;
    check.operand("bias", o.bias, &[d, 3 * h])?;
    check.operand("recurrent-bias", o.recurrent_bias, &[d, 3 * h])?;
    check.operand("initial-hidden-state", o.initial_hidden_state, &[d, batch, h])?;
    let mut results = vec![check.result(&[d, batch, h])?];
    if g.return_sequence {
        results.push(check.result(&[steps, d, batch, h])?);
    }
    Ok(results)
}

/// The results of `lstm-cell`: hidden state, cell state.
pub(crate) fn lstm_cell(o: &LstmCellOperands<Descriptor>, c: &LstmCell) -> Result<[Descriptor; 2], Error> {
    let check = Check::new("lstm-cell", o.input)?;
    let h = check.hidden(c.hidden_size, 8)?;
    let [batch, size] = check.input()?;
    check.operand("weight", Some(o.weight), &[4 * h, size])?;
    check.operand("recurrent-weight", Some(o.recurrent_weight), &[4 * h, h])?;
    check.operand("hidden-state", Some(o.hidden_state), &[batch, h])?;
    check.operand("cell-state", Some(o.cell_state), &[batch, h])?;
    check.operand("bias", o.bias, &[4 * h])?;
    check.operand("recurrent-bias", o.recurrent_bias, &[4 * h])?;
    check.operand("peephole-weight", o.peephole_weight, &[3 * h])?;
    let result = check.result(&[batch, h])?;
    Ok([result, result])
}

/// The results of `lstm`: last hidden state, last cell state, and the sequence where it is wanted.
pub(crate) fn lstm(o: &LstmOperands<Descriptor>, l: &Lstm) -> Result<Vec<Descriptor>, Error> {
    let check = Check::new("lstm", o.input)?;
    let (h, d) = (check.hidden(l.cell.hidden_size, 8)?, u64::from(l.direction.count()));
    let [steps, batch, size] = check.input()?;
    check.steps(l.steps, steps)?;
    check.operand("weight", Some(o.weight), &[d, 4 * h, size])?;
    check.operand("recurrent-weight", Some(o.recurrent_weight), &[d, 4 * h, h])?;
    check.operand("bias", o.bias, &[d, 4 * h])?;
    check.operand("recurrent-bias", o.recurrent_bias, &[d, 4 * h])?;
    check.operand("peephole-weight", o.peephole_weight, &[d, 3 * h])?;
    check.operand("initial-hidden-state", o.initial_hidden_state, &[d, batch, h])?;
    check.operand("initial-cell-state", o.initial_cell_state, &[d, batch, h])?;
    let state = check.result(&[d, batch, h])?;
    let mut results = vec![state, state];
    if l.return_sequence {
        results.push(check.result(&[steps, d, batch, h])?);
    }
    Ok(results)
}
