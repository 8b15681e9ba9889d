//! The tensors interface: every operation checks and records; reading runs the graph.

mod options;

use warren_tensor::{
    Arg, Binary, Compare, DataType, ErrorKind, Gru, GruCellOperands, GruOperands, Logical, Lstm,
    LstmCellOperands, LstmOperands, Op, PaddingMode, Pooling, Reduction, Session, Splits, TensorId, Unary,
};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::TensorHandle;
use super::bindings::warren::plugin::tensors as wit;
use super::state::{State, Stop, stop_error};
use crate::job::{Code, Failure};
use options::{dims, optional_dims};

type Handle = Resource<TensorHandle>;
type Answer = Result<Result<Handle, wit::Error>>;
type Answers = Result<Result<Vec<Handle>, wit::Error>>;

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
        ErrorKind::OutOfMemory | ErrorKind::DeviceFull => {
            let (limit, most) = match state.draft {
                Some(_) => ("assets_mib", state.limits.assets_mib),
                None => ("device_mib", state.limits.device_mib),
            };
            state.device_denied = Some(format!("{}: limits.{limit} is {most}", error.message));
            wit::ErrorKind::OutOfMemory
        }
        ErrorKind::Cancelled if state.watch.is_stopped() => return Err(stop_error(&state.watch)),
        ErrorKind::Cancelled => wit::ErrorKind::Cancelled,
        // What the guest had computed is gone: it must begin again, and not go on with half of it.
        ErrorKind::DeviceLost => {
            let failure = Failure::new(Code::DeviceLost, error.to_string());
            return Err(wasmtime::Error::new(Stop(failure)));
        }
        ErrorKind::Device => wit::ErrorKind::Device,
    };
    Ok(refusal(kind, error.operation, error.message))
}

fn answer(state: &mut State, result: Result<TensorId, warren_tensor::Error>) -> Answer {
    match result {
        Ok(id) => Ok(Ok(Resource::new_own(id.rep()))),
        Err(e) => error(state, e).map(Err),
    }
}

/// Records an operation that answers several tensors.
fn several(
    state: &mut State,
    record: impl FnOnce(&mut Session) -> Result<Vec<TensorId>, warren_tensor::Error>,
) -> Answers {
    state.watch.active();
    match record(&mut state.session) {
        Ok(ids) => Ok(Ok(ids.into_iter().map(|id| Resource::new_own(id.rep())).collect())),
        Err(e) => error(state, e).map(Err),
    }
}

fn optional_id(handle: &Option<Handle>) -> Option<TensorId> {
    handle.as_ref().map(id)
}

/// The operands given, in order.
fn operands(first: &[&Handle], rest: &[&Option<Handle>]) -> Vec<TensorId> {
    let rest = rest.iter().filter_map(|handle| optional_id(handle));
    first.iter().map(|handle| id(handle)).chain(rest).collect()
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

/// The value, or the guest's refusal as the answer.
macro_rules! given {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
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
        let Ok(value) = value else { return Ok(value.map(|_| Vec::new())) };
        self.pass(value.bytes().len())?;
        Ok(Ok(value.bytes().to_vec()))
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
            let axes = given!(optional_dims($name, axes.as_deref()));
            record(self, Op::Reduce { kind: Reduction::$kind, axes, keep_dimensions }, &[id(&input)])
        }
    )*};
}

macro_rules! pools {
    ($($method:ident $kind:ident),*) => {$(
        fn $method(&mut self, input: Handle, options: wit::Pool2dOptions) -> Answer {
            let pool = given!(options::pool2d(Pooling::$kind.name(), &options));
            record(self, Op::Pool2d(Pooling::$kind, pool), &[id(&input)])
        }
    )*};
}

impl wit::Host for State {
    fn constant(&mut self, data_type: wit::DataType, shape: Vec<u32>, data: Vec<u8>) -> Answer {
        self.watch.active();
        self.pass(data.len())?;
        let result = self.session.constant(self::data_type(data_type), &shape, &data);
        answer(self, result)
    }

    fn fill(&mut self, data_type: wit::DataType, shape: Vec<u32>, value: f64) -> Answer {
        let shape = given!(dims("fill", &shape));
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
        let shape = given!(dims("reshape", &new_shape));
        record(self, Op::Reshape { shape }, &[id(&input)])
    }

    fn transpose(&mut self, input: Handle, permutation: Option<Vec<u32>>) -> Answer {
        let permutation = given!(optional_dims("transpose", permutation.as_deref()));
        record(self, Op::Transpose { permutation }, &[id(&input)])
    }

    fn expand(&mut self, input: Handle, new_shape: Vec<u32>) -> Answer {
        let shape = given!(dims("expand", &new_shape));
        record(self, Op::Expand { shape }, &[id(&input)])
    }

    fn slice(
        &mut self,
        input: Handle,
        starts: Vec<u32>,
        sizes: Vec<u32>,
        strides: Option<Vec<u32>>,
    ) -> Answer {
        let (starts, sizes) = (given!(dims("slice", &starts)), given!(dims("slice", &sizes)));
        let strides = given!(optional_dims("slice", strides.as_deref()));
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
        let (beginning, ending) = (given!(dims("pad", &beginning)), given!(dims("pad", &ending)));
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
        let op = Op::Conv2d(given!(options::conv2d(&options)));
        record(self, op, &operands(&[&input, &filter], &[&options.bias]))
    }

    fn conv_transpose2d(
        &mut self,
        input: Handle,
        filter: Handle,
        options: wit::ConvTranspose2dOptions,
    ) -> Answer {
        let op = Op::ConvTranspose2d(given!(options::conv_transpose2d(&options)));
        record(self, op, &operands(&[&input, &filter], &[&options.bias]))
    }

    pools!(average_pool2d Average, l2_pool2d L2, max_pool2d Max);

    fn resample2d(&mut self, input: Handle, options: wit::Resample2dOptions) -> Answer {
        let op = Op::Resample2d(given!(options::resample2d(&options)));
        record(self, op, &[id(&input)])
    }

    fn batch_normalization(
        &mut self,
        input: Handle,
        mean: Handle,
        variance: Handle,
        options: wit::BatchNormalizationOptions,
    ) -> Answer {
        let wit::BatchNormalizationOptions { scale, bias, axis, epsilon } = options;
        let op = Op::BatchNormalization { axis, epsilon, scale: scale.is_some(), bias: bias.is_some() };
        record(self, op, &operands(&[&input, &mean, &variance], &[&scale, &bias]))
    }

    fn instance_normalization(
        &mut self,
        input: Handle,
        options: wit::InstanceNormalizationOptions,
    ) -> Answer {
        let wit::InstanceNormalizationOptions { scale, bias, epsilon, layout } = options;
        let layout = options::layout(layout);
        let op = Op::InstanceNormalization { layout, epsilon, scale: scale.is_some(), bias: bias.is_some() };
        record(self, op, &operands(&[&input], &[&scale, &bias]))
    }

    fn layer_normalization(&mut self, input: Handle, options: wit::LayerNormalizationOptions) -> Answer {
        let wit::LayerNormalizationOptions { scale, bias, axes, epsilon } = options;
        let axes = given!(optional_dims("layer-normalization", axes.as_deref()));
        let op = Op::LayerNormalization { axes, epsilon, scale: scale.is_some(), bias: bias.is_some() };
        record(self, op, &operands(&[&input], &[&scale, &bias]))
    }

    fn arg_min(&mut self, input: Handle, axis: u32, keep_dimensions: bool, output: wit::DataType) -> Answer {
        let output_data_type = data_type(output);
        record(self, Op::ArgMinMax { kind: Arg::Min, axis, keep_dimensions, output_data_type }, &[id(&input)])
    }

    fn arg_max(&mut self, input: Handle, axis: u32, keep_dimensions: bool, output: wit::DataType) -> Answer {
        let output_data_type = data_type(output);
        record(self, Op::ArgMinMax { kind: Arg::Max, axis, keep_dimensions, output_data_type }, &[id(&input)])
    }

    fn cumulative_sum(&mut self, input: Handle, axis: u32, exclusive: bool, reversed: bool) -> Answer {
        record(self, Op::CumulativeSum { axis, exclusive, reversed }, &[id(&input)])
    }

    fn prelu(&mut self, input: Handle, slope: Handle) -> Answer {
        record(self, Op::Prelu, &[id(&input), id(&slope)])
    }

    fn dequantize_linear(&mut self, input: Handle, scale: Handle, zero_point: Handle) -> Answer {
        record(self, Op::DequantizeLinear, &[id(&input), id(&scale), id(&zero_point)])
    }

    fn quantize_linear(&mut self, input: Handle, scale: Handle, zero_point: Handle) -> Answer {
        record(self, Op::QuantizeLinear, &[id(&input), id(&scale), id(&zero_point)])
    }

    fn split(&mut self, input: Handle, splits: wit::SplitParts, axis: u32) -> Answers {
        let splits = match &splits {
            wit::SplitParts::Count(count) => Splits::Count(*count),
            wit::SplitParts::Sizes(sizes) => Splits::Sizes(sizes),
        };
        several(self, |session| session.split(id(&input), &splits, axis))
    }

    fn reverse(&mut self, input: Handle, axes: Option<Vec<u32>>) -> Answer {
        let axes = given!(optional_dims("reverse", axes.as_deref()));
        record(self, Op::Reverse { axes }, &[id(&input)])
    }

    fn tile(&mut self, input: Handle, repetitions: Vec<u32>) -> Answer {
        let repetitions = given!(dims("tile", &repetitions));
        record(self, Op::Tile { repetitions }, &[id(&input)])
    }

    fn triangular(&mut self, input: Handle, upper: bool, diagonal: i32) -> Answer {
        record(self, Op::Triangular { upper, diagonal }, &[id(&input)])
    }

    fn gather(&mut self, input: Handle, indices: Handle, axis: u32) -> Answer {
        record(self, Op::Gather { axis }, &[id(&input), id(&indices)])
    }

    fn gather_elements(&mut self, input: Handle, indices: Handle, axis: u32) -> Answer {
        record(self, Op::GatherElements { axis }, &[id(&input), id(&indices)])
    }

    fn gather_nd(&mut self, input: Handle, indices: Handle) -> Answer {
        record(self, Op::GatherNd, &[id(&input), id(&indices)])
    }

    fn scatter_elements(&mut self, input: Handle, indices: Handle, updates: Handle, axis: u32) -> Answer {
        record(self, Op::ScatterElements { axis }, &[id(&input), id(&indices), id(&updates)])
    }

    fn scatter_nd(&mut self, input: Handle, indices: Handle, updates: Handle) -> Answer {
        record(self, Op::ScatterNd, &[id(&input), id(&indices), id(&updates)])
    }

    fn gru_cell(
        &mut self,
        input: Handle,
        weight: Handle,
        recurrent_weight: Handle,
        hidden_state: Handle,
        hidden_size: u32,
        options: wit::GruCellOptions,
    ) -> Answer {
        let o = &options;
        let list = o.activations.as_deref();
        let cell = given!(options::gru_cell("gru-cell", hidden_size, o.reset_after, o.layout, list));
        let operands = GruCellOperands {
            input: id(&input),
            weight: id(&weight),
            recurrent_weight: id(&recurrent_weight),
            hidden_state: id(&hidden_state),
            bias: optional_id(&o.bias),
            recurrent_bias: optional_id(&o.recurrent_bias),
        };
        self.watch.active();
        let result = self.session.gru_cell(&operands, &cell);
        answer(self, result)
    }

    fn gru(
        &mut self,
        input: Handle,
        weight: Handle,
        recurrent_weight: Handle,
        steps: u32,
        hidden_size: u32,
        options: wit::GruOptions,
    ) -> Answers {
        let o = &options;
        let list = o.activations.as_deref();
        let cell = given!(options::gru_cell("gru", hidden_size, o.reset_after, o.layout, list));
        let operands = GruOperands {
            input: id(&input),
            weight: id(&weight),
            recurrent_weight: id(&recurrent_weight),
            bias: optional_id(&o.bias),
            recurrent_bias: optional_id(&o.recurrent_bias),
            initial_hidden_state: optional_id(&o.initial_hidden_state),
        };
        let direction = options::direction(o.direction);
        let gru = Gru { steps, cell, return_sequence: o.return_sequence, direction };
        several(self, |session| session.gru(&operands, &gru))
    }

    fn lstm_cell(
        &mut self,
        input: Handle,
        weight: Handle,
        recurrent_weight: Handle,
        hidden_state: Handle,
        cell_state: Handle,
        hidden_size: u32,
        options: wit::LstmCellOptions,
    ) -> Answers {
        let o = &options;
        let cell = given!(options::lstm_cell("lstm-cell", hidden_size, o.layout, o.activations.as_deref()));
        let operands = LstmCellOperands {
            input: id(&input),
            weight: id(&weight),
            recurrent_weight: id(&recurrent_weight),
            hidden_state: id(&hidden_state),
            cell_state: id(&cell_state),
            bias: optional_id(&o.bias),
            recurrent_bias: optional_id(&o.recurrent_bias),
            peephole_weight: optional_id(&o.peephole_weight),
        };
        several(self, |session| session.lstm_cell(&operands, &cell).map(Vec::from))
    }

    fn lstm(
        &mut self,
        input: Handle,
        weight: Handle,
        recurrent_weight: Handle,
        steps: u32,
        hidden_size: u32,
        options: wit::LstmOptions,
    ) -> Answers {
        let o = &options;
        let cell = given!(options::lstm_cell("lstm", hidden_size, o.layout, o.activations.as_deref()));
        let operands = LstmOperands {
            input: id(&input),
            weight: id(&weight),
            recurrent_weight: id(&recurrent_weight),
            bias: optional_id(&o.bias),
            recurrent_bias: optional_id(&o.recurrent_bias),
            peephole_weight: optional_id(&o.peephole_weight),
            initial_hidden_state: optional_id(&o.initial_hidden_state),
            initial_cell_state: optional_id(&o.initial_cell_state),
        };
        let direction = options::direction(o.direction);
        let lstm = Lstm { steps, cell, return_sequence: o.return_sequence, direction };
        several(self, |session| session.lstm(&operands, &lstm))
    }

    fn softmax(&mut self, input: Handle, axis: u32) -> Answer {
        record(self, Op::Softmax { axis }, &[id(&input)])
    }
}
