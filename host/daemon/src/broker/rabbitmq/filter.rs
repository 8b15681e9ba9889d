//! Looks over what the server sends before lapin does. lapin 4.12 parses names and headers that any
//! publisher may choose, and two kinds of them end badly: text that is not UTF-8 ends the whole
//! connection, at every redelivery again, and tables nested some thousand deep end the process, for
//! the parser's recursion has no limit. Here such text gets `?` in place of its bytes, and what is
//! nested too deep becomes a byte array: both of the same length, so that only bytes change.

/// Tables and arrays in one another, up to this; deeper ones become byte arrays.
const MAX_DEPTH: usize = 8;

/// Frame header: type, channel, length.
const HEAD: usize = 7;
/// Frame types of AMQP 0-9-1.
const METHOD: u8 = 1;
const HEADER: u8 = 2;

/// A stream of frames. Bytes of whole frames, and parts of those that need no look, may be taken.
#[derive(Default)]
pub(super) struct Filter {
    held: Vec<u8>,
    /// Taken already.
    taken: usize,
    /// Looked over: may be taken.
    ready: usize,
    /// Of the current frame, what is still to come and needs no look.
    pass: usize,
    greeted: bool,
}

impl Filter {
    /// Adds what came from the socket. Answers the server's version when its greeting is complete.
    pub fn push(&mut self, bytes: &[u8]) -> Option<String> {
        if self.taken == self.held.len() {
            self.held.clear();
            self.taken = 0;
            self.ready = 0;
        } else if self.taken > self.held.len() / 2 {
            self.held.drain(..self.taken);
            self.ready -= self.taken;
            self.taken = 0;
        }
        self.held.extend_from_slice(bytes);
        self.look()
    }

    /// Moves looked-over bytes to `out` and answers how many.
    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let n = (self.ready - self.taken).min(out.len());
        out[..n].copy_from_slice(&self.held[self.taken..self.taken + n]);
        self.taken += n;
        n
    }

    fn look(&mut self) -> Option<String> {
        let mut version = None;
        loop {
            let n = self.pass.min(self.held.len() - self.ready);
            self.ready += n;
            self.pass -= n;
            let rest = &mut self.held[self.ready..];
            if self.pass > 0 || rest.len() < HEAD {
                return version;
            }
            let (kind, length) = (rest[0], u32::from_be_bytes([rest[3], rest[4], rest[5], rest[6]]) as usize);
            let whole = HEAD.saturating_add(length).saturating_add(1);
            if kind == METHOD || kind == HEADER {
                if rest.len() < whole {
                    return version;
                }
                let payload = &mut rest[HEAD..whole - 1];
                if kind == HEADER {
                    // Truncated contents are lapin's to refuse.
                    let _ = content_header(payload);
                } else {
                    if !self.greeted {
                        self.greeted = true;
                        version = greeting(payload);
                    }
                    let _ = method(payload);
                }
            }
            self.pass = whole;
        }
    }
}

/// The rest of a payload that is being looked over.
struct Cursor<'a>(&'a mut [u8]);

impl<'a> Cursor<'a> {
    fn split(&mut self, n: usize) -> Option<&'a mut [u8]> {
        if self.0.len() < n {
            return None;
        }
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(n);
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<&'a mut u8> {
        self.split(1)?.first_mut()
    }

    fn long(&mut self) -> Option<usize> {
        let bytes = self.split(4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn short_string(&mut self) -> Option<()> {
        let length = usize::from(*self.byte()?);
        let text = self.split(length)?;
        if std::str::from_utf8(text).is_err() {
            text.iter_mut().filter(|b| !b.is_ascii()).for_each(|b| *b = b'?');
        }
        Some(())
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        let length = self.long()?;
        let mut inside = Cursor(self.split(length)?);
        while !inside.0.is_empty() {
            inside.short_string()?;
            inside.value(depth)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let kind = self.byte()?;
        match *kind {
            b'F' | b'A' if depth >= MAX_DEPTH => {
                *kind = b'x';
                let length = self.long()?;
                self.split(length)?;
            }
            b'F' => self.table(depth + 1)?,
            b'A' => {
                let length = self.long()?;
                let mut inside = Cursor(self.split(length)?);
                while !inside.0.is_empty() {
                    inside.value(depth + 1)?;
                }
            }
            b'S' | b'x' => {
                let length = self.long()?;
                self.split(length)?;
            }
            b't' | b'b' | b'B' => drop(self.split(1)?),
            b's' | b'U' | b'u' => drop(self.split(2)?),
            b'I' | b'i' | b'f' => drop(self.split(4)?),
            b'D' => drop(self.split(5)?),
            b'l' | b'L' | b'd' | b'T' => drop(self.split(8)?),
            b'V' => {}
            _ => return None,
        }
        Some(())
    }
}

/// Class, weight, body size, flags, and the properties that the flags name, highest bit first.
pub(super) fn content_header(payload: &mut [u8]) -> Option<()> {
    let mut rest = Cursor(payload);
    rest.split(12)?;
    let flags = rest.split(2)?;
    let flags = u16::from_be_bytes([flags[0], flags[1]]);
    for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        match bit {
            13 => rest.table(0)?,
            12 | 11 => drop(rest.split(1)?),
            6 => drop(rest.split(8)?),
            _ => rest.short_string()?,
        }
    }
    Some(())
}

/// The methods that carry what publishers chose: basic.return and basic.deliver.
fn method(payload: &mut [u8]) -> Option<()> {
    let mut rest = Cursor(payload);
    let id = rest.split(4)?;
    match (u16::from_be_bytes([id[0], id[1]]), u16::from_be_bytes([id[2], id[3]])) {
        (60, 50) => {
            rest.split(2)?;
            rest.short_string()?;
        }
        (60, 60) => {
            rest.short_string()?;
            rest.split(9)?;
        }
        _ => return None,
    }
    rest.short_string()?;
    rest.short_string()
}

/// The version among the server's properties in connection.start.
fn greeting(payload: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\x07versionS";
    let at = payload.windows(KEY.len()).position(|w| w == KEY)? + KEY.len();
    let length = payload.get(at..at + 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    std::str::from_utf8(payload.get(at + 4..(at + 4).checked_add(length)?)?).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![kind, 0, 1];
        out.extend((payload.len() as u32).to_be_bytes());
        out.extend(payload);
        out.push(0xce);
        out
    }

    fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8][..], text].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
    }

    /// Headers and a correlation id.
    fn header(table: &[u8], id: &[u8]) -> Vec<u8> {
        let flags: u16 = (1 << 13) | (1 << 10);
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &flags.to_be_bytes(), &long(table), &short(id)].concat()
    }

    /// What comes out when the bytes come in pieces of `step`.
    fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut filter = Filter::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            filter.push(piece);
            let mut buffer = [0; 5];
            loop {
                let n = filter.take(&mut buffer);
                if n == 0 {
                    break;
                }
                out.extend(&buffer[..n]);
            }
        }
        out
    }

    #[test]
    fn harmless_frames_pass_unchanged_in_any_pieces() {
        let table = [short("clé".as_bytes()), b"S".to_vec(), long(&[0xff, 0xfe])].concat();
        let all = [
            frame(1, &[0, 60, 0, 60, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'e', 1, b'k']),
            frame(2, &header(&table, "ü".as_bytes())),
            frame(3, &[0xff; 300]),
            frame(8, &[]),
            frame(2, &[1, 2, 3]),
        ]
        .concat();
        for step in [1, 2, 7, 8, 100, 10_000] {
            assert_eq!(through(&all, step), all, "{step}");
        }
    }

    #[test]
    fn text_that_is_none_is_made_text() {
        let table = [short(b"k\xff"), b"t\x01".to_vec()].concat();
        let hostile = frame(2, &header(&table, b"a\xc3("));
        let clean = [short(b"k?"), b"t\x01".to_vec()].concat();
        assert_eq!(through(&hostile, 3), frame(2, &header(&clean, b"a?(")));
        let deliver = |key: &[u8]| {
            frame(1, &[&[0, 60, 0, 60, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0][..], &short(key)].concat())
        };
        assert_eq!(through(&deliver(b"\x80m"), 4), deliver(b"?m"));
    }

    #[test]
    fn depth_is_cut() {
        let nested = |depth: usize, flattened: Option<usize>| {
            let mut table = Vec::new();
            for level in (0..depth).rev() {
                let kind = if flattened == Some(level) { b"x" } else { b"F" };
                table = [short(b"k"), kind.to_vec(), long(&table)].concat();
            }
            frame(2, &header(&table, b""))
        };
        assert_eq!(through(&nested(MAX_DEPTH, None), 50), nested(MAX_DEPTH, None));
        assert_eq!(through(&nested(5000, None), 50), nested(5000, Some(MAX_DEPTH)));
    }

    #[test]
    fn the_version_is_read() {
        let properties = [short(b"version"), b"S".to_vec(), long(b"3.10.8")].concat();
        let start = frame(1, &[&[0, 10, 0, 10, 0, 9][..], &long(&properties)].concat());
        let mut filter = Filter::default();
        assert_eq!(filter.push(&start[..20]), None);
        assert_eq!(filter.push(&start[20..]).as_deref(), Some("3.10.8"));
        assert_eq!(filter.push(&start), None);
    }
}
