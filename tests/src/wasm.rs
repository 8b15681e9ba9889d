//! WebAssembly binaries byte by byte, for what no text format would write.

/// An unsigned LEB128 number.
pub fn leb(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n & 127) as u8;
        n >>= 7;
        bytes.push(if n == 0 { low } else { low | 128 });
        if n == 0 {
            return bytes;
        }
    }
}

/// The type of that number, where a type that has no number could stand as well: signed LEB128.
pub fn type_at(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 63 {
        bytes.push((n & 127) as u8 | 128);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A section, or anything else that is preceded by its size.
pub fn sized(id: &[u8], body: &[u8]) -> Vec<u8> {
    [id, &leb(body.len()), body].concat()
}

/// A core module of such sections.
pub fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0", &sections.concat()[..]].concat()
}

/// A component of such sections.
pub fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", &sections.concat()[..]].concat()
}

/// A module, as a section of a component, with functions of this body.
pub fn functions(count: usize, body: &[u8]) -> Vec<u8> {
    let body = sized(&[], body);
    let code = [leb(count), body.repeat(count)].concat();
    sized(
        &[1],
        &module(&[
            sized(&[1], b"\x01\x60\0\0"),
            sized(&[3], &[leb(count), vec![0; count]].concat()),
            sized(&[10], &code),
        ]),
    )
}

/// Types as a section each, so that each may name those before it.
pub fn types(count: usize, nth: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|n| sized(&[7], &[&[1], &nth(n)[..]].concat())).collect()
}
