//! Random values by a seed: mostly such as make sense, now and then such as do not.

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.u64() % n.max(1) as u64) as usize
    }

    pub fn flag(&mut self) -> bool {
        self.u64() & 1 == 1
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub fn optional<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| value(self))
    }

    /// A dimension, an axis, a count.
    pub fn size(&mut self) -> u32 {
        const EDGES: [u32; 9] = [u32::MAX, 1 << 31, (1 << 31) - 1, 1 << 24, 1 << 16, 4096, 255, 64, 17];
        match self.below(40) {
            0 => self.u64() as u32,
            1 | 2 => self.pick(&EDGES),
            _ => self.below(7) as u32,
        }
    }

    pub fn sizes(&mut self, most: usize) -> Vec<u32> {
        let count = if self.one_in(50) { 9 } else { self.below(most + 1) };
        (0..count).map(|_| self.size()).collect()
    }

    pub fn some_sizes(&mut self, count: usize) -> Vec<u32> {
        let count = if self.one_in(20) { self.below(9) } else { count };
        (0..count).map(|_| self.size()).collect()
    }

    /// A shape of few elements.
    pub fn shape(&mut self) -> Vec<u32> {
        let rank = if self.flag() { 4 } else { self.below(6) };
        (0..rank).map(|_| if self.one_in(12) { 0 } else { 1 + self.below(6) as u32 }).collect()
    }

    pub fn long(&mut self) -> u64 {
        const EDGES: [u64; 8] =
            [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64, 1 << 40, 1 << 32, 1 << 20, 4097];
        match self.below(8) {
            0 => self.u64(),
            1 => self.pick(&EDGES),
            _ => self.below(300) as u64,
        }
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
        if self.one_in(20) { f64::from_bits(self.u64()) } else { self.pick(&ALL) }
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.u64().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// A text of at most about `most` bytes, with what terminals and file systems trip over.
    pub fn text(&mut self, most: usize) -> String {
        const PIECES: [&str; 14] = [
            "a",
            "stage",
            " ",
            "\u{1b}[2J",
            "\n",
            "\0",
            "é",
            "\u{202e}",
            "\u{fffd}",
            "🦀",
            "%s",
            "'\"",
            "..",
            "/",
        ];
        let most = if self.one_in(30) { most * 40 } else { most };
        let length = self.below(most + 1);
        let mut text = String::new();
        while text.len() < length {
            text.push_str(self.pick(&PIECES));
        }
        text
    }
}
