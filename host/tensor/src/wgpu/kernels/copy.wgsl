// A strided copy: the source element lies at P[5] + sum(index * stride) over P[6] dimensions
// (size, stride, possibly negative) from P[8].
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

fn source_of(i: u32) -> u32 {
    return P[5] + strided(8u, P[6], i);
}
