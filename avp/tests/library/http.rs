//! Requests over HTTP to an agent that serves (docs/spec/http.md, 6), as a client makes them that knows no connections.

use std::ops::ControlFlow;
use std::sync::Arc;

use avp::transport::{
    BearerTokens, HttpAnswer, HttpClient, Incompatible, MetricsText, Options, Token, TransportError,
};
use avp::{
    Ask, BufferPool, Context, ContextStamp, GenerateOptions, Peer, Prompt, SamplingOptions, ServeOptions,
};
use avp_handshake::{NegotiatorConfig, PeerId, TextMessage};
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::Manifest;
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata, Mode};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{agent, start};

const URL: &str = "http://127.0.0.1:0";

/// A client that has shaken hands.
struct Client {
    http: HttpClient,
    session: String,
}

impl Client {
    async fn connect(url: &str, options: Options) -> Self {
        let http = HttpClient::new(&url.parse().unwrap(), "client", options).unwrap();
        let config = NegotiatorConfig::new(agent().hello(), PeerId::new("set by the client"));
        let session = http.handshake(config).await.unwrap().established.session.id.to_string();
        Self { http, session }
    }

    /// Asks in the session, with `extra` beside how to write.
    async fn ask(&self, extra: Value) -> Result<HttpAnswer, TransportError> {
        self.http.text(&message(&self.session, extra)).await
    }

    async fn transmit(&self, frame: &Frame) -> Result<HttpAnswer, TransportError> {
        let mut frame = frame.clone();
        frame.metadata.session_id.clone_from(&self.session);
        self.http.transmit(frame.encode(&EncodeOptions::default()).unwrap()).await
    }
}

fn message(session: &str, extra: Value) -> TextMessage {
    let Value::Object(mut extra) = extra else { panic!("an object") };
    extra.insert("generate".into(), json!({ "max_tokens": 6, "temperature": 0 }));
    TextMessage {
        session_id: session.into(),
        source_agent_id: "client".into(),
        content: "question".into(),
        extra,
        ..TextMessage::default()
    }
}

fn greedy() -> GenerateOptions {
    GenerateOptions { max_tokens: 6, sampling: SamplingOptions::greedy(), ..Default::default() }
}

/// What the model writes in this process.
async fn alone(context: Option<&Context>) -> Vec<u32> {
    let (agent, prompt) = (agent(), Prompt::User("question".into()));
    let answer = agent.generate(prompt, context.cloned(), greedy(), |_| ControlFlow::Continue(()));
    answer.await.unwrap().tokens
}

/// A context, and the frame of it that the Python SDK would send: without any of our keys.
async fn thought() -> (Context, Frame) {
    let context = agent().think(Prompt::User("notes".into()), None, 2).await.unwrap();
    let frame = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
    assert!(frame.metadata.extra.keys().all(|key| !key.starts_with("avp.")));
    (context, frame)
}

/// The tokens of an answer, and how many of the context it took over.
fn answered(answer: &HttpAnswer) -> (Vec<u32>, usize) {
    let record = &answer.text_message().unwrap_or_else(|| panic!("{answer:?}")).extra["answer"];
    (
        serde_json::from_value(record["tokens"].clone()).unwrap(),
        serde_json::from_value(record["context_tokens"].clone()).unwrap(),
    )
}

/// What the answer to a context says beside `success`.
fn kept(answer: &HttpAnswer) -> Map<String, Value> {
    let HttpAnswer::Json(fields) = answer else { panic!("{answer:?}") };
    assert_eq!(fields["success"], true);
    fields["extra"].as_object().unwrap().clone()
}

fn refused(answer: Result<HttpAnswer, TransportError>) -> (u16, Option<ErrorCode>) {
    match answer {
        Err(TransportError::Incompatible(Incompatible::Refused { refusal, .. })) => {
            (refusal.status, refusal.code)
        }
        other => panic!("not refused: {other:?}"),
    }
}

// spec: http 6.1
#[tokio::test]
async fn a_text_is_a_question_and_connections_to_the_same_address_get_the_same_answer() {
    let (url, _stop) = start(URL, ServeOptions::default()).await;
    let client = Client::connect(&url, Options::default()).await;
    let answer = client.ask(json!({})).await.unwrap();
    let message = answer.text_message().unwrap();
    assert_eq!((message.source_agent_id.as_str(), message.target_agent_id.as_str()), ("agent", "client"));
    assert_eq!(
        (&message.session_id, &message.extra["answer"]["stop"]),
        (&client.session, &json!("max_tokens"))
    );
    assert_eq!(answered(&answer), (alone(None).await, 0));

    // The same message in a frame, and without a handshake.
    let metadata = Metadata { mode: Mode::Json, ..Metadata::default() };
    let frame = Frame::new(metadata, self::message("", json!({})).to_json().into_bytes());
    assert_eq!(answered(&client.transmit(&frame).await.unwrap()), answered(&answer));
    let stranger = HttpClient::new(&url.parse().unwrap(), "stranger", Options::default()).unwrap();
    stranger.health().await.unwrap();
    assert_eq!(answered(&stranger.text(&self::message("", json!({}))).await.unwrap()), answered(&answer));

    let mut peer = Peer::connect(&url, agent().hello(), &Options::default()).await.unwrap();
    let ask = Ask { prompt: "question".into(), options: greedy(), ..Ask::default() };
    assert_eq!(peer.ask(&ask).await.unwrap().tokens, answered(&answer).0);
    peer.close().await.unwrap();
}

// spec: http 6.2, http 6.3
#[tokio::test]
async fn a_context_of_one_request_is_asked_about_in_later_ones_of_its_session() {
    let (url, _stop) = start(URL, ServeOptions::default()).await;
    let client = Client::connect(&url, Options::default()).await;
    let (context, mut frame) = thought().await;
    let said = kept(&client.transmit(&frame).await.unwrap());
    let verified = (&said["context_tokens"], &said["verified"]);
    assert_eq!(verified, (&json!(context.len().to_string()), &json!("false")));
    let expected = (alone(Some(&context)).await, context.len());
    for _ in 0..2 {
        let answer = client.ask(json!({ "avp.transfer": said["avp.transfer"] })).await.unwrap();
        assert_eq!(answered(&answer), expected);
    }
    let metadata = Metadata { mode: Mode::Json, ..Metadata::default() };
    let mut asked = Frame::new(metadata, message("", json!({})).to_json().into_bytes());
    asked.metadata.extra.insert(ext::TRANSFER.into(), said["avp.transfer"].as_str().unwrap().into());
    assert_eq!(answered(&client.transmit(&asked).await.unwrap()), expected);
    // Under a name of the sender's; and a question that names none has none.
    frame.metadata.extra.insert(ext::TRANSFER.into(), "notes".into());
    assert_eq!(kept(&client.transmit(&frame).await.unwrap())["avp.transfer"], "notes");
    let answer = client.ask(json!({ "avp.transfer": "notes" })).await.unwrap();
    assert_eq!(answered(&answer), expected);
    assert_eq!(answered(&client.ask(json!({})).await.unwrap()), (alone(None).await, 0));
}

// spec: http 6.4
#[tokio::test]
async fn a_context_that_brings_its_question_is_answered_at_once_and_kept_where_it_is_named() {
    let (url, _stop) = start(URL, ServeOptions::default()).await;
    let client = Client::connect(&url, Options::default()).await;
    let (context, mut frame) = thought().await;
    let expected = (alone(Some(&context)).await, context.len());
    frame.metadata.extra.insert(ext::QUESTION.into(), message("", json!({})).to_json());
    assert_eq!(answered(&client.transmit(&frame).await.unwrap()), expected);
    // It needs no session.
    let stranger = HttpClient::new(&url.parse().unwrap(), "stranger", Options::default()).unwrap();
    let encoded = frame.encode(&EncodeOptions::default()).unwrap();
    assert_eq!(answered(&stranger.transmit(encoded.clone()).await.unwrap()), expected);

    frame.metadata.extra.insert(ext::TRANSFER.into(), "notes".into());
    assert_eq!(answered(&client.transmit(&frame).await.unwrap()), expected);
    assert_eq!(answered(&client.ask(json!({ "avp.transfer": "notes" })).await.unwrap()), expected);
    let encoded = frame.encode(&EncodeOptions::default()).unwrap();
    assert_eq!(refused(stranger.transmit(encoded).await), (400, Some(ErrorCode::UnknownSession)));
}

// spec: http 6.8, handshake 4.4
#[tokio::test]
async fn a_session_and_its_contexts_belong_to_the_token_and_without_one_to_the_connection() {
    let shown = |token: &str| {
        let mut options = Options::default();
        options.token = Some(Token::new(token).unwrap());
        options
    };
    let mut options = ServeOptions::default();
    let tokens = BearerTokens::new()
        .with("alice", &Token::new("a-token").unwrap())
        .with("bob", &Token::new("b-token").unwrap());
    options.transport.authorize = Some(Arc::new(tokens));
    let (url, _stop) = start(URL, options).await;
    let (_, frame) = thought().await;
    let alice = Client::connect(&url, shown("a-token")).await;
    let id = kept(&alice.transmit(&frame).await.unwrap())["avp.transfer"].clone();
    let asked = json!({ "avp.transfer": id });
    let elsewhere = |token: &str| Client {
        http: HttpClient::new(&url.parse().unwrap(), "alice", shown(token)).unwrap(),
        session: alice.session.clone(),
    };
    assert!(elsewhere("a-token").ask(asked.clone()).await.is_ok(), "her other connection");
    let unknown = (400, Some(ErrorCode::UnknownSession));
    assert_eq!(refused(elsewhere("b-token").ask(asked.clone()).await), unknown);
    assert_eq!(refused(elsewhere("b-token").transmit(&frame).await), unknown);
    assert_eq!(refused(elsewhere("guess").ask(asked).await).0, 401);

    let (url, _stop) = start(URL, ServeOptions::default()).await;
    let anybody = Client::connect(&url, Options::default()).await;
    let id = kept(&anybody.transmit(&frame).await.unwrap())["avp.transfer"].clone();
    let http = HttpClient::new(&url.parse().unwrap(), "anybody", Options::default()).unwrap();
    let another = Client { http, session: anybody.session.clone() };
    assert_eq!(refused(another.ask(json!({ "avp.transfer": id })).await), unknown);
}

// spec: http 6.5, http 6.6
#[tokio::test]
async fn what_is_no_question_and_no_context_of_this_model_is_refused_with_its_code() {
    let mut options = ServeOptions::default();
    options.max_contexts = 1;
    let (url, _stop) = start(URL, options).await;
    let client = Client::connect(&url, Options::default()).await;
    let (context, frame) = thought().await;
    let changed = |change: &dyn Fn(&mut Frame)| {
        let mut frame = frame.clone();
        change(&mut frame);
        frame
    };
    let manifest = Manifest::new(context.kv_header().unwrap(), 1, 4);
    let kind =
        |kind: FrameKind| changed(&|f| drop(f.metadata.extra.insert(ext::KIND.into(), kind.as_str().into())));
    for (frame, code) in [
        (manifest.to_frame(frame.metadata.clone(), &"t".parse().unwrap()), ErrorCode::UnexpectedFrame),
        (kind(FrameKind::Hello), ErrorCode::UnexpectedFrame),
        (Frame::new(Metadata::default(), vec![0; 8]), ErrorCode::UnexpectedFrame),
        (changed(&|f| f.metadata.hidden_dim = 9), ErrorCode::KvModelMismatch),
        (changed(&|f| f.payload = f.payload.slice(..20)), ErrorCode::KvSizeMismatch),
        (
            changed(&|f| drop(f.metadata.extra.insert(ext::TRANSFER.into(), "a b".into()))),
            ErrorCode::InvalidExtension,
        ),
        (
            changed(&|f| drop(f.metadata.extra.insert(ext::QUESTION.into(), "why?".into()))),
            ErrorCode::InvalidArgument,
        ),
        (changed(&|f| f.metadata.mode = Mode::Json), ErrorCode::InvalidArgument),
    ] {
        // A connection that brings too many of these is ended.
        let client = Client::connect(&url, Options::default()).await;
        assert_eq!(refused(client.transmit(&frame).await), (400, Some(code)));
    }
    for (extra, code) in [
        (json!({ "avp.transfer": "never came" }), ErrorCode::InvalidExtension),
        (json!({ "avp.transfer": 7 }), ErrorCode::InvalidExtension),
        (json!({ "avp.transfer": "never-came" }), ErrorCode::SlabsMissing),
    ] {
        assert_eq!(refused(client.ask(extra).await), (400, Some(code)));
    }
    let mut wrong = message(&client.session, json!({}));
    wrong.extra.insert("generate".into(), json!({ "max_tokens": "many" }));
    assert_eq!(refused(client.http.text(&wrong).await), (400, Some(ErrorCode::InvalidArgument)));
    // The second context of a session that may have one takes the place of the first.
    let first = kept(&client.transmit(&frame).await.unwrap())["avp.transfer"].clone();
    let second = kept(&client.transmit(&frame).await.unwrap())["avp.transfer"].clone();
    let missing = client.ask(json!({ "avp.transfer": first })).await;
    assert_eq!(refused(missing), (400, Some(ErrorCode::SlabsMissing)));
    assert!(client.ask(json!({ "avp.transfer": second })).await.is_ok());
}

// spec: http 6.7
#[tokio::test]
async fn a_server_that_holds_its_most_sessions_says_when_to_ask_again() {
    let mut options = ServeOptions::default();
    options.max_sessions = 1;
    let (url, _stop) = start(URL, options).await;
    let client = Client::connect(&url, Options::default()).await;
    let peer = Peer::connect(&url, agent().hello(), &Options::default()).await.unwrap();
    assert_eq!(refused(client.ask(json!({})).await), (503, Some(ErrorCode::Busy)));
    peer.close().await.unwrap();
    while client.ask(json!({})).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn metrics_are_those_that_the_application_gives() {
    let get = async |url: &str| {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let mut options = ServeOptions::default();
    options.metrics = Some(MetricsText::new(|| "made_up 1\n".to_owned()));
    let (url, _stop) = start(URL, options).await;
    let text = get(&url).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nmade_up 1\n"), "{text}");
    let (url, _stop) = start(URL, ServeOptions::default()).await;
    assert!(get(&url).await.starts_with("HTTP/1.1 404"));
}
