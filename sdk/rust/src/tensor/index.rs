//! Operations that cut, repeat and turn tensors, that read and write at computed places, and that
//! go along an axis.

use super::{DataType, Result, Tensor, wit};
pub use wit::SplitParts;

impl Tensor {
    /// WebNN `split`.
    pub fn split(&self, splits: &SplitParts, axis: u32) -> Result<Vec<Tensor>> {
        Ok(wit::split(&self.0, splits, axis)?.into_iter().map(Tensor).collect())
    }

    /// WebNN `reverse`; no axes means all of them.
    pub fn reverse(&self, axes: Option<&[u32]>) -> Result<Tensor> {
        wit::reverse(&self.0, axes).map(Tensor)
    }

    /// WebNN `tile`.
    pub fn tile(&self, repetitions: &[u32]) -> Result<Tensor> {
        wit::tile(&self.0, repetitions).map(Tensor)
    }

    /// WebNN `triangular`: the upper or lower part, from this diagonal on.
    pub fn triangular(&self, upper: bool, diagonal: i32) -> Result<Tensor> {
        wit::triangular(&self.0, upper, diagonal).map(Tensor)
    }

    /// WebNN `gather`.
    pub fn gather(&self, indices: &Tensor, axis: u32) -> Result<Tensor> {
        wit::gather(&self.0, &indices.0, axis).map(Tensor)
    }

    /// WebNN `gatherElements`.
    pub fn gather_elements(&self, indices: &Tensor, axis: u32) -> Result<Tensor> {
        wit::gather_elements(&self.0, &indices.0, axis).map(Tensor)
    }

    /// WebNN `gatherND`.
    pub fn gather_nd(&self, indices: &Tensor) -> Result<Tensor> {
        wit::gather_nd(&self.0, &indices.0).map(Tensor)
    }

    /// WebNN `scatterElements`.
    pub fn scatter_elements(&self, indices: &Tensor, updates: &Tensor, axis: u32) -> Result<Tensor> {
        wit::scatter_elements(&self.0, &indices.0, &updates.0, axis).map(Tensor)
    }

    /// WebNN `scatterND`.
    pub fn scatter_nd(&self, indices: &Tensor, updates: &Tensor) -> Result<Tensor> {
        wit::scatter_nd(&self.0, &indices.0, &updates.0).map(Tensor)
    }

    /// WebNN `argMin`; the answer is int32 or int64.
    pub fn arg_min(&self, axis: u32, keep_dimensions: bool, output: DataType) -> Result<Tensor> {
        wit::arg_min(&self.0, axis, keep_dimensions, output).map(Tensor)
    }

    /// WebNN `argMax`; the answer is int32 or int64.
    pub fn arg_max(&self, axis: u32, keep_dimensions: bool, output: DataType) -> Result<Tensor> {
        wit::arg_max(&self.0, axis, keep_dimensions, output).map(Tensor)
    }

    /// WebNN `cumulativeSum`.
    pub fn cumulative_sum(&self, axis: u32, exclusive: bool, reversed: bool) -> Result<Tensor> {
        wit::cumulative_sum(&self.0, axis, exclusive, reversed).map(Tensor)
    }
}
