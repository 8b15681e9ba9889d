// Running sums along P[3] elements P[4] apart, a thread for each of P[2] lines. EXCLUSIVE: without
// the element itself; REVERSED: from the last.
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let line = index * 256u + lane;
    if index >= P[1] || line >= P[2] { return; }
    let inner = P[4];
    let base = (line / inner) * P[3] * inner + line % inner;
    var total = start();
    for (var k = 0u; k < P[3]; k++) {
        let at = base + select(k, P[3] - 1u - k, REVERSED == 1u) * inner;
        let with_it = step(total, number_at(at), 0.0);
        if EXCLUSIVE == 1u {
            D[at] = pack(finish(total, 0.0, 1u));
        } else {
            D[at] = pack(finish(with_it, 0.0, 1u));
        }
        total = with_it;
    }
}
