// Shared by all kernels. Every kernel reads its sizes from P: P[0] is the first workgroup of this
// dispatch, P[1] the one behind its last, so that a long kernel can be cut into several dispatches.
@group(0) @binding(0) var<storage, read> P: array<u32>;

fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return P[0] + group.x + group.y * groups.x;
}

// Offset of the row-major index over dimensions (size, stride) listed from P[first].
fn strided(first: u32, rank: u32, index: u32) -> u32 {
    var rest = index;
    var at = 0u;
    for (var i = rank; i > 0u; i--) {
        let size = P[first + 2u * i - 2u];
        at += (rest % size) * P[first + 2u * i - 1u];
        rest /= size;
    }
    return at;
}

// The same number, in a way that a compiler cannot see through: drivers simplify (a + b) - b to a,
// and with it the rounding errors that some functions are after. Workgroups are below 2^24.
fn opaque(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) | (P[0] & 0x80000000u));
}

// Read from a variable, as constant expressions may not be infinite or NaN.
fn infinity() -> f32 {
    var bits = 0x7f800000u;
    return bitcast<f32>(bits);
}

fn not_a_number() -> f32 {
    var bits = 0x7fc00000u;
    return bitcast<f32>(bits);
}

// By their bits: a compiler may take floats to be finite.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn is_infinite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

fn max_float(x: f32, y: f32) -> f32 {
    if is_nan(x) { return x; }
    if is_nan(y) { return y; }
    return select(y, x, x > y);
}

fn min_float(x: f32, y: f32) -> f32 {
    if is_nan(x) { return x; }
    if is_nan(y) { return y; }
    return select(y, x, x < y);
}
