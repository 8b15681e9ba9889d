// P[2] words of P[3].
@group(0) @binding(1) var<storage, read_write> D: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let i = index * 256u + lane;
    if index >= P[1] || i >= P[2] { return; }
    D[i] = P[3];
}
