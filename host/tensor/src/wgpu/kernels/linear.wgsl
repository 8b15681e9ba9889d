// `resample2d` between float32 elements: sizes as in nearest.wgsl. From P[11] on for each output
// row, then for each column: element before, element after, share of the latter. P[2] elements.
@group(0) @binding(1) var<storage, read> S: array<f32>;
@group(0) @binding(2) var<storage, read_write> D: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let i = index * 256u + lane;
    if index >= P[1] || i >= P[2] { return; }
    let after = i % P[6];
    let column = 11u + 3u * P[7] + 3u * ((i / P[6]) % P[8]);
    let row = i / (P[6] * P[8]);
    let between = row % P[5];
    let line = 11u + 3u * ((row / P[5]) % P[7]);
    let before = row / (P[5] * P[7]);
    let top = ((before * P[9] + P[line]) * P[5] + between) * P[10];
    let bottom = ((before * P[9] + P[line + 1u]) * P[5] + between) * P[10];
    let ty = bitcast<f32>(P[line + 2u]);
    let tx = bitcast<f32>(P[column + 2u]);
    let left = P[column];
    let right = P[column + 1u];
    let a = S[(top + left) * P[6] + after] * (1.0 - tx) + S[(top + right) * P[6] + after] * tx;
    let b = S[(bottom + left) * P[6] + after] * (1.0 - tx) + S[(bottom + right) * P[6] + after] * tx;
    D[i] = a * (1.0 - ty) + b * ty;
}
