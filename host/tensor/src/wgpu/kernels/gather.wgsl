// KIND 0, `gather`: P[5] axis, P[6] inner, P[7] indices. KIND 1, `gather-elements`: the same, P[7]
// being the indices' dimension. KIND 2, `gather-nd`: P[6] elements of a slice, P[7] coordinates
// along dimensions from P[8].
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read> I: array<u32>;
@group(0) @binding(3) var<storage, read_write> D: array<u32>;

fn source_of(i: u32) -> u32 {
    let inner = P[6];
    if KIND == 0u {
        let row = i / inner;
        return ((row / P[7]) * P[5] + place_of(row % P[7], P[5])) * inner + i % inner;
    }
    if KIND == 1u {
        let outer = i / (P[7] * inner);
        return (outer * P[5] + place_of(i, P[5])) * inner + i % inner;
    }
    let width = P[7];
    let slice = i / inner;
    var at = 0u;
    for (var k = 0u; k < width; k++) {
        let size = P[8u + k];
        at = at * size + place_of(slice * width + k, size);
    }
    return at * inner + i % inner;
}
