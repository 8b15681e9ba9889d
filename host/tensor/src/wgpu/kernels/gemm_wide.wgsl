// As gemm_tile.wgsl, 128 x 128 a workgroup and 8 x 8 a thread: for results with enough of them.
var<workgroup> tile_a: array<vec4<f32>, 264>;
var<workgroup> tile_b: array<vec4<f32>, 264>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    if index >= P[1] { return; }
    let across = (P[3] + 127u) / 128u;
    let tiles = across * ((P[2] + 127u) / 128u);
    begin(index / tiles);
    let tile = index % tiles;
    let top = (tile / across) * 128u;
    let left = (tile % across) * 128u;
    let low = lane & 15u;
    let high = lane >> 4u;
    let k_a = select(lane >> 5u, lane & 7u, A_ALONG_K == 1u);
    let m_a = select(lane & 31u, lane >> 3u, A_ALONG_K == 1u);
    let k_b = select(lane >> 5u, lane & 7u, B_ALONG_K == 1u);
    let n_b = select(lane & 31u, lane >> 3u, B_ALONG_K == 1u);
    var c0 = vec4<f32>(); var c1 = vec4<f32>(); var c2 = vec4<f32>(); var c3 = vec4<f32>();
    var c4 = vec4<f32>(); var c5 = vec4<f32>(); var c6 = vec4<f32>(); var c7 = vec4<f32>();
    var d0 = vec4<f32>(); var d1 = vec4<f32>(); var d2 = vec4<f32>(); var d3 = vec4<f32>();
    var d4 = vec4<f32>(); var d5 = vec4<f32>(); var d6 = vec4<f32>(); var d7 = vec4<f32>();
    for (var k = 0u; k < P[4]; k += 8u) {
        tile_a[k_a * 33u + m_a] = rows_of_a(top + 4u * m_a, k + k_a);
        tile_b[k_b * 33u + n_b] = columns_of_b(k + k_b, left + 4u * n_b);
        workgroupBarrier();
        for (var i = 0u; i < 8u; i++) {
            // Halves 64 apart, so that neighbours read neighbouring words.
            let a = tile_a[i * 33u + high];
            let e = tile_a[i * 33u + 16u + high];
            let b = tile_b[i * 33u + low];
            let f = tile_b[i * 33u + 16u + low];
            c0 += a.x * b; c1 += a.y * b; c2 += a.z * b; c3 += a.w * b;
            c4 += e.x * b; c5 += e.y * b; c6 += e.z * b; c7 += e.w * b;
            d0 += a.x * f; d1 += a.y * f; d2 += a.z * f; d3 += a.w * f;
            d4 += e.x * f; d5 += e.y * f; d6 += e.z * f; d7 += e.w * f;
        }
        workgroupBarrier();
    }
    let row = top + 4u * high;
    let column = left + 4u * low;
    store_row(row, column, c0);
    store_row(row + 1u, column, c1);
    store_row(row + 2u, column, c2);
    store_row(row + 3u, column, c3);
    store_row(row + 64u, column, c4);
    store_row(row + 65u, column, c5);
    store_row(row + 66u, column, c6);
    store_row(row + 67u, column, c7);
    store_row(row, column + 64u, d0);
    store_row(row + 1u, column + 64u, d1);
    store_row(row + 2u, column + 64u, d2);
    store_row(row + 3u, column + 64u, d3);
    store_row(row + 64u, column + 64u, d4);
    store_row(row + 65u, column + 64u, d5);
    store_row(row + 66u, column + 64u, d6);
    store_row(row + 67u, column + 64u, d7);
}
