// First pass of a scatter: of all updates for one place the last wins, so each claims its place
// with its number plus one. KIND 1, `scatter-elements`: P[5] axis, P[6] inner, P[7] the indices'
// dimension. KIND 2, `scatter-nd`: P[7] coordinates along dimensions from P[8]. P[2] updates.
@group(0) @binding(1) var<storage, read> I: array<u32>;
@group(0) @binding(2) var<storage, read_write> W: array<atomic<u32>>;

fn place_of_update(i: u32) -> u32 {
    if KIND == 1u {
        let inner = P[6];
        let outer = i / (P[7] * inner);
        return (outer * P[5] + place_of(i, P[5])) * inner + i % inner;
    }
    let width = P[7];
    var at = 0u;
    for (var k = 0u; k < width; k++) {
        let size = P[8u + k];
        at = at * size + place_of(i * width + k, size);
    }
    return at;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let i = index * 256u + lane;
    if index >= P[1] || i >= P[2] { return; }
    atomicMax(&W[place_of_update(i)], i + 1u);
}
