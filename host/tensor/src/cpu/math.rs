//! float32 functions written so that loops over them vectorise: no calls, no branches. Errors are
//! measured against f64 by the tests below; coefficients are those of Cephes (exp, log, tanh), of
//! N. Juffa's published minimax fit (erf), and a rational minimax fit of our own (gelu).
//!
//! `F` says whether the code around is compiled for fused multiply-add: without the instruction a
//! fused operation is a call.

/// a * b + c, rounded once where the processor can.
#[inline(always)]
fn madd<const F: bool>(a: f32, b: f32, c: f32) -> f32 {
    if F { a.mul_add(b, c) } else { a * b + c }
}

/// c[0] + c[1] x + c[2] x^2 + ...
#[inline(always)]
fn polynomial<const F: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut y = c[N - 1];
    for i in (0..N - 1).rev() {
        y = madd::<F>(y, x, c[i]);
    }
    y
}

/// Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa; 127 more is the
/// bias of an exponent.
const MAGIC: f32 = 12_582_912.0 + 127.0;

/// The bits of n + `MAGIC`, and e^(x - n ln 2), for |x| below 2^22 or so.
#[inline(always)]
fn exp_parts<const F: bool>(x: f32) -> (u32, f32) {
    let shifted = madd::<F>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = madd::<F>(n, -0.693_359_4, x);
    let r = madd::<F>(n, 2.121_944_4e-4, r);
    let p = polynomial::<F, 6>(
        r,
        [0.5, 1.666_666_5e-1, 4.166_579_6e-2, 8.333_452e-3, 1.398_2e-3, 1.987_569_1e-4],
    );
    (shifted.to_bits(), madd::<F>(p, r * r, r) + 1.0)
}

/// e^x, within 2 ULP; underflows gradually, overflows to infinity.
#[inline(always)]
pub(crate) fn exp<const F: bool>(x: f32) -> f32 {
    // Written with comparisons, not min/max, so that NaN passes through.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let (bits, y) = exp_parts::<F>(x);
    let n = (bits as i32).wrapping_sub(MAGIC.to_bits() as i32);
    // In two steps, for results below the normal range and exponents above 127.
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// e^x for x up to 88, within 2 ULP; 0 below the normal range. NaN passes through.
#[inline(always)]
pub(crate) fn exp_normal<const F: bool>(x: f32) -> f32 {
    let (bits, y) = exp_parts::<F>(x);
    let y = y * f32::from_bits(bits << 23);
    if x < -87.0 { 0.0 } else { y }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// e^x - 1 without cancellation near 0, within 4 ULP.
#[inline(always)]
pub(crate) fn exp_m1<const F: bool>(x: f32) -> f32 {
    let c = [0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5_040.0, 1.0 / 40_320.0];
    let near = madd::<F>(x * x, polynomial::<F, 7>(x, c), x);
    let far = exp::<F>(x) - 1.0;
    if x.abs() < 0.5 { near } else { far }
}

/// Natural logarithm, within 2 ULP; -infinity at 0, NaN below.
#[inline(always)]
pub(crate) fn ln<const F: bool>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    let exponent = (bits >> 23) as i32 - 126 - if tiny { 23 } else { 0 };
    let m = f32::from_bits((bits & 0x007F_FFFF) | 0x3F00_0000);
    let low = m < std::f32::consts::FRAC_1_SQRT_2;
    let e = (exponent - i32::from(low)) as f32;
    let m = if low { m + m - 1.0 } else { m - 1.0 };
    let z = m * m;
    let c = [
        3.333_333e-1,
        -2.499_999_4e-1,
        2.000_071_4e-1,
        -1.666_805_7e-1,
        1.424_932_3e-1,
        -1.242_014_1e-1,
        1.167_699_84e-1,
        -1.151_461e-1,
        7.037_683_6e-2,
    ];
    let p = polynomial::<F, 9>(m, c);
    let y = madd::<F>(-0.5, z, madd::<F>(e, -2.121_944_4e-4, p * m * z));
    let result = madd::<F>(e, 0.693_359_4, m + y);
    let result = if x == f32::INFINITY { x } else { result };
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    if x >= 0.0 { result } else { f32::NAN }
}

/// 1/(1+e^-x), within 4 ULP, far negative side included.
#[inline(always)]
pub(crate) fn sigmoid<const F: bool>(x: f32) -> f32 {
    let e = exp::<F>(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// Hyperbolic tangent, within 3 ULP.
#[inline(always)]
pub(crate) fn tanh<const F: bool>(x: f32) -> f32 {
    let z = x * x;
    let c = [-3.333_328e-1, 1.333_144_2e-1, -5.373_971_5e-2, 2.063_908_8e-2, -5.704_988_7e-3];
    let near = madd::<F>(polynomial::<F, 5>(z, c) * z, x, x);
    let double = 2.0 * x.abs();
    // 1 in float32 from there on.
    let double = if double > 40.0 { 40.0 } else { double };
    let far = (1.0 - 2.0 / (exp_normal::<F>(double) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

/// Gauss error function, within 4 ULP.
#[inline(always)]
pub(crate) fn erf<const F: bool>(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let r = madd::<F>(-1.728_534_7e-5, t, 3.831_971_3e-4);
    let u = madd::<F>(-3.883_964_4e-3, t, 2.425_462_2e-2);
    let r = madd::<F>(r, s, u);
    let r = madd::<F>(r, t, -1.067_778_8e-1);
    let r = madd::<F>(r, t, -6.348_467e-1);
    let r = madd::<F>(r, t, -1.287_175_1e-1);
    let r = madd::<F>(r, t, -t);
    let far = (1.0 - exp_normal::<F>(r)).copysign(x);
    let c =
        [1.283_791_7e-1, -3.761_253_4e-1, 1.128_199_25e-1, -2.676_813_5e-2, 4.991_194_2e-3, -5.967_617e-4];
    let near = madd::<F>(polynomial::<F, 6>(s, c), x, x);
    // Beyond 4 the polynomial of the exponent no longer holds, and erf is 1 in float32.
    let far = if t > 4.0 { 1.0f32.copysign(x) } else { far };
    if t > 0.927_734_4 { far } else { near }
}

/// ln(1+e^x), within 6 ULP.
#[inline(always)]
pub(crate) fn softplus<const F: bool>(x: f32) -> f32 {
    let e = exp::<F>(-x.abs());
    // ln(1+e) exact for small e too: the rounding of 1+e is divided out again.
    let u = 1.0 + e;
    let ratio = if u == 1.0 { 1.0 } else { e / (u - 1.0) };
    let log = if u == 1.0 { e } else { ln::<F>(u) * ratio };
    if x > 0.0 { x + log } else { log }
}

/// 0.5*x*(1+erf(x/sqrt 2)), absolute error below 3e-7 times max(1, |x|).
#[inline(always)]
pub(crate) fn gelu<const F: bool>(x: f32) -> f32 {
    let z = x * x;
    let c = [7.978_845e-1, 6.731_837e-2, 9.324_717e-3, 3.328_321_3e-4, 1.259_015_6e-5, 4.530_149_8e-8];
    let p = polynomial::<F, 6>(z, c);
    let c = [1.0, 2.510_374_5e-1, 2.852_714_4e-2, 1.871_139e-3, 7.265_783e-5, 1.190_374_1e-6];
    let q = polynomial::<F, 6>(z, c);
    // erf(x/sqrt 2) is 1 in float32 from there on.
    let erf = if x.abs() > 5.5 { 1.0f32.copysign(x) } else { x * p / q };
    0.5 * x * (1.0 + erf)
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
        errors::<false>();
        errors::<true>();
    }

    fn errors<const F: bool>() {
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (name, found, bound) in [
            ("exp", worst(-87.0, 88.0, exp::<F>, f64::exp), 2.0),
            ("exp_normal", worst(-86.9, 87.9, exp_normal::<F>, f64::exp), 2.0),
            ("exp_m1", worst(-20.0, 2.0, exp_m1::<F>, f64::exp_m1), 4.0),
            ("exp_m1 near 0", worst(-0.7, 0.7, exp_m1::<F>, f64::exp_m1), 4.0),
            ("ln", worst(1e-30, 10.0, ln::<F>, f64::ln), 2.0),
            ("ln large", worst(1.0, 1e30, ln::<F>, f64::ln), 2.0),
            ("sigmoid", worst(-87.0, 30.0, sigmoid::<F>, sigmoid64), 4.0),
            ("tanh", worst(-10.0, 10.0, tanh::<F>, f64::tanh), 3.0),
            ("erf", worst(-5.0, 5.0, erf::<F>, erf64), 4.0),
            ("softplus", worst(-80.0, 40.0, softplus::<F>, |x| x.exp().ln_1p()), 6.0),
        ] {
            assert!(found <= bound, "{name}: {found} ULP, documented {bound}");
        }
        for i in -80_000..80_000 {
            let x = i as f32 * 1e-4;
            let (wide, found) = (f64::from(x), f64::from(gelu::<F>(x)));
            let want = 0.5 * wide * (1.0 + erf64(wide * std::f64::consts::FRAC_1_SQRT_2));
            assert!((found - want).abs() <= 3e-7 * wide.abs().max(1.0), "gelu({x}) is {found}, not {want}");
        }
    }

    #[test]
    fn special_values() {
        special::<false>();
        special::<true>();
    }

    fn special<const F: bool>() {
        assert_eq!(exp::<F>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<F>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<F>(89.0), f32::INFINITY);
        assert!(exp::<F>(-100.0) > 0.0, "subnormal results are kept");
        assert_eq!(ln::<F>(0.0), f32::NEG_INFINITY);
        assert_eq!(ln::<F>(f32::INFINITY), f32::INFINITY);
        assert!(ln::<F>(-1.0).is_nan());
        assert!((f64::from(ln::<F>(1e-40)) - 1e-40f64.ln()).abs() < 1e-2);
        assert_eq!(sigmoid::<F>(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid::<F>(f32::INFINITY), 1.0);
        assert_eq!(tanh::<F>(f32::INFINITY), 1.0);
        assert_eq!(tanh::<F>(-f32::INFINITY), -1.0);
        assert_eq!(erf::<F>(f32::INFINITY), 1.0);
        assert_eq!(exp_normal::<F>(f32::NEG_INFINITY), 0.0);
        let all = [
            exp::<F>,
            exp_normal::<F>,
            exp_m1::<F>,
            ln::<F>,
            sigmoid::<F>,
            tanh::<F>,
            erf::<F>,
            softplus::<F>,
        ];
        for f in all.into_iter().chain([gelu::<F> as fn(f32) -> f32]) {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
