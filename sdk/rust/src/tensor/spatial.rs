//! Operations on images: transposed convolution, pooling, resampling.

use super::{InputOperandLayout, Result, Tensor, wit};
pub use wit::{ConvTranspose2dFilterOperandLayout, InterpolationMode, RoundingType};

/// Options of [`Tensor::conv_transpose2d`]; the defaults are WebNN's.
pub struct ConvTranspose2d<'a> {
    /// One value an output channel.
    pub bias: Option<&'a Tensor>,
    /// Beginning height, ending height, beginning width, ending width: cut off the result.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// Height, width added to the result's end, each below the stride.
    pub output_padding: [u32; 2],
    /// Height, width of the result; `output_padding` is then ignored.
    pub output_sizes: Option<[u32; 2]>,
    /// Into how many groups input and output channels are split.
    pub groups: u32,
    /// The order of the input's and the output's dimensions.
    pub input_layout: InputOperandLayout,
    /// The order of the filter's dimensions.
    pub filter_layout: ConvTranspose2dFilterOperandLayout,
}

impl Default for ConvTranspose2d<'_> {
    fn default() -> Self {
        Self {
            bias: None,
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            output_padding: [0; 2],
            output_sizes: None,
            groups: 1,
            input_layout: InputOperandLayout::Nchw,
            filter_layout: ConvTranspose2dFilterOperandLayout::Iohw,
        }
    }
}

/// Options of the pooling operations; the defaults are WebNN's.
pub struct Pool2d {
    /// Height, width; none is the input's.
    pub window: Option<[u32; 2]>,
    /// Beginning height, ending height, beginning width, ending width.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// The order of the input's and the output's dimensions.
    pub layout: InputOperandLayout,
    /// Whether partial windows at the end count.
    pub rounding: RoundingType,
    /// Height, width of the result; padding and rounding are then ignored.
    pub output_sizes: Option<[u32; 2]>,
}

impl Default for Pool2d {
    fn default() -> Self {
        Self {
            window: None,
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            layout: InputOperandLayout::Nchw,
            rounding: RoundingType::Floor,
            output_sizes: None,
        }
    }
}

/// Options of [`Tensor::resample2d`]; the defaults are WebNN's.
pub struct Resample2d {
    /// How to read between elements.
    pub mode: InterpolationMode,
    /// Factors for the two axes. Ignored with `sizes`.
    pub scales: [f32; 2],
    /// Sizes of the result along the two axes.
    pub sizes: Option<[u32; 2]>,
    /// The two axes.
    pub axes: [u32; 2],
}

impl Default for Resample2d {
    fn default() -> Self {
        Self { mode: InterpolationMode::NearestNeighbor, scales: [1.0; 2], sizes: None, axes: [2, 3] }
    }
}

impl Pool2d {
    fn wit(&self) -> wit::Pool2dOptions {
        wit::Pool2dOptions {
            window_dimensions: self.window.map(Vec::from),
            padding: Some(self.padding.to_vec()),
            strides: Some(self.strides.to_vec()),
            dilations: Some(self.dilations.to_vec()),
            layout: self.layout,
            output_shape_rounding: self.rounding,
            output_sizes: self.output_sizes.map(Vec::from),
        }
    }
}

impl Tensor {
    /// WebNN `convTranspose2d`.
    pub fn conv_transpose2d(&self, filter: &Tensor, options: &ConvTranspose2d<'_>) -> Result<Tensor> {
        let options = wit::ConvTranspose2dOptions {
            bias: options.bias.map(|b| &b.0),
            padding: Some(options.padding.to_vec()),
            strides: Some(options.strides.to_vec()),
            dilations: Some(options.dilations.to_vec()),
            output_padding: Some(options.output_padding.to_vec()),
            output_sizes: options.output_sizes.map(Vec::from),
            groups: options.groups,
            input_layout: options.input_layout,
            filter_layout: options.filter_layout,
        };
        wit::conv_transpose2d(&self.0, &filter.0, &options).map(Tensor)
    }

    /// WebNN `averagePool2d`.
    pub fn average_pool2d(&self, options: &Pool2d) -> Result<Tensor> {
        wit::average_pool2d(&self.0, &options.wit()).map(Tensor)
    }

    /// WebNN `l2Pool2d`.
    pub fn l2_pool2d(&self, options: &Pool2d) -> Result<Tensor> {
        wit::l2_pool2d(&self.0, &options.wit()).map(Tensor)
    }

    /// WebNN `maxPool2d`.
    pub fn max_pool2d(&self, options: &Pool2d) -> Result<Tensor> {
        wit::max_pool2d(&self.0, &options.wit()).map(Tensor)
    }

    /// WebNN `resample2d`.
    pub fn resample2d(&self, options: &Resample2d) -> Result<Tensor> {
        let options = wit::Resample2dOptions {
            mode: options.mode,
            scales: Some(options.scales.to_vec()),
            sizes: options.sizes.map(Vec::from),
            axes: Some(options.axes.to_vec()),
        };
        wit::resample2d(&self.0, &options).map(Tensor)
    }
}
