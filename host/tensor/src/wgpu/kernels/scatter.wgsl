// Second pass of a scatter: each element from the update that won its place, else from the input.
// P[3] elements of a slice, P[2] elements. Small elements share words, so a thread writes a word.
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read> U: array<u32>;
@group(0) @binding(3) var<storage, read> W: array<u32>;
@group(0) @binding(4) var<storage, read_write> D: array<u32>;

fn bits_at(i: u32, word: u32) -> u32 {
    let slice = i / P[3];
    let winner = W[slice];
    let at = select((winner - 1u) * P[3] + i % P[3], i, winner == 0u);
    if SIZE == 8u { return select(U[2u * at + word], S[2u * at + word], winner == 0u); }
    let shift = (at & (PER_WORD - 1u)) * 8u * SIZE;
    let place = at / PER_WORD;
    let bits = select(U[place], S[place], winner == 0u) >> shift;
    return bits & MASK;
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
    if SIZE == 8u {
        if thread >= P[2] { return; }
        D[2u * thread] = bits_at(thread, 0u);
        D[2u * thread + 1u] = bits_at(thread, 1u);
    } else {
        let first = thread * PER_WORD;
        if first >= P[2] { return; }
        var word = 0u;
        for (var k = 0u; k < PER_WORD; k++) {
            if first + k < P[2] { word |= bits_at(first + k, 0u) << (k * 8u * SIZE); }
        }
        D[thread] = word;
    }
}
