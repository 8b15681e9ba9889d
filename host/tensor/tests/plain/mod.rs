//! A plain dense tensor of f64, and checks of the engine's results against it.
#![allow(dead_code)]

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use warren_tensor::*;

/// On the CPU, or on what WARREN_DEVICE names (as the configuration key `device`).
static ENGINES: LazyLock<[Arc<Engine>; 2]> = LazyLock::new(|| {
    let device = match std::env::var("WARREN_DEVICE") {
        Ok(name) => name.parse().unwrap(),
        Err(_) => DeviceChoice::Cpu,
    };
    [1, 2].map(|threads| {
        let config =
            EngineConfig { threads, poison: true, device: device.clone(), ..EngineConfig::default() };
        Arc::new(Engine::new(config).unwrap())
    })
});

pub fn session(which: usize) -> Session {
    Session::new(Arc::clone(&ENGINES[which % 2]), Budget::new(1 << 30), Arc::default())
}

/// A dense tensor of the reference.
#[derive(Debug, Clone)]
pub struct Dense {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Dense {
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Dense {
        let count: usize = shape.iter().product();
        let mut index = vec![0; shape.len()];
        let mut data = Vec::with_capacity(count);
        for _ in 0..count {
            data.push(f(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Dense { shape: shape.to_vec(), data }
    }

    /// The element at an index, broadcasting dimensions of 1 and missing leading ones.
    pub fn at(&self, index: &[usize]) -> f64 {
        let lead = index.len() - self.shape.len();
        let mut offset = 0;
        for (&size, &i) in self.shape.iter().zip(&index[lead..]) {
            offset = offset * size + if size == 1 { 0 } else { i };
        }
        self.data[offset]
    }

    pub fn noise(shape: &[usize], seed: u64) -> Dense {
        let mut state = seed | 1;
        Dense::from_fn(shape, |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * 3.0)
        })
    }
}

pub fn dims(shape: &[usize]) -> Dims {
    Dims::new(&shape.iter().map(|&d| d as u32).collect::<Vec<_>>()).unwrap()
}

pub fn put(s: &mut Session, d: &Dense) -> TensorId {
    let bytes: Vec<u8> = d.data.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
    s.constant(DataType::Float32, dims(&d.shape).as_slice(), &bytes).unwrap()
}

pub fn get(s: &mut Session, id: TensorId) -> Dense {
    let value = s.value(id).unwrap();
    Dense {
        shape: value.shape().iter().map(|&d| d as usize).collect(),
        data: value
            .bytes()
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect(),
    }
}

pub fn close(found: &Dense, want: &Dense, tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(&found.shape, &want.shape);
    for (i, (f, w)) in found.data.iter().zip(&want.data).enumerate() {
        let w = &f64::from(*w as f32); // what exceeds float32 is infinite there
        let fits = f == w || f.is_nan() && w.is_nan() || (f - w).abs() <= tolerance * w.abs().max(1.0);
        prop_assert!(fits, "element {} of {:?}: {} expected {}", i, want.shape, f, w);
    }
    Ok(())
}

pub fn check(
    which: usize,
    op: Op,
    inputs: &[&Dense],
    want: &Dense,
    tolerance: f64,
) -> Result<(), TestCaseError> {
    let mut s = session(which);
    let ids: Vec<TensorId> = inputs.iter().map(|d| put(&mut s, d)).collect();
    let id = s.record(op, &ids).map_err(|e| TestCaseError::fail(e.to_string()))?;
    close(&get(&mut s, id), want, tolerance)
}

pub fn shape(rank: std::ops::RangeInclusive<usize>, most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..=most, rank)
}

/// A shape that broadcasts to `to`: some dimensions 1, some leading ones missing.
pub fn shrink(to: &[usize], mask: u32, drop: usize) -> Vec<usize> {
    let drop = drop.min(to.len());
    to.iter().enumerate().skip(drop).map(|(i, &d)| if mask & (1 << i) != 0 { 1 } else { d }).collect()
}

/// As `put`, of another type: numbers are converted by `as`.
pub fn put_as(s: &mut Session, data_type: DataType, d: &Dense) -> TensorId {
    let bytes: Vec<u8> = d
        .data
        .iter()
        .flat_map(|&v| match data_type {
            DataType::Float32 => (v as f32).to_le_bytes().to_vec(),
            DataType::Float16 => half::f16::from_f64(v).to_le_bytes().to_vec(),
            DataType::Int32 => (v as i32).to_le_bytes().to_vec(),
            DataType::Uint32 => (v as u32).to_le_bytes().to_vec(),
            DataType::Int64 => (v as i64).to_le_bytes().to_vec(),
            DataType::Uint64 => (v as u64).to_le_bytes().to_vec(),
            DataType::Int8 => (v as i8).to_le_bytes().to_vec(),
            DataType::Uint8 => vec![v as u8],
        })
        .collect();
    s.constant(data_type, dims(&d.shape).as_slice(), &bytes).unwrap()
}

/// The elements of a value as f64; 64-bit integers are rounded.
pub fn numbers(value: &Value) -> Dense {
    let bytes = value.bytes();
    macro_rules! read {
        ($t:ty, $wide:expr) => {
            bytes
                .chunks_exact(size_of::<$t>())
                .map(|b| $wide(<$t>::from_le_bytes(b.try_into().unwrap())))
                .collect()
        };
    }
    let data = match value.data_type() {
        DataType::Float32 => read!(f32, f64::from),
        DataType::Float16 => read!(half::f16, half::f16::to_f64),
        DataType::Int32 => read!(i32, f64::from),
        DataType::Uint32 => read!(u32, f64::from),
        DataType::Int64 => read!(i64, |v| v as f64),
        DataType::Uint64 => read!(u64, |v| v as f64),
        DataType::Int8 => read!(i8, f64::from),
        DataType::Uint8 => read!(u8, f64::from),
    };
    Dense { shape: value.shape().iter().map(|&d| d as usize).collect(), data }
}

/// Whole numbers from `low` to `high`.
pub fn whole(shape: &[usize], seed: u64, low: i64, high: i64) -> Dense {
    let mut state = seed | 1;
    Dense::from_fn(shape, |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (low + ((state >> 33) % (high - low + 1) as u64) as i64) as f64
    })
}

/// Records and computes one operation on operands of these types.
pub fn compute(
    which: usize,
    op: Op,
    inputs: &[(DataType, &Dense)],
) -> Result<(DataType, Dense), TestCaseError> {
    let mut s = session(which);
    let ids: Vec<TensorId> = inputs.iter().map(|(t, d)| put_as(&mut s, *t, d)).collect();
    let id = s.record(op, &ids).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let value = s.value(id).map_err(|e| TestCaseError::fail(e.to_string()))?;
    Ok((value.data_type(), numbers(&value)))
}
