// float32 functions, the same as those of the CPU backend (`cpu::math`): the built-in ones are
// allowed errors that WebNN's tolerances are not.
fn copy_sign(magnitude: f32, sign: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & 0x7fffffffu) | (bitcast<u32>(sign) & 0x80000000u));
}

fn power_of_two(n: i32) -> f32 {
    return bitcast<f32>(bitcast<u32>(n + 127) << 23u);
}

fn exp_float(value: f32) -> f32 {
    var x = value;
    if x > 89.0 { x = 89.0; }
    if x < -104.0 { x = -104.0; }
    if is_nan(x) { return x; }
    let n = round(x * 1.4426950408889634);
    let whole = i32(n);
    let r = x - n * 0.693359375 - n * -2.12194440e-4;
    var p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    let y = p * (r * r) + r + 1.0;
    let half = whole >> 1u;
    return y * power_of_two(half) * power_of_two(whole - half);
}

fn exp_m1_float(x: f32) -> f32 {
    var p = 1.0 / 40320.0;
    p = p * x + 1.0 / 5040.0;
    p = p * x + 1.0 / 720.0;
    p = p * x + 1.0 / 120.0;
    p = p * x + 1.0 / 24.0;
    p = p * x + 1.0 / 6.0;
    p = p * x + 0.5;
    let near = x + x * x * p;
    let far = exp_float(x) - 1.0;
    return select(far, near, abs(x) < 0.5);
}

fn ln_float(x: f32) -> f32 {
    let tiny = x < 1.17549435e-38;
    let scaled = select(x, x * 8388608.0, tiny);
    let bits = bitcast<u32>(scaled);
    let exponent = bitcast<i32>(bits >> 23u) - 126 - select(0, 23, tiny);
    var m = bitcast<f32>((bits & 0x007fffffu) | 0x3f000000u);
    let low = m < 0.70710678118;
    let e = f32(exponent - select(0, 1, low));
    m = select(m - 1.0, m + m - 1.0, low);
    let z = m * m;
    var p = 7.0376836292e-2;
    p = p * m - 1.1514610310e-1;
    p = p * m + 1.1676998740e-1;
    p = p * m - 1.2420140846e-1;
    p = p * m + 1.4249322787e-1;
    p = p * m - 1.6668057665e-1;
    p = p * m + 2.0000714765e-1;
    p = p * m - 2.4999993993e-1;
    p = p * m + 3.3333331174e-1;
    let y = p * m * z + e * -2.12194440e-4 - 0.5 * z;
    let result = m + y + e * 0.693359375;
    if is_nan(x) || x < 0.0 { return not_a_number(); }
    if is_infinite(x) { return x; }
    if x == 0.0 { return -infinity(); }
    return result;
}

fn sigmoid_float(x: f32) -> f32 {
    let e = exp_float(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}

fn tanh_float(x: f32) -> f32 {
    let z = x * x;
    var p = -5.70498872745e-3;
    p = p * z + 2.06390887954e-2;
    p = p * z - 5.37397155531e-2;
    p = p * z + 1.33314422036e-1;
    p = p * z - 3.33332819422e-1;
    let near = p * z * x + x;
    let far = copy_sign(1.0 - 2.0 / (exp_float(2.0 * abs(x)) + 1.0), x);
    if is_nan(x) { return x; }
    return select(far, near, abs(x) < 0.625);
}

fn erf_float(x: f32) -> f32 {
    let t = abs(x);
    let s = x * x;
    var r = -1.72853470e-5 * t + 3.83197126e-4;
    let u = -3.88396438e-3 * t + 2.42546219e-2;
    r = r * s + u;
    r = r * t - 1.06777847e-1;
    r = r * t - 6.34846687e-1;
    r = r * t - 1.28717512e-1;
    r = r * t - t;
    var far = copy_sign(1.0 - exp_float(r), x);
    var q = -5.96761703e-4;
    q = q * s + 4.99119423e-3;
    q = q * s - 2.67681349e-2;
    q = q * s + 1.12819925e-1;
    q = q * s - 3.76125336e-1;
    q = q * s + 1.28379166e-1;
    let near = q * x + x;
    if is_nan(x) { return x; }
    if t > 4.0 { far = copy_sign(1.0, x); }
    return select(near, far, t > 0.927734375);
}

fn softplus_float(x: f32) -> f32 {
    let e = exp_float(-abs(x));
    let u = opaque(1.0 + e);
    var log = e;
    if u != 1.0 { log = ln_float(u) * (e / (u - 1.0)); }
    return select(log, x + log, x > 0.0);
}

fn gelu_float(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf_float(x * 0.70710678118));
}

fn softsign_float(x: f32) -> f32 {
    if is_infinite(x) { return copy_sign(1.0, x); }
    return x / (1.0 + abs(x));
}

fn clamp_float(value: f32, low: f32, high: f32) -> f32 {
    var x = value;
    if x < low { x = low; }
    if x > high { x = high; }
    return x;
}

fn sign_float(x: f32) -> f32 {
    if x > 0.0 { return 1.0; }
    if x < 0.0 { return -1.0; }
    return x;
}

// Bits 2/pi behind the point, for arguments whose whole turns need more than float32 has.
const TWO_OVER_PI = array<u32, 8>(
    0x00000000u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu,
);

// The high word of a product of two words.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu);
    let right = (a & 0xffffu) * (b >> 16u);
    let carry = ((low >> 16u) + (left & 0xffffu) + (right & 0xffffu)) >> 16u;
    return (a >> 16u) * (b >> 16u) + (left >> 16u) + (right >> 16u) + carry;
}

// x less a multiple of pi/2, and how many (modulo 4) those were. x is finite.
fn quarter_turns(x: f32) -> vec2<f32> {
    if abs(x) < 20000.0 {
        let n = round(x * 0.63661977236);
        let r = ((x - n * 1.5703125) - n * 4.837512969970703e-4) - n * 7.549789948768648e-8;
        return vec2<f32>(r, n - 4.0 * floor(n * 0.25));
    }
    // Payne and Hanek: |x| = mantissa * 2^(e - 31), times those bits of 2/pi that decide the quarter
    // and what is left of it. Words of `window` weigh 1, 2^-32, 2^-64.
    var table = TWO_OVER_PI;
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    let mantissa = ((bits & 0x7fffffu) | 0x800000u) << 8u;
    let e = (bits >> 23u) - 127u;
    let word = min(e >> 5u, 3u);
    let shift = e & 31u;
    var window: array<u32, 4>;
    for (var i = 0u; i < 4u; i++) {
        let high = table[word + i];
        let low = table[word + i + 1u];
        window[i] = select((high << shift) | (low >> (32u - shift)), high, shift == 0u);
    }
    let p3 = multiply_high(mantissa, window[3]);
    let p2 = mantissa * window[2] + p3;
    let c2 = multiply_high(mantissa, window[2]) + select(0u, 1u, p2 < p3);
    let p1 = mantissa * window[1] + c2;
    let c1 = multiply_high(mantissa, window[1]) + select(0u, 1u, p1 < c2);
    let p0 = mantissa * window[0] + c1;
    let top = multiply_high(mantissa, window[0]) + select(0u, 1u, p0 < c1);
    // The lowest bit of `top` weighs 2, the highest of p0 weighs 1.
    var quarter = ((top & 1u) << 1u) | (p0 >> 31u);
    var high = (p0 << 1u) | (p1 >> 31u);
    var low = (p1 << 1u) | (p2 >> 31u);
    var sign = 1.0;
    if high >= 0x80000000u {
        quarter += 1u;
        sign = -1.0;
        high = ~high + select(0u, 1u, low == 0u);
        low = ~low + 1u;
    }
    let rest = sign * (f32(high) * 2.3283064365386963e-10 + f32(low) * 5.421010862427522e-20) * 1.57079632679;
    if x < 0.0 { return vec2<f32>(-rest, f32((4u - (quarter & 3u)) & 3u)); }
    return vec2<f32>(rest, f32(quarter & 3u));
}

// Sine of r + quarter * pi/2.
fn sine_of(r: f32, quarter: u32) -> f32 {
    let z = r * r;
    let sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    let cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z
        - 0.5 * z + 1.0;
    let value = select(sine, cosine, (quarter & 1u) == 1u);
    return select(value, -value, (quarter & 2u) == 2u);
}

fn sin_float(x: f32) -> f32 {
    if is_nan(x) || is_infinite(x) { return not_a_number(); }
    let t = quarter_turns(x);
    return sine_of(t.x, u32(t.y));
}

fn cos_float(x: f32) -> f32 {
    if is_nan(x) || is_infinite(x) { return not_a_number(); }
    let t = quarter_turns(x);
    return sine_of(t.x, u32(t.y) + 1u);
}

fn tan_float(x: f32) -> f32 {
    if is_nan(x) || is_infinite(x) { return not_a_number(); }
    let t = quarter_turns(x);
    return sine_of(t.x, u32(t.y)) / sine_of(t.x, u32(t.y) + 1u);
}

// a * b as a rounded product and its error (Veltkamp, Dekker).
fn product_and_error(a: f32, b: f32) -> vec2<f32> {
    let p = opaque(a * b);
    let ac = opaque(4097.0 * a);
    let bc = opaque(4097.0 * b);
    let ah = ac - opaque(ac - a);
    let bh = bc - opaque(bc - b);
    let al = a - ah;
    let bl = b - bh;
    return vec2<f32>(p, ((ah * bh - p) + ah * bl + al * bh) + al * bl);
}

// x^y for x > 0, both finite: the logarithm in two words, so that large results stay exact.
fn positive_power(x: f32, y: f32) -> f32 {
    let tiny = x < 1.17549435e-38;
    let bits = bitcast<u32>(select(x, x * 8388608.0, tiny));
    var exponent = bitcast<i32>(bits >> 23u) - 127 - select(0, 23, tiny);
    var m = bitcast<f32>((bits & 0x007fffffu) | 0x3f800000u);
    if m > 1.41421356 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 (z + z^3/3 + ...), z = (m - 1) / (m + 1); m + 1 may round, so its error counts.
    let above = m - 1.0;
    let below = opaque(m + 1.0);
    let below_rest = (m - below) + 1.0;
    let z = opaque(above / below);
    let back = product_and_error(z, below);
    let z_rest = (((above - back.x) - back.y) - z * below_rest) / below;
    let s = z * z;
    let tail = z * s * (0.666666686535 + s * (0.399999499 + s * (0.28573475 + s * 0.2216135)));
    let n = f32(exponent);
    // ln 2 in two words, the first of few bits, so that n times it is exact.
    let big = n * 0.693359375;
    let head = 2.0 * z;
    let sum = opaque(big + head);
    let carried = select((head - sum) + big, (big - sum) + head, abs(big) >= abs(head));
    let rest = carried + (2.0 * z_rest + tail + n * -2.12194440e-4);
    let log = opaque(sum + rest);
    let log_rest = (sum - log) + rest;
    // Beyond these the result is infinite or 0 whatever the rest is.
    let rough = y * log;
    if rough > 90.0 { return infinity(); }
    if rough < -105.0 { return 0.0; }
    let product = product_and_error(y, log);
    let power = exp_float(product.x);
    if is_infinite(power) { return power; }
    return power + power * (product.y + y * log_rest);
}

fn pow_float(x: f32, y: f32) -> f32 {
    if y == 0.0 || x == 1.0 { return 1.0; }
    if is_nan(x) || is_nan(y) { return not_a_number(); }
    let size = abs(x);
    if is_infinite(y) {
        if size == 1.0 { return 1.0; }
        return select(0.0, infinity(), (size > 1.0) == (y > 0.0));
    }
    let whole = floor(y) == y;
    let odd = whole && abs(y) < 16777216.0 && (bitcast<u32>(i32(clamp_float(y, -16777216.0, 16777216.0))) & 1u) == 1u;
    var result = 0.0;
    if size == 0.0 {
        result = select(0.0, infinity(), y < 0.0);
    } else if is_infinite(size) {
        result = select(0.0, infinity(), y > 0.0);
    } else if x < 0.0 && !whole {
        return not_a_number();
    } else {
        result = positive_power(size, y);
    }
    return select(result, copy_sign(result, -1.0), odd && (bitcast<u32>(x) >> 31u) == 1u);
}
