//! The tensors interface: every operation checks and records; reading runs the graph.

use warren_tensor::{
    Binary, Compare, Conv2d, DataType, Dims, ErrorKind, FilterLayout, InputLayout, Logical, Op, PaddingMode,
    Reduction, Session, TensorId, Unary,
};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::TensorHandle;
use super::bindings::warren::plugin::tensors as wit;
use super::state::{State, stop_error};

type Handle = Resource<TensorHandle>;
type Answer = Result<Result<Handle, wit::Error>>;

fn id(handle: &Handle) -> TensorId {
    TensorId::from_rep(handle.rep())
}

/// The engine's data type for the interface's.
pub fn data_type(data_type: wit::DataType) -> DataType {
    match data_type {
        wit::DataType::Float32 => DataType::Float32,
        wit::DataType::Float16 => DataType::Float16,
        wit::DataType::Int32 => DataType::Int32,
        wit::DataType::Uint32 => DataType::Uint32,
        wit::DataType::Int64 => DataType::Int64,
        wit::DataType::Uint64 => DataType::Uint64,
        wit::DataType::Int8 => DataType::Int8,
        wit::DataType::Uint8 => DataType::Uint8,
    }
}

/// The interface's data type for the engine's.
pub fn wit_data_type(data_type: DataType) -> wit::DataType {
    match data_type {
        DataType::Float32 => wit::DataType::Float32,
        DataType::Float16 => wit::DataType::Float16,
        DataType::Int32 => wit::DataType::Int32,
        DataType::Uint32 => wit::DataType::Uint32,
        DataType::Int64 => wit::DataType::Int64,
        DataType::Uint64 => wit::DataType::Uint64,
        DataType::Int8 => wit::DataType::Int8,
        DataType::Uint8 => wit::DataType::Uint8,
    }
}

fn refusal(kind: wit::ErrorKind, operation: &str, message: String) -> wit::Error {
    wit::Error { kind, operation: operation.to_owned(), message }
}

/// The interface's error for the engine's. One that only says that the batch was stopped unwinds
/// the guest instead.
fn error(state: &mut State, error: warren_tensor::Error) -> Result<wit::Error> {
    let kind = match error.kind {
        ErrorKind::InvalidArgument => wit::ErrorKind::InvalidArgument,
        ErrorKind::Unsupported => wit::ErrorKind::Unsupported,
        ErrorKind::OutOfMemory => {
            state.device_denied = Some(error.message.clone());
            wit::ErrorKind::OutOfMemory
        }
        ErrorKind::Cancelled if state.watch.is_stopped() => return Err(stop_error(&state.watch)),
        ErrorKind::Cancelled => wit::ErrorKind::Cancelled,
        ErrorKind::Device | ErrorKind::DeviceLost => wit::ErrorKind::Device,
    };
    Ok(refusal(kind, error.operation, error.message))
}

fn answer(state: &mut State, result: Result<TensorId, warren_tensor::Error>) -> Answer {
    match result {
        Ok(id) => Ok(Ok(Resource::new_own(id.rep()))),
        Err(e) => error(state, e).map(Err),
    }
}

fn record(state: &mut State, op: Op, inputs: &[TensorId]) -> Answer {
    state.watch.active();
    let result = state.session.record(op, inputs);
    answer(state, result)
}

/// Runs tensor work: it counts as progress while it lasts, and unwinds the guest if the batch was
/// stopped meanwhile.
pub fn work<T>(
    state: &mut State,
    run: impl FnOnce(&mut Session) -> Result<T, warren_tensor::Error>,
) -> Result<Result<T, wit::Error>> {
    state.check_stopped()?;
    state.watch.begin_work();
    let result = run(&mut state.session);
    state.watch.end_work();
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(e) => error(state, e).map(Err),
    }
}

/// A list as long as a shape, or a refusal that names the operation.
macro_rules! dims {
    ($operation:literal, $list:expr) => {
        match Dims::new(&$list) {
            Some(dims) => dims,
            None => {
                let message = format!("a list of {} where rank is at most 8", $list.len());
                return Ok(Err(refusal(wit::ErrorKind::InvalidArgument, $operation, message)));
            }
        }
    };
}

macro_rules! optional_dims {
    ($operation:literal, $list:expr) => {
        match $list {
            Some(list) => Some(dims!($operation, list)),
            None => None,
        }
    };
}

/// An optional list of exactly N numbers, or the default N times.
macro_rules! fixed {
    ($operation:literal, $name:literal, $list:expr, $default:expr) => {
        match $list {
            None => [$default; _],
            Some(list) => match list.as_slice().try_into() {
                Ok(array) => array,
                Err(_) => {
                    let message = format!("{} has {} numbers", $name, list.len());
                    return Ok(Err(refusal(wit::ErrorKind::InvalidArgument, $operation, message)));
                }
            },
        }
    };
}

impl wit::HostTensor for State {
    fn data_type(&mut self, tensor: Handle) -> Result<wit::DataType> {
        let (data_type, _) =
            self.session.descriptor(id(&tensor)).map_err(|e| wasmtime::Error::msg(e.to_string()))?;
        Ok(wit_data_type(data_type))
    }

    fn shape(&mut self, tensor: Handle) -> Result<Vec<u32>> {
        let (_, shape) =
            self.session.descriptor(id(&tensor)).map_err(|e| wasmtime::Error::msg(e.to_string()))?;
        Ok(shape.to_vec())
    }

    fn read(&mut self, tensor: Handle) -> Result<Result<Vec<u8>, wit::Error>> {
        let value = work(self, |session| session.value(id(&tensor)))?;
        Ok(value.map(|v| v.bytes().to_vec()))
    }

    fn drop(&mut self, tensor: Handle) -> Result<()> {
        self.session.release(id(&tensor));
        Ok(())
    }
}

/// Operations on one tensor without attributes.
macro_rules! unary {
    ($($method:ident $kind:ident),*) => {$(
        fn $method(&mut self, input: Handle) -> Answer {
            record(self, Op::Unary(Unary::$kind), &[id(&input)])
        }
    )*};
}

/// Operations on two tensors without attributes.
macro_rules! binary {
    ($($method:ident $op:expr;)*) => {$(
        fn $method(&mut self, a: Handle, b: Handle) -> Answer {
            record(self, $op, &[id(&a), id(&b)])
        }
    )*};
}

macro_rules! reductions {
    ($($method:ident $name:literal $kind:ident),*) => {$(
        fn $method(&mut self, input: Handle, axes: Option<Vec<u32>>, keep_dimensions: bool) -> Answer {
            let axes = optional_dims!($name, axes);
            record(self, Op::Reduce { kind: Reduction::$kind, axes, keep_dimensions }, &[id(&input)])
        }
    )*};
}

impl wit::Host for State {
    fn constant(&mut self, data_type: wit::DataType, shape: Vec<u32>, data: Vec<u8>) -> Answer {
        self.watch.active();
        let result = self.session.constant(self::data_type(data_type), &shape, &data);
        answer(self, result)
    }

    fn fill(&mut self, data_type: wit::DataType, shape: Vec<u32>, value: f64) -> Answer {
        let shape = dims!("fill", shape);
        record(self, Op::Fill { data_type: self::data_type(data_type), shape, value }, &[])
    }

    fn dispatch(&mut self, outputs: Vec<Handle>) -> Result<Result<(), wit::Error>> {
        let ids: Vec<TensorId> = outputs.iter().map(id).collect();
        work(self, |session| session.dispatch(&ids))
    }

    unary!(abs Abs, ceil Ceil, cos Cos, erf Erf, exp Exp, floor Floor, identity Identity, log Log, neg Neg, reciprocal Reciprocal, round_even RoundEven, sign Sign, sin Sin, sqrt Sqrt, tan Tan, relu Relu, sigmoid Sigmoid, tanh Tanh, softplus Softplus, softsign Softsign, gelu Gelu, hard_swish HardSwish, logical_not LogicalNot, is_nan IsNan, is_infinite IsInfinite);

    binary! {
        add Op::Binary(Binary::Add);
        sub Op::Binary(Binary::Sub);
        mul Op::Binary(Binary::Mul);
        div Op::Binary(Binary::Div);
        max Op::Binary(Binary::Max);
        min Op::Binary(Binary::Min);
        pow Op::Binary(Binary::Pow);
        equal Op::Compare(Compare::Equal);
        not_equal Op::Compare(Compare::NotEqual);
        greater Op::Compare(Compare::Greater);
        greater_or_equal Op::Compare(Compare::GreaterOrEqual);
        lesser Op::Compare(Compare::Lesser);
        lesser_or_equal Op::Compare(Compare::LesserOrEqual);
        logical_and Op::Logical(Logical::And);
        logical_or Op::Logical(Logical::Or);
        logical_xor Op::Logical(Logical::Xor);
        matmul Op::Matmul;
    }

    reductions!(
        reduce_l1 "reduce-l1" L1,
        reduce_l2 "reduce-l2" L2,
        reduce_log_sum "reduce-log-sum" LogSum,
        reduce_log_sum_exp "reduce-log-sum-exp" LogSumExp,
        reduce_max "reduce-max" Max,
        reduce_mean "reduce-mean" Mean,
        reduce_min "reduce-min" Min,
        reduce_product "reduce-product" Product,
        reduce_sum "reduce-sum" Sum,
        reduce_sum_square "reduce-sum-square" SumSquare
    );

    fn clamp(&mut self, input: Handle, min: Option<f64>, max: Option<f64>) -> Answer {
        record(self, Op::Clamp { min, max }, &[id(&input)])
    }

    fn elu(&mut self, input: Handle, alpha: f64) -> Answer {
        record(self, Op::Elu { alpha }, &[id(&input)])
    }

    fn leaky_relu(&mut self, input: Handle, alpha: f64) -> Answer {
        record(self, Op::LeakyRelu { alpha }, &[id(&input)])
    }

    fn hard_sigmoid(&mut self, input: Handle, alpha: f64, beta: f64) -> Answer {
        record(self, Op::HardSigmoid { alpha, beta }, &[id(&input)])
    }

    fn linear(&mut self, input: Handle, alpha: f64, beta: f64) -> Answer {
        record(self, Op::Linear { alpha, beta }, &[id(&input)])
    }

    fn cast(&mut self, input: Handle, data_type: wit::DataType) -> Answer {
        record(self, Op::Cast { to: self::data_type(data_type) }, &[id(&input)])
    }

    fn where_(&mut self, condition: Handle, true_value: Handle, false_value: Handle) -> Answer {
        record(self, Op::Where, &[id(&condition), id(&true_value), id(&false_value)])
    }

    fn reshape(&mut self, input: Handle, new_shape: Vec<u32>) -> Answer {
        let shape = dims!("reshape", new_shape);
        record(self, Op::Reshape { shape }, &[id(&input)])
    }

    fn transpose(&mut self, input: Handle, permutation: Option<Vec<u32>>) -> Answer {
        let permutation = optional_dims!("transpose", permutation);
        record(self, Op::Transpose { permutation }, &[id(&input)])
    }

    fn expand(&mut self, input: Handle, new_shape: Vec<u32>) -> Answer {
        let shape = dims!("expand", new_shape);
        record(self, Op::Expand { shape }, &[id(&input)])
    }

    fn slice(
        &mut self,
        input: Handle,
        starts: Vec<u32>,
        sizes: Vec<u32>,
        strides: Option<Vec<u32>>,
    ) -> Answer {
        let (starts, sizes) = (dims!("slice", starts), dims!("slice", sizes));
        let strides = optional_dims!("slice", strides);
        record(self, Op::Slice { starts, sizes, strides }, &[id(&input)])
    }

    fn concat(&mut self, inputs: Vec<Handle>, axis: u32) -> Answer {
        let ids: Vec<TensorId> = inputs.iter().map(id).collect();
        record(self, Op::Concat { axis }, &ids)
    }

    fn pad(
        &mut self,
        input: Handle,
        beginning: Vec<u32>,
        ending: Vec<u32>,
        mode: wit::PaddingMode,
        value: f64,
    ) -> Answer {
        let mode = match mode {
            wit::PaddingMode::Constant => PaddingMode::Constant(value),
            wit::PaddingMode::Edge => PaddingMode::Edge,
            wit::PaddingMode::Reflection => PaddingMode::Reflection,
        };
        let (beginning, ending) = (dims!("pad", beginning), dims!("pad", ending));
        record(self, Op::Pad { beginning, ending, mode }, &[id(&input)])
    }

    fn gemm(&mut self, a: Handle, b: Handle, options: wit::GemmOptions) -> Answer {
        let wit::GemmOptions { c, alpha, beta, a_transpose, b_transpose } = options;
        let op = Op::Gemm { alpha, beta, a_transpose, b_transpose };
        match c {
            Some(c) => record(self, op, &[id(&a), id(&b), id(&c)]),
            None => record(self, op, &[id(&a), id(&b)]),
        }
    }

    fn conv2d(&mut self, input: Handle, filter: Handle, options: wit::Conv2dOptions) -> Answer {
        let op = Op::Conv2d(Conv2d {
            padding: fixed!("conv2d", "padding", options.padding, 0),
            strides: fixed!("conv2d", "strides", options.strides, 1),
            dilations: fixed!("conv2d", "dilations", options.dilations, 1),
            groups: options.groups,
            input_layout: match options.input_layout {
                wit::InputOperandLayout::Nchw => InputLayout::Nchw,
                wit::InputOperandLayout::Nhwc => InputLayout::Nhwc,
            },
            filter_layout: match options.filter_layout {
                wit::Conv2dFilterOperandLayout::Oihw => FilterLayout::Oihw,
                wit::Conv2dFilterOperandLayout::Hwio => FilterLayout::Hwio,
                wit::Conv2dFilterOperandLayout::Ohwi => FilterLayout::Ohwi,
                wit::Conv2dFilterOperandLayout::Ihwo => FilterLayout::Ihwo,
            },
        });
        match options.bias {
            Some(bias) => record(self, op, &[id(&input), id(&filter), id(&bias)]),
            None => record(self, op, &[id(&input), id(&filter)]),
        }
    }

    fn softmax(&mut self, input: Handle, axis: u32) -> Answer {
        record(self, Op::Softmax { axis }, &[id(&input)])
    }
}
