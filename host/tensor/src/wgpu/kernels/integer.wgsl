// Integer arithmetic with the corner cases of `cpu::block::Integer`.
fn divide_signed(a: i32, b: i32) -> i32 {
    if b == 0 { return 0; }
    if b == -1 { return -a; }
    return a / b;
}

fn divide_unsigned(a: u32, b: u32) -> u32 {
    if b == 0u { return 0u; }
    return a / b;
}

fn power_unsigned(a: u32, b: u32) -> u32 {
    var base = a;
    var left = b;
    var product = 1u;
    for (var i = 0u; i < 32u && left > 0u; i++) {
        if (left & 1u) == 1u { product *= base; }
        base *= base;
        left >>= 1u;
    }
    return product;
}

fn power_signed(a: i32, b: i32) -> i32 {
    if b < 0 {
        if a == 1 { return 1; }
        if a == -1 { return select(1, -1, (b & 1) == 1); }
        return 0;
    }
    return bitcast<i32>(power_unsigned(bitcast<u32>(a), bitcast<u32>(b)));
}

// Truncated and limited; NaN gives 0.
fn float_to_signed(x: f32) -> i32 {
    if is_nan(x) { return 0; }
    if x >= 2147483648.0 { return 2147483647; }
    if x <= -2147483648.0 { return -2147483647 - 1; }
    return i32(x);
}

fn float_to_unsigned(x: f32) -> u32 {
    if is_nan(x) || x <= 0.0 { return 0u; }
    if x >= 4294967296.0 { return 0xffffffffu; }
    return u32(x);
}
