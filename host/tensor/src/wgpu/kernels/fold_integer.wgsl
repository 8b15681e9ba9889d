// How integers are reduced, wrapping: constants as in fold_float.wgsl; LEAST and GREATEST are the
// type's bounds.
alias Acc = T;

fn start() -> Acc {
    if FOLD == 1u { return T(1); }
    if FOLD == 2u { return LEAST; }
    if FOLD == 3u { return GREATEST; }
    return T(0);
}

fn join(a: Acc, b: Acc) -> Acc {
    if FOLD == 1u { return wrap(a * b); }
    if FOLD == 2u { return max(a, b); }
    if FOLD == 3u { return min(a, b); }
    return wrap(a + b);
}

fn step(a: Acc, x: T, shift: f32) -> Acc {
    if MAP == 1u { return join(a, wrap(T(abs(x)))); }
    if MAP == 2u { return join(a, wrap(x * x)); }
    return join(a, x);
}

fn finish(a: Acc, shift: f32, count: u32) -> T {
    return a;
}
