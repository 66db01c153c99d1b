//! Whatever is wrong: one line that names it and says what to do, an exit code, and no file left behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{
    NOTES, Server, avp, context, error_line, greedy_args, json, listing, models, names, refused, think,
    tokens,
};
use avp::{Frame, KvHeader, ext};
use avp_wire::{Compression, DType, EncodeOptions, Limits};
use serde_json::Value;
use tempfile::tempdir;

const MODEL: &str = "avp-demo-qwen2-s";
const OTHER: &str = "avp-demo-llama";
const ASK: &str = "Where does Finn live?";

fn generate(model: &Path, context: &Path) -> Command {
    let (model, context) = (model.to_str().unwrap(), context.to_str().unwrap());
    avp(["generate", "--model", model, "--prompt", ASK, "--context", context])
}

#[test]
fn a_damaged_context_file_is_named_by_every_command_that_reads_it() {
    let folder = tempdir().unwrap();
    let whole = fs::read(context(&folder, MODEL, &[])).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let last = whole.len() - 1;
    let cases: [(&str, Vec<u8>, &str, bool); 11] = [
        ("empty", Vec::new(), "truncated", true),
        ("eight bytes", whole[..8].to_vec(), "truncated", true),
        ("cut in the metadata", whole[..40].to_vec(), "truncated", true),
        ("cut in the payload", whole[..last].to_vec(), "truncated", true),
        ("no frame", b"What is this file, and why is it here?".to_vec(), "not an AVP frame", true),
        ("bytes after the frame", [&whole[..], b"more"].concat(), "4 bytes follow", false),
        ("a bit flipped", changed(last, &[whole[last] ^ 1]), "checksum", false),
        ("another version", changed(2, &[2]), "version 2", true),
        ("flags against the metadata", changed(3, &[whole[3] | 1]), "COMPRESSED", true),
        ("reserved flags", changed(3, &[whole[3] | 0x80]), "reserved", true),
        ("metadata beyond the frame", changed(8, &[0xFF; 4]), "metadata of 4294967295 bytes", true),
    ];
    let (file, out) = (folder.path().join("damaged.avp"), folder.path().join("out.avp"));
    for (what, bytes, expected, in_head) in cases {
        fs::write(&file, bytes).unwrap();
        let path = file.to_str().unwrap();
        let mut commands = vec![
            generate(Path::new(MODEL), &file),
            avp(["think", "--model", MODEL, "--prompt", ASK, "--context", path, "-o", out.to_str().unwrap()]),
            avp(["ask", "--to", "avp+tcp://127.0.0.1:1", "--prompt", ASK, "--context", path]),
        ];
        // `inspect` reads the head only.
        commands.extend(in_head.then(|| avp(["inspect", path])));
        for mut command in commands {
            names(&refused(&mut command), &["damaged.avp", expected, "again"]);
            assert!(!out.exists(), "{what}");
        }
    }
    let size = whole.len();
    fs::write(&file, changed(4, &[0xFF; 4])).unwrap();
    names(
        &refused(&mut generate(Path::new(MODEL), &file)),
        &["damaged.avp", "4294967307", &size.to_string()],
    );
    names(
        &refused(&mut generate(Path::new(MODEL), Path::new("/no/such/file.avp"))),
        &["/no/such/file.avp", "check"],
    );
    names(&refused(&mut generate(Path::new(MODEL), folder.path())), &["folder"]);
}

#[test]
fn a_context_that_contradicts_itself_or_the_model_is_refused_with_the_property_that_differs() {
    let folder = tempdir().unwrap();
    let whole = fs::read(context(&folder, MODEL, &["--no-text"])).unwrap();
    let whole = Frame::decode(whole.into(), &Limits::default()).unwrap();
    let header = *whole.kv().unwrap().header();
    let (heads, dim) = (header.num_kv_heads, header.head_dim);
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = whole.clone();
        change(&mut frame);
        frame
    };
    let extra = |key: &'static str, value: String| {
        with(&move |frame| drop(frame.metadata.extra.insert(key.to_owned(), value.clone())))
    };
    let shaped = |header: KvHeader, planes: usize| {
        with(&move |frame| frame.payload = [&header.encode()[..], &vec![0; planes]].concat().into())
    };
    let planes = whole.payload.len() - KvHeader::SIZE;
    let many = 3000;
    let cases = [
        ("layers", with(&|frame| frame.metadata.num_layers = 7), vec!["num_layers", "7", "3"]),
        ("dtype", with(&|frame| frame.metadata.dtype = DType::Float16), vec!["dtype"]),
        ("width", with(&|frame| frame.metadata.hidden_dim = 4096), vec!["hidden_dim", "4096"]),
        ("family", extra(ext::MODEL_FAMILY, "gpt2".into()), vec!["family", "gpt2", "load the model"]),
        ("checkpoint", extra(ext::WEIGHTS, "0".repeat(64)), vec!["checkpoint", "000000", "hand over text"]),
        ("steps", extra(ext::NUM_STEPS, "many".into()), vec!["num_steps"]),
        (
            "heads",
            shaped(KvHeader { num_kv_heads: 1, head_dim: heads * dim, ..header }, planes),
            vec!["KV heads"],
        ),
        (
            "window",
            shaped(KvHeader { seq_len: many, ..header }, planes / header.seq_len as usize * many as usize),
            vec!["3000", "2048", "shorter"],
        ),
        ("no tokens", shaped(KvHeader { seq_len: 0, ..header }, 0), vec!["0"]),
        ("fewer planes than announced", shaped(header, planes - 4), vec![]),
        (
            "a hidden state",
            with(&|frame| frame.metadata.payload_type = avp_wire::PayloadType::HiddenState),
            vec!["hidden states of shape", "are not"],
        ),
    ];
    let (file, out) = (folder.path().join("odd.avp"), folder.path().join("out.avp"));
    for (what, frame, words) in cases {
        for compression in [None, Some(Compression::Fast)] {
            let options = EncodeOptions { compression, ..EncodeOptions::default() };
            fs::write(&file, frame.encode(&options).unwrap().to_vec()).unwrap();
            let line = refused(&mut generate(Path::new(MODEL), &file));
            names(&line, &[&["odd.avp"], &words[..]].concat());
            let path = file.to_str().unwrap();
            let out_path = out.to_str().unwrap();
            refused(&mut avp([
                "think",
                "--model",
                MODEL,
                "--prompt",
                ASK,
                "--context",
                path,
                "-o",
                out_path,
            ]));
            assert!(!out.exists(), "{what}");
        }
    }
}

#[test]
fn a_context_of_another_model_is_refused_with_what_to_do() {
    let folder = tempdir().unwrap();
    let line = refused(&mut generate(Path::new(MODEL), &context(&folder, OTHER, &[])));
    names(&line, &["avp-demo-llama.avp", "another model", "llama", "qwen2", "load the model that made it"]);
    let line = refused(&mut generate(Path::new(MODEL), &context(&folder, "avp-demo-qwen2-m", &[])));
    names(&line, &["another model", "128", "96"]);
}

#[test]
fn a_prompt_longer_than_the_window_is_refused_with_the_numbers() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.avp");
    let long = "word ".repeat(3000);
    names(&refused(&mut think(MODEL, &long, &out)), &["2048", "shorten"]);
    names(&refused(&mut avp(["generate", "--model", MODEL, "--prompt", &long])), &["2048", "shorten"]);
    let steps =
        ["think", "--model", MODEL, "--prompt", NOTES, "--steps", "3000", "-o", out.to_str().unwrap()];
    names(&refused(&mut avp(steps)), &["3000 latent steps", "2048", "fewer steps"]);
    let server = Server::start(MODEL, &[]);
    let line = refused(&mut avp(["ask", "--to", &server.url, "--prompt", &long]));
    names(&line, &["the peer refused", "2048", "shorten"]);
    assert!(listing(folder.path()).is_empty());
}

#[test]
fn a_model_hash_that_is_none_is_refused_before_anything_is_computed() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.avp");
    for (hash, word) in
        [("xyz", "3 characters"), (&"g".repeat(64), "hex"), (&"ab".repeat(31), "62"), ("", "0")]
    {
        names(
            &refused(think(MODEL, NOTES, &out).args(["--model-hash", hash])),
            &["--model-hash", "64 hex digits", word],
        );
    }
    assert!(listing(folder.path()).is_empty());
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_leaves_nothing_behind() {
    let folder = tempdir().unwrap();
    let (file, inner) = (folder.path().join("file"), folder.path().join("inner"));
    fs::write(&file, "here before").unwrap();
    fs::create_dir(&inner).unwrap();
    let missing = folder.path().join("missing").join("out.avp");
    names(&refused(&mut think(MODEL, NOTES, &missing)), &["missing/out.avp", "folder"]);
    names(&refused(&mut think(MODEL, NOTES, &file.join("out.avp"))), &["file/out.avp"]);
    names(&refused(&mut think(MODEL, NOTES, &inner)), &["inner", "folder"]);
    assert_eq!(listing(folder.path()), [file, inner.clone()]);
    assert!(listing(&inner).is_empty());
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_no_partial_file_and_the_old_one_as_it_was() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.avp");
    let small = |out: &Path| {
        // Files beyond 4 or 8 KiB are refused, as on a full disk; the signal that comes with it is not.
        let mut command = Command::new("sh");
        command.args(["-c", r#"trap "" XFSZ; ulimit -f 8; exec "$0" "$@""#, env!("CARGO_BIN_EXE_avp")]);
        let think = think(MODEL, NOTES, out);
        command.args(think.get_args()).env("AVP_CACHE_DIR", crate::common::cache_dir());
        refused(&mut command)
    };
    names(&small(&out), &["out.avp", "space"]);
    assert!(listing(folder.path()).is_empty());

    fs::write(&out, "here before").unwrap();
    names(&small(&out), &["out.avp", "space"]);
    assert_eq!(listing(folder.path()), std::slice::from_ref(&out));
    assert_eq!(fs::read_to_string(&out).unwrap(), "here before");
}

#[test]
fn a_place_where_no_context_can_be_kept_is_told_before_anybody_is_waited_for() {
    let folder = tempdir().unwrap();
    let here = folder.path().join("here.avp");
    fs::write(&here, "here before").unwrap();
    let recv = |to: &str, place: &Path| {
        let listen = ["recv", "--model", MODEL, "--listen", "avp+tcp://127.0.0.1:0"];
        refused(avp(listen).args([to, place.to_str().unwrap()]))
    };
    names(&recv("--output", &here), &["here.avp exists", "--force"]);
    names(&recv("--output", folder.path()), &["is a folder", "--folder"]);
    names(
        &recv("--output", &folder.path().join("missing/got.avp")),
        &["missing/got.avp", "its folder exists"],
    );
    names(&recv("--folder", &folder.path().join("missing")), &["missing", "check the path"]);
    names(&recv("--folder", &here), &["here.avp"]);
    assert_eq!(fs::read_to_string(&here).unwrap(), "here before");
    assert_eq!(listing(folder.path()), std::slice::from_ref(&here));

    let forced = ["recv", "--model", MODEL, "--listen", "avp+tcp://127.0.0.1:0", "--json", "--force"];
    drop(Server::spawn(avp(forced).args(["--output", here.to_str().unwrap()])));
    assert_eq!(fs::read_to_string(&here).unwrap(), "here before", "until a context is whole");

    let output = avp(["recv", "--model", MODEL]).output().unwrap();
    assert!(!output.status.success());
    names(&String::from_utf8(output.stderr).unwrap(), &["--output <FILE>", "--folder <DIR>"]);
}

#[test]
fn each_command_speaks_of_itself_in_its_help() {
    for (command, others) in [
        ("recv", &["`serve", "`ask", "`send", "Python SDK"][..]),
        ("serve", &["`serve", "`ask", "`send"]),
        ("ask", &["`serve", "`send"]),
        ("send", &["`serve", "`ask"]),
    ] {
        let help = String::from_utf8(avp([command, "--help"]).output().unwrap().stdout).unwrap();
        assert!(others.iter().all(|other| !help.contains(other)), "{help}");
        names(&help, &["--ca", "--cert", "--allow-remote"]);
    }
}

#[test]
fn a_server_that_requires_verified_contexts_refuses_others_and_says_why() {
    let server = Server::start(MODEL, &["--require-verified"]);
    // The SDK's contexts carry no fingerprint of the weights.
    let file = models().join("../tests/fixtures/sdk-contexts/avp-demo-qwen2-s-0.avp");
    let args = ["ask", "--to", &server.url, "--prompt", ASK, "--context", file.to_str().unwrap()];
    names(&refused(&mut avp(args)), &["handshake.unverified", "fingerprint"]);
    let line = refused(generate(Path::new(MODEL), &file).arg("--require-verified"));
    names(&line, &["avp-demo-qwen2-s-0.avp", "fingerprint"]);

    let reply = json(args.iter().chain(&["--text", NOTES]));
    assert_eq!(reply["handover"], "text");
    names(reply["why"].as_str().unwrap(), &["refused the KV cache", "fingerprint"]);
}

#[test]
fn asking_a_model_with_nothing_in_common_falls_back_to_text_and_says_so() {
    let folder = tempdir().unwrap();
    let server = Server::start(MODEL, &[]);
    let file = context(&folder, OTHER, &[]);
    let args = ["ask", "--to", &server.url, "--prompt", ASK, "--context", file.to_str().unwrap()];
    let args: Vec<String> = args.map(str::to_owned).into_iter().chain(greedy_args()).collect();
    let reply = json(&args);
    assert_eq!(reply["handover"], "text");
    assert_eq!(reply["resolution"], "json_fallback");
    names(reply["why"].as_str().unwrap(), &["another model", "nothing in common"]);
    assert_eq!(reply["context_tokens"], 0);
    // The notes themselves are in the prompt that the other model got.
    let together = format!("{NOTES}\n{ASK}");
    let alone = ["generate", "--model", MODEL, "--prompt", &together].map(str::to_owned);
    assert_eq!(tokens(&reply), tokens(&json(alone.into_iter().chain(greedy_args()))));

    let output = avp(&args).output().unwrap();
    assert!(output.status.success());
    names(&String::from_utf8(output.stderr).unwrap(), &["JSON text", "nothing in common"]);

    let silent = context(&folder, OTHER, &["--no-text"]);
    let line = refused(&mut avp([
        "ask",
        "--to",
        &server.url,
        "--prompt",
        ASK,
        "--context",
        silent.to_str().unwrap(),
    ]));
    names(&line, &["nothing in common", "--text"]);
}

#[test]
fn with_json_the_error_is_an_object_as_well() {
    let output = avp(["inspect", "/no/such/file.avp", "--json"]).output().unwrap();
    let line = error_line(&output);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(format!("error: {}", object["error"].as_str().unwrap()), line);
}
