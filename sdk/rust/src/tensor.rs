//! Tensors: handles on values that live on the host's device. Operations only record; the host
//! computes when a value is read. Semantics are WebNN's; see `wit/tensors.wit`.

mod index;
mod normalize;
mod recurrent;
mod spatial;

use std::fmt;

pub use index::SplitParts;
pub use normalize::{BatchNormalization, InstanceNormalization, LayerNormalization};
pub use recurrent::{Activation, Direction, Gru, GruWeightLayout, Lstm, LstmWeightLayout};
pub use spatial::{
    ConvTranspose2d, ConvTranspose2dFilterOperandLayout, InterpolationMode, Pool2d, Resample2d, RoundingType,
};

use crate::bindings::warren::plugin::tensors as wit;
pub use wit::{
    Conv2dFilterOperandLayout, DataType, Error as TensorError, ErrorKind, InputOperandLayout, PaddingMode,
};

/// What an operation answers.
pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// A handle on a tensor. Dropping it lets the host free the value.
#[derive(Debug)]
pub struct Tensor(pub(crate) wit::Tensor);

/// A Rust type that is the element of a tensor.
pub trait Element: bytemuck::Pod {
    /// The tensor type it corresponds to.
    const DATA_TYPE: DataType;
}

macro_rules! elements {
    ($($rust:ty => $name:ident),*) => {$(
        impl Element for $rust { const DATA_TYPE: DataType = DataType::$name; }
    )*};
}
elements!(f32 => Float32, i32 => Int32, u32 => Uint32, i64 => Int64, u64 => Uint64, i8 => Int8, u8 => Uint8);

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Int32 => "int32",
            Self::Uint32 => "uint32",
            Self::Int64 => "int64",
            Self::Uint64 => "uint64",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
        })
    }
}

/// Options of [`Tensor::conv2d`]; the defaults are WebNN's.
pub struct Conv2d<'a> {
    /// One value an output channel.
    pub bias: Option<&'a Tensor>,
    /// Beginning height, ending height, beginning width, ending width.
    pub padding: [u32; 4],
    /// Height, width.
    pub strides: [u32; 2],
    /// Height, width.
    pub dilations: [u32; 2],
    /// Into how many groups input and output channels are split.
    pub groups: u32,
    /// The order of the input's and the output's dimensions.
    pub input_layout: InputOperandLayout,
    /// The order of the filter's dimensions.
    pub filter_layout: Conv2dFilterOperandLayout,
}

impl Default for Conv2d<'_> {
    fn default() -> Self {
        Self {
            bias: None,
            padding: [0; 4],
            strides: [1; 2],
            dilations: [1; 2],
            groups: 1,
            input_layout: InputOperandLayout::Nchw,
            filter_layout: Conv2dFilterOperandLayout::Oihw,
        }
    }
}

/// Options of [`Tensor::gemm`]; the defaults are WebNN's.
pub struct Gemm<'a> {
    /// Added after scaling by beta; broadcasts to (M, N).
    pub c: Option<&'a Tensor>,
    /// Factor of the product.
    pub alpha: f64,
    /// Factor of `c`.
    pub beta: f64,
    /// Take A transposed.
    pub a_transpose: bool,
    /// Take B transposed.
    pub b_transpose: bool,
}

impl Default for Gemm<'_> {
    fn default() -> Self {
        Self { c: None, alpha: 1.0, beta: 1.0, a_transpose: false, b_transpose: false }
    }
}

/// Computes several tensors in one graph, so that shared work is done once.
pub fn dispatch(outputs: &[&Tensor]) -> Result<()> {
    let outputs: Vec<&wit::Tensor> = outputs.iter().map(|t| &t.0).collect();
    wit::dispatch(&outputs)
}

impl Tensor {
    /// A tensor of `shape` from its elements in row-major order.
    pub fn new<T: Element>(shape: &[u32], elements: &[T]) -> Result<Self> {
        Self::from_bytes(T::DATA_TYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A tensor from row-major little-endian bytes.
    pub fn from_bytes(data_type: DataType, shape: &[u32], bytes: &[u8]) -> Result<Self> {
        wit::constant(data_type, shape, bytes).map(Tensor)
    }

    /// A tensor with every element `value`.
    pub fn fill(data_type: DataType, shape: &[u32], value: f64) -> Result<Self> {
        wit::fill(data_type, shape, value).map(Tensor)
    }

    /// The element type.
    pub fn data_type(&self) -> DataType {
        self.0.data_type()
    }

    /// The dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> Vec<u32> {
        self.0.shape()
    }

    /// Computes the tensor if need be, and copies its row-major little-endian bytes out.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.0.read()
    }

    /// Computes the tensor if need be, and copies its elements out; `T` must be its type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.data_type() != T::DATA_TYPE {
            return Err(TensorError {
                kind: ErrorKind::InvalidArgument,
                operation: "read".into(),
                message: format!("the tensor is {}, not {}", self.data_type(), T::DATA_TYPE),
            });
        }
        let bytes = self.bytes()?;
        Ok(bytemuck::allocation::pod_collect_to_vec(&bytes))
    }

    /// WebNN `add`.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        wit::add(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `sub`.
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        wit::sub(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `mul`.
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        wit::mul(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `div`.
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        wit::div(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `max`.
    pub fn max(&self, other: &Tensor) -> Result<Tensor> {
        wit::max(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `min`.
    pub fn min(&self, other: &Tensor) -> Result<Tensor> {
        wit::min(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `pow`.
    pub fn pow(&self, other: &Tensor) -> Result<Tensor> {
        wit::pow(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `equal`.
    pub fn equal(&self, other: &Tensor) -> Result<Tensor> {
        wit::equal(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `not_equal`.
    pub fn not_equal(&self, other: &Tensor) -> Result<Tensor> {
        wit::not_equal(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `greater`.
    pub fn greater(&self, other: &Tensor) -> Result<Tensor> {
        wit::greater(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `greater_or_equal`.
    pub fn greater_or_equal(&self, other: &Tensor) -> Result<Tensor> {
        wit::greater_or_equal(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `lesser`.
    pub fn lesser(&self, other: &Tensor) -> Result<Tensor> {
        wit::lesser(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `lesser_or_equal`.
    pub fn lesser_or_equal(&self, other: &Tensor) -> Result<Tensor> {
        wit::lesser_or_equal(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `logical_and`.
    pub fn logical_and(&self, other: &Tensor) -> Result<Tensor> {
        wit::logical_and(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `logical_or`.
    pub fn logical_or(&self, other: &Tensor) -> Result<Tensor> {
        wit::logical_or(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `logical_xor`.
    pub fn logical_xor(&self, other: &Tensor) -> Result<Tensor> {
        wit::logical_xor(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `matmul`.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        wit::matmul(&self.0, &other.0).map(Tensor)
    }

    /// WebNN `abs`.
    pub fn abs(&self) -> Result<Tensor> {
        wit::abs(&self.0).map(Tensor)
    }

    /// WebNN `ceil`.
    pub fn ceil(&self) -> Result<Tensor> {
        wit::ceil(&self.0).map(Tensor)
    }

    /// WebNN `cos`.
    pub fn cos(&self) -> Result<Tensor> {
        wit::cos(&self.0).map(Tensor)
    }

    /// WebNN `erf`.
    pub fn erf(&self) -> Result<Tensor> {
        wit::erf(&self.0).map(Tensor)
    }

    /// WebNN `exp`.
    pub fn exp(&self) -> Result<Tensor> {
        wit::exp(&self.0).map(Tensor)
    }

    /// WebNN `floor`.
    pub fn floor(&self) -> Result<Tensor> {
        wit::floor(&self.0).map(Tensor)
    }

    /// WebNN `identity`.
    pub fn identity(&self) -> Result<Tensor> {
        wit::identity(&self.0).map(Tensor)
    }

    /// WebNN `log`.
    pub fn log(&self) -> Result<Tensor> {
        wit::log(&self.0).map(Tensor)
    }

    /// WebNN `neg`.
    pub fn neg(&self) -> Result<Tensor> {
        wit::neg(&self.0).map(Tensor)
    }

    /// WebNN `reciprocal`.
    pub fn reciprocal(&self) -> Result<Tensor> {
        wit::reciprocal(&self.0).map(Tensor)
    }

    /// WebNN `round_even`.
    pub fn round_even(&self) -> Result<Tensor> {
        wit::round_even(&self.0).map(Tensor)
    }

    /// WebNN `sign`.
    pub fn sign(&self) -> Result<Tensor> {
        wit::sign(&self.0).map(Tensor)
    }

    /// WebNN `sin`.
    pub fn sin(&self) -> Result<Tensor> {
        wit::sin(&self.0).map(Tensor)
    }

    /// WebNN `sqrt`.
    pub fn sqrt(&self) -> Result<Tensor> {
        wit::sqrt(&self.0).map(Tensor)
    }

    /// WebNN `tan`.
    pub fn tan(&self) -> Result<Tensor> {
        wit::tan(&self.0).map(Tensor)
    }

    /// WebNN `relu`.
    pub fn relu(&self) -> Result<Tensor> {
        wit::relu(&self.0).map(Tensor)
    }

    /// WebNN `sigmoid`.
    pub fn sigmoid(&self) -> Result<Tensor> {
        wit::sigmoid(&self.0).map(Tensor)
    }

    /// WebNN `tanh`.
    pub fn tanh(&self) -> Result<Tensor> {
        wit::tanh(&self.0).map(Tensor)
    }

    /// WebNN `softplus`.
    pub fn softplus(&self) -> Result<Tensor> {
        wit::softplus(&self.0).map(Tensor)
    }

    /// WebNN `softsign`.
    pub fn softsign(&self) -> Result<Tensor> {
        wit::softsign(&self.0).map(Tensor)
    }

    /// WebNN `gelu`.
    pub fn gelu(&self) -> Result<Tensor> {
        wit::gelu(&self.0).map(Tensor)
    }

    /// WebNN `hard_swish`.
    pub fn hard_swish(&self) -> Result<Tensor> {
        wit::hard_swish(&self.0).map(Tensor)
    }

    /// WebNN `logical_not`.
    pub fn logical_not(&self) -> Result<Tensor> {
        wit::logical_not(&self.0).map(Tensor)
    }

    /// WebNN `is_nan`.
    pub fn is_nan(&self) -> Result<Tensor> {
        wit::is_nan(&self.0).map(Tensor)
    }

    /// WebNN `is_infinite`.
    pub fn is_infinite(&self) -> Result<Tensor> {
        wit::is_infinite(&self.0).map(Tensor)
    }

    /// WebNN `reduce_l1`; no axes means all of them.
    pub fn reduce_l1(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_l1(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_l2`; no axes means all of them.
    pub fn reduce_l2(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_l2(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_log_sum`; no axes means all of them.
    pub fn reduce_log_sum(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_log_sum(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_log_sum_exp`; no axes means all of them.
    pub fn reduce_log_sum_exp(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_log_sum_exp(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_max`; no axes means all of them.
    pub fn reduce_max(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_max(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_mean`; no axes means all of them.
    pub fn reduce_mean(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_mean(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_min`; no axes means all of them.
    pub fn reduce_min(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_min(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_product`; no axes means all of them.
    pub fn reduce_product(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_product(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_sum`; no axes means all of them.
    pub fn reduce_sum(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_sum(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `reduce_sum_square`; no axes means all of them.
    pub fn reduce_sum_square(&self, axes: Option<&[u32]>, keep_dimensions: bool) -> Result<Tensor> {
        wit::reduce_sum_square(&self.0, axes, keep_dimensions).map(Tensor)
    }

    /// WebNN `clamp`; without a bound that side is open.
    pub fn clamp(&self, min: Option<f64>, max: Option<f64>) -> Result<Tensor> {
        wit::clamp(&self.0, min, max).map(Tensor)
    }

    /// WebNN `elu`.
    pub fn elu(&self, alpha: f64) -> Result<Tensor> {
        wit::elu(&self.0, alpha).map(Tensor)
    }

    /// WebNN `leakyRelu`.
    pub fn leaky_relu(&self, alpha: f64) -> Result<Tensor> {
        wit::leaky_relu(&self.0, alpha).map(Tensor)
    }

    /// WebNN `hardSigmoid`.
    pub fn hard_sigmoid(&self, alpha: f64, beta: f64) -> Result<Tensor> {
        wit::hard_sigmoid(&self.0, alpha, beta).map(Tensor)
    }

    /// WebNN `linear`: alpha * x + beta.
    pub fn linear(&self, alpha: f64, beta: f64) -> Result<Tensor> {
        wit::linear(&self.0, alpha, beta).map(Tensor)
    }

    /// WebNN `cast`.
    pub fn cast(&self, data_type: DataType) -> Result<Tensor> {
        wit::cast(&self.0, data_type).map(Tensor)
    }

    /// WebNN `where`, with this tensor (uint8) as the condition.
    pub fn select(&self, true_value: &Tensor, false_value: &Tensor) -> Result<Tensor> {
        wit::where_(&self.0, &true_value.0, &false_value.0).map(Tensor)
    }

    /// WebNN `reshape`.
    pub fn reshape(&self, shape: &[u32]) -> Result<Tensor> {
        wit::reshape(&self.0, shape).map(Tensor)
    }

    /// WebNN `transpose`; no permutation reverses the dimensions.
    pub fn transpose(&self, permutation: Option<&[u32]>) -> Result<Tensor> {
        wit::transpose(&self.0, permutation).map(Tensor)
    }

    /// WebNN `expand`.
    pub fn expand(&self, shape: &[u32]) -> Result<Tensor> {
        wit::expand(&self.0, shape).map(Tensor)
    }

    /// WebNN `slice`.
    pub fn slice(&self, starts: &[u32], sizes: &[u32], strides: Option<&[u32]>) -> Result<Tensor> {
        wit::slice(&self.0, starts, sizes, strides).map(Tensor)
    }

    /// WebNN `concat`.
    pub fn concat(inputs: &[&Tensor], axis: u32) -> Result<Tensor> {
        let inputs: Vec<&wit::Tensor> = inputs.iter().map(|t| &t.0).collect();
        wit::concat(&inputs, axis).map(Tensor)
    }

    /// WebNN `pad`.
    pub fn pad(&self, beginning: &[u32], ending: &[u32], mode: PaddingMode, value: f64) -> Result<Tensor> {
        wit::pad(&self.0, beginning, ending, mode, value).map(Tensor)
    }

    /// WebNN `softmax`.
    pub fn softmax(&self, axis: u32) -> Result<Tensor> {
        wit::softmax(&self.0, axis).map(Tensor)
    }

    /// WebNN `gemm`.
    pub fn gemm(&self, b: &Tensor, options: &Gemm<'_>) -> Result<Tensor> {
        let options = wit::GemmOptions {
            c: options.c.map(|c| &c.0),
            alpha: options.alpha,
            beta: options.beta,
            a_transpose: options.a_transpose,
            b_transpose: options.b_transpose,
        };
        wit::gemm(&self.0, &b.0, &options).map(Tensor)
    }

    /// WebNN `conv2d`.
    pub fn conv2d(&self, filter: &Tensor, options: &Conv2d<'_>) -> Result<Tensor> {
        let options = wit::Conv2dOptions {
            bias: options.bias.map(|b| &b.0),
            padding: Some(options.padding.to_vec()),
            strides: Some(options.strides.to_vec()),
            dilations: Some(options.dilations.to_vec()),
            groups: options.groups,
            input_layout: options.input_layout,
            filter_layout: options.filter_layout,
        };
        wit::conv2d(&self.0, &filter.0, &options).map(Tensor)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident),*) => {$(
        impl std::ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                Tensor::$op(self, other)
            }
        }
    )*};
}
operators!(Add add add, Sub sub sub, Mul mul mul, Div div div);

impl std::ops::Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}
