// Products with few rows: a workgroup for each 4 rows and 64 columns of a result, the terms of each
// column shared among 4 threads.
var<workgroup> parts: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    if index >= P[1] { return; }
    let across = (P[3] + 63u) / 64u;
    let tiles = across * ((P[2] + 3u) / 4u);
    begin(index / tiles);
    let tile = index % tiles;
    let row = (tile / across) * 4u;
    let column = (tile % across) * 64u + (lane & 63u);
    let last = P[2] - 1u;
    var c = vec4<f32>();
    if column < P[3] {
        for (var k = lane >> 6u; k < P[4]; k += 4u) {
            let b = load_b(k, column);
            // Rows beyond the last are computed as it, and dropped.
            c.x += load_a(row, k) * b;
            c.y += load_a(min(row + 1u, last), k) * b;
            c.z += load_a(min(row + 2u, last), k) * b;
            c.w += load_a(min(row + 3u, last), k) * b;
        }
    }
    parts[lane] = c;
    workgroupBarrier();
    if lane < 64u && column < P[3] {
        c = (parts[lane] + parts[lane + 64u]) + (parts[lane + 128u] + parts[lane + 192u]);
        store(row, column, c.x);
        if row + 1u <= last { store(row + 1u, column, c.y); }
        if row + 2u <= last { store(row + 2u, column, c.z); }
        if row + 3u <= last { store(row + 3u, column, c.w); }
    }
}
