//! Element-wise operations on short runs of elements that lie in the first-level cache.

use crate::cpu::math;
use crate::cpu::simd::multiversion;
use crate::op::{Binary, Compare, Logical, Unary};

/// An element-wise operation on one float operand, attributes included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FloatMap {
    /// One without attributes (not the ones that answer uint8).
    Unary(Unary),
    /// Limits, open sides as infinities.
    Clamp(f32, f32),
    /// Alpha.
    Elu(f32),
    /// Alpha.
    LeakyRelu(f32),
    /// Alpha, beta.
    HardSigmoid(f32, f32),
    /// Alpha, beta.
    Linear(f32, f32),
}

#[inline(always)]
fn map1<A: Copy, D>(a: &[A], d: &mut [D], f: impl Fn(A) -> D) {
    for (d, &a) in d.iter_mut().zip(a) {
        *d = f(a);
    }
}

#[inline(always)]
fn map2<A: Copy, D>(a: &[A], b: &[A], d: &mut [D], f: impl Fn(A, A) -> D) {
    let n = d.len().min(a.len()).min(b.len());
    let (a, b, d) = (&a[..n], &b[..n], &mut d[..n]);
    for i in 0..n {
        d[i] = f(a[i], b[i]);
    }
}

/// The larger; NaN if either is.
#[inline(always)]
pub(crate) fn max_f32(x: f32, y: f32) -> f32 {
    let m = if x > y { x } else { y };
    if x.is_nan() { x } else { m }
}

/// The smaller; NaN if either is.
#[inline(always)]
pub(crate) fn min_f32(x: f32, y: f32) -> f32 {
    let m = if x < y { x } else { y };
    if x.is_nan() { x } else { m }
}

multiversion! {
    /// d = op(a, b).
    pub(crate) fn binary_f32(op: Binary, a: &[f32], b: &[f32], d: &mut [f32]) {
        match op {
            Binary::Add => map2(a, b, d, |x, y| x + y),
            Binary::Sub => map2(a, b, d, |x, y| x - y),
            Binary::Mul => map2(a, b, d, |x, y| x * y),
            Binary::Div => map2(a, b, d, |x, y| x / y),
            Binary::Max => map2(a, b, d, max_f32),
            Binary::Min => map2(a, b, d, min_f32),
            Binary::Pow => map2(a, b, d, f32::powf),
        }
    }
}

multiversion! {
    /// d = op(a).
    pub(crate) fused fn map_f32(op: FloatMap, a: &[f32], d: &mut [f32]) {
        match op {
            FloatMap::Unary(u) => match u {
                Unary::Abs => map1(a, d, f32::abs),
                Unary::Ceil => map1(a, d, f32::ceil),
                Unary::Cos => map1(a, d, f32::cos),
                Unary::Erf => map1(a, d, math::erf::<FMA>),
                Unary::Exp => map1(a, d, math::exp::<FMA>),
                Unary::Floor => map1(a, d, f32::floor),
                Unary::Log => map1(a, d, math::ln::<FMA>),
                Unary::Neg => map1(a, d, |x: f32| -x),
                Unary::Reciprocal => map1(a, d, |x| 1.0 / x),
                Unary::RoundEven => map1(a, d, f32::round_ties_even),
                // Zero and NaN stay what they are.
                Unary::Sign => map1(a, d, |x: f32| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }),
                Unary::Sin => map1(a, d, f32::sin),
                Unary::Sqrt => map1(a, d, f32::sqrt),
                Unary::Tan => map1(a, d, f32::tan),
                Unary::Relu => map1(a, d, |x: f32| if x < 0.0 { 0.0 } else { x }),
                Unary::Sigmoid => map1(a, d, math::sigmoid::<FMA>),
                Unary::Tanh => map1(a, d, math::tanh::<FMA>),
                Unary::Softplus => map1(a, d, math::softplus::<FMA>),
                Unary::Softsign => map1(a, d, |x: f32| if x.is_infinite() { x.signum() } else { x / (1.0 + x.abs()) }),
                Unary::Gelu => map1(a, d, math::gelu::<FMA>),
                Unary::HardSwish => map1(a, d, |x: f32| x * clamp(x + 3.0, 0.0, 6.0) / 6.0),
                // The others answer uint8 or change nothing.
                Unary::Identity | Unary::LogicalNot | Unary::IsNan | Unary::IsInfinite => map1(a, d, |x| x),
            },
            FloatMap::Clamp(lo, hi) => map1(a, d, |x| clamp(x, lo, hi)),
            FloatMap::Elu(alpha) => map1(a, d, |x| if x >= 0.0 { x } else { alpha * math::exp_m1::<FMA>(x) }),
            FloatMap::LeakyRelu(alpha) => map1(a, d, |x| if x >= 0.0 { x } else { alpha * x }),
            FloatMap::HardSigmoid(alpha, beta) => map1(a, d, |x| clamp(alpha * x + beta, 0.0, 1.0)),
            FloatMap::Linear(alpha, beta) => map1(a, d, |x| alpha * x + beta),
        }
    }
}

/// Limits that let NaN through.
#[inline(always)]
fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

multiversion! {
    /// d = 1 where the operand is NaN (or infinite), else 0.
    pub(crate) fn classify_f32(nan: bool, a: &[f32], d: &mut [u8]) {
        if nan {
            map1(a, d, |x: f32| u8::from(x.is_nan()));
        } else {
            map1(a, d, |x: f32| u8::from(x.is_infinite()));
        }
    }
}

multiversion! {
    /// d = 1 where the comparison holds, else 0.
    pub(crate) fn compare[T: Copy + PartialOrd](op: Compare, a: &[T], b: &[T], d: &mut [u8]) {
        match op {
            Compare::Equal => map2(a, b, d, |x, y| u8::from(x == y)),
            Compare::NotEqual => map2(a, b, d, |x, y| u8::from(x != y)),
            Compare::Greater => map2(a, b, d, |x, y| u8::from(x > y)),
            Compare::GreaterOrEqual => map2(a, b, d, |x, y| u8::from(x >= y)),
            Compare::Lesser => map2(a, b, d, |x, y| u8::from(x < y)),
            Compare::LesserOrEqual => map2(a, b, d, |x, y| u8::from(x <= y)),
        }
    }
}

multiversion! {
    /// d = op(a, b) of truth values.
    pub(crate) fn logical(op: Logical, a: &[u8], b: &[u8], d: &mut [u8]) {
        match op {
            Logical::And => map2(a, b, d, |x, y| u8::from(x != 0) & u8::from(y != 0)),
            Logical::Or => map2(a, b, d, |x, y| u8::from(x | y != 0)),
            Logical::Xor => map2(a, b, d, |x, y| u8::from(x != 0) ^ u8::from(y != 0)),
        }
    }
}

multiversion! {
    /// d = 1 where a is 0, else 0.
    pub(crate) fn logical_not(a: &[u8], d: &mut [u8]) {
        map1(a, d, |x| u8::from(x == 0));
    }
}

multiversion! {
    /// d = a where c is not 0, else b.
    pub(crate) fn select[T: Copy](c: &[u8], a: &[T], b: &[T], d: &mut [T]) {
        let n = d.len().min(a.len()).min(b.len()).min(c.len());
        let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &mut d[..n]);
        for i in 0..n {
            d[i] = if c[i] != 0 { a[i] } else { b[i] };
        }
    }
}

/// Integers of any width: wrapping arithmetic, and the corner cases of division and powers.
pub(crate) trait Integer: Copy + Ord + crate::buffer::Element {
    /// Sum.
    fn add(self, other: Self) -> Self;
    /// Difference.
    fn sub(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// Truncated quotient, 0 when dividing by 0.
    fn div(self, other: Self) -> Self;
    /// Power; a negative exponent gives the truncated fraction.
    fn pow(self, other: Self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Negation.
    fn neg(self) -> Self;
    /// -1, 0 or 1.
    fn sign(self) -> Self;
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// The least value.
    const LEAST: Self;
    /// The greatest value.
    const GREATEST: Self;
    /// Saturating conversion; NaN becomes 0.
    fn from_f64(value: f64) -> Self;
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        // For the unsigned types some of the comparisons with 0 are known: the code is shared.
        #[allow(unused_comparisons, clippy::absurd_extreme_comparisons)]
        impl Integer for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LEAST: Self = <$t>::MIN;
            const GREATEST: Self = <$t>::MAX;
            #[inline(always)]
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                if other == 0 { 0 } else { self.wrapping_div(other) }
            }
            fn pow(self, other: Self) -> Self {
                if other < 0 {
                    let odd = other & 1 == 1;
                    return match (self == 1, self == Self::ZERO.wrapping_sub(1)) {
                        (true, _) => 1,
                        (_, true) => if odd { self } else { 1 },
                        _ => 0,
                    };
                }
                let (mut base, mut left, mut product) = (self, other, 1 as $t);
                while left > 0 {
                    if left & 1 == 1 {
                        product = product.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    left >>= 1;
                }
                product
            }
            #[inline(always)]
            fn abs(self) -> Self { if self < 0 { Self::ZERO.wrapping_sub(self) } else { self } }
            #[inline(always)]
            fn neg(self) -> Self { Self::ZERO.wrapping_sub(self) }
            #[inline(always)]
            fn sign(self) -> Self {
                if self > 0 { 1 } else if self < 0 { Self::ZERO.wrapping_sub(1) } else { 0 }
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self { value as $t }
        }
    )*};
}
integers!(i8 u8 i32 u32 i64 u64);

multiversion! {
    /// d = op(a, b).
    pub(crate) fn binary_int[T: Integer](op: Binary, a: &[T], b: &[T], d: &mut [T]) {
        match op {
            Binary::Add => map2(a, b, d, T::add),
            Binary::Sub => map2(a, b, d, T::sub),
            Binary::Mul => map2(a, b, d, T::mul),
            Binary::Div => map2(a, b, d, T::div),
            Binary::Max => map2(a, b, d, T::max),
            Binary::Min => map2(a, b, d, T::min),
            Binary::Pow => map2(a, b, d, T::pow),
        }
    }
}

/// An element-wise operation on one integer operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum IntMap {
    /// Absolute value.
    Abs,
    /// Negation.
    Neg,
    /// Sign.
    Sign,
    /// max(0, x).
    Relu,
    /// Limits, converted to the type when run.
    Clamp(f64, f64),
    /// Copy.
    Same,
}

multiversion! {
    /// d = op(a).
    pub(crate) fn map_int[T: Integer](op: IntMap, a: &[T], d: &mut [T]) {
        match op {
            IntMap::Abs => map1(a, d, T::abs),
            IntMap::Neg => map1(a, d, T::neg),
            IntMap::Sign => map1(a, d, T::sign),
            IntMap::Relu => map1(a, d, |x: T| x.max(T::ZERO)),
            // Rounded inwards, so that an integer at the limit stays within it.
            IntMap::Clamp(lo, hi) => {
                let (lo, hi) = (T::from_f64(lo.ceil()), T::from_f64(hi.floor()));
                map1(a, d, |x: T| x.max(lo).min(hi));
            }
            IntMap::Same => map1(a, d, |x| x),
        }
    }
}

/// Conversions by `as`: floats truncate and saturate, integers wrap.
pub(crate) trait CastFrom<S> {
    /// The converted number.
    fn cast_from(source: S) -> Self;
}

macro_rules! casts {
    ($($s:ty => $($d:ty)*;)*) => {$($(
        impl CastFrom<$s> for $d {
            #[inline(always)]
            fn cast_from(source: $s) -> $d { source as $d }
        }
    )*)*};
}
casts! {
    f32 => f32 i8 u8 i32 u32 i64 u64;
    i8 => f32 i8 u8 i32 u32 i64 u64;
    u8 => f32 i8 u8 i32 u32 i64 u64;
    i32 => f32 i8 u8 i32 u32 i64 u64;
    u32 => f32 i8 u8 i32 u32 i64 u64;
    i64 => f32 i8 u8 i32 u32 i64 u64;
    u64 => f32 i8 u8 i32 u32 i64 u64;
}

multiversion! {
    /// d = a converted.
    pub(crate) fn cast[S: Copy, D: CastFrom<S>](a: &[S], d: &mut [D]) {
        map1(a, d, D::cast_from);
    }
}
