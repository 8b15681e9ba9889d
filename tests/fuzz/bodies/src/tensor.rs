//! The tensor interface: any operation with any attributes on any handles, in any order, against a
//! budget of [`BUDGET`] bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use warren_tensor::{
    Activation, Arg, Binary, Budget, Compare, Conv2d, ConvTranspose2d, DataType, Dims, Direction, Engine,
    EngineConfig, Error, ErrorKind, FilterLayout, Gru, GruCell, GruCellOperands, GruLayout, GruOperands,
    InputLayout, Interpolation, Logical, Lstm, LstmCell, LstmCellOperands, LstmLayout, LstmOperands, Op,
    PaddingMode, Pool2d, Pooling, Reduction, Resample2d, Rounding, Session, Splits, TensorId,
    TransposeFilterLayout, Unary,
};

use crate::take::Take;
use crate::{check_text, memory};

/// What a job may hold. Small, so that no operation that is allowed takes long.
const BUDGET: u64 = 64 << 10;
/// What recording, planning and running may take beside it, in bytes.
const BESIDE: usize = 16 << 20;
const STEPS: usize = 48;

fn engine() -> Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    let make = || {
        let config = EngineConfig {
            // On the caller's thread, whose memory is counted.
            threads: 1,
            plan_cache_entries: 16,
            plan_cache_bytes: 1 << 20,
            pool_bytes: 1 << 20,
            max_pending_nodes: 2000,
            poison: true,
            ..EngineConfig::default()
        };
        Arc::new(Engine::new(config).expect("the CPU is always there"))
    };
    Arc::clone(ENGINE.get_or_init(make))
}

/// One job's calls.
pub fn tensor(bytes: &[u8]) {
    let engine = engine();
    let budget = Budget::new(BUDGET);
    memory::within(BESIDE, || {
        let cancel = Arc::new(AtomicBool::new(false));
        let session = Session::new(engine, Arc::clone(&budget), Arc::clone(&cancel));
        let mut job = Job { session, cancel, known: Vec::new() };
        let mut take = Take::new(bytes);
        for _ in 0..STEPS {
            if take.is_empty() {
                break;
            }
            job.step(&mut take);
            assert!(budget.used() <= BUDGET);
        }
        for id in std::mem::take(&mut job.known) {
            job.read(id);
        }
        assert!(budget.peak() <= BUDGET);
    });
    assert_eq!(budget.used(), 0, "a job that is gone holds nothing");
}

struct Job {
    session: Session,
    cancel: Arc<AtomicBool>,
    known: Vec<TensorId>,
}

/// Refusals say what for; a device that fails, or a kernel that panics, is a finding.
fn refused(error: &Error) {
    check_text(&error.to_string());
    assert!(!matches!(error.kind, ErrorKind::Device | ErrorKind::DeviceLost), "{error}");
}

impl Job {
    fn keep(&mut self, answer: Result<Vec<TensorId>, Error>) {
        match answer {
            Ok(ids) => self.known.extend(ids),
            Err(error) => refused(&error),
        }
    }

    /// Mostly a tensor of this job, the latest the likeliest; now and then any number.
    fn handle(&self, take: &mut Take<'_>) -> TensorId {
        let byte = usize::from(take.u8());
        match byte {
            0..=239 if !self.known.is_empty() => self.known[self.known.len() - 1 - byte % self.known.len()],
            _ => TensorId::from_rep(take.u32()),
        }
    }

    fn step(&mut self, take: &mut Take<'_>) {
        match take.u8() % 32 {
            0..=5 => {
                let made = constant(&mut self.session, take);
                self.keep(made.map(|id| vec![id]));
            }
            6..=23 => {
                let op = operation(take);
                let count = take.below(6);
                let inputs: Vec<TensorId> = (0..count).map(|_| self.handle(take)).collect();
                let made = self.session.record(op, &inputs);
                self.keep(made.map(|id| vec![id]));
            }
            24 => {
                let (input, axis) = (self.handle(take), take.size());
                let sizes = take.sizes(8);
                let splits = if take.flag() { Splits::Count(take.size()) } else { Splits::Sizes(&sizes) };
                let made = self.session.split(input, &splits, axis);
                self.keep(made);
            }
            25 => {
                let made = self.recurrent(take);
                self.keep(made);
            }
            26 => {
                let id = self.handle(take);
                self.session.release(id);
            }
            27 => {
                let outputs: Vec<TensorId> = (0..take.below(5)).map(|_| self.handle(take)).collect();
                if let Err(error) = self.session.dispatch(&outputs) {
                    refused(&error);
                }
            }
            28 | 29 => {
                let id = self.handle(take);
                self.read(id);
            }
            30 => self.cancel.store(take.u8() > 200, Ordering::Relaxed),
            _ => {
                let id = self.handle(take);
                if let Ok(value) = self.session.value(id) {
                    let made = self.session.import(&value);
                    self.keep(made.map(|id| vec![id]));
                }
            }
        }
    }

    /// What is read is what was promised when it was recorded.
    fn read(&mut self, id: TensorId) {
        let promised = self.session.descriptor(id).map(|(ty, shape)| (ty, shape.to_vec()));
        match (self.session.value(id), promised) {
            (Ok(value), Ok((ty, shape))) => {
                assert_eq!((value.data_type(), value.shape()), (ty, &shape[..]));
                let count: u64 = shape.iter().map(|d| u64::from(*d)).product();
                assert_eq!(value.bytes().len() as u64, count * ty.size() as u64);
            }
            (Ok(_), Err(error)) => panic!("a value without a descriptor: {error}"),
            (Err(error), _) => refused(&error),
        }
    }

    fn recurrent(&mut self, take: &mut Take<'_>) -> Result<Vec<TensorId>, Error> {
        let activations = [Activation::Relu, Activation::Sigmoid, Activation::Tanh];
        let direction = take.pick(&[Direction::Forward, Direction::Backward, Direction::Both]);
        let (steps, hidden_size) = (take.size(), take.size());
        let return_sequence = take.flag();
        let gru = GruCell {
            hidden_size,
            reset_after: take.flag(),
            layout: take.pick(&[GruLayout::Zrn, GruLayout::Rzn]),
            activations: [take.pick(&activations), take.pick(&activations)],
        };
        let lstm = LstmCell {
            hidden_size,
            layout: take.pick(&[LstmLayout::Iofg, LstmLayout::Ifgo]),
            activations: [take.pick(&activations), take.pick(&activations), take.pick(&activations)],
        };
        let kind = take.below(4);
        // Half of the time the operands fit, or nothing would ever be recorded.
        let fit = take.flag() && steps <= 64 && hidden_size <= 64;
        let (d, gates) = (direction.count(), if kind < 2 { 3 } else { 4 } * hidden_size.min(64));
        let h = hidden_size;
        let lead = |rest: &[u32]| if kind % 2 == 1 { [&[d], rest].concat() } else { rest.to_vec() };
        let input = if kind % 2 == 1 { vec![steps, 2, 3] } else { vec![2, 3] };
        let shapes = [
            input,
            lead(&[gates, 3]),
            lead(&[gates, h]),
            lead(&[2, h]),
            lead(&[2, h]),
            lead(&[gates]),
            lead(&[gates]),
            lead(&[3 * h.min(64)]),
        ];
        let mut of = Vec::new();
        for shape in &shapes {
            of.push(match fit {
                true => filled(&mut self.session, DataType::Float32, shape)?,
                false => self.handle(take),
            });
        }
        let mut given = |at: usize| take.flag().then_some(of[at]);
        let (bias, recurrent_bias, peephole_weight) = (given(5), given(6), given(7));
        let (initial_hidden_state, initial_cell_state) = (given(3), given(4));
        let (input, weight, recurrent_weight, hidden_state, cell_state) = (of[0], of[1], of[2], of[3], of[4]);
        match kind {
            0 => {
                let operands =
                    GruCellOperands { input, weight, recurrent_weight, hidden_state, bias, recurrent_bias };
                self.session.gru_cell(&operands, &gru).map(|id| vec![id])
            }
            1 => {
                let operands = GruOperands {
                    input,
                    weight,
                    recurrent_weight,
                    bias,
                    recurrent_bias,
                    initial_hidden_state,
                };
                self.session.gru(&operands, &Gru { steps, cell: gru, return_sequence, direction })
            }
            2 => {
                let operands = LstmCellOperands {
                    input,
                    weight,
                    recurrent_weight,
                    hidden_state,
                    cell_state,
                    bias,
                    recurrent_bias,
                    peephole_weight,
                };
                self.session.lstm_cell(&operands, &lstm).map(|ids| ids.to_vec())
            }
            _ => {
                let operands = LstmOperands {
                    input,
                    weight,
                    recurrent_weight,
                    bias,
                    recurrent_bias,
                    peephole_weight,
                    initial_hidden_state,
                    initial_cell_state,
                };
                self.session.lstm(&operands, &Lstm { steps, cell: lstm, return_sequence, direction })
            }
        }
    }
}

/// Bytes of a tensor, where it could be within the budget.
fn bytes_of(data_type: DataType, shape: &[u32]) -> Option<usize> {
    let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)))?;
    let bytes = count.checked_mul(data_type.size() as u64).filter(|n| *n <= 2 * BUDGET)?;
    Some(bytes as usize)
}

fn filled(session: &mut Session, data_type: DataType, shape: &[u32]) -> Result<TensorId, Error> {
    session.constant(data_type, shape, &vec![0x3c; bytes_of(data_type, shape).unwrap_or(0)])
}

fn constant(session: &mut Session, take: &mut Take<'_>) -> Result<TensorId, Error> {
    // Mostly of types that most operations take, and often of rank 4.
    let data_type = match take.u8() % 16 {
        0..=5 => DataType::Float32,
        6 | 7 => DataType::Int32,
        byte => DataType::ALL[usize::from(byte) - 8],
    };
    let shape: Vec<u32> =
        if take.flag() { (0..4).map(|_| u32::from(take.u8() % 7)).collect() } else { take.sizes(8) };
    let few = take.below(16);
    let pattern = take.bytes(few);
    let length = bytes_of(data_type, &shape).unwrap_or(few);
    let data: Vec<u8> = pattern.iter().copied().cycle().take(length).collect();
    let data = if data.len() == length { data } else { vec![0; length] };
    session.constant(data_type, &shape, &data)
}

fn dims(take: &mut Take<'_>) -> Dims {
    Dims::new(&take.sizes(8)).expect("at most 8")
}

fn pair(take: &mut Take<'_>) -> [u32; 2] {
    [take.size(), take.size()]
}

fn quad(take: &mut Take<'_>) -> [u32; 4] {
    [take.size(), take.size(), take.size(), take.size()]
}

/// Strides and dilations: 1, unless something is said.
fn ones(take: &mut Take<'_>) -> [u32; 2] {
    take.optional(pair).unwrap_or([1; 2])
}

fn operation(take: &mut Take<'_>) -> Op {
    use Unary as U;
    let unary = [
        U::LogicalNot,
        U::IsNan,
        U::IsInfinite,
        U::Abs,
        U::Ceil,
        U::Cos,
        U::Erf,
        U::Exp,
        U::Floor,
        U::Identity,
        U::Log,
        U::Neg,
        U::Reciprocal,
        U::RoundEven,
        U::Sign,
        U::Sin,
        U::Sqrt,
        U::Tan,
        U::Relu,
        U::Sigmoid,
        U::Tanh,
        U::Softplus,
        U::Softsign,
        U::Gelu,
        U::HardSwish,
    ];
    let binary = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min, Binary::Pow];
    let compare = [
        Compare::Equal,
        Compare::NotEqual,
        Compare::Greater,
        Compare::GreaterOrEqual,
        Compare::Lesser,
        Compare::LesserOrEqual,
    ];
    let reductions = [
        Reduction::L1,
        Reduction::L2,
        Reduction::LogSum,
        Reduction::LogSumExp,
        Reduction::Max,
        Reduction::Mean,
        Reduction::Min,
        Reduction::Product,
        Reduction::Sum,
        Reduction::SumSquare,
    ];
    let layouts = [InputLayout::Nchw, InputLayout::Nhwc];
    let filters = [FilterLayout::Oihw, FilterLayout::Hwio, FilterLayout::Ohwi, FilterLayout::Ihwo];
    match take.u8() % 44 {
        0 => Op::Fill { data_type: take.pick(&DataType::ALL), shape: dims(take), value: take.number() },
        1 => Op::Binary(take.pick(&binary)),
        2 => Op::Compare(take.pick(&compare)),
        3 => Op::Logical(take.pick(&[Logical::And, Logical::Or, Logical::Xor])),
        4 => Op::Unary(take.pick(&unary)),
        5 => Op::Clamp { min: take.optional(Take::number), max: take.optional(Take::number) },
        6 => Op::Elu { alpha: take.number() },
        7 => Op::LeakyRelu { alpha: take.number() },
        8 => Op::HardSigmoid { alpha: take.number(), beta: take.number() },
        9 => Op::Linear { alpha: take.number(), beta: take.number() },
        10 => Op::Cast { to: take.pick(&DataType::ALL) },
        11 => Op::Where,
        12 => Op::Reshape { shape: dims(take) },
        13 => Op::Transpose { permutation: take.optional(dims) },
        14 => Op::Expand { shape: dims(take) },
        15 => Op::Slice { starts: dims(take), sizes: dims(take), strides: take.optional(dims) },
        16 => Op::Concat { axis: take.size() },
        17 => {
            let modes = [PaddingMode::Edge, PaddingMode::Reflection, PaddingMode::Constant(take.number())];
            Op::Pad { beginning: dims(take), ending: dims(take), mode: take.pick(&modes) }
        }
        18 => Op::Matmul,
        19 => Op::Gemm {
            alpha: take.number(),
            beta: take.number(),
            a_transpose: take.flag(),
            b_transpose: take.flag(),
        },
        20 | 21 => Op::Conv2d(Conv2d {
            padding: quad(take),
            strides: ones(take),
            dilations: ones(take),
            groups: take.optional(Take::size).unwrap_or(1),
            input_layout: take.pick(&layouts),
            filter_layout: take.pick(&filters),
        }),
        22 => Op::ConvTranspose2d(ConvTranspose2d {
            padding: quad(take),
            strides: ones(take),
            dilations: ones(take),
            output_padding: take.optional(pair).unwrap_or([0; 2]),
            output_sizes: take.optional(pair),
            groups: take.optional(Take::size).unwrap_or(1),
            input_layout: take.pick(&layouts),
            filter_layout: take.pick(&[
                TransposeFilterLayout::Iohw,
                TransposeFilterLayout::Hwoi,
                TransposeFilterLayout::Ohwi,
            ]),
        }),
        23 | 24 => Op::Pool2d(
            take.pick(&[Pooling::Average, Pooling::L2, Pooling::Max]),
            Pool2d {
                window: take.optional(pair),
                padding: quad(take),
                strides: ones(take),
                dilations: ones(take),
                layout: take.pick(&layouts),
                rounding: take.pick(&[Rounding::Floor, Rounding::Ceil]),
                output_sizes: take.optional(pair),
            },
        ),
        25 => Op::Resample2d(Resample2d {
            mode: take.pick(&[Interpolation::NearestNeighbor, Interpolation::Linear]),
            scales: [take.number() as f32, take.number() as f32],
            sizes: take.optional(pair),
            axes: take.optional(pair).unwrap_or([2, 3]),
        }),
        26 => Op::Softmax { axis: take.size() },
        27 => Op::Reduce {
            kind: take.pick(&reductions),
            axes: take.optional(dims),
            keep_dimensions: take.flag(),
        },
        28 => Op::ArgMinMax {
            kind: take.pick(&[Arg::Min, Arg::Max]),
            axis: take.size(),
            keep_dimensions: take.flag(),
            output_data_type: take.pick(&[DataType::Int32, DataType::Int64, DataType::Uint8]),
        },
        29 => Op::CumulativeSum { axis: take.size(), exclusive: take.flag(), reversed: take.flag() },
        30 => Op::BatchNormalization {
            axis: take.size(),
            epsilon: take.number(),
            scale: take.flag(),
            bias: take.flag(),
        },
        31 => Op::InstanceNormalization {
            layout: take.pick(&layouts),
            epsilon: take.number(),
            scale: take.flag(),
            bias: take.flag(),
        },
        32 => Op::LayerNormalization {
            axes: take.optional(dims),
            epsilon: take.number(),
            scale: take.flag(),
            bias: take.flag(),
        },
        33 => Op::Prelu,
        34 => Op::DequantizeLinear,
        35 => Op::QuantizeLinear,
        36 => Op::Gather { axis: take.size() },
        37 => Op::GatherElements { axis: take.size() },
        38 => Op::GatherNd,
        39 => Op::ScatterElements { axis: take.size() },
        40 => Op::ScatterNd,
        41 => Op::Reverse { axes: take.optional(dims) },
        42 => Op::Tile { repetitions: dims(take) },
        _ => Op::Triangular { upper: take.flag(), diagonal: take.whole() as i32 },
    }
}
