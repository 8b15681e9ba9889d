// Softmax over rows of P[2] contiguous elements, a workgroup each.
@group(0) @binding(1) var<storage, read> S: array<f32>;
@group(0) @binding(2) var<storage, read_write> D: array<f32>;

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
    var most = -infinity();
    for (var i = lane; i < n; i += 256u) { most = max_float(most, S[base + i]); }
    most = largest_of_lanes(lane, most);
    var sum = 0.0;
    for (var i = lane; i < n; i += 256u) {
        let e = exp_float(S[base + i] - most);
        D[base + i] = e;
        sum += e;
    }
    sum = sum_of_lanes(lane, sum);
    for (var i = lane; i < n; i += 256u) { D[base + i] /= sum; }
}
