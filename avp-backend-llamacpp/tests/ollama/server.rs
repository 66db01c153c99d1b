//! A server that answers as Ollama's API does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use avp_backend_llamacpp::ollama::{ModelName, OllamaServer, ServerError, Unload};
use serde_json::{Value as Json, json};

/// Longer than any answer takes on a loaded machine.
const AMPLE: Duration = Duration::from_secs(60);

/// A server for one request, which `answer` answers; what was asked comes back with `join`.
fn serve(
    answer: impl FnOnce(&Json, TcpStream) + Send + 'static,
) -> (OllamaServer, JoinHandle<(String, Json)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            match header.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap();
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Json = serde_json::from_slice(&body).unwrap();
        answer(&body, stream.try_clone().unwrap());
        (line.trim_end().to_owned(), body)
    });
    (address.to_string().parse().unwrap(), asked)
}

fn respond(mut stream: TcpStream, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

/// `POST /api/generate` of a server that has `qwen2.5:0.5b` and nothing else.
fn ollama(body: &Json, stream: TcpStream) {
    if body["model"] != "qwen2.5:0.5b" {
        let error = format!("model '{}' not found", body["model"].as_str().unwrap());
        return respond(stream, "404 Not Found", &json!({ "error": error }).to_string());
    }
    let reason = if body["keep_alive"] == 0 && body.get("prompt").is_none() { "unload" } else { "load" };
    let answer = json!({
        "model": body["model"], "created_at": "2026-01-01T00:00:00Z", "response": "", "done": true, "done_reason": reason,
    });
    respond(stream, "200 OK", &answer.to_string());
}

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

#[test]
fn a_running_server_lets_go_of_the_model() {
    let (server, asked) = serve(ollama);
    assert_eq!(server.unload(&name("qwen2.5:0.5b"), AMPLE).unwrap(), Unload::Unloaded);
    let (line, body) = asked.join().unwrap();
    assert_eq!(line, "POST /api/generate HTTP/1.1");
    assert_eq!(body, json!({"model": "qwen2.5:0.5b", "keep_alive": 0, "stream": false}));
}

#[test]
fn that_no_server_is_running_is_no_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server: OllamaServer = listener.local_addr().unwrap().to_string().parse().unwrap();
    drop(listener);
    assert_eq!(server.unload(&name("qwen2.5:0.5b"), AMPLE).unwrap(), Unload::NotRunning);
}

#[test]
fn a_model_that_the_server_does_not_know_is_named() {
    let (server, asked) = serve(ollama);
    let error = server.unload(&name("other"), AMPLE).unwrap_err();
    assert!(matches!(&error, ServerError::UnknownModel { name, .. } if name == "other:latest"), "{error}");
    asked.join().unwrap();
}

#[test]
fn a_server_that_hangs_is_left_at_the_deadline() {
    // Before the answer, within its head, and within its body.
    let starts =
        ["", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"done_"];
    for start in starts {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (server, asked) = serve(move |_, mut stream| {
            stream.write_all(start.as_bytes()).unwrap();
            let _ = wait.recv();
        });
        let started = Instant::now();
        let error = server.unload(&name("qwen2.5:0.5b"), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ServerError::Deadline { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(15));
        drop(done);
        asked.join().unwrap();
    }
}

#[test]
fn other_answers_are_told_in_one_line() {
    type Answer = (&'static str, String, u16, &'static str);
    let answers: [Answer; 5] = [
        ("500 Internal Server Error", json!({"error": "out of\nmemory"}).to_string(), 500, "out of\\nmemory"),
        ("404 Not Found", "<html>\u{1b}[2J".to_owned(), 404, "<html>\\u{1b}[2J"),
        ("200 OK", json!({"done_reason": "load"}).to_string(), 200, "load"),
        ("302 Found\r\nLocation: http://example.org/", String::new(), 302, "302"),
        ("400 Bad Request", "x".repeat(5000), 400, "xxx..."),
    ];
    for (status, body, code, says) in answers {
        let (server, asked) = serve(move |_, stream| respond(stream, status, &body));
        let error = server.unload(&name("qwen2.5:0.5b"), AMPLE).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ServerError::Answer { status, .. } if status == code), "{text}");
        assert!(text.contains(says) && !text.contains('\n') && text.len() < 400, "{text}");
        asked.join().unwrap();
    }
}

#[test]
fn an_endless_answer_and_one_that_is_no_http_are_errors() {
    let (server, asked) = serve(|_, mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 4096]).is_ok() {}
    });
    let error = server.unload(&name("qwen2.5:0.5b"), AMPLE).unwrap_err();
    assert!(matches!(error, ServerError::Connection { .. }), "{error}");
    asked.join().unwrap();
    let (server, asked) = serve(|_, mut stream| stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").unwrap());
    let error = server.unload(&name("qwen2.5:0.5b"), AMPLE).unwrap_err();
    assert!(matches!(error, ServerError::Connection { .. }), "{error}");
    asked.join().unwrap();
}
