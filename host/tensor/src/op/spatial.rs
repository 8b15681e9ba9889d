//! Attributes of the operations on images: layouts, convolutions, pooling, resampling.

/// Order of the dimensions of `conv2d`'s input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum InputLayout {
    /// Batch, channels, height, width.
    Nchw,
    /// Batch, height, width, channels.
    Nhwc,
}

/// Order of the dimensions of `conv2d`'s filter (o: output channels, i: input channels of a group).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FilterLayout {
    /// o, i, height, width.
    Oihw,
    /// Height, width, i, o.
    Hwio,
    /// o, height, width, i.
    Ohwi,
    /// i, height, width, o.
    Ihwo,
}

/// Attributes of `conv2d`; a third operand is the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Rows before, rows after, columns before, columns after.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// Groups of channels that do not mix.
    pub groups: u32,
    /// Layout of input and output.
    pub input_layout: InputLayout,
    /// Layout of the filter.
    pub filter_layout: FilterLayout,
}

impl Default for Conv2d {
    fn default() -> Self {
        Conv2d {
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            groups: 1,
            input_layout: InputLayout::Nchw,
            filter_layout: FilterLayout::Oihw,
        }
    }
}

/// Order of the dimensions of `conv-transpose2d`'s filter (i: input channels, o: output channels
/// of a group).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TransposeFilterLayout {
    /// i, o, height, width.
    Iohw,
    /// Height, width, o, i.
    Hwoi,
    /// o, height, width, i.
    Ohwi,
}

/// Attributes of `conv-transpose2d`; a third operand is the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvTranspose2d {
    /// Rows before, rows after, columns before, columns after: cut off the result.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// Rows and columns added to the result's end; each below the stride. Ignored with
    /// `output_sizes`.
    pub output_padding: [u32; 2],
    /// Height and width of the result, where they are to be given.
    pub output_sizes: Option<[u32; 2]>,
    /// Groups of channels that do not mix.
    pub groups: u32,
    /// Layout of input and output.
    pub input_layout: InputLayout,
    /// Layout of the filter.
    pub filter_layout: TransposeFilterLayout,
}

impl Default for ConvTranspose2d {
    fn default() -> Self {
        ConvTranspose2d {
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            output_padding: [0; 2],
            output_sizes: None,
            groups: 1,
            input_layout: InputLayout::Nchw,
            filter_layout: TransposeFilterLayout::Iohw,
        }
    }
}

/// What a pooling operation makes of the elements in its window. Padding is no element: it counts
/// for nothing, and a window of nothing but padding gives 0 (`max-pool2d`: the least value, which
/// is -infinity for floats).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Pooling {
    /// Their mean.
    Average,
    /// The square root of the sum of their squares.
    L2,
    /// The largest; NaN if one is.
    Max,
}

impl Pooling {
    /// The operation's name in `wit/tensors.wit`.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Average => "average-pool2d",
            Pooling::L2 => "l2-pool2d",
            Pooling::Max => "max-pool2d",
        }
    }
}

/// Whether windows that reach beyond the padded input count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rounding {
    /// Only whole windows.
    Floor,
    /// Partial windows too.
    Ceil,
}

/// Attributes of the pooling operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2d {
    /// Height, width; none is the input's.
    pub window: Option<[u32; 2]>,
    /// Rows before, rows after, columns before, columns after. Ignored with `output_sizes`.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// Layout of input and output.
    pub layout: InputLayout,
    /// How the output's size is rounded. Ignored with `output_sizes`.
    pub rounding: Rounding,
    /// Height and width of the result, where they are to be given.
    pub output_sizes: Option<[u32; 2]>,
}

impl Default for Pool2d {
    fn default() -> Self {
        Pool2d {
            window: None,
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            layout: InputLayout::Nchw,
            rounding: Rounding::Floor,
            output_sizes: None,
        }
    }
}

/// How `resample2d` reads between elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Interpolation {
    /// The nearest; halfway between two the one before.
    NearestNeighbor,
    /// Linear in both directions; integers are rounded to the nearest, ties to even.
    Linear,
}

/// Attributes of `resample2d`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resample2d {
    /// How to read between elements.
    pub mode: Interpolation,
    /// Factors for the two axes. Ignored with `sizes`.
    pub scales: [f32; 2],
    /// Sizes of the result along the two axes.
    pub sizes: Option<[u32; 2]>,
    /// The two axes.
    pub axes: [u32; 2],
}

impl Default for Resample2d {
    fn default() -> Self {
        Resample2d { mode: Interpolation::NearestNeighbor, scales: [1.0; 2], sizes: None, axes: [2, 3] }
    }
}
