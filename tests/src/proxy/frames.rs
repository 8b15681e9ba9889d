//! As much of AMQP 0-9-1 as a fault needs: where frames end, which of them publish, deliver and
//! acknowledge, and the two properties that say what a message is.

use std::collections::{BTreeMap, HashMap};

use super::{Direction, Label, Moment};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// A frame's type, channel and length; its last byte is the end mark.
const HEAD: usize = 7;
/// The greeting that a client begins with is no frame.
const GREETING: usize = 8;

const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
const DELIVER: u16 = 60;
const ACK: u16 = 80;
const REJECT: u16 = 90;
const NACK: u16 = 120;

/// What one connection carries, as both directions know it.
#[derive(Default)]
pub(super) struct Traffic {
    channels: HashMap<u16, Channel>,
}

#[derive(Default)]
struct Channel {
    /// Publishes are confirmed by their number on the channel, from 1.
    published: u64,
    unconfirmed: BTreeMap<u64, Label>,
    /// By delivery tag.
    unacked: BTreeMap<u64, Label>,
}

/// Cuts a stream into pieces that are forwarded as one.
pub(super) struct Reader {
    direction: Direction,
    buffer: Vec<u8>,
    greeted: bool,
}

fn two(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn four(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
}

fn eight(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The length of the frame that `bytes` begin with, if all of it is there.
fn frame(bytes: &[u8]) -> Option<usize> {
    let length = HEAD + four(bytes, 3)? + 1;
    (bytes.len() >= length).then_some(length)
}

/// Entries up to `tag`, or that one alone.
fn take<T>(map: &mut BTreeMap<u64, T>, tag: u64, multiple: bool) -> Vec<T> {
    if !multiple {
        return map.remove(&tag).into_iter().collect();
    }
    let rest = map.split_off(&(tag + 1));
    std::mem::replace(map, rest).into_values().collect()
}

impl Reader {
    pub fn new(direction: Direction) -> Self {
        Self { direction, buffer: Vec::new(), greeted: direction == Direction::Down }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, and what it means if it means something. A method that carries a message is
    /// one piece with the message's header: only together do they say what is published.
    pub fn next(&mut self, traffic: &mut Traffic) -> Option<(Vec<u8>, Option<Moment>)> {
        if !self.greeted {
            if self.buffer.len() < GREETING {
                return None;
            }
            self.greeted = true;
            return Some((self.buffer.drain(..GREETING).collect(), None));
        }
        let mut length = frame(&self.buffer)?;
        let (channel, method) = (two(&self.buffer, 1)?, self.basic_method());
        let mut moment = None;
        match (self.direction, method) {
            (Direction::Up, Some(PUBLISH)) | (Direction::Down, Some(DELIVER)) => {
                let header = &self.buffer[length..];
                let more = frame(header)?;
                let is_header = header.first() == Some(&HEADER);
                let label = label(&header[HEAD..more - 1]).filter(|_| is_header).unwrap_or_default();
                let state = traffic.channels.entry(channel).or_default();
                moment = if self.direction == Direction::Up {
                    state.published += 1;
                    state.unconfirmed.insert(state.published, label.clone());
                    Some(Moment::Published(label))
                } else {
                    let tag = self.delivery_tag(length)?;
                    state.unacked.insert(tag, label.clone());
                    Some(Moment::Delivered(label))
                };
                length += more;
            }
            (direction, Some(ACK)) => {
                let (tag, multiple) =
                    (eight(&self.buffer, HEAD + 4)?, self.buffer.get(HEAD + 12) == Some(&1));
                let state = traffic.channels.entry(channel).or_default();
                moment = Some(match direction {
                    Direction::Up => Moment::Acked(take(&mut state.unacked, tag, multiple)),
                    Direction::Down => Moment::Confirmed(take(&mut state.unconfirmed, tag, multiple)),
                });
            }
            // Given back, not done.
            (Direction::Up, Some(REJECT | NACK)) => {
                let tag = eight(&self.buffer, HEAD + 4)?;
                let multiple =
                    method == Some(NACK) && self.buffer.get(HEAD + 12).is_some_and(|bits| bits & 1 == 1);
                take(&mut traffic.channels.entry(channel).or_default().unacked, tag, multiple);
            }
            _ => {}
        }
        Some((self.buffer.drain(..length).collect(), moment))
    }

    /// The method of class basic that the buffer begins with.
    fn basic_method(&self) -> Option<u16> {
        let is_basic = self.buffer.first() == Some(&METHOD) && two(&self.buffer, HEAD)? == BASIC;
        if is_basic { two(&self.buffer, HEAD + 2) } else { None }
    }

    /// The tag of the delivery that the buffer begins with; it follows the consumer's.
    fn delivery_tag(&self, length: usize) -> Option<u64> {
        let at = HEAD + 5 + usize::from(*self.buffer.get(HEAD + 4)?);
        eight(&self.buffer[..length], at)
    }
}

/// Type and ids in a content header's payload. The properties are in the order of their
/// flags, from the highest bit on.
fn label(payload: &[u8]) -> Option<Label> {
    let flags = two(payload, 12)?;
    let mut at = 14;
    let mut label = Label::default();
    for bit in (5..=15).rev() {
        if flags & (1 << bit) == 0 {
            continue;
        }
        match bit {
            // Headers, a table.
            13 => at += 4 + four(payload, at)?,
            // Delivery mode, priority.
            11 | 12 => at += 1,
            // Timestamp.
            6 => at += 8,
            _ => {
                let length = usize::from(*payload.get(at)?);
                let text = String::from_utf8_lossy(payload.get(at + 1..at + 1 + length)?).into_owned();
                at += 1 + length;
                match bit {
                    10 => label.job = Some(text),
                    7 => label.message = Some(text),
                    5 => label.kind = Some(text),
                    _ => {}
                }
            }
        }
    }
    Some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&[kind][..], &channel.to_be_bytes(), &length, payload, &[0xce]].concat()
    }

    /// A content header with content type, headers, delivery mode, correlation id, message id and type.
    fn header(id: &str, kind: &str) -> Vec<u8> {
        let short = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
        let flags: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 7 | 1 << 5;
        let table = [&7u32.to_be_bytes()[..], &short("final")[..], b"V"].concat();
        let fixed = [&60u16.to_be_bytes()[..], &[0; 2], &1u64.to_be_bytes(), &flags.to_be_bytes()].concat();
        frame(
            2,
            3,
            &[fixed, short("application/json"), table, vec![2], short(id), short("own"), short(kind)]
                .concat(),
        )
    }

    fn ack(tag: u64, multiple: u8) -> Vec<u8> {
        frame(1, 3, &[&[0, 60, 0, 80][..], &tag.to_be_bytes(), &[multiple]].concat())
    }

    /// Pushes byte by byte, as a network may.
    fn read(reader: &mut Reader, traffic: &mut Traffic, bytes: &[u8]) -> (Vec<u8>, Vec<Moment>) {
        let (mut out, mut moments) = (Vec::new(), Vec::new());
        for byte in bytes {
            reader.push(&[*byte]);
            while let Some((piece, moment)) = reader.next(traffic) {
                out.extend(piece);
                moments.extend(moment);
            }
        }
        (out, moments)
    }

    #[test]
    fn what_passes_is_understood_and_unchanged() {
        let mut traffic = Traffic::default();
        let (mut up, mut down) = (Reader::new(Direction::Up), Reader::new(Direction::Down));
        let publish = frame(1, 3, &[0, 60, 0, 40, 0, 0, 0, 0, 0]);
        let sent = [
            b"AMQP\x00\x00\x09\x01".to_vec(),
            publish.clone(),
            header("job-1", "status"),
            frame(3, 3, b"x"),
            publish,
            header("job-1", "result"),
            frame(3, 3, b"x"),
            frame(8, 0, b""),
        ]
        .concat();
        let label = |job: &str, kind: &str| Label {
            kind: Some(kind.into()),
            job: Some(job.into()),
            message: Some("own".into()),
        };
        let published = |kind: &str| Moment::Published(label("job-1", kind));
        assert_eq!(
            read(&mut up, &mut traffic, &sent),
            (sent.clone(), vec![published("status"), published("result")])
        );
        let confirmed = [ack(2, 1), ack(2, 0)].concat();
        assert_eq!(
            read(&mut down, &mut traffic, &confirmed).1,
            [
                Moment::Confirmed(vec![label("job-1", "status"), label("job-1", "result")]),
                Moment::Confirmed(vec![])
            ]
        );
        let deliver = |tag: u64| {
            frame(1, 3, &[&[0, 60, 0, 60, 2, b'c', b't'][..], &tag.to_be_bytes(), &[0, 0, 0]].concat())
        };
        let delivered = [deliver(1), header("a", "x"), deliver(2), header("b", "x")].concat();
        let moment = |id: &str| Moment::Delivered(label(id, "x"));
        assert_eq!(
            read(&mut down, &mut traffic, &delivered),
            (delivered.clone(), vec![moment("a"), moment("b")])
        );
        assert_eq!(read(&mut up, &mut traffic, &ack(2, 0)).1, [Moment::Acked(vec![label("b", "x")])]);
        assert_eq!(read(&mut up, &mut traffic, &ack(2, 1)).1, [Moment::Acked(vec![label("a", "x")])]);
        // What was given back is not acknowledged.
        read(&mut down, &mut traffic, &[deliver(3), header("c", "x")].concat());
        read(&mut up, &mut traffic, &frame(1, 3, &[&[0, 60, 0, 90][..], &3u64.to_be_bytes(), &[1]].concat()));
        assert_eq!(read(&mut up, &mut traffic, &ack(3, 1)).1, [Moment::Acked(vec![])]);
    }
}
