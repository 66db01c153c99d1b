use avp_handshake::{ResolveOptions, count_shared_tokens, resolve};
use avp_wire::Mode;
use serde_json::Value;

use crate::{cases, identity, text};

// spec: handshake 3.1
#[test]
fn the_six_rules_decide_as_the_sdk_does() {
    // The SDK finds a map by the first 16 digits of both hashes; one such file was there.
    let maps = |source: &str, target: &str| {
        source.starts_with("1111111111111111") && target.starts_with("2222222222222222")
    };
    for case in cases("resolve.json") {
        let options =
            ResolveOptions { maps: Some(&maps), shared_tokens: shared(&case), ..ResolveOptions::default() };
        let resolution = resolve(&identity(&case["local"]), &identity(&case["remote"]), &options);
        let mode = match case["mode"].as_u64().unwrap() {
            0 => Mode::Latent,
            _ => Mode::Json,
        };
        assert_eq!(resolution.mode, mode, "{}", case["name"]);
        assert_eq!(resolution.map_id, text(&case, "avp_map_id"), "{}", case["name"]);
        assert_eq!(resolution.path.as_str(), text(&case, "resolution_path"), "{}", case["name"]);
    }
}

/// The count for the two vocabularies that a case describes, where both are there.
fn shared(case: &Value) -> Option<usize> {
    let source = case["source_vocab_size"].as_u64()?;
    let target = case["target_vocab_size"].as_u64()?;
    let differ = case["note"].as_str().is_some_and(|note| note.contains("not normalised"));
    let tokens = |mark: char, n: u64| -> Vec<String> { (0..n).map(|i| format!("{mark}{i}")).collect() };
    let source = tokens('\u{120}', source);
    let target = tokens(if differ { '\u{2581}' } else { '\u{120}' }, target);
    Some(count_shared_tokens(source.iter().map(String::as_str), target.iter().map(String::as_str)))
}
