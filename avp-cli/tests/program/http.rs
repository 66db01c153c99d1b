//! `avp serve` at an HTTP address: requests, connections and what is counted, at one port.

use crate::common::{Server, greedy_args, json, questions, tokens};
use avp::transport::tls::DevCa;
use avp::transport::{HttpAnswer, HttpClient, Incompatible, TlsAuthorities, Token, TransportError};
use avp::{TransportOptions, TransportUrl};
use avp_handshake::TextMessage;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use tempfile::tempdir;

const MODEL: &str = "avp-demo-qwen2-s";

fn client(server: &Server, options: TransportOptions) -> HttpClient {
    let url: TransportUrl = server.url.parse().unwrap();
    HttpClient::new(&url, "test", options).unwrap()
}

fn question(prompt: &str) -> TextMessage {
    let generate = json!({ "max_tokens": crate::common::MAX_TOKENS, "temperature": 0 });
    let extra = [("generate".to_owned(), generate)].into_iter().collect();
    TextMessage { content: prompt.to_owned(), extra, ..TextMessage::default() }
}

fn answered(answer: &HttpAnswer) -> Vec<u32> {
    tokens(&answer.text_message().unwrap_or_else(|| panic!("{answer:?}")).extra["answer"])
}

/// What a browser gets.
fn get(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_are_answered_alike_at_one_port_and_counted() {
    let server = Server::start(MODEL, &["--listen", "http://127.0.0.1:0"]);
    let health = get(&server, "/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with(r#"{"status":"ok"}"#), "{health}");
    let prompt = &questions()[0].ask;
    let asked = ["ask", "--to", &server.url, "--prompt", prompt].map(str::to_owned);
    let over_connection = tokens(&json(asked.into_iter().chain(greedy_args())));
    let by_request = client(&server, TransportOptions::default()).text(&question(prompt)).await.unwrap();
    assert_eq!(answered(&by_request), over_connection);
    let metrics = get(&server, "/metrics");
    let written = format!("avp_answer_tokens_total {}", 2 * over_connection.len());
    for line in ["avp_answers_total 2", "avp_context_tokens_total 0", &written] {
        assert!(metrics.lines().any(|l| l == line), "`{line}` is not in: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_requests_over_tls_need_one_for_all_but_health() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let authority = DevCa::new("test").unwrap();
    authority.issue(&["127.0.0.1".to_owned()]).unwrap().write(folder.path(), "server").unwrap();
    std::fs::write(path("tokens"), "alice:open-sesame\n").unwrap();
    let (cert, key, file) = (path("server.pem"), path("server.key"), path("tokens"));
    let args = ["--listen", "https://127.0.0.1:0", "--cert", &cert, "--key", &key, "--tokens", &file];
    let server = Server::start(MODEL, &args);
    let mut options = TransportOptions::default();
    options.tls.authorities = Some(TlsAuthorities::from_pem(authority.certificate()).unwrap());
    let stranger = client(&server, options.clone());
    stranger.health().await.unwrap();
    let error = stranger.text(&question("q")).await.unwrap_err();
    let TransportError::Incompatible(Incompatible::Refused { refusal, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(refusal.status, 401);
    options.token = Some(Token::new("open-sesame").unwrap());
    assert!(!answered(&client(&server, options).text(&question("q")).await.unwrap()).is_empty());
}
