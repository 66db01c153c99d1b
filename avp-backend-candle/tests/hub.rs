//! Hub ids, against a server in this test.
#![cfg(feature = "hub")]
#![allow(missing_docs, clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use avp_backend::Backend;
use avp_backend_candle::{CandleBackend, LoadOptions};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the fixture `name` as model `tiny/model`, the way the hub does; counts downloads.
fn serve(name: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let downloads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&downloads);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || answer(stream, &common::folder(name), &counted));
        }
    });
    (endpoint, downloads)
}

fn answer(mut stream: TcpStream, folder: &Path, downloads: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut request, mut range) = (String::new(), None);
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if let Some(bytes) = header.to_lowercase().strip_prefix("range: bytes=") {
                let (start, end) = bytes.trim().split_once('-').unwrap();
                range = Some((start.parse::<usize>().unwrap(), end.parse::<usize>().ok()));
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let response = respond(&path, range, folder, downloads);
        if stream.write_all(&response).is_err() {
            return;
        }
    }
}

fn respond(
    path: &str,
    range: Option<(usize, Option<usize>)>,
    folder: &Path,
    downloads: &AtomicUsize,
) -> Vec<u8> {
    let answer = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    if path == "/api/models/tiny/model/revision/main" {
        let files = std::fs::read_dir(folder).unwrap();
        let siblings: Vec<String> = files
            .map(|f| format!("{{\"rfilename\":\"{}\"}}", f.unwrap().file_name().to_string_lossy()))
            .collect();
        let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", siblings.join(","));
        return answer("200 OK", "", body.as_bytes());
    }
    let name = path.strip_prefix("/tiny/model/resolve/main/");
    let Some(bytes) = name.and_then(|n| std::fs::read(folder.join(n)).ok()) else {
        return answer("404 Not Found", "", b"");
    };
    let (start, end) = range.map_or((0, None), |(start, end)| (start, end.map(|e| e + 1)));
    let end = end.unwrap_or(bytes.len());
    if end == bytes.len() {
        downloads.fetch_add(1, Ordering::Relaxed);
    }
    let headers = format!(
        "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        name.unwrap(),
        end - 1,
        bytes.len()
    );
    answer("206 Partial Content", &headers, &bytes[start..end])
}

/// Loads `id` in a process of its own, since the hub's address is taken from the environment.
fn load(id: &str, endpoint: &str, cache: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "in_a_process_with_an_endpoint"])
        .envs([("HF_ENDPOINT", endpoint), ("AVP_TEST_MODEL", id)])
        .env("AVP_TEST_CACHE", cache)
        .output()
        .unwrap()
}

#[test]
#[ignore = "started by the other tests"]
fn in_a_process_with_an_endpoint() {
    let id = std::env::var("AVP_TEST_MODEL").unwrap();
    let cache_dir = std::env::var_os("AVP_TEST_CACHE").map(Into::into);
    match CandleBackend::load(&id, &LoadOptions { cache_dir, ..LoadOptions::default() }) {
        Ok(backend) => println!("loaded {} {}", backend.info().identity.model_id, backend.info().vocab_size),
        Err(e) => println!("error: {e}"),
    }
}

fn says(output: &Output, text: &str) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains(text), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_hub_id_is_downloaded_once_and_then_loads_offline() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, downloads) = serve("qwen2-untied-sharded");
    says(&load("tiny/model", &endpoint, cache.path()), "loaded tiny/model 96");
    // Config, tokenizer, its config, generation config, chat template, index and three shards.
    assert_eq!(downloads.load(Ordering::Relaxed), 9);
    says(&load("tiny/model", &endpoint, cache.path()), "loaded tiny/model 96");
    assert_eq!(downloads.load(Ordering::Relaxed), 9);
    says(&load("tiny/model", "http://127.0.0.1:9", cache.path()), "loaded tiny/model 96");
}

#[test]
fn what_the_hub_has_not_got_and_a_hub_out_of_reach_are_one_clear_line() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve("qwen2-tied");
    let unknown = load("tiny/other", &endpoint, cache.path());
    says(&unknown, "error: tiny/other is no folder here and could not be had from http://127.0.0.1");
    says(&unknown, "404");
    let offline = load("tiny/model", "http://127.0.0.1:9", cache.path());
    says(&offline, "could not be had from http://127.0.0.1:9");
    says(&offline, "check the id and the connection");
}
