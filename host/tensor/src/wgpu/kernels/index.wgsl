// How indices are read: a negative one counts from the end, one beyond the ends is limited.
// INDEX: 0 int32, 1 uint32, 2 int64 (low word first).
fn place_of(at: u32, size: u32) -> u32 {
    let last = size - 1u;
    if INDEX == 1u { return min(I[at], last); }
    if INDEX == 0u {
        let index = bitcast<i32>(I[at]);
        if index >= 0 { return min(u32(index), last); }
        let back = 0u - bitcast<u32>(index);
        return select(size - back, 0u, back >= size);
    }
    let low = I[2u * at];
    let high = I[2u * at + 1u];
    if high == 0u { return min(low, last); }
    if (high & 0x80000000u) == 0u { return last; }
    let back = 0u - low;
    if high == 0xffffffffu && low != 0u && back < size { return size - back; }
    return 0u;
}
