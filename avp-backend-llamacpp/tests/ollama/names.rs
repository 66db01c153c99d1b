//! Names of models.

use avp_backend_llamacpp::ollama::ModelName;
use proptest::prelude::*;

#[test]
fn parts_that_are_left_out_are_filled_in() {
    for (text, parts, short) in [
        ("qwen2.5", ["registry.ollama.ai", "library", "qwen2.5", "latest"], "qwen2.5:latest"),
        ("qwen2.5:0.5b", ["registry.ollama.ai", "library", "qwen2.5", "0.5b"], "qwen2.5:0.5b"),
        ("me/mine:v1", ["registry.ollama.ai", "me", "mine", "v1"], "me/mine:v1"),
        ("hf.co/u/Some-GGUF:Q4_K_M", ["hf.co", "u", "Some-GGUF", "Q4_K_M"], "hf.co/u/Some-GGUF:Q4_K_M"),
        ("host:5000/u/m", ["host:5000", "u", "m", "latest"], "host:5000/u/m:latest"),
        ("ollama.com/library/m:1", ["ollama.com", "library", "m", "1"], "m:1"),
    ] {
        let name: ModelName = text.parse().unwrap();
        assert_eq!([name.host(), name.namespace(), name.model(), name.tag()], parts);
        assert_eq!(name.to_string(), short);
    }
}

#[test]
fn only_references_with_the_prefix_are_names() {
    assert!(ModelName::from_reference("models/ollama").is_none());
    assert!(ModelName::from_reference("ollama:").unwrap().is_err());
    assert_eq!(ModelName::from_reference("ollama:ollama:1").unwrap().unwrap().to_string(), "ollama:1");
}

#[test]
fn names_that_could_leave_the_folder_are_refused() {
    for (text, says) in [
        ("", "name is empty"),
        ("..", "two dots"),
        (".", "begins with"),
        (".hidden", "begins with"),
        ("../../etc/passwd", "more than three parts"),
        ("../m", "two dots"),
        ("h/../m", "two dots"),
        ("/etc/passwd", "host is empty"),
        ("m:..", "two dots"),
        ("m:../../x", "two dots"),
        ("m:", "tag is empty"),
        (":1", "name is empty"),
        ("a//b", "namespace is empty"),
        ("a/", "name is empty"),
        ("a\\b", "'\\\\'"),
        ("a b", "' '"),
        ("a\0b", "'\\0'"),
        ("n.s/m", "'.'"),
        ("é", "'é'"),
        ("m@sha256:00", "'@'"),
        ("-m", "begins with"),
        (&"m".repeat(81), "longer than 80"),
    ] {
        let error = text.parse::<ModelName>().unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\0'), "{text:?}: {error}");
    }
}

proptest! {
    #[test]
    fn any_name_is_refused_or_keeps_to_plain_parts(text in "[a-z.:/\\\\\u{0}_ -]{0,24}") {
        if let Ok(name) = text.parse::<ModelName>() {
            for part in [name.host(), name.namespace(), name.model(), name.tag()] {
                prop_assert!(!part.is_empty() && !part.contains(['/', '\\', '\0', ' ']) && !part.contains(".."));
                prop_assert!(!part.starts_with('.'));
            }
            prop_assert_eq!(name.to_string().parse::<ModelName>().unwrap(), name);
        }
    }
}
