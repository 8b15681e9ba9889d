// Products with a thread for each element of the results: for few rows or columns (a depthwise
// convolution has one channel a group).
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let size = P[2] * P[3];
    // Groups are counted for each product, so that a workgroup belongs to one.
    let each = (size + 255u) / 256u;
    let at = (index % each) * 256u + lane;
    if index >= P[1] || at >= size { return; }
    begin(index / each);
    let row = at / P[3];
    let column = at % P[3];
    var c = 0.0;
    for (var k = 0u; k < P[4]; k++) {
        c += load_a(row, k) * load_b(k, column);
    }
    store(row, column, c);
}
