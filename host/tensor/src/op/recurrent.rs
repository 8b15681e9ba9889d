//! Operands and attributes of the recurrent networks. They are no `Op`s: they answer several
//! tensors, and `Session` records them as simpler operations.

use crate::session::TensorId;

/// A function applied to gates and states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// 1/(1+exp(-x)).
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

/// In which order the steps of a sequence are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first to the last.
    Forward,
    /// From the last to the first.
    Backward,
    /// Both, with weights of their own.
    Both,
}

impl Direction {
    /// 2 for both directions, else 1.
    pub fn count(self) -> u32 {
        if self == Direction::Both { 2 } else { 1 }
    }
}

/// Order of the gates in weights and biases of `gru`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GruLayout {
    /// Update, reset, new.
    Zrn,
    /// Reset, update, new.
    Rzn,
}

/// Order of the gates in weights and biases of `lstm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LstmLayout {
    /// Input, output, forget, cell.
    Iofg,
    /// Input, forget, cell, output.
    Ifgo,
}

/// Attributes of `gru-cell`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GruCell {
    /// Features of the hidden state.
    pub hidden_size: u32,
    /// Apply the reset gate after the product with the recurrent weight, not before.
    pub reset_after: bool,
    /// Order of the gates.
    pub layout: GruLayout,
    /// For the update and reset gates; for the new gate.
    pub activations: [Activation; 2],
}

impl GruCell {
    /// The specification's defaults.
    pub fn new(hidden_size: u32) -> GruCell {
        GruCell {
            hidden_size,
            reset_after: true,
            layout: GruLayout::Zrn,
            activations: [Activation::Sigmoid, Activation::Tanh],
        }
    }
}

/// Attributes of `gru`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gru {
    /// Steps of the sequence.
    pub steps: u32,
    /// What each step does.
    pub cell: GruCell,
    /// Answer the hidden state after every step too.
    pub return_sequence: bool,
    /// Order of the steps.
    pub direction: Direction,
}

impl Gru {
    /// The specification's defaults.
    pub fn new(steps: u32, hidden_size: u32) -> Gru {
        let cell = GruCell::new(hidden_size);
        Gru { steps, cell, return_sequence: false, direction: Direction::Forward }
    }
}

/// Attributes of `lstm-cell`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LstmCell {
    /// Features of the hidden state.
    pub hidden_size: u32,
    /// Order of the gates.
    pub layout: LstmLayout,
    /// For the input, forget and output gates; for the cell gate; for the cell state.
    pub activations: [Activation; 3],
}

impl LstmCell {
    /// The specification's defaults.
    pub fn new(hidden_size: u32) -> LstmCell {
        LstmCell {
            hidden_size,
            layout: LstmLayout::Iofg,
            activations: [Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
        }
    }
}

/// Attributes of `lstm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lstm {
    /// Steps of the sequence.
    pub steps: u32,
    /// What each step does.
    pub cell: LstmCell,
    /// Answer the hidden state after every step too.
    pub return_sequence: bool,
    /// Order of the steps.
    pub direction: Direction,
}

impl Lstm {
    /// The specification's defaults.
    pub fn new(steps: u32, hidden_size: u32) -> Lstm {
        let cell = LstmCell::new(hidden_size);
        Lstm { steps, cell, return_sequence: false, direction: Direction::Forward }
    }
}

/// Operands of `gru-cell`, h being the hidden size. With another `T` than handles they are
/// whatever is said of each operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GruCellOperands<T = TensorId> {
    /// (batch, input size).
    pub input: T,
    /// (3h, input size).
    pub weight: T,
    /// (3h, h).
    pub recurrent_weight: T,
    /// (batch, h).
    pub hidden_state: T,
    /// (3h).
    pub bias: Option<T>,
    /// (3h).
    pub recurrent_bias: Option<T>,
}

/// Operands of `gru`, h being the hidden size and d the number of directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GruOperands<T = TensorId> {
    /// (steps, batch, input size).
    pub input: T,
    /// (d, 3h, input size).
    pub weight: T,
    /// (d, 3h, h).
    pub recurrent_weight: T,
    /// (d, 3h).
    pub bias: Option<T>,
    /// (d, 3h).
    pub recurrent_bias: Option<T>,
    /// (d, batch, h); zeros if none.
    pub initial_hidden_state: Option<T>,
}

/// Operands of `lstm-cell`, h being the hidden size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LstmCellOperands<T = TensorId> {
    /// (batch, input size).
    pub input: T,
    /// (4h, input size).
    pub weight: T,
    /// (4h, h).
    pub recurrent_weight: T,
    /// (batch, h).
    pub hidden_state: T,
    /// (batch, h).
    pub cell_state: T,
    /// (4h).
    pub bias: Option<T>,
    /// (4h).
    pub recurrent_bias: Option<T>,
    /// (3h), for the input, output and forget gates.
    pub peephole_weight: Option<T>,
}

/// Operands of `lstm`, h being the hidden size and d the number of directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LstmOperands<T = TensorId> {
    /// (steps, batch, input size).
    pub input: T,
    /// (d, 4h, input size).
    pub weight: T,
    /// (d, 4h, h).
    pub recurrent_weight: T,
    /// (d, 4h).
    pub bias: Option<T>,
    /// (d, 4h).
    pub recurrent_bias: Option<T>,
    /// (d, 3h), for the input, output and forget gates.
    pub peephole_weight: Option<T>,
    /// (d, batch, h); zeros if none.
    pub initial_hidden_state: Option<T>,
    /// (d, batch, h); zeros if none.
    pub initial_cell_state: Option<T>,
}
