//! What agents say to one another in a session, frame by frame (docs/spec/exchange.md).

use avp::{
    Ask, AskError, BufferPool, ContextStamp, GenerateOptions, Handover, OutgoingContext, Peer, Prompt,
    ServeOptions, TransportOptions,
};
use avp_handshake::{NegotiatorConfig, Reject, TextMessage};
use avp_transport::tls::DevCa;
use avp_transport::{TlsAuthorities, TlsCertificate, listen, negotiate_server};
use avp_wire::ext::{self, FrameKind};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata, Mode, PayloadType};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::{LONG, Raw, agent, question, start};

/// Says a frame of `kind` in a session and gives the code of the refusal.
async fn refusal(raw: &mut Raw, frame: Frame, kind: &str) -> Option<ErrorCode> {
    raw.send(frame, kind, &EncodeOptions::default()).await;
    Reject::from_frame(&raw.receive().await).and_then(|reject| reject.code)
}

// spec: exchange 1.1
#[tokio::test]
async fn a_frame_of_another_session_is_refused_and_the_session_goes_on() {
    let (url, _stop) = start("avp+mem:session", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    let own = std::mem::replace(&mut raw.session, "0".repeat(32));
    let frame = question("q", None, json!({}));
    assert_eq!(refusal(&mut raw, frame, "text").await, Some(ErrorCode::UnknownSession));
    raw.session = own;
    assert_eq!(raw.ask(None, json!({ "max_tokens": 1 })).await, None);
}

// spec: exchange 1.4, exchange 2.1, extensions 5.1
#[tokio::test]
async fn frames_that_are_neither_question_nor_context_are_refused() {
    let (url, _stop) = start("avp+mem:kinds", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    let text = question("q", None, json!({}));
    let latent = Frame { metadata: Metadata::default(), ..text.clone() };
    for (frame, kind) in [(&latent, "text"), (&latent, "slab"), (&text, "hello"), (&text, "distribution")] {
        let code = refusal(&mut raw, frame.clone(), kind).await;
        assert_eq!(code, Some(ErrorCode::UnexpectedFrame), "{kind}");
    }
    assert_eq!(refusal(&mut raw, text, "poem").await, Some(ErrorCode::InvalidExtension));
}

#[tokio::test]
async fn a_grammar_is_refused_here_instead_of_forgotten_on_the_way() {
    let (url, _stop) = start("avp+mem:grammar", ServeOptions::default()).await;
    let mut peer = Peer::connect(&url, agent().hello(), &TransportOptions::default()).await.unwrap();
    let options = GenerateOptions {
        grammar: Some("root ::= \"a\"".parse().unwrap()),
        max_tokens: 1,
        ..Default::default()
    };
    let mut ask = Ask { prompt: "q".into(), options, ..Ask::default() };
    assert!(matches!(peer.ask(&ask).await, Err(AskError::Grammar)));
    ask.options.grammar = None;
    peer.ask(&ask).await.unwrap();
}

// spec: exchange 2.4
#[tokio::test]
async fn a_question_that_is_no_text_message_is_refused() {
    let (url, _stop) = start("avp+mem:no-text", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    for payload in [&b"{"[..], b"[]", br#"{"content": null}"#, b"\xff"] {
        let frame = Frame { payload: payload.to_vec().into(), ..question("q", None, json!({})) };
        assert_eq!(refusal(&mut raw, frame, "text").await, Some(ErrorCode::InvalidArgument));
    }
}

// spec: exchange 3.5
#[tokio::test]
async fn a_question_whose_context_did_not_come_is_refused() {
    let (url, _stop) = start("avp+mem:missing", ServeOptions::default()).await;
    let reject = Raw::connect(&url).await.ask(Some("7"), json!({})).await.unwrap();
    assert_eq!(reject.code, Some(ErrorCode::SlabsMissing));
}

// spec: exchange 5.1, exchange 5.3
#[tokio::test]
async fn questions_are_answered_in_their_order_by_text_frames_that_say_what_it_took() {
    let (url, _stop) = start("avp+mem:order", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    for tokens in 1..=3 {
        let frame = question("q", None, json!({ "max_tokens": tokens, "temperature": 0 }));
        raw.send(frame, "text", &EncodeOptions::default()).await;
    }
    for tokens in 1..=3 {
        let answer = raw.receive().await;
        assert_eq!(answer.kind(), Ok(Some(FrameKind::Text)));
        assert_eq!((answer.metadata.mode, &answer.metadata.session_id), (Mode::Json, &raw.session));
        let message = TextMessage::from_json(&answer.payload).unwrap();
        let record = &message.extra["answer"];
        assert_eq!(record["tokens"].as_array().map(Vec::len), Some(tokens));
        assert!(record["prompt_tokens"].as_u64() > Some(0) && record["context_tokens"] == 0);
        assert_eq!((&record["verified"], &record["stop"]), (&Value::Bool(false), &Value::from("max_tokens")));
    }
}

// spec: exchange 5.4
#[tokio::test]
async fn a_peer_that_ends_its_side_after_its_questions_is_answered_all_of_them() {
    for url in ["avp+mem:half-close", "avp+tcp://127.0.0.1:0", "http://127.0.0.1:0", "avp+quic://127.0.0.1:0"]
    {
        let mut options = ServeOptions::default();
        let (authority, mut ours) = (DevCa::new("test").unwrap(), TransportOptions::default());
        let issued = authority.issue(&["127.0.0.1".into()]).unwrap();
        let certificate = TlsCertificate::from_pem(&issued.certificate, &issued.key).unwrap();
        options.transport.tls.certificate = Some(certificate);
        ours.tls.authorities = Some(TlsAuthorities::from_pem(authority.certificate()).unwrap());
        let (url, _stop) = start(url, options).await;
        let mut raw = Raw::connect_with(&url, &ours).await;
        let context = agent().think(Prompt::User("notes".into()), None, 2).await.unwrap();
        let context = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
        for tokens in 1..=2 {
            let frame = question("q", None, json!({ "max_tokens": tokens, "temperature": 0 }));
            raw.send(frame, "text", &EncodeOptions::default()).await;
        }
        if !url.starts_with("avp+quic") {
            // Over QUIC it would need a stream of its own.
            let mut context = context.clone();
            context.metadata.extra.insert(ext::TRANSFER.into(), "c".into());
            raw.send(context, "slab", &EncodeOptions::default()).await;
            let frame = question("q", Some("c"), json!({ "max_tokens": 3, "temperature": 0 }));
            raw.send(frame, "text", &EncodeOptions::default()).await;
        }
        raw.connection.halves().0.finish().await.unwrap();
        let mut answers = Vec::new();
        while let Some(frame) = timeout(LONG, raw.connection.recv()).await.unwrap().unwrap() {
            if frame.kind() != Ok(Some(FrameKind::Ack)) {
                let message = TextMessage::from_json(&frame.payload).unwrap();
                answers.push(message.extra["answer"]["tokens"].as_array().unwrap().len());
            }
        }
        answers.sort_unstable();
        assert_eq!(answers, if url.starts_with("avp+quic") { vec![1, 2] } else { vec![1, 2, 3] }, "{url}");
    }
}

// spec: exchange 5.4
#[tokio::test]
async fn a_peer_that_ends_its_side_before_its_context_is_whole_hears_that_it_has_no_answer() {
    let (url, _stop) = start("avp+mem:half-context", ServeOptions::default()).await;
    let context = agent().think(Prompt::User("notes".into()), None, 2).await.unwrap();
    let outgoing = OutgoingContext::of_context(&context).unwrap();
    let mut raw = Raw::connect(&url).await;
    let mut manifest = outgoing.manifest().to_frame(outgoing.metadata().clone(), outgoing.transfer());
    manifest.metadata.session_id.clone_from(&raw.session);
    raw.connection.send_frame(&manifest, &EncodeOptions::default()).await.unwrap();
    assert_eq!(raw.receive().await.kind(), Ok(Some(FrameKind::Ack)));
    for _ in 0..2 {
        let frame = question("q", Some(outgoing.transfer().as_str()), json!({}));
        raw.send(frame, "text", &EncodeOptions::default()).await;
    }
    raw.connection.halves().0.finish().await.unwrap();
    for _ in 0..2 {
        let refusal = Reject::from_frame(&timeout(LONG, raw.receive()).await.unwrap()).unwrap();
        assert_eq!(refusal.code, Some(ErrorCode::SlabsMissing));
    }
    assert!(timeout(LONG, raw.connection.recv()).await.unwrap().unwrap().is_none());
}

// spec: exchange 2.1, exchange 2.3, exchange 3.1, exchange 4.2, exchange 5.5, extensions 2.2, slabs 1.4
#[tokio::test]
async fn a_context_goes_before_its_question_with_what_was_announced_and_no_more() {
    let options = TransportOptions::default();
    let listener = listen(&"avp+mem:scripted".parse().unwrap(), &options).await.unwrap();
    let server = tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let config = NegotiatorConfig::new(agent().hello(), connection.peer_id());
        let session = negotiate_server(&mut connection, config).await.unwrap().session.id.to_string();
        let mut said = Vec::new();
        for _ in 0..2 {
            let [slab, asked] =
                [connection.recv().await.unwrap().unwrap(), connection.recv().await.unwrap().unwrap()];
            let transfer = asked.metadata.extra[ext::TRANSFER].clone();
            said.push([slab, asked]);
            let mut waiting = Metadata::default();
            waiting.extra.insert(ext::KIND.into(), "ack".into());
            waiting.extra.insert(ext::TRANSFER.into(), transfer.clone());
            let waiting = Frame::new(waiting, Vec::new());
            connection.send_frame(&waiting, &EncodeOptions::default()).await.unwrap();
            let answer = question("answer", Some(&transfer), json!({}));
            connection.send_frame(&answer, &EncodeOptions::default()).await.unwrap();
        }
        (session, said)
    });
    let context = agent().think(Prompt::User("notes".into()), None, 2).await.unwrap();
    let stamp = ContextStamp { extensions: true, ..Default::default() };
    let mut frame = context.to_frame(&stamp, &BufferPool::new(0)).unwrap();
    frame.metadata.extra.insert(ext::TEXT.into(), "\"notes\"".into());
    let mut peer = Peer::connect("avp+mem:scripted", agent().hello(), &options).await.unwrap();
    let ask = Ask {
        prompt: "q".into(),
        context: Some(OutgoingContext::of_frame(&frame).unwrap()),
        ..Ask::default()
    };
    for _ in 0..2 {
        let answer = peer.ask(&ask).await.unwrap();
        assert_eq!((answer.handover, answer.text.as_str()), (Handover::Kv, "answer"));
    }

    let (session, said) = server.await.unwrap();
    let [[slab, asked], [again, _]] = &said[..] else { panic!() };
    assert_eq!((&slab.metadata.session_id, &asked.metadata.session_id), (&session, &session));
    assert_ne!(slab.metadata.extra[ext::TRANSFER], again.metadata.extra[ext::TRANSFER]);
    assert_eq!((slab.kind(), asked.kind()), (Ok(Some(FrameKind::Slab)), Ok(Some(FrameKind::Text))));
    assert_eq!((slab.metadata.payload_type, asked.metadata.mode), (PayloadType::KvCache, Mode::Json));
    assert_eq!(TextMessage::from_json(&asked.payload).unwrap().content, "q");
    let extra = &slab.metadata.extra;
    assert_eq!(extra[ext::TRANSFER], asked.metadata.extra[ext::TRANSFER]);
    assert_eq!(extra[ext::SLAB], format!("L0+1,T0+{}", context.len()));
    assert_eq!(
        (extra[ext::MODEL_FAMILY].as_str(), extra[ext::NUM_STEPS].as_str()),
        (&*context.identity().model_family, "2")
    );
    assert!(extra.contains_key(ext::MODEL_HASH));
    assert_eq!(extra.get(ext::WEIGHTS).map(String::as_str), context.weights());
    assert!(!extra.contains_key(ext::TEXT), "not announced, and of no use to one that takes the cache");
}
