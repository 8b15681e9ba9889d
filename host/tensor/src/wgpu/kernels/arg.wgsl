// Places of extremes along P[3] elements P[4] apart, a thread for each of P[2] results. LARGEST 1 or
// 0; WORDS of a result: 1 (int32) or 2 (int64). The first of equals, the first NaN before all.
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    let result = index * 256u + lane;
    if index >= P[1] || result >= P[2] { return; }
    let inner = P[4];
    let base = (result / inner) * P[3] * inner + result % inner;
    var best = number_at(base);
    var place = 0u;
    for (var i = 1u; i < P[3]; i++) {
        let value = number_at(base + i * inner);
        let beyond = select((value < best), (value > best), LARGEST == 1u);
        if beyond || (nan(value) && !nan(best)) {
            best = value;
            place = i;
        }
    }
    D[result * WORDS] = place;
    if WORDS == 2u { D[result * WORDS + 1u] = 0u; }
}
