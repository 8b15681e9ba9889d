// Moves elements of SIZE bytes (1, 2, 4 or 8) to places of a dense result: `source_of` of the file
// appended names each one's source, or NOWHERE for the constant in P[3] and P[4].
// P[2] is the number of result elements. Small elements share words, so a thread writes a word.
const NOWHERE = 0xffffffffu;

fn element(at: u32) -> u32 {
    if SIZE == 4u { return S[at]; }
    if SIZE == 2u { return (S[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu; }
    return (S[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group_index(group, groups);
    if index >= P[1] { return; }
    let thread = index * 256u + lane;
    let total = P[2];
    if SIZE == 8u {
        if thread >= total { return; }
        let at = source_of(thread);
        D[2u * thread] = select(S[2u * at], P[3], at == NOWHERE);
        D[2u * thread + 1u] = select(S[2u * at + 1u], P[4], at == NOWHERE);
    } else {
        let first = thread * PER_WORD;
        if first >= total { return; }
        var word = 0u;
        for (var k = 0u; k < PER_WORD; k++) {
            if first + k < total {
                let at = source_of(first + k);
                word |= select(element(at), P[3], at == NOWHERE) << (k * 8u * SIZE);
            }
        }
        D[thread] = word;
    }
}
