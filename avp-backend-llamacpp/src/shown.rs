//! Foreign text in error messages: on one line and not too long.

/// `text` escaped, and cut after 80 characters. Looks at no more of it than it shows.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push_str("...");
    }
    out
}

const LONGEST: usize = 80;

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn foreign_text_stays_on_one_line_and_is_cut() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(shown(&"é".repeat(80)), "é".repeat(80));
        assert_eq!(shown(&"é".repeat(81)), format!("{}...", "é".repeat(80)));
    }
}
