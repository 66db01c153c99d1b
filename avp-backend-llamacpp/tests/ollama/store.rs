//! Models looked up in a manifest tree.

use std::fs;

use avp_backend_llamacpp::ollama::{ModelName, OllamaError, Store};
use serde_json::json;

use crate::tree::Tree;

#[test]
fn a_pulled_model_is_found_with_all_that_comes_with_it() {
    let mut tree = Tree::new();
    let layers = [
        tree.layer("model", b"GGUF and so on"),
        tree.layer("template", b"{{ .Prompt }}"),
        tree.layer("system", "You are kind. é".as_bytes()),
        tree.layer("params", br#"{"temperature": 0.5, "stop": ["<|im_end|>"]}"#),
        tree.layer("license", b"Apache"),
        tree.layer("license", b"MIT"),
        tree.layer("messages", b"[]"),
        tree.layer("something-new", b""),
    ];
    tree.manifest("registry.ollama.ai/library/qwen2.5/0.5b", &layers.iter().collect::<Vec<_>>());
    let model = tree.resolve("qwen2.5:0.5b").unwrap();
    assert_eq!(fs::read(&model.gguf).unwrap(), b"GGUF and so on");
    assert_eq!(model.template.as_deref(), Some("{{ .Prompt }}"));
    assert_eq!(model.system.as_deref(), Some("You are kind. é"));
    assert_eq!(model.params["temperature"], 0.5);
    assert_eq!((model.licenses, model.from), (vec!["Apache".to_owned(), "MIT".to_owned()], None));
}

#[test]
fn users_other_registries_and_case_are_found_as_ollama_finds_them() {
    let mut tree = Tree::new();
    let weights = tree.layer("model", b"GGUF");
    for path in ["registry.ollama.ai/Me/Mine/V1", "hf.co/u/Some-GGUF/Q8_0", "host:5000/u/m/latest"] {
        tree.manifest(path, &[&weights]);
    }
    assert_eq!(tree.resolve("Me/Mine:V1").unwrap().name.to_string(), "Me/Mine:V1");
    assert_eq!(tree.resolve("me/mine:v1").unwrap().name.to_string(), "Me/Mine:V1");
    assert!(tree.resolve("hf.co/u/some-gguf:q8_0").is_ok());
    assert!(tree.resolve("host:5000/u/m").is_ok());
    assert!(matches!(tree.resolve("mine:v1"), Err(OllamaError::NotFound { .. })));
}

#[test]
fn a_model_created_from_a_path_is_found_by_its_digest_and_the_path_not_followed() {
    let mut tree = Tree::new();
    let mut weights = tree.layer("model", b"GGUF");
    weights["from"] = json!("/etc/passwd");
    tree.manifest("registry.ollama.ai/library/made/latest", &[&weights]);
    let model = tree.resolve("made").unwrap();
    assert!(model.gguf.starts_with(tree.root().join("blobs")), "{model:?}");
    assert_eq!(model.from.as_deref(), Some("/etc/passwd"));
}

#[test]
fn a_missing_model_names_what_is_there_and_how_to_pull_it() {
    let mut tree = Tree::new();
    assert!(tree.refused("none").contains("there are none; run 'ollama pull none:latest'"));
    let weights = tree.layer("model", b"GGUF");
    for i in 0..12 {
        tree.manifest(&format!("registry.ollama.ai/library/m{i:02}/latest"), &[&weights]);
    }
    tree.raw("manifests/registry.ollama.ai/library/.DS_Store", "x");
    tree.raw("manifests/registry.ollama.ai/library/m00/.hidden", "x");
    let text = tree.refused("none:7b");
    assert!(text.contains("m00:latest, m01:latest") && text.contains("m09:latest and 2 more"), "{text}");
    assert!(
        text.contains("'ollama pull none:7b'") && !text.contains("m10") && !text.contains("hidden"),
        "{text}"
    );
    assert_eq!(Store::open(tree.root()).unwrap().list().unwrap().len(), 12);
    let error = Store::open(tree.root().join("blobs")).unwrap_err();
    assert!(matches!(error, OllamaError::NoStore { .. }));
}

#[test]
fn names_from_a_manifest_never_leave_the_blobs() {
    let mut tree = Tree::new();
    tree.raw("secret", "GGUF");
    for digest in [
        "sha256:../../secret",
        "sha256-../secret",
        "../secret",
        "/etc/passwd",
        "",
        "md5:00",
        &format!("sha256:{}", "0".repeat(63)),
        &format!("sha256:{}/", "0".repeat(63)),
        &format!("sha256:{}", "g".repeat(64)),
        "sha256:\n\u{1b}[2J",
    ] {
        let mut weights = tree.layer("model", b"GGUF");
        weights["digest"] = json!(digest);
        tree.manifest("registry.ollama.ai/library/m/latest", &[&weights]);
        let text = tree.refused("m");
        assert!(text.contains("64 hex digits") && text.contains("manifests"), "{text}");
    }
}

#[test]
fn blobs_that_are_missing_or_of_another_size_are_named() {
    let mut tree = Tree::new();
    let mut weights = tree.layer("model", b"GGUF");
    weights["size"] = json!(5);
    tree.manifest("registry.ollama.ai/library/m/latest", &[&weights]);
    let text = tree.refused("m");
    assert!(text.contains("has 4 bytes, and the manifest says 5") && text.contains("ollama pull"), "{text}");
    weights["digest"] = json!(format!("sha256:{}", "f".repeat(64)));
    tree.manifest("registry.ollama.ai/library/m/latest", &[&weights]);
    assert!(tree.refused("m").contains("is not there"));
    fs::create_dir(tree.root().join("blobs").join(format!("sha256-{}", "f".repeat(64)))).unwrap();
    assert!(tree.refused("m").contains("not a regular file"));
}

#[test]
fn broken_manifests_are_named() {
    let tree = Tree::new();
    let path = "manifests/registry.ollama.ai/library/m/latest";
    for (text, says) in [
        ("", "is not a manifest"),
        ("{\"layers\": 3}", "is not a manifest"),
        ("{\"layers\": [{\"size\": -1}]}", "is not a manifest"),
        (&"[".repeat(10_000), "is not a manifest"),
        (&" ".repeat((1 << 20) + 1), "is longer than 1048576 bytes"),
    ] {
        tree.raw(path, text);
        let error = tree.refused("m");
        assert!(error.contains(says) && error.contains("library/m/latest"), "{error}");
    }
    fs::remove_file(tree.root().join(path)).unwrap();
    fs::create_dir(tree.root().join(path)).unwrap();
    assert!(tree.refused("m").contains("is not a regular file"));
}

#[test]
fn texts_beyond_a_mebibyte_and_parameters_that_are_no_json_are_named() {
    let mut tree = Tree::new();
    let weights = tree.layer("model", b"GGUF");
    for (kind, content, says) in [
        ("template", vec![b'x'; (1 << 20) + 1], "longer than"),
        ("system", vec![0xff], "not UTF-8"),
        ("params", b"[1]".to_vec(), "no JSON object"),
    ] {
        let text = tree.layer(kind, &content);
        tree.manifest("registry.ollama.ai/library/m/latest", &[&weights, &text]);
        assert!(tree.refused("m").contains(says), "{kind}");
    }
}

#[test]
fn models_that_need_more_than_their_gguf_are_refused_by_name() {
    let mut tree = Tree::new();
    let weights = tree.layer("model", b"GGUF");
    for (kind, says) in [("adapter", "LoRA adapter"), ("projector", "projector"), ("tensor", "safetensors")] {
        let more = tree.layer(kind, b"more");
        tree.manifest("registry.ollama.ai/library/m/latest", &[&weights, &more]);
        let text = tree.refused("m");
        assert!(text.contains(says) && text.contains("'m:latest'"), "{text}");
    }
    tree.manifest("registry.ollama.ai/library/m/latest", &[&weights, &weights]);
    assert!(tree.refused("m").contains("in 2 parts"));
    tree.manifest("registry.ollama.ai/library/m/latest", &[]);
    assert!(tree.refused("m").contains("no weights on this machine"));
}

#[test]
fn of_a_list_of_manifests_the_one_for_gguf_engines_is_taken() {
    let mut tree = Tree::new();
    let weights = tree.layer("model", b"GGUF");
    let list = |manifests: serde_json::Value| {
        let list =
            json!({"mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": manifests});
        list.to_string()
    };
    let path = "manifests-v2/ollama.com/library/m/latest";
    let mlx = json!({"runner": "mlx", "format": "safetensors", "layers": []});
    let gguf = json!({"runner": "llamacpp", "format": "gguf", "layers": [weights]});
    tree.raw(path, &list(json!([mlx, gguf])));
    assert_eq!(fs::read(tree.resolve("m").unwrap().gguf).unwrap(), b"GGUF");
    // By the digest of a blob that holds the manifest.
    let blob = tree.layer("ignored", gguf.to_string().as_bytes());
    tree.raw(path, &list(json!([mlx, {"runner": "ollama", "digest": blob["digest"]}])));
    assert_eq!(fs::read(tree.resolve("m").unwrap().gguf).unwrap(), b"GGUF");
    tree.raw(path, &list(json!([mlx])));
    assert!(tree.refused("m").contains("only for: mlx"));
    let nested = tree.layer("ignored", list(json!([gguf])).as_bytes());
    tree.raw(path, &list(json!([{"runner": "ollama", "digest": nested["digest"]}])));
    assert!(tree.refused("m").contains("another list"));
    tree.raw(path, &mlx.to_string());
    assert!(tree.refused("m").contains("'safetensors'"));
}

#[test]
#[cfg(unix)]
fn manifests_and_blobs_may_be_links() {
    use std::os::unix::fs::symlink;
    let mut tree = Tree::new();
    let elsewhere = tree.raw("elsewhere.gguf", "GGUF");
    let weights = tree.layer("model", b"");
    let digits = weights["digest"].as_str().unwrap().replace(':', "-");
    let blob = tree.root().join("blobs").join(digits);
    fs::remove_file(&blob).unwrap();
    symlink(elsewhere, &blob).unwrap();
    let mut weights = weights;
    weights["size"] = json!(4);
    let manifest = tree.layer("ignored", json!({"layers": [weights]}).to_string().as_bytes());
    let target = manifest["digest"].as_str().unwrap().replace(':', "-");
    fs::create_dir_all(tree.root().join("manifests-v2/ollama.com/library/m")).unwrap();
    let link = tree.root().join("manifests-v2/ollama.com/library/m/latest");
    symlink(format!("../../../../blobs/{target}"), &link).unwrap();
    assert_eq!(fs::read(tree.resolve("m").unwrap().gguf).unwrap(), b"GGUF");
    // A link that leads nowhere is an error of that link, not a missing model.
    fs::remove_file(&link).unwrap();
    symlink("nowhere", &link).unwrap();
    let name: ModelName = "m".parse().unwrap();
    let error = Store::open(tree.root()).unwrap().resolve(&name).unwrap_err();
    assert!(matches!(&error, OllamaError::Io { path, .. } if path.ends_with("library/m/latest")), "{error}");
}
