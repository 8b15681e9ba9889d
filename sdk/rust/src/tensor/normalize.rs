//! Normalizations, quantization, and the parametric rectifier.

use super::{InputOperandLayout, Result, Tensor, wit};

/// Options of [`Tensor::batch_normalization`]; the defaults are WebNN's.
pub struct BatchNormalization<'a> {
    /// One value for each index of the axis.
    pub scale: Option<&'a Tensor>,
    /// One value for each index of the axis.
    pub bias: Option<&'a Tensor>,
    /// The axis of features.
    pub axis: u32,
    /// Added to the variance.
    pub epsilon: f64,
}

impl Default for BatchNormalization<'_> {
    fn default() -> Self {
        Self { scale: None, bias: None, axis: 1, epsilon: 1e-5 }
    }
}

/// Options of [`Tensor::instance_normalization`]; the defaults are WebNN's.
pub struct InstanceNormalization<'a> {
    /// One value a channel.
    pub scale: Option<&'a Tensor>,
    /// One value a channel.
    pub bias: Option<&'a Tensor>,
    /// Added to the variance.
    pub epsilon: f64,
    /// The order of the input's and the output's dimensions.
    pub layout: InputOperandLayout,
}

impl Default for InstanceNormalization<'_> {
    fn default() -> Self {
        Self { scale: None, bias: None, epsilon: 1e-5, layout: InputOperandLayout::Nchw }
    }
}

/// Options of [`Tensor::layer_normalization`]; the defaults are WebNN's.
pub struct LayerNormalization<'a> {
    /// Its dimensions are those of the axes, in their order.
    pub scale: Option<&'a Tensor>,
    /// Its dimensions are those of the axes, in their order.
    pub bias: Option<&'a Tensor>,
    /// None is all but the first.
    pub axes: Option<&'a [u32]>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl Default for LayerNormalization<'_> {
    fn default() -> Self {
        Self { scale: None, bias: None, axes: None, epsilon: 1e-5 }
    }
}

impl Tensor {
    /// WebNN `batchNormalization`.
    pub fn batch_normalization(
        &self,
        mean: &Tensor,
        variance: &Tensor,
        options: &BatchNormalization<'_>,
    ) -> Result<Tensor> {
        let options = wit::BatchNormalizationOptions {
            scale: options.scale.map(|t| &t.0),
            bias: options.bias.map(|t| &t.0),
            axis: options.axis,
            epsilon: options.epsilon,
        };
        wit::batch_normalization(&self.0, &mean.0, &variance.0, &options).map(Tensor)
    }

    /// WebNN `instanceNormalization`.
    pub fn instance_normalization(&self, options: &InstanceNormalization<'_>) -> Result<Tensor> {
        let options = wit::InstanceNormalizationOptions {
            scale: options.scale.map(|t| &t.0),
            bias: options.bias.map(|t| &t.0),
            epsilon: options.epsilon,
            layout: options.layout,
        };
        wit::instance_normalization(&self.0, &options).map(Tensor)
    }

    /// WebNN `layerNormalization`.
    pub fn layer_normalization(&self, options: &LayerNormalization<'_>) -> Result<Tensor> {
        let options = wit::LayerNormalizationOptions {
            scale: options.scale.map(|t| &t.0),
            bias: options.bias.map(|t| &t.0),
            axes: options.axes.map(Vec::from),
            epsilon: options.epsilon,
        };
        wit::layer_normalization(&self.0, &options).map(Tensor)
    }

    /// WebNN `prelu`.
    pub fn prelu(&self, slope: &Tensor) -> Result<Tensor> {
        wit::prelu(&self.0, &slope.0).map(Tensor)
    }

    /// WebNN `dequantizeLinear`.
    pub fn dequantize_linear(&self, scale: &Tensor, zero_point: &Tensor) -> Result<Tensor> {
        wit::dequantize_linear(&self.0, &scale.0, &zero_point.0).map(Tensor)
    }

    /// WebNN `quantizeLinear`.
    pub fn quantize_linear(&self, scale: &Tensor, zero_point: &Tensor) -> Result<Tensor> {
        wit::quantize_linear(&self.0, &scale.0, &zero_point.0).map(Tensor)
    }
}
