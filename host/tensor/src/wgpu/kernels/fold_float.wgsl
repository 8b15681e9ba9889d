// How floats are reduced. FOLD: 0 sum, 1 product, 2 largest, 3 smallest. MAP: 0 as it is, 1
// magnitude, 2 square, 3 exp(x - shift). Sums carry the rounding errors along.
alias Acc = vec2<f32>;

fn start() -> Acc {
    if FOLD == 1u { return Acc(1.0, 0.0); }
    if FOLD == 2u { return Acc(-infinity(), 0.0); }
    if FOLD == 3u { return Acc(infinity(), 0.0); }
    return Acc(0.0, 0.0);
}

fn join(a: Acc, b: Acc) -> Acc {
    if FOLD == 1u { return Acc(a.x * b.x, 0.0); }
    if FOLD == 2u { return Acc(max_float(a.x, b.x), 0.0); }
    if FOLD == 3u { return Acc(min_float(a.x, b.x), 0.0); }
    let sum = opaque(a.x + b.x);
    let lost = select((b.x - sum) + a.x, (a.x - sum) + b.x, abs(a.x) >= abs(b.x));
    return Acc(sum, a.y + b.y + lost);
}

fn map(x: f32, shift: f32) -> f32 {
    if MAP == 1u { return abs(x); }
    if MAP == 2u { return x * x; }
    if MAP == 3u { return exp_float(x - shift); }
    return x;
}

fn step(a: Acc, x: f32, shift: f32) -> Acc {
    return join(a, Acc(map(x, shift), 0.0));
}

// What is left to do with the total. FINISH: 0 nothing, 1 square root, 2 logarithm, 3 divide by
// `count`, 4 logarithm plus shift.
fn finish(a: Acc, shift: f32, count: u32) -> f32 {
    var total = a.x;
    if !is_infinite(total) && !is_nan(total) { total += a.y; }
    if FINISH == 1u { return sqrt(total); }
    if FINISH == 2u { return ln_float(total); }
    if FINISH == 3u {
        if count == 0u { return not_a_number(); }
        return total / f32(count);
    }
    if FINISH == 4u {
        // An infinite shift is the answer, and made the terms NaN.
        if is_infinite(shift) || is_nan(shift) { return shift; }
        return shift + ln_float(total);
    }
    return total;
}
