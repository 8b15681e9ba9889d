// float16 in integer arithmetic: exact, rounded to nearest even, on every adapter.
fn half_to_float(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let magnitude = h & 0x7fffu;
    if magnitude >= 0x7c00u {
        return bitcast<f32>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13u));
    }
    if magnitude < 0x400u {
        return bitcast<f32>(sign | bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8));
    }
    return bitcast<f32>(sign | ((magnitude << 13u) + 0x38000000u));
}

fn float_to_half(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    }
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u; // 65520 and above
    }
    if magnitude < 0x38800000u {
        // Below 2^-14: in units of 2^-24.
        let exponent = magnitude >> 23u;
        if exponent < 102u { return sign; }
        let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        let shift = 126u - exponent;
        let whole = mantissa >> shift;
        let rest = mantissa & ((1u << shift) - 1u);
        let middle = 1u << (shift - 1u);
        let up = rest > middle || (rest == middle && (whole & 1u) == 1u);
        return sign | (whole + select(0u, 1u, up));
    }
    let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
    return sign | ((rounded - 0x38000000u) >> 13u);
}

fn round_to_half(x: f32) -> f32 {
    return half_to_float(float_to_half(x));
}
