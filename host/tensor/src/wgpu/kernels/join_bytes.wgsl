// As join.wgsl, in bytes, for operands that do not lie at whole words; the target was zeroed.
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read_write> D: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let i = index * 256u + lane;
    if index >= P[1] || i >= P[2] { return; }
    let byte = (S[i >> 2u] >> ((i & 3u) * 8u)) & 0xffu;
    let to = (i / P[3]) * P[5] + P[4] + i % P[3];
    atomicOr(&D[to >> 2u], byte << ((to & 3u) * 8u));
}
