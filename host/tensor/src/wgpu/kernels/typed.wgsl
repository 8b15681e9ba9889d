// Reads the source as numbers: T, `unpack` and SIZE come from the header (`T` is f32, i32 or u32;
// 8-bit elements lie four to a word).
@group(0) @binding(1) var<storage, read> S: array<u32>;

fn number_at(at: u32) -> T {
    if SIZE == 4u { return unpack(S[at]); }
    return unpack(S[at >> 2u] >> ((at & 3u) * 8u));
}
