//! Handing over to a model of another kind (docs/spec/exchange.md, 6 to 8).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use avp::transport::{listen, negotiate_server};
use avp::{
    Agent, Ask, AskError, GateMode, GenerateOptions, Handover, MapFolder, OutgoingHidden, Peer, Projected,
    ProjectionMap, Prompt, ResolutionPath, SamplingOptions, ServeOptions, Served, TransportOptions,
    Validation, VerificationPolicy, project_into, serve,
};
use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_handshake::fingerprint::Fingerprint;
use avp_handshake::{Capabilities, NegotiatorConfig, Reject, VocabularyClaim};
use avp_wire::ext::FrameKind;
use avp_wire::vocabulary::{HashedToken, TokenHashes, VocabularyError};
use avp_wire::{Bytes, Distribution, EncodeOptions, ErrorCode, Frame, Metadata, Mode, ext};
use serde_json::{Value, json};

use crate::common::{Raw, question, start};

/// A model whose tokens are those of [`crate::common::agent`]'s, and nothing else.
fn other(window: usize) -> Agent {
    let input = (0..256 * 12).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
    let tables = MatrixTables { hidden_dim: 12, input, output: None };
    Agent::new("other", Arc::new(MatrixBackend::new("another kind", tables, window)))
}

async fn hidden(agent: &Agent, prompt: &str, steps: usize, gate: GateMode) -> OutgoingHidden {
    let context = agent.think(Prompt::Raw(prompt.to_owned()), None, steps).await.unwrap();
    let states = context.hidden().unwrap().clone();
    let mut hidden = OutgoingHidden::new(agent, states, VerificationPolicy::default()).unwrap();
    hidden.gate = gate;
    hidden
}

fn ask(hidden: OutgoingHidden, text: Option<&str>) -> Ask {
    Ask {
        prompt: "question".into(),
        hidden: Some(hidden),
        text: text.map(str::to_owned),
        options: greedy(),
        ..Ask::default()
    }
}

fn greedy() -> GenerateOptions {
    GenerateOptions { max_tokens: 6, sampling: SamplingOptions::greedy(), ..Default::default() }
}

async fn connect(agent: &Agent, url: &str) -> Peer {
    Peer::connect(url, agent.hello(), &TransportOptions::default()).await.unwrap()
}

// spec: exchange 6.1, exchange 6.5, exchange 7.1, exchange 7.3, handshake 3.3
#[tokio::test]
async fn what_a_model_would_say_reaches_one_of_another_kind_as_in_one_process() {
    let (url, _stop) = start("avp+mem:another", ServeOptions::default()).await;
    let (source, target) = (other(512), crate::common::agent());
    let mut peer = connect(&source, &url).await;
    assert_eq!(peer.resolution().path, ResolutionPath::JsonFallback);
    for steps in [0, 3] {
        let hidden = hidden(&source, "what it reads", steps, GateMode::Off).await;
        let there = peer.ask(&ask(hidden.clone(), None)).await.unwrap();
        let Handover::Distribution { positions, advice, .. } = &there.handover else {
            panic!("{:?}", there.handover)
        };
        assert!((1..=steps + 1).contains(positions) && advice.is_none(), "{positions} after {steps}");
        assert_eq!(there.context_tokens, *positions);
        let Projected::Context(context, handover) = project_into(&hidden, &target).unwrap() else { panic!() };
        assert_eq!(handover, there.handover);
        let go_on = |_: avp::GenerateEvent<'_>| ControlFlow::Continue(());
        let here = target.generate(Prompt::User("question".into()), Some(context), greedy(), go_on);
        assert_eq!(here.await.unwrap().tokens, there.tokens);
    }
    assert_eq!(peer.resolution().path, ResolutionPath::VocabOverlap);
    assert_eq!(peer.resolution().map_id, "vocab_overlap:256");
    let nothing = Ask { prompt: "question".into(), options: greedy(), ..Ask::default() };
    assert_eq!(peer.ask(&nothing).await.unwrap().handover, Handover::Nothing);
}

// spec: exchange 4.1, exchange 4.3
#[tokio::test]
async fn where_the_gate_says_text_it_is_text_and_the_receiver_sees_why() {
    let served: Arc<Mutex<Vec<Served>>> = Arc::default();
    let seen = Arc::clone(&served);
    let server = serve(crate::common::agent(), "avp+mem:gate", ServeOptions::default(), move |s| {
        seen.lock().unwrap().push(s.clone())
    });
    let server = server.await.unwrap();
    let url = server.url().to_string();
    tokio::spawn(server.run(std::future::pending()));
    let source = other(512);
    let mut peer = connect(&source, &url).await;
    let long = "x".repeat(301);
    let enforced = hidden(&source, &long, 0, GateMode::Enforce).await;
    let answer = peer.ask(&ask(enforced.clone(), Some("what it reads"))).await.unwrap();
    let Handover::Text { why } = &answer.handover else { panic!("{:?}", answer.handover) };
    assert!(why.contains("gate") && why.contains("301"), "{why}");
    let refused = peer.ask(&ask(enforced, None)).await.unwrap_err();
    assert!(matches!(refused, AskError::NothingToHandOver { .. }), "{refused}");
    let advised = hidden(&source, &long, 0, GateMode::Advise).await;
    let answer = peer.ask(&ask(advised, None)).await.unwrap();
    let Handover::Distribution { advice: Some(advice), .. } = &answer.handover else {
        panic!("{:?}", answer.handover)
    };
    assert!(advice.contains("301"), "{advice}");
    let served = served.lock().unwrap();
    let seen: Vec<(&str, bool)> = served
        .iter()
        .map(|s| (s.handover.as_str(), s.why.as_ref().is_some_and(|w| w.contains("301"))))
        .collect();
    assert_eq!(seen, [("text", true), ("distribution", true)]);
}

#[tokio::test]
async fn a_text_that_ends_with_the_question_is_not_followed_by_it_again() {
    assert_eq!(avp::with_text("notes\nquestion", "question"), "notes\nquestion");
    assert_eq!(avp::with_text("question", "question"), "question");
    assert_eq!(avp::with_text("the question", "question"), "the question\nquestion");
    assert_eq!(avp::with_text("notes", "question"), "notes\nquestion");
}

// spec: exchange 6.3
#[tokio::test]
async fn a_vocabulary_is_asked_for_once_and_again_where_what_was_kept_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let source = || other(512).with_cache_dir(Some(folder.path().to_owned()));
    let kept = || {
        let files = std::fs::read_dir(folder.path().join("vocabularies")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let mut tokens = Vec::new();
    for round in 0..3 {
        let (url, _stop) = start(&format!("avp+mem:kept-{round}"), ServeOptions::default()).await;
        let source = source();
        let mut peer = connect(&source, &url).await;
        let hidden = hidden(&source, "what it reads", 0, GateMode::Off).await;
        tokens.push(peer.ask(&ask(hidden, None)).await.unwrap().tokens);
        let [file] = &kept()[..] else { panic!("{:?}", kept()) };
        let hashes = TokenHashes::decode(&Bytes::from(std::fs::read(file).unwrap())).unwrap();
        assert_eq!(hashes.tokens().len(), 256);
        if round == 1 {
            std::fs::write(file, b"damaged").unwrap();
        }
    }
    assert!(tokens.iter().all(|t| *t == tokens[0]));
}

// spec: exchange 6.2
#[tokio::test]
async fn a_vocabulary_that_is_not_the_announced_one_is_an_error_and_the_session_goes_on() {
    let url = "avp+mem:liar".parse().unwrap();
    let listener = listen(&url, &TransportOptions::default()).await.unwrap();
    let lying = tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let mut hello = crate::common::agent().hello();
        let claim = VocabularyClaim { fingerprint: Fingerprint::from_bytes([7; 32]), rows: 256 };
        let announced = Capabilities::from_hello(&hello).unwrap().unwrap();
        Capabilities { vocabulary: Some(claim), ..announced }.announce(&mut hello);
        let config = NegotiatorConfig::new(hello, connection.peer_id());
        let session = negotiate_server(&mut connection, config).await.unwrap().session.id.to_string();
        while let Some(asked) = connection.recv().await.unwrap() {
            assert_eq!(asked.kind(), Ok(Some(FrameKind::Vocabulary)));
            let token = HashedToken { id: 1, meaning: 2, string: 3 };
            let payload = TokenHashes::new([token]).unwrap().encode();
            let metadata =
                Metadata { session_id: session.clone(), extra: asked.metadata.extra, ..Metadata::default() };
            connection.send_frame(&Frame::new(metadata, payload), &EncodeOptions::default()).await.unwrap();
        }
    });
    let source = other(512);
    let mut peer = connect(&source, "avp+mem:liar").await;
    for _ in 0..2 {
        let hidden = hidden(&source, "what it reads", 0, GateMode::Off).await;
        let error = peer.ask(&ask(hidden, None)).await.unwrap_err();
        assert!(matches!(error, AskError::Vocabulary(VocabularyError::Mismatch)), "{error}");
    }
    drop(peer);
    lying.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_takes_no_distributions_gets_text() {
    let url = "avp+mem:no-vocabulary".parse().unwrap();
    let listener = listen(&url, &TransportOptions::default()).await.unwrap();
    tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let mut hello = crate::common::agent().hello();
        Capabilities { keys: vec![ext::KIND.into()], ..Capabilities::default() }.announce(&mut hello);
        let config = NegotiatorConfig::new(hello, connection.peer_id());
        negotiate_server(&mut connection, config).await.unwrap();
        let _ = connection.recv().await;
    });
    let source = other(512);
    let mut peer = connect(&source, "avp+mem:no-vocabulary").await;
    let hidden = hidden(&source, "what it reads", 0, GateMode::Off).await;
    let error = peer.ask(&ask(hidden, None)).await.unwrap_err();
    let AskError::NothingToHandOver { why } = &error else { panic!("{error}") };
    assert!(why.contains("takes no distributions"), "{why}");
}

/// A frame of distributions without a session yet.
fn distributions(count: u32, payload: Vec<u8>) -> Frame {
    let mut metadata = Metadata { tensor_shape: vec![count], mode: Mode::Latent, ..Metadata::default() };
    metadata.extra.insert(ext::TRANSFER.into(), "d".into());
    Frame::new(metadata, payload)
}

fn one(ids: &[u32], probabilities: &[f32]) -> Vec<u8> {
    Distribution::encode_all(&[Distribution::new(ids.to_vec(), probabilities.to_vec(), 0.0).unwrap()])
}

/// Sends distributions and a question behind them; gives the code of the refusal.
async fn refusal(raw: &mut Raw, frame: Frame, extra: Option<Value>) -> Option<ErrorCode> {
    let id = format!("d{}", raw.next_id());
    let mut frame = frame;
    frame.metadata.extra.insert(ext::TRANSFER.into(), id.clone());
    raw.send(frame, "distribution", &EncodeOptions::default()).await;
    let mut asked = question("q", Some(&id), json!({ "max_tokens": 1 }));
    if let Some(extra) = extra {
        let mut message: Value = serde_json::from_slice(&asked.payload).unwrap();
        message["extra"]["validate"] = extra;
        asked.payload = message.to_string().into_bytes().into();
    }
    raw.send(asked, "text", &EncodeOptions::default()).await;
    Reject::from_frame(&raw.receive().await).and_then(|reject| reject.code)
}

// spec: exchange 7.4, exchange 7.5, exchange 7.6
#[tokio::test]
async fn distributions_that_are_none_are_refused_at_their_question_and_the_session_goes_on() {
    let (url, _stop) = start("avp+mem:bad-distributions", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    let good = one(&[65, 66], &[0.5, 0.5]);
    let values = |values: [f32; 3]| {
        let values = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        [&[2, 0, 0, 0, 65, 1][..], &values].concat()
    };
    let twice = [&[2, 0, 0, 0, 65, 0][..], &[0; 12]].concat();
    let bad = [
        distributions(1, values([-0.5, 0.5, 0.0])),
        distributions(1, values([f32::NAN, 0.5, 0.0])),
        distributions(1, values([0.9, 0.9, 0.0])),
        distributions(1, values([0.0, 0.0, 1.0])),
        distributions(1, one(&[65, 256], &[0.5, 0.5])),
        distributions(1, one(&[u32::MAX], &[1.0])),
        distributions(1, twice),
        distributions(2, good.clone()),
        distributions(0, Vec::new()),
        distributions(1, good[..good.len() - 1].to_vec()),
    ];
    for (i, frame) in bad.into_iter().enumerate() {
        assert_eq!(refusal(&mut raw, frame, None).await, Some(ErrorCode::InvalidDistribution), "{i}");
    }
    let mut shapeless = distributions(1, good.clone());
    shapeless.metadata.tensor_shape = vec![1, 1];
    assert_eq!(refusal(&mut raw, shapeless, None).await, Some(ErrorCode::InvalidDistribution));
    let beyond = distributions(513, good.repeat(513));
    assert_eq!(refusal(&mut raw, beyond, None).await, Some(ErrorCode::KvModelMismatch));
    let full = distributions(512, good.repeat(512));
    assert_eq!(refusal(&mut raw, full, None).await, Some(ErrorCode::InvalidArgument));
    assert_eq!(refusal(&mut raw, distributions(1, good), None).await, None);
    assert_eq!(raw.ask(None, json!({ "max_tokens": 1 })).await, None);
}

// spec: exchange 6.1, exchange 6.3
#[tokio::test]
async fn a_session_is_given_the_vocabulary_a_few_times_and_no_more() {
    let (url, _stop) = start("avp+mem:greedy", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    for round in 0..6 {
        let mut frame = Frame::new(Metadata::default(), Vec::new());
        frame.metadata.extra.insert(ext::TRANSFER.into(), format!("v{round}"));
        raw.send(frame, "vocabulary", &EncodeOptions::default()).await;
        let reply = raw.receive().await;
        if round < 4 {
            let own = TokenHashes::decode(&reply.payload).unwrap().fingerprint();
            let announced =
                Capabilities::from_hello(&crate::common::agent().hello()).unwrap().unwrap().vocabulary;
            assert_eq!(announced.unwrap().fingerprint, Fingerprint::from_bytes(own));
        } else {
            assert_eq!(Reject::from_frame(&reply).unwrap().code, Some(ErrorCode::Busy));
        }
    }
    assert_eq!(raw.ask(None, json!({ "max_tokens": 1 })).await, None);
}

// spec: exchange 8.1, exchange 8.2, exchange 8.3
#[tokio::test]
async fn what_distributions_are_worth_is_told_and_nonsense_about_it_refused() {
    let (url, _stop) = start("avp+mem:worth", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    let good = distributions(1, one(&[65, 66], &[0.5, 0.5]));
    for extra in [
        json!(1),
        json!({ "texts": [[65, 66]] }),
        json!({ "texts": [] }),
        json!({ "texts": [[-1]] }),
        json!({ "texts": [[256]] }),
        json!({ "texts": "none" }),
    ] {
        let code = refusal(&mut raw, good.clone(), Some(extra.clone())).await;
        assert_eq!(code, Some(ErrorCode::InvalidArgument), "{extra}");
    }
    let many = distributions(200, one(&[65], &[1.0]).repeat(200));
    let texts = json!({ "texts": [vec![65; 200]] });
    assert_eq!(refusal(&mut raw, many, Some(texts)).await, Some(ErrorCode::InvalidArgument));
    assert_eq!(refusal(&mut raw, good, Some(json!({ "texts": [[65]] }))).await, None);
    let mut lone = question("q", None, json!({}));
    let mut message: Value = serde_json::from_slice(&lone.payload).unwrap();
    message["extra"]["validate"] = json!({ "texts": [[65]] });
    lone.payload = message.to_string().into_bytes().into();
    raw.send(lone, "text", &EncodeOptions::default()).await;
    assert_eq!(Reject::from_frame(&raw.receive().await).unwrap().code, Some(ErrorCode::InvalidArgument));
}

#[tokio::test]
async fn hidden_states_of_another_model_are_refused_before_anything_is_sent() {
    let context = crate::common::agent().think(Prompt::Raw("x".into()), None, 1).await.unwrap();
    let states = context.hidden().unwrap().clone();
    assert!(OutgoingHidden::new(&other(512), states, VerificationPolicy::default()).is_err());
}

// spec: exchange 6.3, exchange 8.2
#[tokio::test]
async fn what_a_projection_is_worth_is_measured_once_for_a_pair() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _stop) = start("avp+mem:measured", ServeOptions::default()).await;
    let source = other(512).with_cache_dir(Some(folder.path().to_owned()));
    let mut peer = connect(&source, &url).await;
    let files = |kind: &str| std::fs::read_dir(Path::join(folder.path(), kind)).map_or(0, Iterator::count);
    for _ in 0..2 {
        let advised = hidden(&source, "what it reads", 0, GateMode::Advise).await;
        peer.ask(&ask(advised, None)).await.unwrap();
        assert_eq!((files("validations"), files("vocabularies")), (1, 1));
    }
}

#[tokio::test]
async fn what_a_map_was_found_to_be_worth_is_not_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _stop) = start("avp+mem:worth-of-map", ServeOptions::default()).await;
    let (source, target) = (other(512), crate::common::agent());
    let mut map = ProjectionMap::between(source.backend().as_ref(), target.backend().as_ref()).unwrap();
    map.validation = Some(Validation { cosine: 0.125, perplexity: None });
    let maps = || MapFolder::new(folder.path().join("maps"));
    maps().save(&map).unwrap();
    let source = source.with_maps(Some(maps())).with_cache_dir(Some(folder.path().to_owned()));
    let advised = hidden(&source, "what it reads", 0, GateMode::Advise).await;
    let Projected::Context(_, here) = project_into(&advised, &target).unwrap() else { panic!() };
    let there = connect(&source, &url).await.ask(&ask(advised, None)).await.unwrap().handover;
    for handover in [here, there] {
        assert!(handover.why().is_some_and(|why| why.contains("0.125")), "{handover}");
    }
    assert!(!folder.path().join("validations").exists());
}
