//! `avp map`: maps between the demo models, and everything that is not one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{avp, backend, json, listing, names, refused};
use avp::{Backend, KvDtype, MapFolder, MapProjection, ProjectionMap, SharedTokens};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const SMALL: &str = "avp-demo-qwen2-s";
const MEDIUM: &str = "avp-demo-qwen2-m";
const LLAMA: &str = "avp-demo-llama";

fn map<'a>(command: &'a str, dir: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    [&["map", command, "--dir", dir.to_str().unwrap()], args].concat()
}

fn make<'a>(dir: &'a Path, source: &'a str, target: &'a str) -> Vec<&'a str> {
    map("make", dir, &["--source", source, "--target", target])
}

fn file(reply: &Value) -> PathBuf {
    reply["file"].as_str().unwrap().into()
}

/// A folder with maps of two pairs: of one tokenizer, and of two.
fn two() -> (TempDir, [Value; 2]) {
    let dir = tempdir().unwrap();
    let made = [json(make(dir.path(), SMALL, MEDIUM)), json(make(dir.path(), SMALL, LLAMA))];
    (dir, made)
}

fn text(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn maps_are_made_listed_inspected_and_removed() {
    let (dir, [same, overlap]) = two();
    let dir = dir.path();
    assert_eq!((&same["method"], &overlap["method"]), (&"vocab_mediated".into(), &"vocab_overlap".into()));
    assert!(overlap["shared_tokens"].as_u64().unwrap() >= 755, "{overlap}");
    assert_eq!((&same["source"]["hidden_dim"], &same["target"]["hidden_dim"]), (&json!(96), &json!(128)));
    assert_eq!(same["source"]["model_hash"], overlap["source"]["model_hash"]);
    for made in [&same, &overlap] {
        assert!(made["validation"]["cosine"].as_f64().unwrap() > 0.5, "{made}");
    }

    let id = overlap["id"].as_str().unwrap();
    let list = json(map("list", dir, &[]));
    let mut expected = [same.clone(), overlap.clone()];
    expected.sort_by_key(|record| record["file"].to_string());
    assert_eq!(list["maps"], json!(expected));
    let listed = text(&mut avp(map("list", dir, &[])));
    assert_eq!(listed.lines().count(), 2);
    names(&listed, &[id, SMALL, LLAMA, "vocab_overlap", "shared tokens", "width 96 to 128"]);
    let path = file(&overlap);
    for named in [id, path.to_str().unwrap(), path.file_name().unwrap().to_str().unwrap()] {
        assert_eq!(json(map("inspect", dir, &[named])), overlap);
    }
    names(
        &text(&mut avp(map("inspect", dir, &[id]))),
        &["vocab_overlap", SMALL, LLAMA, overlap["target"]["weights"].as_str().unwrap(), "target_norm"],
    );
    assert_eq!(json(map("remove", dir, &[id]))["removed"], overlap["file"]);
    assert_eq!(listing(dir), [file(&same)]);
    names(&refused(&mut avp(map("remove", dir, &[id]))), &[id, "no map"]);
    names(&text(&mut avp(map("remove", dir, &[same["id"].as_str().unwrap()]))), &["removed"]);
    names(&text(&mut avp(map("list", dir, &[]))), &["no maps", "avp map make"]);
}

#[test]
fn a_map_is_for_the_models_that_it_was_made_for() {
    let (dir, [same, overlap]) = two();
    let [small, medium, llama] = [SMALL, MEDIUM, LLAMA].map(|name| backend(name, KvDtype::F32));
    let folder = MapFolder::new(dir.path());
    let [one, other] = [&same, &overlap].map(|made| ProjectionMap::read(&file(made)).unwrap());
    assert!(matches!(one.projection, MapProjection::Vocabulary(SharedTokens::Same(_))));
    one.check(small.info(), medium.info()).unwrap();
    other.check(small.info(), llama.info()).unwrap();
    let refused = |map: &ProjectionMap, source: &dyn Backend, target: &dyn Backend| {
        map.check(source.info(), target.info()).unwrap_err().to_string()
    };
    names(&refused(&one, small.as_ref(), llama.as_ref()), &["another target", "model_hash"]);
    names(&refused(&one, medium.as_ref(), small.as_ref()), &["another source", "model_hash"]);
    names(&refused(&other, llama.as_ref(), small.as_ref()), &["another source", "model_hash"]);
    assert_eq!(folder.find(small.info(), llama.info()), Some(other));
    assert_eq!(folder.find(llama.info(), small.info()), None);
}

#[test]
fn a_map_that_is_there_stays_unless_it_is_forced_out() {
    let dir = tempdir().unwrap();
    let path = file(&json(make(dir.path(), SMALL, MEDIUM)));
    fs::write(&path, "mine").unwrap();
    names(&refused(&mut avp(make(dir.path(), SMALL, MEDIUM))), &["exists", "--force"]);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let said = text(avp(make(dir.path(), SMALL, MEDIUM)).arg("--force"));
    names(&said, &["wrote", path.to_str().unwrap(), "vocab_mediated", "width 96 to 128"]);
    ProjectionMap::read(&path).unwrap();
    assert_eq!(listing(dir.path()), [path]);
}

#[test]
fn damaged_files_are_named_and_listed_beside_whole_ones() {
    let (dir, [same, overlap]) = two();
    let dir = dir.path();
    let whole = fs::read(file(&overlap)).unwrap();
    let mut newer = whole.clone();
    let at = newer.windows(13).position(|w| w == br#""avp.map":"1""#).unwrap();
    newer[at + 11] = b'2';
    let cases: [(&str, &[u8], &str); 5] = [
        ("cut", &whole[..whole.len() - 1], "whole"),
        ("empty", b"", "whole"),
        ("newer", &newer, "version `2`"),
        ("other", b"\x02\0\0\0\0\0\0\0{}", "no projection map"),
        ("\u{1b}[31mred", b"what is this file, and why is it here?", "header"),
    ];
    for (name, bytes, fault) in cases {
        let path = dir.join(format!("{name}.avp-map"));
        fs::write(&path, bytes).unwrap();
        names(&refused(&mut avp(map("inspect", dir, &[path.to_str().unwrap()]))), &[fault, "again"]);
    }
    let list = json(map("list", dir, &[]));
    let broken = list["maps"].as_array().unwrap().iter().filter(|map| map["error"].is_string()).count();
    assert_eq!((list["maps"].as_array().unwrap().len(), broken), (7, 5));
    let listed = text(&mut avp(map("list", dir, &[])));
    assert_eq!(listed.lines().count(), 7);
    assert_eq!(listed.matches("not usable: ").count(), 5);
    assert!(!listed.contains('\u{1b}'), "{listed:?}");
    names(&listed, &[same["id"].as_str().unwrap(), overlap["id"].as_str().unwrap()]);
    for (name, ..) in &cases[..3] {
        json(map("remove", dir, &[name]));
    }
    assert_eq!(listing(dir).len(), 4);
}

#[cfg(unix)]
#[test]
fn a_write_that_is_interrupted_leaves_nothing_and_the_old_map_as_it_was() {
    let dir = tempdir().unwrap();
    let interrupted = || {
        // Files beyond 2 or 4 KiB are refused, as on a full disk; the signal that comes with it is not.
        let mut command = Command::new("sh");
        command.args(["-c", r#"trap "" XFSZ; ulimit -f 4; exec "$0" "$@""#, env!("CARGO_BIN_EXE_avp")]);
        command
            .args(make(dir.path(), SMALL, LLAMA))
            .arg("--force")
            .env("AVP_CACHE_DIR", crate::common::cache_dir());
        refused(&mut command)
    };
    names(&interrupted(), &["avp-map"]);
    assert!(listing(dir.path()).is_empty());
    let path = file(&json(make(dir.path(), SMALL, LLAMA)));
    let before = fs::read(&path).unwrap();
    names(&interrupted(), &["avp-map"]);
    assert_eq!(listing(dir.path()), std::slice::from_ref(&path));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_no_folder_no_map_or_no_id_is_refused_in_one_line() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    for command in [
        make(&file, SMALL, MEDIUM),
        map("list", &file, &[]),
        map("make", &file.join("below"), &["--source", SMALL, "--target", MEDIUM]),
    ] {
        names(&refused(&mut avp(command)), &[file.to_str().unwrap()]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let maps = dir.path().join("maps");
    for id in ["../file", "..", "a/b", file.to_str().unwrap()] {
        names(&refused(&mut avp(map("remove", &maps, &[id]))), &["no name of a map"]);
    }
    names(&refused(&mut avp(map("remove", &maps, &["0_1"]))), &["no map 0_1"]);
    names(&refused(&mut avp(map("inspect", &maps, &["0_1"]))), &["no map 0_1"]);
    names(&refused(&mut avp(map("inspect", &maps, &["/no/such.avp-map"]))), &["/no/such.avp-map"]);
    names(&refused(&mut avp(map("inspect", &maps, &[dir.path().to_str().unwrap()]))), &["no file"]);
    names(&refused(&mut avp(make(&maps, SMALL, "no/such/model"))), &["no/such/model"]);
    assert!(!maps.exists());
}

/// A matrix of one value, and a norm.
fn linear_file(path: &Path, shape: [usize; 2], value: f32) {
    let values = shape[0] * shape[1];
    let header = json!({
        "matrix": { "dtype": "F32", "shape": shape, "data_offsets": [0, values * 4] },
        "target_norm": { "dtype": "F32", "shape": [1], "data_offsets": [values * 4, values * 4 + 4] },
    })
    .to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    (0..values).for_each(|_| bytes.extend(value.to_le_bytes()));
    bytes.extend(1.5_f32.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_linear_map_is_taken_from_a_file_that_fits() {
    let dir = tempdir().unwrap();
    let maps = dir.path().join("maps");
    let matrix = |name: &str, shape: [usize; 2], value: f32| {
        let path = dir.path().join(name);
        linear_file(&path, shape, value);
        path.display().to_string()
    };
    let linear = |path: &str| avp(make(&maps, SMALL, LLAMA)).args(["--linear", path]).output().unwrap();
    let wrong = [
        (matrix("turned", [128, 96], 0.5), "shape"),
        (matrix("nan", [96, 128], f32::NAN), "NaN"),
        (dir.path().display().to_string(), "no such file"),
        ("missing".to_owned(), "no such file"),
    ];
    for (path, fault) in wrong {
        names(&crate::common::error_line(&linear(&path)), &["--linear", &path, fault]);
    }
    assert!(!maps.exists());
    assert!(linear(&matrix("whole", [96, 128], 0.5)).status.success());
    let list = json(map("list", &maps, &[]));
    assert_eq!(
        (&list["maps"][0]["method"], &list["maps"][0]["target_norm"]),
        (&json!("linear"), &json!(1.5))
    );
    assert!(list["maps"][0]["shared_tokens"].is_null());
}

#[test]
fn the_folder_is_the_one_that_is_told_the_variables_or_the_caches() {
    let dir = tempdir().unwrap();
    let folder = |variable: Option<&Path>, args: &[&str]| {
        let mut command = avp(["map", "list", "--json"]);
        command.args(args).env_remove("AVP_MAP_DIR").env("AVP_CACHE_DIR", dir.path());
        if let Some(value) = variable {
            command.env("AVP_MAP_DIR", value);
        }
        let list: Value = serde_json::from_str(&text(&mut command)).unwrap();
        PathBuf::from(list["folder"].as_str().unwrap())
    };
    assert_eq!(folder(None, &[]), dir.path().join("maps"));
    assert_eq!(folder(Some(Path::new("")), &[]), dir.path().join("maps"));
    assert_eq!(folder(Some(Path::new("/of/variable")), &[]), Path::new("/of/variable"));
    assert_eq!(folder(Some(Path::new("/of/variable")), &["--dir", "/told"]), Path::new("/told"));
    assert!(listing(dir.path()).is_empty());
}

#[test]
fn a_map_over_tokens_serves_a_session_and_a_linear_one_this_process() {
    let dir = tempdir().unwrap();
    json(make(dir.path(), SMALL, LLAMA));
    let maps = ["--map-dir", dir.path().to_str().unwrap()];
    let server = crate::common::Server::start(LLAMA, &[]);
    let notes = "Notes: Homes: Ann Oslo, Bob Rome.\nAnswer in one word. Where does Bob live?";
    let question = "Answer in one word. Where does Bob live?";
    let ask = ["ask", "--to", &server.url, "--model", SMALL, "--think", notes, "--prompt", question];
    let answer = json(ask.iter().chain(&["--temperature", "0", "--gate", "off"]).chain(&maps));
    assert_eq!(
        (&answer["handover"], &answer["resolution"]),
        (&"distribution".into(), &"avp_map_file".into())
    );
    assert_eq!(answer["text"], "Rome");

    let thought = dir.path().join("thought.avp");
    let think = ["think", "--model", SMALL, "--prompt", notes, "--steps", "0", "--output", "hidden", "-o"];
    json(think.iter().chain(&[thought.to_str().unwrap()]));
    let matrix = dir.path().join("matrix.safetensors");
    linear_file(&matrix, [96, 128], 0.5);
    json(make(dir.path(), SMALL, LLAMA).into_iter().chain(["--force", "--linear", matrix.to_str().unwrap()]));
    let generate = ["generate", "--model", LLAMA, "--source", SMALL, "--prompt", question, "--context"];
    let rest = [thought.to_str().unwrap(), "--temperature", "0", maps[0], maps[1]];
    let generate = generate.iter().chain(&rest);
    let output = avp(generate.clone().chain(&["--gate", "off", "--max-tokens", "4"])).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("by a linear map"), "{said}");
    let output = avp(generate).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("JSON text (the quality gate"), "{said}");
}
