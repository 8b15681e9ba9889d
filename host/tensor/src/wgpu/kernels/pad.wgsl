// `pad`: P[5] axes (size, before, extent) from P[8], the last of P[6] elements. MODE: 0 constant,
// 1 edge, 2 reflection.
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read_write> D: array<u32>;

fn source_of(i: u32) -> u32 {
    let inner = P[6];
    var rest = i / inner;
    var at = i % inner;
    var step = inner;
    for (var axis = P[5]; axis > 0u; axis--) {
        let size = P[5u + 3u * axis];
        let before = P[6u + 3u * axis];
        let extent = P[7u + 3u * axis];
        let place = rest % extent;
        rest /= extent;
        var source = place - before;
        if place < before {
            if MODE == 0u { return NOWHERE; }
            source = select(0u, before - place, MODE == 2u);
        } else if source >= size {
            if MODE == 0u { return NOWHERE; }
            source = select(size - 1u, 2u * (size - 1u) - source, MODE == 2u);
        }
        at += source * step;
        step *= size;
    }
    return at;
}
