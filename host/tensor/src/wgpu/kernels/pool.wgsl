// Pooling, a thread for each result (for four of 8 bits). KIND: 0 mean, 1 root of the sum of
// squares, 2 largest. P[2] results; P[3] channels innermost (1 for nchw); P[4] x P[5] output,
// P[6] x P[7] input; window P[8] x P[9]; strides P[10], P[11]; dilations P[12], P[13]; P[14] rows
// and P[15] columns of padding before.
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

fn pooled(i: u32) -> T {
    let inner = P[3];
    let channel = i % inner;
    let x = (i / inner) % P[5];
    let y = (i / (inner * P[5])) % P[4];
    let base = (i / (inner * P[5] * P[4])) * P[6] * P[7] * inner + channel;
    var total = start();
    var count = 0u;
    // Taps before the input are skipped beforehand: a window may be far larger than it.
    let above = P[14] - min(P[14], y * P[10]);
    let left = P[15] - min(P[15], x * P[11]);
    for (var ky = (above + P[12] - 1u) / P[12]; ky < P[8]; ky++) {
        let row = y * P[10] + ky * P[12] - P[14];
        if row >= P[6] { break; }
        for (var kx = (left + P[13] - 1u) / P[13]; kx < P[9]; kx++) {
            let column = x * P[11] + kx * P[13] - P[15];
            if column >= P[7] { break; }
            total = step(total, number_at(base + (row * P[7] + column) * inner), 0.0);
            count += 1u;
        }
    }
    return finish(total, 0.0, max(count, 1u));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let thread = index * 256u + lane;
    let first = thread * PER_WORD;
    if index >= P[1] || first >= P[2] { return; }
    var word = 0u;
    for (var k = 0u; k < PER_WORD; k++) {
        if first + k < P[2] { word |= pack(pooled(first + k)) << (k * 8u); }
    }
    D[thread] = word;
}
