//! Which vector instructions the processor has, and functions compiled once for each set. Plain
//! loops vectorise by themselves under the right target features, so kernels are written once.
// Calling a function compiled for more instructions than the baseline is unsafe by nature.
#![allow(unsafe_code)]

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 F, VL, BW, DQ (with AVX2, FMA and F16C).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler assumes of every processor.
    Baseline,
}

impl Isa {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "AVX2",
            Isa::Baseline => "baseline",
        }
    }

    /// The best set that this processor has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            if avx2 && avx512 {
                return Isa::Avx512;
            }
            if avx2 {
                return Isa::Avx2;
            }
        }
        Isa::Baseline
    }
}

/// Defines a function with a leading `isa` parameter whose body is compiled once for each
/// instruction set. What the body calls must be `#[inline(always)]`, or it stays baseline code.
/// After `fused`, the body may name `FMA`: whether it is compiled for fused multiply-add.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($generics:tt)*])? ($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $crate::cpu::simd::multiversion! {
            @each ($(#[$meta])*) ($vis) $name ($(<$($generics)*>)?) () () () ($($arg: $ty),*) $body
        }
    };
    ($(#[$meta:meta])* $vis:vis fused fn $name:ident ($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $crate::cpu::simd::multiversion! {
            @each ($(#[$meta])*) ($vis) $name () (<const FMA: bool>) (::<true>) (::<false>) ($($arg: $ty),*) $body
        }
    };
    (@each ($(#[$meta:meta])*) ($vis:vis) $name:ident ($($generics:tt)*) ($($constant:tt)*) ($($with:tt)*) ($($without:tt)*)
        ($($arg:ident: $ty:ty),*) $body:block) => {
        $(#[$meta])*
        // The body is a compile-time copy of the arguments' list, however long that is.
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $($generics)* (isa: $crate::cpu::simd::Isa, $($arg: $ty),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $($generics)* $($constant)* ($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $($generics)* ($($arg: $ty),*) { body $($with)* ($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $($generics)* ($($arg: $ty),*) { body $($with)* ($($arg),*) }
            // The one unsafe step: entering code for instructions that were detected.
            #[allow(unsafe_code)]
            match isa {
                // SAFETY: `Isa::detect` answers these only where the processor has the features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::cpu::simd::Isa::Baseline => body $($without)* ($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

/// Lanes folded to one, pairwise: the steps of a chain would wait for each other.
#[inline(always)]
pub(crate) fn fold<const N: usize>(lanes: &[f32; N], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = *lanes;
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum of lanes in f64, pairwise.
#[inline(always)]
pub(crate) fn total<const N: usize>(lanes: &[f32; N]) -> f64 {
    let mut wide = lanes.map(f64::from);
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            wide[l] += wide[l + half];
        }
        half /= 2;
    }
    wide[0]
}

multiversion! {
    /// float16 bits to float32.
    pub(crate) fn widen(source: &[half::f16], target: &mut [f32]) {
        for (t, s) in target.iter_mut().zip(source) {
            *t = half_to_f32(s.to_bits());
        }
    }
}

multiversion! {
    /// float32 to the nearest float16, ties to even.
    pub(crate) fn narrow(source: &[f32], target: &mut [half::f16]) {
        for (t, s) in target.iter_mut().zip(source) {
            *t = half::f16::from_bits(f32_to_half(*s));
        }
    }
}

multiversion! {
    /// Rounds to what float16 can hold, in place.
    pub(crate) fn round_to_half(values: &mut [f32]) {
        for v in values {
            *v = half_to_f32(f32_to_half(*v));
        }
    }
}

/// Branch-free conversion, so that loops over it vectorise: the exponent is moved by a multiply,
/// which also normalises subnormals.
#[inline(always)]
fn half_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000); // 2^112
    let special = scaled.to_bits() | 0x7F80_0000; // infinity, or NaN with its payload
    let value = if bits & 0x7C00 == 0x7C00 { special } else { scaled.to_bits() };
    f32::from_bits(value | sign)
}

#[inline(always)]
fn f32_to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7FFF_FFFF;
    // Normal: round the 13 bits that fall off, ties to even; a carry moves the exponent on.
    let odd = (magnitude >> 13) & 1;
    let normal = (magnitude.wrapping_sub(0x3800_0000).wrapping_add(0xFFF + odd)) >> 13;
    // Subnormal: adding 0.5 aligns the bits that stay, and rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
    let half = if magnitude > 0x7F80_0000 {
        0x7E00
    } else if magnitude >= 0x4780_0000 {
        0x7C00 // 65536 and above; 65520 to 65536 carries to infinity by itself
    } else if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    half as u16 | sign
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn half_conversions_agree_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
        for step in 0..(1u32 << 20) {
            let value = f32::from_bits(step << 12 | (step & 0xFFF));
            let (ours, theirs) = (f32_to_half(value), f16::from_f32(value));
            let both_nan = f16::from_bits(ours).is_nan() && theirs.is_nan();
            assert!(ours == theirs.to_bits() || both_nan, "{value}: {ours:#x} {theirs:?}");
        }
        for exact in 0..0x7C00u16 {
            // Halfway between two neighbours goes to the even one.
            let (a, b) = (half_to_f32(exact), half_to_f32(exact + 1));
            if b.is_finite() {
                let middle = (a + b) / 2.0;
                assert_eq!(f32_to_half(middle), f16::from_f32(middle).to_bits());
            }
        }
    }
}
