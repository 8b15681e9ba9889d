// One operand of `concat`, in words: the i-th goes to P[3] words for each outer index, at P[4] of
// rows of P[5]. P[2] is the number of words.
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let i = index * 256u + lane;
    if index >= P[1] || i >= P[2] { return; }
    D[(i / P[3]) * P[5] + P[4] + i % P[3]] = S[i];
}
