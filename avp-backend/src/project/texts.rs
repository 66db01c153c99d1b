//! Texts that projections are validated with: a model's own, or those of the reference SDK.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::validate::MOST_VALIDATION_TEXTS;
use crate::ModelInfo;

/// The reference SDK's texts: a sentence, a task, arithmetic, code, French.
pub const VALIDATION_TEXTS: [&str; 5] = [
    "The quick brown fox jumps over the lazy dog.",
    "Explain the difference between a stack and a queue in computer science.",
    "If x plus three equals seven, then x equals four.",
    "def hello_world(): print('Hello, world!')",
    "Bonjour, comment allez-vous aujourd'hui?",
];

/// A model's own texts, a line each, beside its weights.
const FILE: &str = "validation.txt";
/// Most bytes of that file.
const MOST_BYTES: u64 = 64 << 10;

/// The texts that a model is validated with as a source: the lines of `validation.txt` in its folder, at most 16 that are not
/// empty, or [`VALIDATION_TEXTS`]. In a line `\n` is a line break and `\\` a backslash.
#[must_use]
pub fn validation_texts(info: &ModelInfo) -> Vec<String> {
    let source = info.source.as_path();
    let folder = if source.is_dir() { Some(source) } else { source.parent() };
    let own = folder.and_then(|folder| read(&folder.join(FILE))).map(|text| lines(&text));
    own.filter(|texts| !texts.is_empty())
        .unwrap_or_else(|| VALIDATION_TEXTS.iter().map(|text| (*text).to_owned()).collect())
}

/// A file of text that is not too long.
fn read(path: &Path) -> Option<String> {
    if !path.is_file() {
        return None;
    }
    let mut text = String::new();
    let length = File::open(path).ok()?.take(MOST_BYTES + 1).read_to_string(&mut text).ok()?;
    (length as u64 <= MOST_BYTES).then_some(text)
}

fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.take(MOST_VALIDATION_TEXTS).map(unescaped).collect()
}

fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        let following = rest.as_str().chars().next();
        match (c, following) {
            ('\\', Some('n')) => text.push('\n'),
            ('\\', Some('\\')) => text.push('\\'),
            _ => {
                text.push(c);
                continue;
            }
        }
        rest.next();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_texts_with_line_breaks_in_them_and_no_more_than_sixteen() {
        let text = "one\n\n  \ntwo\\nhalves\\\\n \\t\\\n";
        assert_eq!(lines(text), ["one", "two\nhalves\\n \\t\\"]);
        assert_eq!(lines(&"a\r\n".repeat(99)), ["a"; MOST_VALIDATION_TEXTS]);
    }

    #[test]
    fn a_file_that_is_too_long_or_no_text_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(read(&path), None);
        for (content, is_read) in [
            (vec![b'a'; MOST_BYTES as usize], true),
            (vec![b'a'; MOST_BYTES as usize + 1], false),
            (vec![0xFF], false),
        ] {
            std::fs::write(&path, &content).unwrap();
            assert_eq!(read(&path).is_some(), is_read);
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(&path), None);
    }
}
