//! What a hostile server, model or context file cannot make of `avp`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::thread;

use crate::common::{avp, error_line, models};
use avp::{Frame, ext};
use avp_wire::{EncodeOptions, Metadata, Mode};
use tempfile::tempdir;

const ESCAPES: &str = "\u{1b}[31mred\u{1b}]0;title\u{7}\r\nnext \u{9b}31m\u{8}";

fn read_frame(stream: &mut TcpStream) {
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    let len = u32::from_le_bytes(head[4..8].try_into().unwrap());
    stream.read_exact(&mut vec![0; len as usize]).unwrap();
}

fn send(stream: &mut TcpStream, kind: &str, payload: &str) {
    let mut metadata = Metadata { mode: Mode::Json, session_id: "0".repeat(32), ..Metadata::default() };
    metadata.extra.insert(ext::KIND.to_owned(), kind.to_owned());
    let frame = Frame::new(metadata, payload.to_owned().into_bytes());
    stream.write_all(&frame.encode(&EncodeOptions::default()).unwrap().to_vec()).unwrap();
}

/// `avp ask` of a server that answers the hello and then does as `behave` says.
fn ask_of(behave: impl FnOnce(&mut TcpStream) + Send + 'static) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("avp+tcp://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_frame(&mut stream);
        send(&mut stream, "hello", r#"{"agent_id": "server", "avp_version": "0.6.2"}"#);
        read_frame(&mut stream);
        behave(&mut stream);
    });
    let output = avp(["ask", "--to", &url, "--prompt", "Hello?"]).output().unwrap();
    server.join().unwrap();
    output
}

fn answer(text: &str) -> String {
    let content = serde_json::Value::from(text);
    format!(r#"{{"avp_version": "0.6.2", "content": {content}}}"#)
}

fn acts_on_a_terminal(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).chars().any(|c| c.is_control() && c != '\n')
}

#[test]
fn an_answer_moves_no_terminal() {
    let output = ask_of(|stream| send(stream, "text", &answer(ESCAPES)));
    assert!(output.status.success());
    assert!(!acts_on_a_terminal(&output.stdout), "{:?}", output.stdout);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\nnext "));
}

#[test]
fn a_refusal_is_one_line_that_moves_no_terminal() {
    let output = ask_of(|stream| {
        let reject = avp_handshake::Reject::new(avp_wire::ErrorCode::Internal, ESCAPES).to_frame();
        stream.write_all(&reject.encode(&EncodeOptions::default()).unwrap().to_vec()).unwrap();
    });
    assert!(error_line(&output).contains("red"));
    assert!(!acts_on_a_terminal(&output.stderr), "{:?}", output.stderr);
}

#[test]
fn an_answer_that_came_is_not_lost_when_the_server_does_not_close() {
    let output = ask_of(|stream| {
        send(stream, "text", &answer("The answer."));
        // Until the client gives up waiting.
        let _ = stream.read_to_end(&mut Vec::new());
        let _ = stream.write_all(b"no frame");
        thread::sleep(std::time::Duration::from_millis(100));
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "The answer.\n");
}

#[test]
fn an_answer_larger_than_any_text_is_refused_by_its_head() {
    let output = ask_of(|stream| {
        // 1.9 GB announced; nothing of it needs to come.
        let metadata = [0x50, 0x01];
        let mut head = b"AV\x01\x00".to_vec();
        head.extend(1_900_000_000_u32.to_le_bytes());
        head.extend(2_u32.to_le_bytes());
        head.extend(metadata);
        stream.write_all(&head).unwrap();
    });
    assert!(error_line(&output).contains("memory budget"));
}

#[test]
fn a_chat_template_of_operators_alone_costs_one_error_line() {
    let folder = tempdir().unwrap();
    for entry in fs::read_dir(models().join("avp-demo-qwen2-s")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let template = format!("{{{{ 1{}}}}}", "+a".repeat(20_000));
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let output =
        avp(["generate", "--model", folder.path().to_str().unwrap(), "--prompt", "Hi"]).output().unwrap();
    assert!(error_line(&output).contains("chat template"));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = avp(["models"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
