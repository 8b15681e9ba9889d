//! float32 functions written so that loops over them vectorise: no calls, no branches. Errors are
//! measured against f64 by the tests below; coefficients are those of Cephes (exp, log, tanh) and
//! of N. Juffa's published minimax fit (erf).

/// e^x, within 2 ULP; underflows gradually, overflows to infinity.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Written with comparisons, not min/max, so that NaN passes through.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let ni = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // In two steps, for results below the normal range and exponents above 127.
    let half = ni >> 1;
    y * power_of_two(half) * power_of_two(ni.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// e^x - 1 without cancellation near 0, within 4 ULP.
#[inline(always)]
pub(crate) fn exp_m1(x: f32) -> f32 {
    let mut p = 1.0 / 40_320.0;
    p = p * x + 1.0 / 5_040.0;
    p = p * x + 1.0 / 720.0;
    p = p * x + 1.0 / 120.0;
    p = p * x + 1.0 / 24.0;
    p = p * x + 1.0 / 6.0;
    p = p * x + 0.5;
    let near = x + x * x * p;
    let far = exp(x) - 1.0;
    if x.abs() < 0.5 { near } else { far }
}

/// Natural logarithm, within 2 ULP; -infinity at 0, NaN below.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    let exponent = (bits >> 23) as i32 - 126 - if tiny { 23 } else { 0 };
    let m = f32::from_bits((bits & 0x007F_FFFF) | 0x3F00_0000);
    let low = m < std::f32::consts::FRAC_1_SQRT_2;
    let e = (exponent - i32::from(low)) as f32;
    let m = if low { m + m - 1.0 } else { m - 1.0 };
    let z = m * m;
    let mut p = 7.037_683_6e-2f32;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_84e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_7e-1;
    p = p * m + 2.000_071_4e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    let y = p * m * z + e * -2.121_944_4e-4 - 0.5 * z;
    let result = m + y + e * 0.693_359_4;
    let result = if x == f32::INFINITY { x } else { result };
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    if x >= 0.0 { result } else { f32::NAN }
}

/// 1/(1+e^-x), within 4 ULP, far negative side included.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// Hyperbolic tangent, within 3 ULP.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p * z + 2.063_908_8e-2;
    p = p * z - 5.373_971_5e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328e-1;
    let near = p * z * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

/// Gauss error function, within 4 ULP.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let mut r = -1.728_534_7e-5f32 * t + 3.831_971_3e-4;
    let u = -3.883_964_4e-3f32 * t + 2.425_462_2e-2;
    r = r * s + u;
    r = r * t - 1.067_778_8e-1;
    r = r * t - 6.348_467e-1;
    r = r * t - 1.287_175_1e-1;
    r = r * t - t;
    let far = (1.0 - exp(r)).copysign(x);
    let mut q = -5.967_617e-4f32;
    q = q * s + 4.991_194_2e-3;
    q = q * s - 2.676_813_5e-2;
    q = q * s + 1.128_199_25e-1;
    q = q * s - 3.761_253_4e-1;
    q = q * s + 1.283_791_7e-1;
    let near = q * x + x;
    // Beyond 4 the polynomial of the exponent no longer holds, and erf is 1 in float32.
    let far = if t > 4.0 { 1.0f32.copysign(x) } else { far };
    if t > 0.927_734_4 { far } else { near }
}

/// ln(1+e^x), within 6 ULP.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let e = exp(-x.abs());
    // ln(1+e) exact for small e too: the rounding of 1+e is divided out again.
    let u = 1.0 + e;
    let ratio = if u == 1.0 { 1.0 } else { e / (u - 1.0) };
    let log = if u == 1.0 { e } else { ln(u) * ratio };
    if x > 0.0 { x + log } else { log }
}

/// 0.5*x*(1+erf(x/sqrt 2)), absolute error below 3e-7 times max(1, |x|).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest distance in ULP of float32 over a fine walk of [from, to].
    fn worst(from: f32, to: f32, ours: fn(f32) -> f32, truth: fn(f64) -> f64) -> f64 {
        let steps = 400_000;
        (0..=steps)
            .map(|i| from + (to - from) * (i as f32 / steps as f32))
            .map(|x| {
                let exact = truth(f64::from(x));
                let near = exact as f32;
                let ulp = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
                ((f64::from(ours(x)) - exact) / ulp).abs()
            })
            .fold(0.0, f64::max)
    }

    /// erf by its Taylor series, or the continued fraction of erfc: independent of the fit.
    fn erf64(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let t = x.abs();
        let mut f = t;
        for k in (1..200).rev() {
            f = t + f64::from(k) / 2.0 / f;
        }
        (1.0 - (-t * t).exp() / (f * std::f64::consts::PI.sqrt())).copysign(x)
    }

    #[test]
    fn errors_stay_within_the_documented_ulp() {
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (name, found, bound) in [
            ("exp", worst(-87.0, 88.0, exp, f64::exp), 2.0),
            ("exp_m1", worst(-20.0, 2.0, exp_m1, f64::exp_m1), 4.0),
            ("exp_m1 near 0", worst(-0.7, 0.7, exp_m1, f64::exp_m1), 4.0),
            ("ln", worst(1e-30, 10.0, ln, f64::ln), 2.0),
            ("ln large", worst(1.0, 1e30, ln, f64::ln), 2.0),
            ("sigmoid", worst(-87.0, 30.0, sigmoid, sigmoid64), 4.0),
            ("tanh", worst(-10.0, 10.0, tanh, f64::tanh), 3.0),
            ("erf", worst(-5.0, 5.0, erf, erf64), 4.0),
            ("softplus", worst(-80.0, 40.0, softplus, |x| x.exp().ln_1p()), 6.0),
        ] {
            assert!(found <= bound, "{name}: {found} ULP, documented {bound}");
        }
    }

    #[test]
    fn special_values() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(-100.0) > 0.0, "subnormal results are kept");
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert!(ln(-1.0).is_nan());
        assert!((f64::from(ln(1e-40)) - 1e-40f64.ln()).abs() < 1e-2);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(-f32::INFINITY), -1.0);
        assert_eq!(erf(f32::INFINITY), 1.0);
        for f in [exp, exp_m1, ln, sigmoid, tanh, erf, softplus, gelu] {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
