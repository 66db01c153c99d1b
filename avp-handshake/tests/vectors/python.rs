//! Reads the Python literals in which the vectors state their configs.

use std::iter::Peekable;
use std::str::Chars;

use avp_handshake::json::{Integer, Json, Key};

pub(crate) fn parse(text: &str) -> Json {
    let mut chars = text.chars().peekable();
    let value = value(&mut chars);
    assert_eq!(chars.next(), None, "all of {text} is read");
    value
}

fn value(chars: &mut Peekable<Chars<'_>>) -> Json {
    match chars.peek() {
        Some('{') => {
            let mut entries = Vec::new();
            list(chars, '}', |chars| {
                let key = key(value(chars));
                assert_eq!(chars.next(), Some(':'));
                assert_eq!(chars.next(), Some(' '));
                entries.push((key, value(chars)));
            });
            Json::Object(entries)
        }
        Some('[') => {
            let mut items = Vec::new();
            list(chars, ']', |chars| items.push(value(chars)));
            Json::Array(items)
        }
        Some('(') => {
            let mut items = Vec::new();
            list(chars, ')', |chars| items.push(value(chars)));
            Json::Array(items)
        }
        Some('\'' | '"') => Json::String(string(chars)),
        _ => word(chars),
    }
}

fn list(chars: &mut Peekable<Chars<'_>>, end: char, mut item: impl FnMut(&mut Peekable<Chars<'_>>)) {
    chars.next();
    while chars.peek() != Some(&end) {
        item(chars);
        if chars.peek() == Some(&',') {
            chars.next();
            if chars.peek() == Some(&' ') {
                chars.next();
            }
        }
    }
    chars.next();
}

fn key(value: Json) -> Key {
    match value {
        Json::Null => Key::Null,
        Json::Bool(b) => Key::Bool(b),
        Json::Int(i) => Key::Int(i),
        Json::Float(f) => Key::Float(f),
        Json::String(s) => Key::Str(s),
        other => panic!("{} is no key", other.kind()),
    }
}

fn string(chars: &mut Peekable<Chars<'_>>) -> String {
    let quote = chars.next().unwrap();
    let mut out = String::new();
    loop {
        match chars.next().unwrap() {
            c if c == quote => return out,
            '\\' => out.push(match chars.next().unwrap() {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'x' => code_point(chars, 2),
                'u' => code_point(chars, 4),
                'U' => code_point(chars, 8),
                c @ ('\\' | '\'' | '"') => c,
                c => panic!("escape {c}"),
            }),
            c => out.push(c),
        }
    }
}

fn code_point(chars: &mut Peekable<Chars<'_>>, digits: usize) -> char {
    let hex: String = chars.take(digits).collect();
    char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap()
}

fn word(chars: &mut Peekable<Chars<'_>>) -> Json {
    let mut word = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || "+-.".contains(*c)) {
        word.push(c);
    }
    match word.as_str() {
        "None" => Json::Null,
        "True" => Json::Bool(true),
        "False" => Json::Bool(false),
        "nan" => Json::Float(f64::NAN),
        "inf" => Json::Float(f64::INFINITY),
        "-inf" => Json::Float(f64::NEG_INFINITY),
        number => match Integer::parse(number) {
            Some(integer) => Json::Int(integer),
            None => Json::Float(number.parse().unwrap()),
        },
    }
}
