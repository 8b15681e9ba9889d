// Normalizes rows of P[2] elements by their mean and variance, a workgroup each, then scale and
// bias (SCALE, BIAS): an element for each column, or with P[4] channels one for each row modulo
// that. P[3] is epsilon. Sums go around the first element, then around the mean.
@group(0) @binding(1) var<storage, read> S: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    if index >= P[1] { return; }
    let n = P[2];
    let base = index * n;
    let count = f32(n);
    let first = S[base];
    var sum = 0.0;
    for (var i = lane; i < n; i += 256u) { sum += S[base + i] - first; }
    let mean = first + sum_of_lanes(lane, sum) / count;
    sum = 0.0;
    var squares = 0.0;
    for (var i = lane; i < n; i += 256u) {
        let d = S[base + i] - mean;
        sum += d;
        squares += d * d;
    }
    let rest = sum_of_lanes(lane, sum) / count;
    let variance = sum_of_lanes(lane, squares) / count - rest * rest;
    let inverse = 1.0 / sqrt(variance + bitcast<f32>(P[3]));
    for (var i = lane; i < n; i += 256u) {
        let at = select(i, index % max(P[4], 1u), P[4] > 0u);
        var value = ((S[base + i] - mean) - rest) * inverse;
        D[base + i] = affine(value, at);
    }
}
