//! The operations of `MLGraphBuilder` by name, as calls of the SDK. Defaults are the SDK's.

use warren_sdk::prelude::*;
use warren_sdk::tensor::{
    self, Activation, BatchNormalization, Conv2d, Conv2dFilterOperandLayout, ConvTranspose2d,
    ConvTranspose2dFilterOperandLayout, Direction, Gemm, Gru, GruWeightLayout, InstanceNormalization,
    InterpolationMode, LayerNormalization, Lstm, LstmWeightLayout, PaddingMode, Pool2d, Resample2d,
    RoundingType, SplitParts,
};

use crate::Refusal;
use crate::call::Call;

type Result<T> = std::result::Result<T, Refusal>;
type Unary = fn(&Tensor) -> tensor::Result<Tensor>;
type Binary = fn(&Tensor, &Tensor) -> tensor::Result<Tensor>;
type Reduction = fn(&Tensor, Option<&[u32]>, bool) -> tensor::Result<Tensor>;

const ACTIVATIONS: [(&str, Activation); 3] =
    [("relu", Activation::Relu), ("sigmoid", Activation::Sigmoid), ("tanh", Activation::Tanh)];

impl Call<'_> {
    /// Makes the call; answers its results.
    pub fn record(&self) -> Result<Vec<Tensor>> {
        match self.name {
            "split" => {
                let splits = match self.is_list("splits") {
                    true => SplitParts::Sizes(self.list("splits")?),
                    false => SplitParts::Count(self.size("splits")?),
                };
                Ok(self.input()?.split(&splits, self.count("axis", 0)?)?)
            }
            "gru" => {
                let (steps, hidden) = (self.size("steps")?, self.size("hiddenSize")?);
                let (weight, recurrent) = (self.tensor("weight")?, self.tensor("recurrentWeight")?);
                Ok(self.input()?.gru(weight, recurrent, steps, hidden, &self.gru_options()?)?)
            }
            "lstm" => {
                let (steps, hidden) = (self.size("steps")?, self.size("hiddenSize")?);
                let (weight, recurrent) = (self.tensor("weight")?, self.tensor("recurrentWeight")?);
                Ok(self.input()?.lstm(weight, recurrent, steps, hidden, &self.lstm_options()?)?)
            }
            "lstmCell" => {
                let (weight, recurrent) = (self.tensor("weight")?, self.tensor("recurrentWeight")?);
                let (hidden, cell) = (self.tensor("hiddenState")?, self.tensor("cellState")?);
                let (size, options) = (self.size("hiddenSize")?, self.lstm_options()?);
                Ok(self.input()?.lstm_cell(weight, recurrent, hidden, cell, size, &options)?)
            }
            _ => Ok(vec![self.one()?]),
        }
    }

    /// The operations that answer one tensor.
    fn one(&self) -> Result<Tensor> {
        let x = self.input();
        if let Some(operation) = unary(self.name) {
            return Ok(operation(x?)?);
        }
        if let Some(operation) = binary(self.name) {
            return Ok(operation(self.tensor("a")?, self.tensor("b")?)?);
        }
        if let Some(operation) = reduction(self.name) {
            let axes = self.optional_list("axes")?;
            return Ok(operation(x?, axes.as_deref(), self.flag("keepDimensions", false)?)?);
        }
        Ok(match self.name {
            "argMin" | "argMax" => {
                let (axis, keep) = (self.size("axis")?, self.flag("keepDimensions", false)?);
                let output = self.data_type("outputDataType")?.unwrap_or(DataType::Int32);
                match self.name {
                    "argMin" => x?.arg_min(axis, keep, output)?,
                    _ => x?.arg_max(axis, keep, output)?,
                }
            }
            "clamp" => x?.clamp(self.bound("minValue")?, self.bound("maxValue")?)?,
            "elu" => x?.elu(self.number("alpha", 1.0)?)?,
            "leakyRelu" => x?.leaky_relu(self.number("alpha", 0.01)?)?,
            "hardSigmoid" => x?.hard_sigmoid(self.number("alpha", 0.2)?, self.number("beta", 0.5)?)?,
            "linear" => x?.linear(self.number("alpha", 1.0)?, self.number("beta", 0.0)?)?,
            "cast" => x?.cast(self.needed_data_type("type")?)?,
            "where" => {
                self.tensor("condition")?.select(self.tensor("trueValue")?, self.tensor("falseValue")?)?
            }
            "reshape" => x?.reshape(&self.list("newShape")?)?,
            "expand" => x?.expand(&self.list("newShape")?)?,
            "transpose" => x?.transpose(self.optional_list("permutation")?.as_deref())?,
            "slice" => {
                let strides = self.optional_list("strides")?;
                x?.slice(&self.list("starts")?, &self.list("sizes")?, strides.as_deref())?
            }
            "concat" => Tensor::concat(&self.tensors("inputs")?, self.size("axis")?)?,
            "pad" => {
                let modes = [
                    ("constant", PaddingMode::Constant),
                    ("edge", PaddingMode::Edge),
                    ("reflection", PaddingMode::Reflection),
                ];
                let (beginning, ending) = (self.list("beginningPadding")?, self.list("endingPadding")?);
                let mode = self.choice("mode", PaddingMode::Constant, &modes)?;
                x?.pad(&beginning, &ending, mode, self.number("value", 0.0)?)?
            }
            "gemm" => {
                let default = Gemm::default();
                let options = Gemm {
                    c: self.optional("c")?,
                    alpha: self.number("alpha", default.alpha)?,
                    beta: self.number("beta", default.beta)?,
                    a_transpose: self.flag("aTranspose", default.a_transpose)?,
                    b_transpose: self.flag("bTranspose", default.b_transpose)?,
                };
                self.tensor("a")?.gemm(self.tensor("b")?, &options)?
            }
            "conv2d" => self.conv2d()?,
            "convTranspose2d" => self.conv_transpose2d()?,
            "averagePool2d" => x?.average_pool2d(&self.pool_options()?)?,
            "l2Pool2d" => x?.l2_pool2d(&self.pool_options()?)?,
            "maxPool2d" => x?.max_pool2d(&self.pool_options()?)?,
            "resample2d" => {
                let default = Resample2d::default();
                let modes = [
                    ("nearest-neighbor", InterpolationMode::NearestNeighbor),
                    ("linear", InterpolationMode::Linear),
                ];
                x?.resample2d(&Resample2d {
                    mode: self.choice("mode", default.mode, &modes)?,
                    scales: self.numbers("scales", default.scales)?,
                    sizes: self.optional_array("sizes")?,
                    axes: self.array("axes", default.axes)?,
                })?
            }
            // An older form of the call has no axis and two dimensions, and goes along the last.
            "softmax" => {
                let last = u32::try_from(x.as_ref().map_or(0, |x| x.shape().len())).unwrap_or(u32::MAX);
                let axis = self.count("axis", last.saturating_sub(1))?;
                x?.softmax(axis)?
            }
            "cumulativeSum" => {
                let (exclusive, reversed) = (self.flag("exclusive", false)?, self.flag("reversed", false)?);
                x?.cumulative_sum(self.size("axis")?, exclusive, reversed)?
            }
            "batchNormalization" => {
                let default = BatchNormalization::default();
                let options = BatchNormalization {
                    scale: self.optional("scale")?,
                    bias: self.optional("bias")?,
                    axis: self.count("axis", default.axis)?,
                    epsilon: self.number("epsilon", default.epsilon)?,
                };
                x?.batch_normalization(self.tensor("mean")?, self.tensor("variance")?, &options)?
            }
            "instanceNormalization" => {
                let default = InstanceNormalization::default();
                x?.instance_normalization(&InstanceNormalization {
                    scale: self.optional("scale")?,
                    bias: self.optional("bias")?,
                    epsilon: self.number("epsilon", default.epsilon)?,
                    layout: self.layout("layout", default.layout)?,
                })?
            }
            "layerNormalization" => {
                let default = LayerNormalization::default();
                x?.layer_normalization(&LayerNormalization {
                    scale: self.optional("scale")?,
                    bias: self.optional("bias")?,
                    axes: self.optional_list("axes")?.as_deref(),
                    epsilon: self.number("epsilon", default.epsilon)?,
                })?
            }
            "prelu" => x?.prelu(self.tensor("slope")?)?,
            "dequantizeLinear" => x?.dequantize_linear(self.tensor("scale")?, self.tensor("zeroPoint")?)?,
            "quantizeLinear" => x?.quantize_linear(self.tensor("scale")?, self.tensor("zeroPoint")?)?,
            "gather" => x?.gather(self.tensor("indices")?, self.count("axis", 0)?)?,
            "gatherElements" => x?.gather_elements(self.tensor("indices")?, self.count("axis", 0)?)?,
            "gatherND" => x?.gather_nd(self.tensor("indices")?)?,
            "scatterElements" => {
                let (indices, updates) = (self.tensor("indices")?, self.tensor("updates")?);
                x?.scatter_elements(indices, updates, self.count("axis", 0)?)?
            }
            "scatterND" => x?.scatter_nd(self.tensor("indices")?, self.tensor("updates")?)?,
            "reverse" => x?.reverse(self.optional_list("axes")?.as_deref())?,
            "tile" => x?.tile(&self.list("repetitions")?)?,
            "triangular" => x?.triangular(self.flag("upper", true)?, self.integer("diagonal", 0)?)?,
            "gruCell" => {
                let (weight, recurrent) = (self.tensor("weight")?, self.tensor("recurrentWeight")?);
                let (hidden, size) = (self.tensor("hiddenState")?, self.size("hiddenSize")?);
                x?.gru_cell(weight, recurrent, hidden, size, &self.gru_options()?)?
            }
            name => return Err(Refusal::Json(format!("operation {name:?} is not known"))),
        })
    }

    fn conv2d(&self) -> Result<Tensor> {
        use Conv2dFilterOperandLayout::{Hwio, Ihwo, Ohwi, Oihw};
        let default = Conv2d::default();
        let layouts = [("oihw", Oihw), ("hwio", Hwio), ("ohwi", Ohwi), ("ihwo", Ihwo)];
        let options = Conv2d {
            bias: self.optional("bias")?,
            padding: self.array("padding", default.padding)?,
            strides: self.array("strides", default.strides)?,
            dilations: self.array("dilations", default.dilations)?,
            groups: self.count("groups", default.groups)?,
            input_layout: self.layout("inputLayout", default.input_layout)?,
            filter_layout: self.choice("filterLayout", default.filter_layout, &layouts)?,
        };
        Ok(self.input()?.conv2d(self.tensor("filter")?, &options)?)
    }

    fn conv_transpose2d(&self) -> Result<Tensor> {
        use ConvTranspose2dFilterOperandLayout::{Hwoi, Iohw, Ohwi};
        let default = ConvTranspose2d::default();
        let layouts = [("iohw", Iohw), ("hwoi", Hwoi), ("ohwi", Ohwi)];
        let options = ConvTranspose2d {
            bias: self.optional("bias")?,
            padding: self.array("padding", default.padding)?,
            strides: self.array("strides", default.strides)?,
            dilations: self.array("dilations", default.dilations)?,
            output_padding: self.array("outputPadding", default.output_padding)?,
            output_sizes: self.optional_array("outputSizes")?,
            groups: self.count("groups", default.groups)?,
            input_layout: self.layout("inputLayout", default.input_layout)?,
            filter_layout: self.choice("filterLayout", default.filter_layout, &layouts)?,
        };
        Ok(self.input()?.conv_transpose2d(self.tensor("filter")?, &options)?)
    }

    fn pool_options(&self) -> Result<Pool2d> {
        let default = Pool2d::default();
        // The option was called roundingType once.
        let rounding = if self.has("roundingType") { "roundingType" } else { "outputShapeRounding" };
        let roundings = [("floor", RoundingType::Floor), ("ceil", RoundingType::Ceil)];
        Ok(Pool2d {
            window: self.optional_array("windowDimensions")?,
            padding: self.array("padding", default.padding)?,
            strides: self.array("strides", default.strides)?,
            dilations: self.array("dilations", default.dilations)?,
            layout: self.layout("layout", default.layout)?,
            rounding: self.choice(rounding, default.rounding, &roundings)?,
            output_sizes: self.optional_array("outputSizes")?,
        })
    }

    fn direction(&self, default: Direction) -> Result<Direction> {
        let directions =
            [("forward", Direction::Forward), ("backward", Direction::Backward), ("both", Direction::Both)];
        self.choice("direction", default, &directions)
    }

    /// Of the network and of its cell.
    fn gru_options(&self) -> Result<Gru<'_>> {
        let default = Gru::default();
        let layouts = [("zrn", GruWeightLayout::Zrn), ("rzn", GruWeightLayout::Rzn)];
        Ok(Gru {
            bias: self.optional("bias")?,
            recurrent_bias: self.optional("recurrentBias")?,
            initial_hidden_state: self.optional("initialHiddenState")?,
            reset_after: self.flag("resetAfter", default.reset_after)?,
            return_sequence: self.flag("returnSequence", default.return_sequence)?,
            direction: self.direction(default.direction)?,
            layout: self.choice("layout", default.layout, &layouts)?,
            activations: self.choices("activations", default.activations, &ACTIVATIONS)?,
        })
    }

    /// Of the network and of its cell.
    fn lstm_options(&self) -> Result<Lstm<'_>> {
        let default = Lstm::default();
        let layouts = [("iofg", LstmWeightLayout::Iofg), ("ifgo", LstmWeightLayout::Ifgo)];
        Ok(Lstm {
            bias: self.optional("bias")?,
            recurrent_bias: self.optional("recurrentBias")?,
            peephole_weight: self.optional("peepholeWeight")?,
            initial_hidden_state: self.optional("initialHiddenState")?,
            initial_cell_state: self.optional("initialCellState")?,
            return_sequence: self.flag("returnSequence", default.return_sequence)?,
            direction: self.direction(default.direction)?,
            layout: self.choice("layout", default.layout, &layouts)?,
            activations: self.choices("activations", default.activations, &ACTIVATIONS)?,
        })
    }
}

fn unary(name: &str) -> Option<Unary> {
    Some(match name {
        "abs" => Tensor::abs,
        "ceil" => Tensor::ceil,
        "cos" => Tensor::cos,
        "erf" => Tensor::erf,
        "exp" => Tensor::exp,
        "floor" => Tensor::floor,
        "identity" => Tensor::identity,
        "log" => Tensor::log,
        "neg" => Tensor::neg,
        "reciprocal" => Tensor::reciprocal,
        "roundEven" => Tensor::round_even,
        "sign" => Tensor::sign,
        "sin" => Tensor::sin,
        "sqrt" => Tensor::sqrt,
        "tan" => Tensor::tan,
        "relu" => Tensor::relu,
        "sigmoid" => Tensor::sigmoid,
        "tanh" => Tensor::tanh,
        "softplus" => Tensor::softplus,
        "softsign" => Tensor::softsign,
        "gelu" => Tensor::gelu,
        "hardSwish" => Tensor::hard_swish,
        "logicalNot" => Tensor::logical_not,
        "isNaN" => Tensor::is_nan,
        "isInfinite" => Tensor::is_infinite,
        _ => return None,
    })
}

fn binary(name: &str) -> Option<Binary> {
    Some(match name {
        "add" => Tensor::add,
        "sub" => Tensor::sub,
        "mul" => Tensor::mul,
        "div" => Tensor::div,
        "max" => Tensor::max,
        "min" => Tensor::min,
        "pow" => Tensor::pow,
        "equal" => Tensor::equal,
        "notEqual" => Tensor::not_equal,
        "greater" => Tensor::greater,
        "greaterOrEqual" => Tensor::greater_or_equal,
        "lesser" => Tensor::lesser,
        "lesserOrEqual" => Tensor::lesser_or_equal,
        "logicalAnd" => Tensor::logical_and,
        "logicalOr" => Tensor::logical_or,
        "logicalXor" => Tensor::logical_xor,
        "matmul" => Tensor::matmul,
        _ => return None,
    })
}

fn reduction(name: &str) -> Option<Reduction> {
    Some(match name {
        "reduceL1" => Tensor::reduce_l1,
        "reduceL2" => Tensor::reduce_l2,
        "reduceLogSum" => Tensor::reduce_log_sum,
        "reduceLogSumExp" => Tensor::reduce_log_sum_exp,
        "reduceMax" => Tensor::reduce_max,
        "reduceMean" => Tensor::reduce_mean,
        "reduceMin" => Tensor::reduce_min,
        "reduceProduct" => Tensor::reduce_product,
        "reduceSum" => Tensor::reduce_sum,
        "reduceSumSquare" => Tensor::reduce_sum_square,
        _ => return None,
    })
}
