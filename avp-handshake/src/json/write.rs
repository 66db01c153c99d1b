//! Writing as `json.dumps` does: ASCII with surrogate pairs, floats as `repr` prints them.

use std::fmt::{self, Write as _};

use super::{Json, Key};

/// How a document is laid out.
#[derive(Clone, Copy)]
pub(super) struct Style {
    item: &'static str,
    colon: &'static str,
    sort_keys: bool,
}

/// `json.dumps(value)`.
pub(super) const DEFAULT: Style = Style { item: ", ", colon: ": ", sort_keys: false };
/// `json.dumps(value, sort_keys=True, separators=(",", ":"))`.
pub(super) const CANONICAL: Style = Style { item: ",", colon: ":", sort_keys: true };

pub(super) fn to_string(value: &Json, style: Style) -> String {
    let mut out = String::new();
    write_value(&mut out, value, style);
    out
}

fn write_value(out: &mut String, value: &Json, style: Style) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(true) => out.push_str("true"),
        Json::Bool(false) => out.push_str("false"),
        Json::Int(i) => put(out, i),
        Json::Float(f) => put(out, PyFloat(*f)),
        Json::String(s) => write_string(out, s),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(style.item);
                }
                write_value(out, item, style);
            }
            out.push(']');
        }
        Json::Object(entries) => write_object(out, entries, style),
    }
}

fn write_object(out: &mut String, entries: &[(Key, Json)], style: Style) {
    let mut ordered: Vec<&(Key, Json)> = entries.iter().collect();
    if style.sort_keys {
        ordered.sort_by(|a, b| a.0.order(&b.0));
    }
    out.push('{');
    for (i, (key, value)) in ordered.into_iter().enumerate() {
        if i > 0 {
            out.push_str(style.item);
        }
        match key {
            Key::Str(s) => write_string(out, s),
            other => write_string(out, &other.to_string()),
        }
        out.push_str(style.colon);
        write_value(out, value, style);
    }
    out.push('}');
}

fn put(out: &mut String, value: impl fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

/// A string with its quotes, everything outside printable ASCII escaped, DEL (0x7f) too.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    // Runs that need no escape are copied whole. All bytes of a character beyond ASCII need one, so that a run ends
    // at a character.
    while let Some(at) = rest.bytes().position(|b| !matches!(b, b' '..=b'~') || b == b'"' || b == b'\\') {
        let (plain, tail) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = tail.chars();
        if let Some(c) = chars.next() {
            write_escape(out, c);
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

fn write_escape(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str("\\u");
                for shift in [12, 8, 4, 0] {
                    out.push(char::from_digit(u32::from(*unit >> shift) & 0xf, 16).unwrap_or('0'));
                }
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Null => f.write_str("null"),
            Key::Bool(b) => b.fmt(f),
            Key::Int(i) => i.fmt(f),
            Key::Float(x) => PyFloat(*x).fmt(f),
            Key::Str(s) => f.write_str(s),
        }
    }
}

/// A float as Python's `float.__repr__` prints it: the shortest digits that read back, an exponent from 1e16 on and
/// below 1e-4, of at least two digits.
struct PyFloat(f64);

impl fmt::Display for PyFloat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_nan() {
            return f.write_str("NaN");
        }
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        }
        let text = shortest(value);
        let magnitude = value.abs();
        let Some((mantissa, exponent)) = text.split_once('e') else { return f.write_str(&text) };
        if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
            return f.write_str(&fixed(mantissa, exponent));
        }
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        write!(f, "{mantissa}e{sign}{digits:0>2}")
    }
}

/// `d.ddd` and an exponent between -4 and 15 as a number with a point and at least one digit after it.
fn fixed(mantissa: &str, exponent: &str) -> String {
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits.replace('.', "")),
        None => ("", mantissa.replace('.', "")),
    };
    match exponent.strip_prefix('-') {
        Some(zeros) => {
            let zeros = zeros.parse::<usize>().unwrap_or(1).saturating_sub(1);
            format!("{sign}0.{}{digits}", "0".repeat(zeros))
        }
        None => {
            let before_point = exponent.parse::<usize>().unwrap_or(0).saturating_add(1);
            let padded = format!("{digits:0<before_point$}");
            let (whole, fraction) = padded.split_at_checked(before_point).unwrap_or((&padded, ""));
            format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
        }
    }
}

/// The shortest digits that read back, as `d.ddde-d`. Where the value lies halfway between two such texts, Python
/// takes the even one and Rust the greater, so the value is rounded to that many digits once more, half to even.
fn shortest(value: f64) -> String {
    let greater = format!("{value:e}");
    let mantissa = greater.split('e').next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let even = format!("{value:.*e}", digits.saturating_sub(1));
    if even.parse() == Ok(value) { even } else { greater }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: handshake 2.1
    /// Values and what Python 3 prints for them.
    #[test]
    fn floats_print_as_python_repr() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e5, "100000.0"),
            (1e15, "1000000000000000.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (1e22, "1e+22"),
            (1e100, "1e+100"),
            (1e-4, "0.0001"),
            (9.999e-5, "9.999e-05"),
            (1e-5, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (0.1 + 0.2, "0.30000000000000004"),
            (3268134161434461.0 / 4.0, "817033540358615.2"),
            (-2382535032027005.0 / 4.0, "-595633758006751.2"),
            (2f64.powi(-44), "5.684341886080802e-14"),
            (9007199254740993.0, "9007199254740992.0"),
            (5e-5, "5e-05"),
            (123456.75, "123456.75"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in cases {
            assert_eq!(PyFloat(value).to_string(), text);
        }
    }

    // spec: handshake 2.1
    #[test]
    fn strings_are_ascii_with_surrogate_pairs() {
        let mut out = String::new();
        write_string(&mut out, "a\u{7f}é😀\"\\/\u{0}\u{1f}\n");
        assert_eq!(out, "\"a\\u007f\\u00e9\\ud83d\\ude00\\\"\\\\/\\u0000\\u001f\\n\"");
    }

    #[test]
    fn number_keys_sort_by_value_and_string_keys_by_code_point() {
        let object = |keys: Vec<Key>| Json::Object(keys.into_iter().map(|k| (k, Json::Null)).collect());
        let ints = [10, 9, 0].map(|i| Key::Int(i.into())).to_vec();
        assert_eq!(object(ints).to_canonical(), r#"{"0":null,"9":null,"10":null}"#);
        let strings = ["\u{1f600}", "\u{ffee}", "10", "9"].map(Key::from).to_vec();
        let expected = r#"{"10":null,"9":null,"\uffee":null,"\ud83d\ude00":null}"#;
        assert_eq!(object(strings).to_canonical(), expected);
    }
}
