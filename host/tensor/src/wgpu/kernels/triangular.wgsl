// `triangular` on matrices of P[5] x P[6]: keeps columns from row + diagonal on (P[7] of 1), or up
// to it. P[8] is the diagonal, signed.
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

fn source_of(i: u32) -> u32 {
    let column = i32(i % P[6]);
    let row = i32((i / P[6]) % P[5]);
    // The diagonal is limited to the matrix beforehand, so nothing overflows.
    let above = column - row >= bitcast<i32>(P[8]);
    let on = column - row == bitcast<i32>(P[8]);
    let kept = select(!above || on, above, P[7] == 1u);
    return select(NOWHERE, i, kept);
}
