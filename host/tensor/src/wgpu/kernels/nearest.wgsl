// `resample2d` by the nearest element: around the two axes P[5] between and P[6] after; sizes to
// P[7] x P[8] from P[9] x P[10]. From P[11] on: the source rows, then the source columns.
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

fn source_of(i: u32) -> u32 {
    let after = i % P[6];
    let x = (i / P[6]) % P[8];
    let row = i / (P[6] * P[8]);
    let between = row % P[5];
    let y = (row / P[5]) % P[7];
    let before = row / (P[5] * P[7]);
    let line = (before * P[9] + P[11u + y]) * P[5] + between;
    return (line * P[10] + P[11u + P[7] + x]) * P[6] + after;
}
