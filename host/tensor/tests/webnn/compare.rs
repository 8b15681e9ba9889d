//! How far results may be from the expected ones.

use warren_tensor::DataType;

use super::Failure;

/// The suite's two kinds of tolerance.
#[derive(Clone, Copy, Debug)]
pub enum Tolerance {
    /// Units in the last place.
    Ulp(u64),
    /// Absolute.
    Absolute(f64),
}

impl Tolerance {
    /// For one operation after another.
    pub fn and(self, next: Tolerance) -> Tolerance {
        match (self, next) {
            (Tolerance::Ulp(a), Tolerance::Ulp(b)) => Tolerance::Ulp(a + b),
            (Tolerance::Absolute(a), Tolerance::Absolute(b)) => Tolerance::Absolute(a + b),
            (Tolerance::Absolute(a), _) | (_, Tolerance::Absolute(a)) => Tolerance::Absolute(a),
        }
    }
}

/// Numbers of the ordered floats, so that neighbours differ by one.
fn ordered(bits: u32, sign: u32) -> i64 {
    let magnitude = i64::from(bits & (sign - 1));
    if bits & sign != 0 { -magnitude } else { magnitude }
}

/// Distance in ULP, difference, and the two numbers.
fn distance(data_type: DataType, f: &[u8], w: &[u8]) -> (u64, f64, String) {
    let float = |f: f64, w: f64, ulp: u64| {
        let ulp = if f.is_nan() && w.is_nan() { 0 } else { ulp };
        (ulp, (f - w).abs(), format!("{f} expected {w}"))
    };
    let whole = |f: i128, w: i128| (f.abs_diff(w) as u64, f.abs_diff(w) as f64, format!("{f} expected {w}"));
    macro_rules! read {
        ($t:ty) => {
            (<$t>::from_le_bytes(f.try_into().unwrap()), <$t>::from_le_bytes(w.try_into().unwrap()))
        };
    }
    macro_rules! integers {
        ($t:ty) => {{
            let (f, w) = read!($t);
            whole(f as i128, w as i128)
        }};
    }
    match data_type {
        DataType::Float32 => {
            let (f, w) = read!(f32);
            let ulp = ordered(f.to_bits(), 1 << 31).abs_diff(ordered(w.to_bits(), 1 << 31));
            float(f64::from(f), f64::from(w), ulp)
        }
        DataType::Float16 => {
            let (f, w) = read!(half::f16);
            let bits = |v: half::f16| ordered(u32::from(v.to_bits()), 1 << 15);
            float(f.to_f64(), w.to_f64(), bits(f).abs_diff(bits(w)))
        }
        DataType::Int32 => integers!(i32),
        DataType::Uint32 => integers!(u32),
        DataType::Int64 => integers!(i64),
        DataType::Uint64 => integers!(u64),
        DataType::Int8 => integers!(i8),
        DataType::Uint8 => integers!(u8),
    }
}

/// Compares element by element.
pub fn compare(data_type: DataType, found: &[u8], want: &[u8], tolerance: Tolerance) -> Result<(), Failure> {
    if found.len() != want.len() {
        return Err(Failure::Wrong(format!("{} bytes, expected {}", found.len(), want.len())));
    }
    // Most results are exact, and some have millions of elements.
    if found == want {
        return Ok(());
    }
    let size = data_type.size();
    for (i, (f, w)) in found.chunks_exact(size).zip(want.chunks_exact(size)).enumerate() {
        let (ulp, difference, shown) = distance(data_type, f, w);
        let fits = match tolerance {
            Tolerance::Ulp(most) => ulp <= most,
            Tolerance::Absolute(most) => ulp == 0 || difference <= most,
        };
        if !fits {
            return Err(Failure::Wrong(format!("element {i}: {shown}, {ulp} ULP, allowed {tolerance:?}")));
        }
    }
    Ok(())
}
