//! Structured values out of a fuzzer's bytes. Where the bytes end there are zeros, so that every
//! input means something.

use warren::broker::HeaderValue;

/// What is left of an input.
pub struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// `n` bytes, or those that are left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let bytes = self.bytes(N);
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.array())
    }

    pub fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.array())
    }

    pub fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A length, and then so many bytes, as text.
    pub fn text(&mut self) -> String {
        let length = usize::from(self.u8());
        String::from_utf8_lossy(self.bytes(length)).into_owned()
    }

    pub fn optional<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| value(self))
    }

    /// A whole number: mostly small, else one at an edge, else any.
    pub fn whole(&mut self) -> i64 {
        match self.u8() {
            byte @ 0..=199 => i64::from(byte % 12) - 2,
            byte @ 200..=249 => {
                let edges = [
                    i64::MIN,
                    i64::MAX,
                    i64::from(i32::MIN),
                    i64::from(i32::MAX),
                    i64::from(u32::MAX),
                    i64::from(u32::MAX) + 1,
                    1 << 16,
                    255,
                    1_000_000,
                    1_000_001,
                ];
                edges[usize::from(byte - 200) % edges.len()]
            }
            _ => self.i64(),
        }
    }

    /// A size: as [`Self::whole`].
    pub fn size(&mut self) -> u32 {
        match self.u8() {
            byte @ 0..=219 => u32::from(byte) % 9,
            byte @ 220..=249 => {
                let edges = [u32::MAX, 1 << 31, (1 << 31) - 1, 1 << 24, 1 << 16, 4096, 64, 17];
                edges[usize::from(byte - 220) % edges.len()]
            }
            _ => self.u32(),
        }
    }

    pub fn sizes(&mut self, most: usize) -> Vec<u32> {
        let count = self.below(most + 1);
        (0..count).map(|_| self.size()).collect()
    }

    pub fn number(&mut self) -> f64 {
        const ALL: [f64; 12] = [
            0.0,
            1.0,
            -1.0,
            0.5,
            3.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e300,
            1e-300,
            f64::MIN_POSITIVE,
        ];
        match self.u8() {
            byte @ 0..=239 => ALL[usize::from(byte) % ALL.len()],
            _ => self.f64(),
        }
    }

    /// The value of a message's header.
    pub fn header(&mut self, depth: usize) -> HeaderValue {
        match self.u8() % 16 {
            0..=3 => HeaderValue::Int(self.whole()),
            4..=7 => HeaderValue::Text(self.text()),
            8 => HeaderValue::Bool(self.flag()),
            9 => HeaderValue::Double(self.number()),
            10 => HeaderValue::Float(self.number() as f32),
            11 => HeaderValue::Timestamp(self.whole().unsigned_abs()),
            12 => HeaderValue::Void,
            13 => HeaderValue::Bytes(self.text().into_bytes()),
            14 if depth < 4 => {
                let count = self.below(4);
                HeaderValue::List((0..count).map(|_| self.header(depth + 1)).collect())
            }
            15 if depth < 4 => {
                let count = self.below(4);
                HeaderValue::Table((0..count).map(|_| (self.text(), self.header(depth + 1))).collect())
            }
            _ => HeaderValue::Decimal(self.u8(), self.u32()),
        }
    }
}
