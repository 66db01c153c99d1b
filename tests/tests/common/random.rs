//! Random cases from a fixed seed: splitmix64, and the odd values that formats trip over.

use std::collections::BTreeMap;

/// The same seed gives the same cases, on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(u64::from(high - low) + 1) as u32
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Small, middling and extreme numbers alike.
    pub(crate) fn number(&mut self) -> u32 {
        match self.below(4) {
            0 => 0,
            1 => self.between(1, 300),
            2 => self.next() as u32,
            _ => *self.pick(&[127, 128, 16_383, 16_384, u32::MAX - 1, u32::MAX]),
        }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Text of up to `most` characters: ASCII, controls, quotes, accents, other scripts, beyond the basic plane.
    pub(crate) fn text(&mut self, most: u64) -> String {
        let chars: [(u32, u32); 7] = [
            (0x20, 0x7E),
            (0x61, 0x7A),
            (0x00, 0x1F),
            (0x7F, 0xFF),
            (0x400, 0x4FF),
            (0x4E00, 0x4EFF),
            (0x1F600, 0x1F64F),
        ];
        let len = self.below(most + 1);
        let simple = self.coin();
        (0..len)
            .map(|_| {
                let &(low, high) = if simple { &chars[0] } else { self.pick(&chars) };
                char::from_u32(self.between(low, high)).unwrap()
            })
            .collect()
    }

    pub(crate) fn extra(&mut self) -> BTreeMap<String, String> {
        let entries = *self.pick(&[0, 0, 1, 1, 2, 7]);
        (0..entries).map(|_| (self.text(20), self.text(60))).collect()
    }

    pub(crate) fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(*self.pick(b"0123456789abcdef"))).collect()
    }

    /// A JSON value of the kinds that configs and capabilities hold.
    pub(crate) fn json(&mut self, depth: u32) -> serde_json::Value {
        use serde_json::Value;
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => self.coin().into(),
            2 => self.between(0, 5000).into(),
            3 => (self.next() as i64).into(),
            4 => self.float().into(),
            5 => self.text(12).into(),
            6 => (0..self.below(4)).map(|_| self.json(depth - 1)).collect::<Vec<_>>().into(),
            _ => Value::Object((0..self.below(5)).map(|_| (self.text(8), self.json(depth - 1))).collect()),
        }
    }

    /// Floats of all sizes, among them those where Python changes its notation.
    fn float(&mut self) -> f64 {
        match self.below(4) {
            0 => {
                *self.pick(&[0.0, -0.0, 1.0, 1e-5, 1e-4, 1e16, 1e15, 123_456_789.0, 1e-6, 5e-324, 1.797e308])
            }
            1 => f64::from(self.between(0, 1000)) / 100.0,
            _ => Some(f64::from_bits(self.next())).filter(|x| x.is_finite()).unwrap_or(0.5),
        }
    }
}
