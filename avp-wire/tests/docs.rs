//! The pages of `docs/spec/` and the code say the same about error codes.

use std::path::PathBuf;

use avp_wire::ErrorCode;

fn page(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "docs", "spec", name].iter().collect();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_code_is_in_the_table_with_its_number_and_fault() {
    let page = page("errors.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.contains("| `")).collect();
    assert_eq!(rows.len(), ErrorCode::ALL.len());
    for (row, code) in rows.iter().zip(ErrorCode::ALL) {
        let fault = format!("{:?}", code.fault()).to_lowercase();
        let expected = format!("| {} | `{code}` | {fault} | ", code.number());
        assert!(row.starts_with(&expected), "{row} should start with {expected}");
    }
}

#[test]
fn every_code_that_a_page_names_exists() {
    let prefixes =
        ["frame.", "metadata.", "compression.", "kv.", "handshake.", "transport.", "transfer.", "caller."];
    let mut named = 0;
    for name in ["frame", "kv", "slabs", "handshake", "http", "extensions", "exchange", "limits"] {
        let name = &format!("{name}.md");
        for word in page(name).split('`').skip(1).step_by(2) {
            if prefixes.iter().any(|prefix| word.starts_with(prefix)) && !word.ends_with(".md") {
                assert!(ErrorCode::from_name(word).is_some(), "{name} names {word}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named}");
}
