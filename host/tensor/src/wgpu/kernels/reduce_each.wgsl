// A thread for each result (for four of 8 bits, which share a word): P[2] results of P[3] elements
// each; P[4] kept dimensions (size, stride) from P[10], P[5] reduced ones from P[9]; P[8] elements
// in all, for means.

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let thread = index * 256u + lane;
    let first = thread * PER_WORD;
    if index >= P[1] || first >= P[2] { return; }
    var word = 0u;
    for (var k = 0u; k < PER_WORD; k++) {
        let result = first + k;
        if result < P[2] {
            let base = strided(10u, P[4], result);
            let shift = shift_of(result);
            var total = start();
            for (var i = 0u; i < P[3]; i++) {
                total = step(total, number_at(base + strided(P[9], P[5], i)), shift);
            }
            word |= pack(finish(total, shift, P[8])) << (k * 8u);
        }
    }
    D[thread] = word;
}
