// Products of P[2] x P[4] and P[4] x P[3] matrices, a workgroup for each 64 x 64 piece of a result,
// 4 x 4 in the registers of each thread. A_ALONG_K, B_ALONG_K: neighbouring threads read along k.
var<workgroup> tile_a: array<vec4<f32>, 272>;
var<workgroup> tile_b: array<vec4<f32>, 272>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    if index >= P[1] { return; }
    let across = (P[3] + 63u) / 64u;
    let tiles = across * ((P[2] + 63u) / 64u);
    begin(index / tiles);
    let tile = index % tiles;
    let top = (tile / across) * 64u;
    let left = (tile % across) * 64u;
    let low = lane & 15u;
    let high = lane >> 4u;
    let k_a = select(high, low, A_ALONG_K == 1u);
    let m_a = select(low, high, A_ALONG_K == 1u);
    let k_b = select(high, low, B_ALONG_K == 1u);
    let n_b = select(low, high, B_ALONG_K == 1u);
    var c0 = vec4<f32>();
    var c1 = vec4<f32>();
    var c2 = vec4<f32>();
    var c3 = vec4<f32>();
    for (var k = 0u; k < P[4]; k += 16u) {
        tile_a[k_a * 17u + m_a] = rows_of_a(top + 4u * m_a, k + k_a);
        tile_b[k_b * 17u + n_b] = columns_of_b(k + k_b, left + 4u * n_b);
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            let a = tile_a[i * 17u + high];
            let b = tile_b[i * 17u + low];
            c0 += a.x * b;
            c1 += a.y * b;
            c2 += a.z * b;
            c3 += a.w * b;
        }
        workgroupBarrier();
    }
    let row = top + 4u * high;
    let column = left + 4u * low;
    store_row(row, column, c0);
    store_row(row + 1u, column, c1);
    store_row(row + 2u, column, c2);
    store_row(row + 3u, column, c3);
}
