//! Calls of `MLGraphBuilder` as the cases write them: names and options of the WebNN API.

use std::collections::HashMap;

use serde_json::Value as Json;
use warren_tensor::*;

use super::compare::Tolerance;
use super::{Failure, data_type, number, shape};

/// One call.
pub struct Call<'a> {
    /// Name of the case.
    pub case: &'a str,
    /// Name of the operation.
    pub name: &'a str,
    /// Arguments and options.
    pub arguments: &'a HashMap<&'a str, &'a Json>,
    /// Tensors by name.
    pub tensors: &'a HashMap<String, TensorId>,
}

impl Call<'_> {
    fn tensor(&self, key: &str) -> TensorId {
        self.optional(key).unwrap_or_else(|| panic!("{}: no {key}", self.case))
    }
    fn optional(&self, key: &str) -> Option<TensorId> {
        self.arguments.get(key).map(|v| self.tensors[v.as_str().unwrap()])
    }
    fn number(&self, key: &str, default: f64) -> f64 {
        self.arguments.get(key).map_or(default, |v| number(v))
    }
    fn count(&self, key: &str, default: u32) -> u32 {
        self.number(key, f64::from(default)) as u32
    }
    fn flag(&self, key: &str, default: bool) -> bool {
        self.arguments.get(key).map_or(default, |v| v.as_bool().unwrap())
    }
    fn text(&self, key: &str, default: &'static str) -> String {
        self.arguments.get(key).map_or(default, |v| v.as_str().unwrap()).to_owned()
    }
    fn dims(&self, key: &str) -> Option<Dims> {
        self.arguments.get(key).map(|v| Dims::new(&shape(v)).unwrap())
    }
    fn list<const N: usize>(&self, key: &str) -> Option<[u32; N]> {
        self.arguments.get(key).map(|v| shape(v).try_into().unwrap())
    }
    /// The operand of operations that have one, called `input` or `a`.
    fn input(&self) -> TensorId {
        self.optional("input").unwrap_or_else(|| self.tensor("a"))
    }
    fn layout(&self, key: &str) -> InputLayout {
        if self.text(key, "nchw") == "nchw" { InputLayout::Nchw } else { InputLayout::Nhwc }
    }

    /// Records the call; answers the results.
    pub fn record(&self, session: &mut Session) -> Result<Vec<TensorId>, Failure> {
        let cell = || {
            let mut cell = GruCell::new(self.count("hiddenSize", 0));
            cell.reset_after = self.flag("resetAfter", true);
            cell.layout = if self.text("layout", "zrn") == "zrn" { GruLayout::Zrn } else { GruLayout::Rzn };
            cell.activations = self.activations().unwrap_or(cell.activations);
            cell
        };
        let lstm_cell = || {
            let mut cell = LstmCell::new(self.count("hiddenSize", 0));
            let iofg = self.text("layout", "iofg") == "iofg";
            cell.layout = if iofg { LstmLayout::Iofg } else { LstmLayout::Ifgo };
            cell.activations = self.activations().unwrap_or(cell.activations);
            cell
        };
        let direction = match self.text("direction", "forward").as_str() {
            "forward" => Direction::Forward,
            "backward" => Direction::Backward,
            _ => Direction::Both,
        };
        let (steps, return_sequence) = (self.count("steps", 0), self.flag("returnSequence", false));
        Ok(match self.name {
            "split" => {
                let sizes = shape(self.arguments["splits"]);
                let splits = match self.arguments["splits"].is_array() {
                    true => Splits::Sizes(&sizes),
                    false => Splits::Count(self.count("splits", 0)),
                };
                session.split(self.input(), &splits, self.count("axis", 0))?
            }
            "gruCell" => {
                let operands = GruCellOperands {
                    input: self.input(),
                    weight: self.tensor("weight"),
                    recurrent_weight: self.tensor("recurrentWeight"),
                    hidden_state: self.tensor("hiddenState"),
                    bias: self.optional("bias"),
                    recurrent_bias: self.optional("recurrentBias"),
                };
                vec![session.gru_cell(&operands, &cell())?]
            }
            "gru" => {
                let operands = GruOperands {
                    input: self.input(),
                    weight: self.tensor("weight"),
                    recurrent_weight: self.tensor("recurrentWeight"),
                    bias: self.optional("bias"),
                    recurrent_bias: self.optional("recurrentBias"),
                    initial_hidden_state: self.optional("initialHiddenState"),
                };
                session.gru(&operands, &Gru { steps, cell: cell(), return_sequence, direction })?
            }
            "lstmCell" => {
                let operands = LstmCellOperands {
                    input: self.input(),
                    weight: self.tensor("weight"),
                    recurrent_weight: self.tensor("recurrentWeight"),
                    hidden_state: self.tensor("hiddenState"),
                    cell_state: self.tensor("cellState"),
                    bias: self.optional("bias"),
                    recurrent_bias: self.optional("recurrentBias"),
                    peephole_weight: self.optional("peepholeWeight"),
                };
                session.lstm_cell(&operands, &lstm_cell())?.into()
            }
            "lstm" => {
                let operands = LstmOperands {
                    input: self.input(),
                    weight: self.tensor("weight"),
                    recurrent_weight: self.tensor("recurrentWeight"),
                    bias: self.optional("bias"),
                    recurrent_bias: self.optional("recurrentBias"),
                    peephole_weight: self.optional("peepholeWeight"),
                    initial_hidden_state: self.optional("initialHiddenState"),
                    initial_cell_state: self.optional("initialCellState"),
                };
                session.lstm(&operands, &Lstm { steps, cell: lstm_cell(), return_sequence, direction })?
            }
            _ => {
                let (op, inputs) = self.op(session)?;
                vec![session.record(op, &inputs)?]
            }
        })
    }

    fn activations<const N: usize>(&self) -> Option<[Activation; N]> {
        let names = self.arguments.get("activations")?.as_array().unwrap();
        let of = |name: &Json| match name.as_str().unwrap() {
            "relu" => Activation::Relu,
            "sigmoid" => Activation::Sigmoid,
            _ => Activation::Tanh,
        };
        Some(names.iter().map(of).collect::<Vec<_>>().try_into().unwrap())
    }

    /// The operation with its operands in order, those that are given.
    fn op(&self, session: &Session) -> Result<(Op, Vec<TensorId>), Failure> {
        let op = self.kind(session)?;
        let rest: &[&str] = match op {
            Op::Binary(_) | Op::Compare(_) | Op::Logical(_) | Op::Matmul => &["b"],
            Op::Gemm { .. } => &["b", "c"],
            Op::Conv2d(_) | Op::ConvTranspose2d(_) => &["filter", "bias"],
            Op::Prelu => &["slope"],
            Op::BatchNormalization { .. } => &["mean", "variance", "scale", "bias"],
            Op::InstanceNormalization { .. } | Op::LayerNormalization { .. } => &["scale", "bias"],
            Op::DequantizeLinear | Op::QuantizeLinear => &["scale", "zeroPoint"],
            Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd => &["indices"],
            Op::ScatterElements { .. } | Op::ScatterNd => &["indices", "updates"],
            Op::Where => {
                return Ok((op, ["condition", "trueValue", "falseValue"].map(|k| self.tensor(k)).into()));
            }
            Op::Concat { .. } => {
                let inputs = self.arguments["inputs"].as_array().unwrap();
                return Ok((op, inputs.iter().map(|v| self.tensors[v.as_str().unwrap()]).collect()));
            }
            _ => &[],
        };
        let mut inputs = vec![self.input()];
        inputs.extend(rest.iter().filter_map(|key| self.optional(key)));
        Ok((op, inputs))
    }

    fn kind(&self, session: &Session) -> Result<Op, Failure> {
        let axis = self.count("axis", 0);
        let epsilon = self.number("epsilon", 1e-5);
        let (scale, bias) = (self.arguments.contains_key("scale"), self.arguments.contains_key("bias"));
        let keep_dimensions = self.flag("keepDimensions", false);
        let reduce = |kind| Op::Reduce { kind, axes: self.dims("axes"), keep_dimensions };
        let rank = |session: &Session| session.descriptor(self.input()).unwrap().1.len();
        Ok(match self.name {
            "argMin" | "argMax" => Op::ArgMinMax {
                kind: if self.name == "argMin" { Arg::Min } else { Arg::Max },
                axis,
                keep_dimensions,
                output_data_type: match self.arguments.get("outputDataType") {
                    Some(name) => data_type(name)?,
                    None => DataType::Int32,
                },
            },
            "clamp" => {
                let bound = |key| self.arguments.get(key).map(|v| number(v));
                Op::Clamp { min: bound("minValue"), max: bound("maxValue") }
            }
            "elu" => Op::Elu { alpha: self.number("alpha", 1.0) },
            "leakyRelu" => Op::LeakyRelu { alpha: self.number("alpha", 0.01) },
            "hardSigmoid" => {
                Op::HardSigmoid { alpha: self.number("alpha", 0.2), beta: self.number("beta", 0.5) }
            }
            "linear" => Op::Linear { alpha: self.number("alpha", 1.0), beta: self.number("beta", 0.0) },
            "cast" => Op::Cast { to: data_type(self.arguments["type"])? },
            "where" => Op::Where,
            "reshape" => Op::Reshape { shape: self.dims("newShape").unwrap() },
            "expand" => Op::Expand { shape: self.dims("newShape").unwrap() },
            "transpose" => Op::Transpose { permutation: self.dims("permutation") },
            "slice" => Op::Slice {
                starts: self.dims("starts").unwrap(),
                sizes: self.dims("sizes").unwrap(),
                strides: self.dims("strides"),
            },
            "concat" => Op::Concat { axis },
            "pad" => Op::Pad {
                beginning: self.dims("beginningPadding").unwrap(),
                ending: self.dims("endingPadding").unwrap(),
                mode: match self.text("mode", "constant").as_str() {
                    "edge" => PaddingMode::Edge,
                    "reflection" => PaddingMode::Reflection,
                    _ => PaddingMode::Constant(self.number("value", 0.0)),
                },
            },
            "matmul" => Op::Matmul,
            "gemm" => Op::Gemm {
                alpha: self.number("alpha", 1.0),
                beta: self.number("beta", 1.0),
                a_transpose: self.flag("aTranspose", false),
                b_transpose: self.flag("bTranspose", false),
            },
            "conv2d" => Op::Conv2d(Conv2d {
                padding: self.list("padding").unwrap_or([0; 4]),
                strides: self.list("strides").unwrap_or([1; 2]),
                dilations: self.list("dilations").unwrap_or([1; 2]),
                groups: self.count("groups", 1),
                input_layout: self.layout("inputLayout"),
                filter_layout: match self.text("filterLayout", "oihw").as_str() {
                    "oihw" => FilterLayout::Oihw,
                    "hwio" => FilterLayout::Hwio,
                    "ohwi" => FilterLayout::Ohwi,
                    _ => FilterLayout::Ihwo,
                },
            }),
            "convTranspose2d" => Op::ConvTranspose2d(ConvTranspose2d {
                padding: self.list("padding").unwrap_or([0; 4]),
                strides: self.list("strides").unwrap_or([1; 2]),
                dilations: self.list("dilations").unwrap_or([1; 2]),
                output_padding: self.list("outputPadding").unwrap_or([0; 2]),
                output_sizes: self.list("outputSizes"),
                groups: self.count("groups", 1),
                input_layout: self.layout("inputLayout"),
                filter_layout: match self.text("filterLayout", "iohw").as_str() {
                    "iohw" => TransposeFilterLayout::Iohw,
                    "hwoi" => TransposeFilterLayout::Hwoi,
                    _ => TransposeFilterLayout::Ohwi,
                },
            }),
            "averagePool2d" | "l2Pool2d" | "maxPool2d" => {
                let kind = match self.name {
                    "averagePool2d" => Pooling::Average,
                    "l2Pool2d" => Pooling::L2,
                    _ => Pooling::Max,
                };
                // The option was called roundingType once.
                let old = self.text("roundingType", "floor");
                let ceil = self.text("outputShapeRounding", "floor") == "ceil" || old == "ceil";
                let pool = Pool2d {
                    window: self.list("windowDimensions"),
                    padding: self.list("padding").unwrap_or([0; 4]),
                    strides: self.list("strides").unwrap_or([1; 2]),
                    dilations: self.list("dilations").unwrap_or([1; 2]),
                    layout: self.layout("layout"),
                    rounding: if ceil { Rounding::Ceil } else { Rounding::Floor },
                    output_sizes: self.list("outputSizes"),
                };
                Op::Pool2d(kind, pool)
            }
            "resample2d" => {
                let scales = self.arguments.get("scales").map(|v| v.as_array().unwrap());
                Op::Resample2d(Resample2d {
                    mode: match self.text("mode", "nearest-neighbor").as_str() {
                        "linear" => Interpolation::Linear,
                        _ => Interpolation::NearestNeighbor,
                    },
                    scales: scales.map_or([1.0; 2], |s| [number(&s[0]) as f32, number(&s[1]) as f32]),
                    sizes: self.list("sizes"),
                    axes: self.list("axes").unwrap_or([2, 3]),
                })
            }
            "softmax" => {
                // Without an axis in the old form of the call: the last of two.
                Op::Softmax { axis: self.count("axis", rank(session) as u32 - 1) }
            }
            "cumulativeSum" => Op::CumulativeSum {
                axis,
                exclusive: self.flag("exclusive", false),
                reversed: self.flag("reversed", false),
            },
            "batchNormalization" => {
                Op::BatchNormalization { axis: self.count("axis", 1), epsilon, scale, bias }
            }
            "instanceNormalization" => {
                Op::InstanceNormalization { layout: self.layout("layout"), epsilon, scale, bias }
            }
            "layerNormalization" => Op::LayerNormalization { axes: self.dims("axes"), epsilon, scale, bias },
            "prelu" => Op::Prelu,
            "dequantizeLinear" => Op::DequantizeLinear,
            "quantizeLinear" => Op::QuantizeLinear,
            "gather" => Op::Gather { axis },
            "gatherElements" => Op::GatherElements { axis },
            "gatherND" => Op::GatherNd,
            "scatterElements" => Op::ScatterElements { axis },
            "scatterND" => Op::ScatterNd,
            "reverse" => Op::Reverse { axes: self.dims("axes") },
            "tile" => Op::Tile { repetitions: self.dims("repetitions").unwrap() },
            "triangular" => Op::Triangular {
                upper: self.flag("upper", true),
                diagonal: self.number("diagonal", 0.0) as i32,
            },
            "reduceL1" => reduce(Reduction::L1),
            "reduceL2" => reduce(Reduction::L2),
            "reduceLogSum" => reduce(Reduction::LogSum),
            "reduceLogSumExp" => reduce(Reduction::LogSumExp),
            "reduceMax" => reduce(Reduction::Max),
            "reduceMean" => reduce(Reduction::Mean),
            "reduceMin" => reduce(Reduction::Min),
            "reduceProduct" => reduce(Reduction::Product),
            "reduceSum" => reduce(Reduction::Sum),
            "reduceSumSquare" => reduce(Reduction::SumSquare),
            name => match element_wise(name) {
                Some(op) => op,
                None => return Err(Failure::Unsupported(format!("operation {name} is not known"))),
            },
        })
    }

    /// The suite's tolerance for one operation.
    pub fn tolerance(&self, session: &Session, half: bool) -> Tolerance {
        let dims_of = |id: Option<TensorId>| -> Vec<u64> {
            let dims = id.map(|id| session.descriptor(id).unwrap().1.to_vec()).unwrap_or_default();
            dims.into_iter().map(u64::from).collect()
        };
        let dims = dims_of(self.optional("input").or(self.optional("a")));
        let reduced: u64 = match self.arguments.get("axes") {
            Some(axes) => shape(axes).iter().filter_map(|&a| dims.get(a as usize)).product(),
            None => dims.iter().product(),
        };
        let window = || match self.list::<2>("windowDimensions") {
            Some([h, w]) => u64::from(h) * u64::from(w),
            None if self.layout("layout") == InputLayout::Nhwc => dims[1] * dims[2],
            None => dims[2] * dims[3],
        };
        let pick = |single, double| if half { double } else { single };
        Tolerance::Ulp(match self.name {
            "add" | "sub" | "mul" | "sqrt" | "leakyRelu" | "prelu" => 1,
            "dequantizeLinear" | "quantizeLinear" | "lstm" | "lstmCell" => 1,
            "div" | "hardSigmoid" | "linear" | "reciprocal" => 2,
            "gru" | "gruCell" | "softsign" => 3,
            "hardSwish" => 4,
            "batchNormalization" => 6,
            "pow" => pick(32, 2),
            "exp" => pick(32, 1),
            "sigmoid" => pick(34, 3),
            "elu" | "gelu" | "softplus" => 18,
            "instanceNormalization" => pick(840, 8400),
            "log" => return Tolerance::Absolute(1.0 / 1024.0),
            "tanh" | "cos" | "sin" | "tan" | "erf" | "layerNormalization" => {
                return Tolerance::Absolute(if half { 1.0 / 512.0 } else { 1.0 / 1024.0 });
            }
            "softmax" => dims.get(self.count("axis", 1) as usize).copied().unwrap_or(1) * 3 + 3,
            "matmul" => dims[dims.len() - 1] * 2,
            "gemm" => {
                let width = if self.flag("aTranspose", false) { dims[0] } else { dims[1] };
                let alpha = u64::from(self.number("alpha", 1.0) != 1.0);
                let (beta, c) = (self.number("beta", 1.0), self.arguments.contains_key("c"));
                width * 2 + alpha + if c && beta != 0.0 { 1 + u64::from(beta != 1.0) } else { 0 }
            }
            "conv2d" | "convTranspose2d" => {
                let filter = dims_of(self.optional("filter"));
                let plain = if self.name == "conv2d" { "oihw" } else { "iohw" };
                let layout = self.text("filterLayout", plain);
                let size = |letter: char| filter[layout.find(letter).unwrap()];
                let channels =
                    if self.layout("inputLayout") == InputLayout::Nchw { dims[1] } else { dims[3] };
                size('h') * size('w') * (channels / u64::from(self.count("groups", 1))) * 2
            }
            "averagePool2d" => window() + 2,
            "l2Pool2d" => window() * 2 + 1,
            "resample2d" if self.text("mode", "") == "linear" => pick(84, 10),
            "cumulativeSum" => dims[self.count("axis", 0) as usize].saturating_sub(1),
            "reduceL1" | "reduceProduct" | "reduceSum" => reduced,
            "reduceL2" => reduced * 2 + 1,
            "reduceMean" => reduced + 2,
            "reduceLogSum" => reduced + 18,
            "reduceLogSumExp" => reduced * 2 + 18,
            "reduceSumSquare" => reduced * 2,
            _ => 0,
        })
    }
}

fn element_wise(name: &str) -> Option<Op> {
    Some(match name {
        "add" => Op::Binary(Binary::Add),
        "sub" => Op::Binary(Binary::Sub),
        "mul" => Op::Binary(Binary::Mul),
        "div" => Op::Binary(Binary::Div),
        "max" => Op::Binary(Binary::Max),
        "min" => Op::Binary(Binary::Min),
        "pow" => Op::Binary(Binary::Pow),
        "equal" => Op::Compare(Compare::Equal),
        "notEqual" => Op::Compare(Compare::NotEqual),
        "greater" => Op::Compare(Compare::Greater),
        "greaterOrEqual" => Op::Compare(Compare::GreaterOrEqual),
        "lesser" => Op::Compare(Compare::Lesser),
        "lesserOrEqual" => Op::Compare(Compare::LesserOrEqual),
        "logicalAnd" => Op::Logical(Logical::And),
        "logicalOr" => Op::Logical(Logical::Or),
        "logicalXor" => Op::Logical(Logical::Xor),
        "logicalNot" => Op::Unary(Unary::LogicalNot),
        "isNaN" => Op::Unary(Unary::IsNan),
        "isInfinite" => Op::Unary(Unary::IsInfinite),
        "abs" => Op::Unary(Unary::Abs),
        "ceil" => Op::Unary(Unary::Ceil),
        "cos" => Op::Unary(Unary::Cos),
        "erf" => Op::Unary(Unary::Erf),
        "exp" => Op::Unary(Unary::Exp),
        "floor" => Op::Unary(Unary::Floor),
        "identity" => Op::Unary(Unary::Identity),
        "log" => Op::Unary(Unary::Log),
        "neg" => Op::Unary(Unary::Neg),
        "reciprocal" => Op::Unary(Unary::Reciprocal),
        "roundEven" => Op::Unary(Unary::RoundEven),
        "sign" => Op::Unary(Unary::Sign),
        "sin" => Op::Unary(Unary::Sin),
        "sqrt" => Op::Unary(Unary::Sqrt),
        "tan" => Op::Unary(Unary::Tan),
        "relu" => Op::Unary(Unary::Relu),
        "sigmoid" => Op::Unary(Unary::Sigmoid),
        "tanh" => Op::Unary(Unary::Tanh),
        "softplus" => Op::Unary(Unary::Softplus),
        "softsign" => Op::Unary(Unary::Softsign),
        "gelu" => Op::Unary(Unary::Gelu),
        "hardSwish" => Op::Unary(Unary::HardSwish),
        _ => return None,
    })
}
