//! Recurrent networks. In shapes h is the hidden size, d the number of directions.

use super::{Result, Tensor, wit};
pub use wit::{
    GruWeightLayout, LstmWeightLayout, RecurrentNetworkActivation as Activation,
    RecurrentNetworkDirection as Direction,
};

/// Options of [`Tensor::gru`] and [`Tensor::gru_cell`]; the defaults are WebNN's.
pub struct Gru<'a> {
    /// (d, 3h); of a cell (3h).
    pub bias: Option<&'a Tensor>,
    /// (d, 3h); of a cell (3h).
    pub recurrent_bias: Option<&'a Tensor>,
    /// (d, batch, h). Not of a cell.
    pub initial_hidden_state: Option<&'a Tensor>,
    /// Apply the reset gate after the product with the recurrent weight, not before.
    pub reset_after: bool,
    /// Answer the hidden state after every step too. Not of a cell.
    pub return_sequence: bool,
    /// Order of the steps. Not of a cell.
    pub direction: Direction,
    /// Order of the gates.
    pub layout: GruWeightLayout,
    /// For the update and reset gates, for the new gate.
    pub activations: [Activation; 2],
}

impl Default for Gru<'_> {
    fn default() -> Self {
        Self {
            bias: None,
            recurrent_bias: None,
            initial_hidden_state: None,
            reset_after: true,
            return_sequence: false,
            direction: Direction::Forward,
            layout: GruWeightLayout::Zrn,
            activations: [Activation::Sigmoid, Activation::Tanh],
        }
    }
}

/// Options of [`Tensor::lstm`] and [`Tensor::lstm_cell`]; the defaults are WebNN's.
pub struct Lstm<'a> {
    /// (d, 4h); of a cell (4h).
    pub bias: Option<&'a Tensor>,
    /// (d, 4h); of a cell (4h).
    pub recurrent_bias: Option<&'a Tensor>,
    /// (d, 3h), of a cell (3h); for the input, output and forget gates.
    pub peephole_weight: Option<&'a Tensor>,
    /// (d, batch, h). Not of a cell.
    pub initial_hidden_state: Option<&'a Tensor>,
    /// (d, batch, h). Not of a cell.
    pub initial_cell_state: Option<&'a Tensor>,
    /// Answer the hidden state after every step too. Not of a cell.
    pub return_sequence: bool,
    /// Order of the steps. Not of a cell.
    pub direction: Direction,
    /// Order of the gates.
    pub layout: LstmWeightLayout,
    /// For the input, forget and output gates, for the cell gate, for the cell state.
    pub activations: [Activation; 3],
}

impl Default for Lstm<'_> {
    fn default() -> Self {
        Self {
            bias: None,
            recurrent_bias: None,
            peephole_weight: None,
            initial_hidden_state: None,
            initial_cell_state: None,
            return_sequence: false,
            direction: Direction::Forward,
            layout: LstmWeightLayout::Iofg,
            activations: [Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
        }
    }
}

fn tensors(made: Vec<wit::Tensor>) -> Vec<Tensor> {
    made.into_iter().map(Tensor).collect()
}

impl Tensor {
    /// WebNN `gruCell`: one step of this input (batch, size); the new hidden state (batch, h).
    pub fn gru_cell(
        &self,
        weight: &Tensor,
        recurrent_weight: &Tensor,
        hidden_state: &Tensor,
        hidden_size: u32,
        options: &Gru<'_>,
    ) -> Result<Tensor> {
        let options = wit::GruCellOptions {
            bias: options.bias.map(|t| &t.0),
            recurrent_bias: options.recurrent_bias.map(|t| &t.0),
            reset_after: options.reset_after,
            layout: options.layout,
            activations: Some(options.activations.to_vec()),
        };
        wit::gru_cell(&self.0, &weight.0, &recurrent_weight.0, &hidden_state.0, hidden_size, &options)
            .map(Tensor)
    }

    /// WebNN `gru` over this input (steps, batch, size): the last hidden state (d, batch, h), and
    /// if asked for all of them (steps, d, batch, h).
    pub fn gru(
        &self,
        weight: &Tensor,
        recurrent_weight: &Tensor,
        steps: u32,
        hidden_size: u32,
        options: &Gru<'_>,
    ) -> Result<Vec<Tensor>> {
        let options = wit::GruOptions {
            bias: options.bias.map(|t| &t.0),
            recurrent_bias: options.recurrent_bias.map(|t| &t.0),
            initial_hidden_state: options.initial_hidden_state.map(|t| &t.0),
            reset_after: options.reset_after,
            return_sequence: options.return_sequence,
            direction: options.direction,
            layout: options.layout,
            activations: Some(options.activations.to_vec()),
        };
        wit::gru(&self.0, &weight.0, &recurrent_weight.0, steps, hidden_size, &options).map(tensors)
    }

    /// WebNN `lstmCell`: one step of this input (batch, size); the new hidden state and the new
    /// cell state, both (batch, h).
    pub fn lstm_cell(
        &self,
        weight: &Tensor,
        recurrent_weight: &Tensor,
        hidden_state: &Tensor,
        cell_state: &Tensor,
        hidden_size: u32,
        options: &Lstm<'_>,
    ) -> Result<Vec<Tensor>> {
        let options = wit::LstmCellOptions {
            bias: options.bias.map(|t| &t.0),
            recurrent_bias: options.recurrent_bias.map(|t| &t.0),
            peephole_weight: options.peephole_weight.map(|t| &t.0),
            layout: options.layout,
            activations: Some(options.activations.to_vec()),
        };
        let states = (&hidden_state.0, &cell_state.0);
        wit::lstm_cell(&self.0, &weight.0, &recurrent_weight.0, states.0, states.1, hidden_size, &options)
            .map(tensors)
    }

    /// WebNN `lstm` over this input (steps, batch, size): the last hidden state (d, batch, h), the
    /// last cell state, and if asked for all hidden states (steps, d, batch, h).
    pub fn lstm(
        &self,
        weight: &Tensor,
        recurrent_weight: &Tensor,
        steps: u32,
        hidden_size: u32,
        options: &Lstm<'_>,
    ) -> Result<Vec<Tensor>> {
        let options = wit::LstmOptions {
            bias: options.bias.map(|t| &t.0),
            recurrent_bias: options.recurrent_bias.map(|t| &t.0),
            peephole_weight: options.peephole_weight.map(|t| &t.0),
            initial_hidden_state: options.initial_hidden_state.map(|t| &t.0),
            initial_cell_state: options.initial_cell_state.map(|t| &t.0),
            return_sequence: options.return_sequence,
            direction: options.direction,
            layout: options.layout,
            activations: Some(options.activations.to_vec()),
        };
        wit::lstm(&self.0, &weight.0, &recurrent_weight.0, steps, hidden_size, &options).map(tensors)
    }
}
