// float16 to float32 (WIDEN 1) or back, P[2] elements; a thread handles a word of two.
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
    if index >= P[1] || 2u * i >= P[2] { return; }
    let second = 2u * i + 1u < P[2];
    if WIDEN == 1u {
        let word = S[i];
        D[2u * i] = bitcast<u32>(half_to_float(word & 0xffffu));
        if second { D[2u * i + 1u] = bitcast<u32>(half_to_float(word >> 16u)); }
    } else {
        var word = float_to_half(bitcast<f32>(S[2u * i]));
        if second { word |= float_to_half(bitcast<f32>(S[2u * i + 1u])) << 16u; }
        D[i] = word;
    }
}
