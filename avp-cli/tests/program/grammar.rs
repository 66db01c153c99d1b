//! `avp generate --grammar`.

use std::fs;

use crate::common::{avp, names, refused};
use tempfile::tempdir;

const ASK: &str = "Notes: Homes: Finn Madrid, Dora Porto. Where does Finn live?";

#[test]
fn a_bad_grammar_file_is_named_with_the_place_before_a_model_is_loaded() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("bad.gbnf");
    let path = file.to_str().unwrap();
    let mut command = avp(["generate", "--model", "/no/such/model", "--prompt", ASK, "--grammar", path]);
    names(&refused(&mut command), &["cannot read the grammar", "bad.gbnf"]);
    for (text, expected) in [
        (&b"root ::= answer"[..], &["bad.gbnf is no grammar", "line 1, column 10", "`answer`"][..]),
        (b"root ::= \"\xFF\"", &["bad.gbnf", "UTF-8"]),
        (b"", &["bad.gbnf", "`root`"]),
        (&[b'a'; 300_000], &["bad.gbnf", "300000 bytes"]),
    ] {
        fs::write(&file, text).unwrap();
        names(&refused(&mut command), expected);
    }
}

#[test]
fn the_text_obeys_the_grammar_on_every_engine() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("home.gbnf");
    fs::write(&file, "root ::= \"Dora \" city \".\"\ncity ::= \"Porto\" | \"Paris\"\n").unwrap();
    let file = file.to_str().unwrap();
    let mut models = vec![crate::common::models().join("avp-demo-qwen2-s")];
    if cfg!(feature = "llamacpp") {
        models.push(crate::common::models().join("gguf/avp-demo-qwen2-m-f16.gguf"));
    }
    for (model, temperature) in models.iter().flat_map(|model| [(model, "0"), (model, "1.5")]) {
        let model = model.to_str().unwrap();
        let args =
            ["generate", "--model", model, "--prompt", ASK, "--temperature", temperature, "--grammar", file];
        let reply = crate::common::json(args);
        let text = reply["text"].as_str().unwrap();
        assert!(["Dora Porto.", "Dora Paris."].contains(&text), "{reply}");
        assert_eq!(reply["stop"], "token");
        // And the same as text, with nothing on the terminal beside it.
        let output = avp(args).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{text}\n"));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
