//! Reading what Python's `json.loads` reads.

use std::collections::HashMap;

use super::{Integer, Json, JsonError, Key};

/// Bounds of the parser; they hold for documents from files and from peers alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseLimits {
    /// How deep lists and objects may nest.
    pub depth: usize,
    /// How many values the document may hold.
    pub values: usize,
    /// How many digits an integer may have; Python's own limit is the default.
    pub integer_digits: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { depth: 128, values: 1_000_000, integer_digits: 4300 }
    }
}

pub(super) fn parse(text: &[u8], limits: ParseLimits) -> Result<Json, JsonError> {
    let text = std::str::from_utf8(text).map_err(|e| JsonError::Utf8 { at: e.valid_up_to() })?;
    let mut parser = Parser { text, at: 0, limits, values: 0 };
    parser.skip_space();
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.expected("the end of the document"));
    }
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    /// Always on a character boundary.
    at: usize,
    limits: ParseLimits,
    values: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.values += 1;
        if self.values > self.limits.values {
            return Err(JsonError::TooManyValues { limit: self.limits.values });
        }
        if depth > self.limits.depth {
            return Err(JsonError::TooDeep { limit: self.limits.depth });
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') if !self.rest().starts_with("-Infinity") => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Json, JsonError> {
        let words = [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
            ("NaN", Json::Float(f64::NAN)),
            ("Infinity", Json::Float(f64::INFINITY)),
            ("-Infinity", Json::Float(f64::NEG_INFINITY)),
        ];
        for (word, value) in words {
            if self.take(word) {
                return Ok(value);
            }
        }
        Err(self.expected("a value"))
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take("]") {
            return Ok(Json::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take("]") {
                return Ok(Json::Array(items));
            }
            if !self.take(",") {
                return Err(self.expected("',' or ']'"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut entries: Vec<(Key, Json)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        self.skip_space();
        if self.take("}") {
            return Ok(Json::Object(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in double quotes"));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.take(":") {
                return Err(self.expected("':'"));
            }
            self.skip_space();
            let value = self.value(depth + 1)?;
            match places.get(&key).and_then(|&place| entries.get_mut(place)) {
                Some(entry) => entry.1 = value,
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((Key::Str(key), value));
                }
            }
            self.skip_space();
            if self.take("}") {
                return Ok(Json::Object(entries));
            }
            if !self.take(",") {
                return Err(self.expected("',' or '}'"));
            }
        }
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        self.take("-");
        if !self.take("0") && self.digits() == 0 {
            return Err(self.expected("a digit"));
        }
        let whole_end = self.at;
        // As in Python, `1.` and `1e` are the integer 1 with something after it.
        if self.take(".") && self.digits() == 0 {
            self.at = whole_end;
        }
        let fraction_end = self.at;
        if self.take("e") || self.take("E") {
            let _ = self.take("+") || self.take("-");
            if self.digits() == 0 {
                self.at = fraction_end;
            }
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if self.at == whole_end {
            let sign = usize::from(text.starts_with('-'));
            if text.len() - sign > self.limits.integer_digits {
                return Err(JsonError::IntegerTooLong { at: start, limit: self.limits.integer_digits });
            }
            return Integer::parse(text).map(Json::Int).ok_or_else(|| self.expected("an integer"));
        }
        text.parse().map(Json::Float).map_err(|_| self.expected("a number"))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let Some(stop) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') else {
                self.at = self.text.len();
                return Err(self.expected("the end of a string"));
            };
            out.push_str(rest.get(..stop).unwrap_or_default());
            self.at += stop;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return Err(self.expected("no control character inside a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape(start);
            }
            _ => return Err(self.expected("an escape")),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode_escape(&mut self, start: usize) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let lone = JsonError::LoneSurrogate { at: start };
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or(lone);
        }
        if first >= 0xdc00 || !self.take("\\u") {
            return Err(lone);
        }
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(lone);
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(lone)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at.saturating_add(4)).unwrap_or_default();
        if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.expected("four hexadecimal digits"));
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| self.expected("four hexadecimal digits"))
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Expected { at: self.at, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        Json::parse(text.as_bytes()).unwrap().to_canonical()
    }

    // spec: handshake 6.2, handshake 6.3
    #[test]
    fn numbers_keep_their_kind() {
        assert_eq!(
            canonical("[1, 1.0, 1e5, 1E+16, -0, -0.0, 1e400]"),
            "[1,1.0,100000.0,1e+16,0,-0.0,Infinity]"
        );
        assert_eq!(canonical("[NaN, Infinity, -Infinity]"), "[NaN,Infinity,-Infinity]");
        let big = "-123456789012345678901234567890";
        assert_eq!(canonical(big), big);
    }

    // spec: handshake 6.4
    #[test]
    fn the_last_of_equal_keys_wins_in_the_place_of_the_first() {
        assert_eq!(Json::parse(br#"{"a":1,"b":2,"a":3}"#).unwrap().to_text(), r#"{"a": 3, "b": 2}"#);
    }

    // spec: handshake 6.1, handshake 6.6
    #[test]
    fn what_python_refuses_is_refused() {
        let bad = [
            "",
            " ",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1e",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "nul",
            "[1 2]",
            "{} {}",
            "\"abc",
            "{\"a\"}",
            "[",
            "\u{feff}1",
            "1_000",
            "0x10",
            "-NaN",
        ];
        for text in bad {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(matches!(Json::parse(b"\"\xff\""), Err(JsonError::Utf8 { at: 1 })));
    }

    // spec: handshake 6.5
    #[test]
    fn half_a_surrogate_pair_is_named() {
        for text in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\u0041""#] {
            assert!(
                matches!(Json::parse(text.as_bytes()), Err(JsonError::LoneSurrogate { at: 1 })),
                "{text}"
            );
        }
        assert_eq!(Json::parse(br#""\ud83d\ude00""#).unwrap(), Json::String("😀".into()));
    }

    // spec: handshake 6.7, handshake 6.8
    #[test]
    fn depth_values_and_digits_are_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(nested(129).as_bytes()).is_ok());
        assert_eq!(Json::parse(nested(130).as_bytes()), Err(JsonError::TooDeep { limit: 128 }));
        assert!(matches!(Json::parse("[".repeat(100_000).as_bytes()), Err(JsonError::TooDeep { .. })));
        let limits = ParseLimits { values: 3, ..ParseLimits::default() };
        assert!(Json::parse_with(b"[1,2]", limits).is_ok());
        assert_eq!(Json::parse_with(b"[1,2,3]", limits), Err(JsonError::TooManyValues { limit: 3 }));
        for sign in ["", "-"] {
            let digits = |n: usize| format!("{sign}{}", "9".repeat(n));
            assert!(Json::parse(digits(4300).as_bytes()).is_ok());
            let error = Json::parse(digits(4301).as_bytes());
            assert!(matches!(error, Err(JsonError::IntegerTooLong { .. })));
        }
    }

    fn documents() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(|i| Json::Int(i.into())),
            any::<f64>().prop_filter("NaN is not equal to itself", |f| !f.is_nan()).prop_map(Json::Float),
            any::<String>().prop_map(Json::String),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Json::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|m| Json::Object(m.into_iter().map(|(k, v)| (Key::Str(k), v)).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in documents()) {
            prop_assert_eq!(Json::parse(value.to_text().as_bytes()).unwrap(), value.clone());
            prop_assert_eq!(Json::parse(value.to_canonical().as_bytes()).unwrap(), value);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Json::parse(&bytes);
        }

        #[test]
        fn json_like_text_never_panics(text in "[\\[\\]{}:,\"\\\\u0-9eE.+\\- a-fNI]{0,64}") {
            let _ = Json::parse(text.as_bytes());
        }
    }
}
