// Softmax over P[2] elements P[3] apart, a thread each of P[4].
@group(0) @binding(1) var<storage, read> S: array<f32>;
@group(0) @binding(2) var<storage, read_write> D: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let column = index * 256u + lane;
    if index >= P[1] || column >= P[4] { return; }
    let inner = P[3];
    let base = (column / inner) * P[2] * inner + column % inner;
    var most = -infinity();
    for (var i = 0u; i < P[2]; i++) { most = max_float(most, S[base + i * inner]); }
    var sum = 0.0;
    for (var i = 0u; i < P[2]; i++) {
        let e = exp_float(S[base + i * inner] - most);
        D[base + i * inner] = e;
        sum += e;
    }
    for (var i = 0u; i < P[2]; i++) { D[base + i * inner] /= sum; }
}
