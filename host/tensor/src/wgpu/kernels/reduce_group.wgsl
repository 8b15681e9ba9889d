// A workgroup for each piece of a result: sizes as in reduce_each.wgsl, and each result's elements
// in P[6] pieces of P[7]. With several pieces a second pass reduces their results.

var<workgroup> totals: array<Acc, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    if index >= P[1] { return; }
    let result = index / P[6];
    let begin_at = (index % P[6]) * P[7];
    let to = min(begin_at + P[7], P[3]);
    let base = strided(10u, P[4], result);
    let shift = shift_of(result);
    var total = start();
    for (var i = begin_at + lane; i < to; i += 256u) {
        total = step(total, number_at(base + strided(P[9], P[5], i)), shift);
    }
    totals[lane] = total;
    for (var half = 128u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lane < half { totals[lane] = join(totals[lane], totals[lane + half]); }
    }
    if lane == 0u { D[index] = pack(finish(totals[0], shift, P[8])); }
}
