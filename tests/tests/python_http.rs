//! The Python SDK's HTTP client and server in a live process, against those of this implementation.
//!
//! `cargo xtask interop` runs these with the interpreter of an environment that it makes.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use avp_handshake::{Hello, ModelIdentity, NegotiatorConfig, PeerId, Session, TextMessage};
use avp_transport::tls::DevCa;
use avp_transport::{
    BearerTokens, BoxFuture, HttpAgent, HttpAnswer, HttpCaller, HttpClient, HttpHandler, HttpListener,
    HttpRefusal, HttpReply, HttpServerOptions, Incompatible, Listener, Options, TlsCertificate, Token,
    TransportError, connect,
};
use avp_wire::{Compression, EncodeOptions, Frame, KvDtype, KvHeader, Metadata, PayloadType};
use common::frames::fields;
use common::python::Python;
use common::random::Random;
use serde_json::{Map, Value, json};

const LEVELS: [Option<Compression>; 4] =
    [None, Some(Compression::Fast), Some(Compression::Balanced), Some(Compression::Max)];

fn peer() -> Python {
    let mut python = Python::start("http_peer.py");
    assert_eq!(python.get("versions")["avp"], "0.6.2", "the reference peer is another version");
    python
}

fn identity() -> ModelIdentity {
    ModelIdentity {
        model_family: "qwen2".into(),
        model_id: "shared".into(),
        model_hash: "44136fa3".into(),
        hidden_dim: 64,
        num_layers: 4,
        num_kv_heads: 2,
        head_dim: 16,
        ..ModelIdentity::default()
    }
}

fn config(name: &str) -> NegotiatorConfig {
    NegotiatorConfig::new(Hello::new(name, identity()), PeerId::new("set by the transport"))
}

/// A KV cache of some MiB, half of it repetitive so that compression has something to do.
fn kv_frame(random: &mut Random, session: &str) -> Frame {
    let header =
        KvHeader { num_layers: 4, num_kv_heads: 2, head_dim: 128, seq_len: 1024, dtype: KvDtype::F16 };
    let len = header.payload_len().unwrap();
    let mut payload = random.bytes(len / 2);
    payload.resize(len, 7);
    header.write_to(&mut payload).unwrap();
    let metadata = Metadata {
        session_id: session.into(),
        source_agent_id: "sender".into(),
        target_agent_id: "receiver".into(),
        model_id: "shared".into(),
        hidden_dim: 64,
        num_layers: 4,
        payload_type: PayloadType::KvCache,
        dtype: header.dtype.into(),
        extra: [("model_hash".to_owned(), "44136fa3".to_owned()), ("num_steps".to_owned(), "3".to_owned())]
            .into(),
        ..Metadata::default()
    };
    Frame::new(metadata, payload)
}

/// A frame, and who the session says has sent it.
type Came = (Frame, Option<String>);

/// Keeps what came.
#[derive(Clone, Debug, Default)]
struct Keep {
    frames: Arc<Mutex<Vec<Came>>>,
    texts: Arc<Mutex<Vec<TextMessage>>>,
}

impl HttpHandler for Keep {
    fn frame<'a>(
        &'a self,
        _caller: &'a HttpCaller,
        session: Option<Session>,
        frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        let fields = Map::from_iter([("bytes".to_owned(), Value::from(frame.payload.len()))]);
        self.frames.lock().unwrap().push((frame, session.map(|session| session.remote_agent)));
        Box::pin(async { Ok(HttpReply::Json(fields)) })
    }

    fn takes_text(&self) -> bool {
        true
    }

    fn text<'a>(
        &'a self,
        _caller: &'a HttpCaller,
        _session: Option<Session>,
        message: TextMessage,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        self.texts.lock().unwrap().push(message);
        Box::pin(async { Ok(HttpReply::default()) })
    }
}

async fn listener(url: &str, options: Options, keep: &Keep) -> HttpListener {
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config("rust"), keep.clone()).unwrap()));
    HttpListener::serve(&url.parse().unwrap(), options, http).await.unwrap()
}

/// Python on a thread of its own, so that servers of this process go on meanwhile.
fn call(python: &mut Python, op: &str, arguments: Value) -> Result<Value, String> {
    tokio::task::block_in_place(|| python.ask(op, arguments))
}

/// The SDK's client at `url`: a hello, KV caches at every level, a text.
fn talk(python: &mut Python, keep: &Keep, http: &str, connecting: Value, folder: &Path) {
    // Before the hello: the SDK's client drops a connection that is idle for five seconds, and with it the session.
    let mut random = Random::new(20);
    let frames = LEVELS.map(|level| (level, kv_frame(&mut random, "")));
    let client = call(python, "connect", connecting).unwrap();
    let session = call(python, "handshake", json!({ "client": client })).unwrap();
    assert_eq!(session["mode"], 0, "equal hashes are LATENT");
    let id = session["session_id"].as_str().unwrap().to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    for (level, mut frame) in frames {
        frame.metadata.session_id.clone_from(&id);
        let path = folder.join("payload");
        fs::write(&path, &frame.payload).unwrap();
        let arguments = json!({
            "client": client,
            "metadata": fields(&frame.metadata),
            "path": path,
            "level": level.map_or(0, Compression::level),
        });
        let answer = call(python, "transmit", arguments).unwrap();
        assert_eq!((&answer["status"], &answer["http"]), (&json!(200), &json!(http)));
        assert_eq!(answer["json"], json!({ "success": true, "bytes": frame.payload.len() }));
        let (came, session) = keep.frames.lock().unwrap().pop().unwrap();
        assert!(came.payload == frame.payload, "{level:?}: the payload differs");
        assert_eq!(fields(&came.metadata), fields(&frame.metadata));
        assert_eq!(session.as_deref(), Some("python"), "the session of the handshake");
    }
    let answer =
        call(python, "text", json!({ "client": client, "content": "h\u{e9}llo \u{1f600}" })).unwrap();
    assert_eq!(answer["json"], json!({ "success": true }));
    let text = keep.texts.lock().unwrap().pop().unwrap();
    assert_eq!((text.content.as_str(), text.target_agent_id.as_str()), ("h\u{e9}llo \u{1f600}", "rust"));
    assert_eq!(Value::Object(text.extra), json!({ "n": 1.5 }));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python peer: cargo xtask interop"]
async fn the_sdks_client_talks_to_this_server() {
    let (mut python, keep, folder) = (peer(), Keep::default(), tempfile::tempdir().unwrap());
    let listener = listener("http://127.0.0.1:0", Options::default(), &keep).await;
    let url = listener.local_url().to_string();
    let connecting = json!({ "url": url, "agent_id": "python", "identity": identity().to_json().to_serde() });
    talk(&mut python, &keep, "HTTP/1.1", connecting, folder.path());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python peer: cargo xtask interop"]
async fn the_sdks_client_talks_http2_to_this_server_over_tls() {
    let (mut python, keep, folder) = (peer(), Keep::default(), tempfile::tempdir().unwrap());
    let authority = DevCa::new("test authority").unwrap();
    let [certificate, _] = authority.write(folder.path()).unwrap();
    let issued = authority.issue(&["127.0.0.1".into()]).unwrap();
    let mut options = Options::default();
    options.tls.certificate = Some(TlsCertificate::from_pem(&issued.certificate, &issued.key).unwrap());
    let listener = listener("https://127.0.0.1:0", options, &keep).await;
    let connecting = json!({
        "url": listener.local_url().to_string(),
        "agent_id": "python",
        "identity": identity().to_json().to_serde(),
        "authority": certificate,
    });
    talk(&mut python, &keep, "HTTP/2", connecting, folder.path());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python peer: cargo xtask interop"]
async fn the_sdks_client_is_let_in_by_its_token_alone() {
    let (mut python, keep, folder) = (peer(), Keep::default(), tempfile::tempdir().unwrap());
    let mut options = Options::default();
    let tokens = BearerTokens::new().with("python", &Token::new("s3cret").unwrap());
    options.authorize = Some(Arc::new(tokens));
    let listener = listener("http://127.0.0.1:0", options, &keep).await;
    let connecting = |token: Option<&str>| {
        let identity = identity().to_json().to_serde();
        json!({ "url": listener.local_url().to_string(), "agent_id": "python", "identity": identity, "token": token })
    };
    talk(&mut python, &keep, "HTTP/1.1", connecting(Some("s3cret")), folder.path());
    for token in [None, Some("guess")] {
        let client = call(&mut python, "connect", connecting(token)).unwrap();
        let error = call(&mut python, "handshake", json!({ "client": client })).unwrap_err();
        assert!(error.contains("HandshakeError") && error.contains("401"), "{error}");
        let error = call(&mut python, "text", json!({ "client": client, "content": "x" })).unwrap_err();
        assert!(error.contains("TransportError") && error.contains("401"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python peer: cargo xtask interop"]
async fn this_client_talks_to_the_sdks_server() {
    let (mut python, folder) = (peer(), tempfile::tempdir().unwrap());
    let theirs = identity().to_json().to_serde();
    let started = call(&mut python, "start", json!({ "folder": folder.path(), "identity": theirs })).unwrap();
    let url = format!("http://127.0.0.1:{}", started["port"]).parse().unwrap();
    let client = HttpClient::new(&url, "rust", Options::default()).unwrap();
    for client in [client.clone(), client.with_http2()] {
        client.health().await.unwrap();
        let session = client.handshake(config("rust")).await.unwrap();
        assert!(!session.echoed);
        assert_eq!(session.established.resolution().path.as_str(), "hash_match");
        assert_eq!(session.established.session.id.as_str(), "session-of-the-sdk");
        let mut random = Random::new(21);
        for compression in LEVELS {
            let frame = kv_frame(&mut random, "session-of-the-sdk");
            let encoded = frame.encode(&EncodeOptions { compression, ..EncodeOptions::default() }).unwrap();
            let HttpAnswer::Json(answer) = client.transmit(encoded).await.unwrap() else { panic!() };
            assert_eq!(answer["bytes"], frame.payload.len());
            assert!(
                fs::read(folder.path().join("received")).unwrap() == frame.payload,
                "the payload differs"
            );
            let mut metadata = answer["metadata"].clone();
            metadata.as_object_mut().unwrap().remove("compression");
            assert_eq!(metadata, fields(&frame.metadata));
        }
        let extra = Map::from_iter([("n".to_owned(), json!([1, null]))]);
        let message = TextMessage { content: "h\u{e9}llo".into(), extra, ..TextMessage::default() };
        let HttpAnswer::Json(answer) = client.text(&message).await.unwrap() else { panic!() };
        assert_eq!(
            (&answer["content"], &answer["extra"]),
            (&json!("H\u{c9}LLO"), &json!({ "n": [1, null] }))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python peer: cargo xtask interop"]
async fn a_server_of_the_sdk_that_echoes_refuses_or_does_not_upgrade_is_understood() {
    let (mut python, folder) = (peer(), tempfile::tempdir().unwrap());
    let started = call(&mut python, "start", json!({ "folder": folder.path(), "text": false })).unwrap();
    let url = format!("http://127.0.0.1:{}", started["port"]).parse().unwrap();
    let client = HttpClient::new(&url, "rust", Options::default()).unwrap();
    assert!(client.handshake(config("rust")).await.unwrap().echoed);
    let mut damaged = kv_frame(&mut Random::new(22), "").encode(&EncodeOptions::default()).unwrap();
    damaged.payload = vec![0; damaged.payload.len()].into();
    let refusals = [(400, client.transmit(damaged).await), (501, client.text(&TextMessage::default()).await)];
    for (status, answer) in refusals {
        let TransportError::Incompatible(Incompatible::Refused { refusal, .. }) = answer.unwrap_err() else {
            panic!("no refusal")
        };
        assert_eq!(refusal.status, status, "{refusal}");
    }
    let error = connect(&url, &Options::default()).await.unwrap_err();
    assert!(
        matches!(error, TransportError::Incompatible(Incompatible::NoUpgrade { status: 404, .. })),
        "{error}"
    );
}

/// What both servers say to the same requests.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python peer: cargo xtask interop"]
async fn both_servers_answer_what_is_no_message_with_the_same_status_and_body() {
    let (mut python, keep, folder) = (peer(), Keep::default(), tempfile::tempdir().unwrap());
    let started = call(&mut python, "start", json!({ "folder": folder.path() })).unwrap();
    let theirs = format!("http://127.0.0.1:{}", started["port"]);
    let listener = listener("http://127.0.0.1:0", Options::default(), &keep).await;
    let ours = listener.local_url().to_string();
    let identity = identity().to_json().to_serde();
    let clients = [theirs, ours].map(|url| {
        call(&mut python, "connect", json!({ "url": url, "agent_id": "python", "identity": identity }))
            .unwrap()
    });
    let (binary, text) = ("application/avp+binary", "application/json");
    for (method, path, content, kind) in [
        ("GET", "/health", "", text),
        ("GET", "/", "", text),
        ("GET", "/avp/v2/transmit", "", text),
        ("POST", "/health", "", text),
        ("POST", "/avp/v2/handshake", "{", text),
        ("POST", "/avp/v2/handshake", "[]", text),
        ("POST", "/avp/v2/text", "nonsense", text),
        ("POST", "/avp/v2/transmit", "AV", binary),
        ("POST", "/avp/v2/transmit", "", binary),
        ("POST", "/avp/v2/transmit", "GET / HTTP/1.1\r\n\r\n", binary),
    ] {
        let [there, here] = clients.clone().map(|client| {
            let arguments =
                json!({ "client": client, "method": method, "path": path, "content": content, "kind": kind });
            call(&mut python, "raw", arguments).unwrap()
        });
        assert_eq!((&here["status"], &here["type"]), (&there["status"], &there["type"]), "{method} {path}");
        let body = |answer: &Value| serde_json::from_str::<Value>(answer["text"].as_str().unwrap()).unwrap();
        let (mut there, mut here) = (body(&there), body(&here));
        // The message is each implementation's own, and ours has a code.
        for answer in [&mut there, &mut here].map(|answer| answer.as_object_mut().unwrap()) {
            assert!(answer.remove("message").is_none_or(|message| message.is_string()));
            answer.remove("code");
        }
        assert_eq!(here, there, "{method} {path}");
    }
}
