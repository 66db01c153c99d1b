//! Contexts in slabs: over a session, across broken connections, while a question is read, and into files.

#![allow(clippy::single_range_in_vec_init)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use avp::{
    Ask, AskError, BufferPool, Context, GenerateOptions, Handed, Handover, OutgoingContext, Peer, Prompt,
    ReceiveEvent, ReceiveInto, ReceiveOptions, SamplingOptions, ServeOptions, TransportOptions,
    VerificationPolicy, load_context, open_context, read_frame, receive,
};
use avp_handshake::{Reject, TextMessage};
use avp_wire::ext;
use avp_wire::slab::Ack;
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use common::{Raw, agent, question, start};

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(60);

async fn thought() -> Context {
    agent().think(Prompt::User("notes that are long enough for some slabs".into()), None, 2).await.unwrap()
}

/// The context in slabs of 8 tokens.
fn outgoing(context: &Context) -> OutgoingContext {
    let outgoing = OutgoingContext::of_context(context).unwrap().with_slab_len(8 * 64);
    assert!(outgoing.manifest().slab_count() > 4, "{outgoing:?}");
    outgoing
}

fn greedy() -> GenerateOptions {
    GenerateOptions { max_tokens: 6, sampling: SamplingOptions::greedy(), ..Default::default() }
}

async fn alone(context: &Context) -> Vec<u32> {
    let prompt = Prompt::User("question".into());
    let agent = agent();
    let answer = agent.generate(prompt, Some(context.clone()), greedy(), |_| ControlFlow::Continue(()));
    answer.await.unwrap().tokens
}

async fn connect(url: &str) -> Peer {
    Peer::connect(url, agent().hello(), &TransportOptions::default()).await.unwrap()
}

fn addressed(raw: &Raw, frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    frame.metadata.session_id.clone_from(&raw.session);
    frame
}

async fn say(raw: &mut Raw, frame: &Frame) {
    let frame = addressed(raw, frame);
    raw.connection.send_frame(&frame, &EncodeOptions::default()).await.unwrap();
}

/// The manifest's frame and those of the slabs.
fn frames(outgoing: &OutgoingContext, context: &Context) -> (Frame, Vec<Frame>) {
    let manifest = outgoing.manifest();
    let whole = context.to_frame(&avp::ContextStamp::default(), &BufferPool::new(0)).unwrap();
    let slabs = manifest.slabs().map(|id| {
        let mut payload = vec![0; manifest.slab_header(&id).payload_len().unwrap()];
        manifest.extract(&whole.kv().unwrap(), &id, &mut payload).unwrap();
        manifest.slab_frame(Metadata::default(), outgoing.transfer(), &id, payload.into()).unwrap()
    });
    (manifest.to_frame(outgoing.metadata().clone(), outgoing.transfer()), slabs.collect())
}

async fn ack(raw: &mut Raw, outgoing: &OutgoingContext) -> Ack {
    let frame = timeout(LONG, raw.receive()).await.unwrap();
    Ack::from_frame(&frame, outgoing.manifest(), outgoing.transfer())
        .unwrap_or_else(|error| panic!("{error}: {:?}", Reject::from_frame(&frame)))
}

// spec: exchange 3.1, slabs 2.7, slabs 8.1, slabs 8.4
#[tokio::test]
async fn a_context_in_slabs_is_continued_as_by_its_maker() {
    let (url, _stop) = start("avp+mem:slabs", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let mut peer = connect(&url).await;
    let heard = Mutex::new(Vec::new());
    let ask = Ask {
        prompt: "question".into(),
        context: Some(outgoing.clone()),
        options: greedy(),
        ..Default::default()
    };
    let hear = |handed| heard.lock().unwrap().push(handed);
    let answer = timeout(LONG, peer.ask_with(&ask, &hear)).await.unwrap().unwrap();
    assert_eq!((answer.handover, answer.context_tokens), (Handover::Kv, context.len()));
    assert_eq!(answer.tokens, alone(&context).await);
    let count = outgoing.manifest().slab_count();
    let slabs: Vec<u64> = heard.lock().unwrap().iter().map(|handed: &Handed| handed.slabs).collect();
    assert_eq!(slabs, (0..=count).collect::<Vec<_>>());
    // Once more in the same session, under another id; and the session closes well.
    let again = timeout(LONG, peer.ask(&ask)).await.unwrap().unwrap();
    assert_eq!(again.tokens, answer.tokens);
    peer.close().await.unwrap();
}

// spec: slabs 6.2, slabs 8.5, slabs 8.7
#[tokio::test]
async fn a_transfer_whose_connection_broke_goes_on_with_what_is_missing() {
    let (url, _stop) = start("avp+mem:resume", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let (manifest, slabs) = frames(&outgoing, &context);
    let mut first = Raw::connect(&url).await;
    say(&mut first, &manifest).await;
    let count = slabs.len() as u32;
    assert_eq!(ack(&mut first, &outgoing).await.gaps, [0..count]);
    for slab in &slabs[..3] {
        say(&mut first, slab).await;
    }
    // Something that is answered, so that the slabs before it were taken.
    say(&mut first, &manifest).await;
    assert_eq!(ack(&mut first, &outgoing).await.gaps, [3..count]);
    drop(first);

    let mut peer = connect(&url).await;
    let heard = Mutex::new(Vec::new());
    let sent = peer.hand_over(&outgoing, &|handed| heard.lock().unwrap().push(handed)).await.unwrap();
    let first = heard.lock().unwrap()[0];
    assert_eq!((first.slabs, first.sent), (3, 0), "what had come is not sent again");
    let rest: usize = slabs[3..].iter().map(|slab| slab.payload.len()).sum();
    assert_eq!(sent, rest as u64);
    drop(peer);

    // Delivered twice: nothing is sent, and the question is answered.
    let mut peer = connect(&url).await;
    assert_eq!(peer.hand_over(&outgoing, &|_| ()).await.unwrap(), 0);
    let mut peer = connect(&url).await;
    let ask =
        Ask { prompt: "question".into(), context: Some(outgoing), options: greedy(), ..Default::default() };
    let answer = peer.ask(&ask).await.unwrap();
    assert_eq!(answer.tokens, alone(&context).await);
}

// spec: slabs 8.6
#[tokio::test]
async fn another_manifest_under_a_known_id_is_refused() {
    let (url, _stop) = start("avp+mem:other-manifest", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let (manifest, _) = frames(&outgoing, &context);
    let mut raw = Raw::connect(&url).await;
    say(&mut raw, &manifest).await;
    ack(&mut raw, &outgoing).await;
    let mut other = manifest.clone();
    other.metadata.model_id = "another".into();
    say(&mut raw, &other).await;
    let reject = Reject::from_frame(&raw.receive().await).unwrap();
    assert_eq!(reject.code, Some(ErrorCode::SlabMismatch), "{}", reject.message);
}

// spec: slabs 8.4
#[tokio::test]
async fn a_damaged_slab_is_asked_for_again() {
    let (url, _stop) = start("avp+mem:damaged-slab", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let (manifest, slabs) = frames(&outgoing, &context);
    let mut raw = Raw::connect(&url).await;
    say(&mut raw, &manifest).await;
    ack(&mut raw, &outgoing).await;
    for (index, slab) in slabs.iter().enumerate() {
        let frame = addressed(&raw, slab);
        // One whose checksum is wrong, one whose digest is.
        let checksum = EncodeOptions { checksum: index == 1, ..EncodeOptions::default() };
        let mut encoded = frame.encode(&checksum).unwrap();
        if index == 1 || index == 2 {
            let mut bytes = encoded.payload.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            encoded.payload = bytes.into();
        }
        raw.connection.send(encoded).await.unwrap();
    }
    assert_eq!(ack(&mut raw, &outgoing).await.gaps, [1..3]);
    say(&mut raw, &slabs[1]).await;
    say(&mut raw, &slabs[2]).await;
    assert!(ack(&mut raw, &outgoing).await.is_complete());
}

// spec: exchange 3.6
#[tokio::test]
async fn a_peer_that_announces_no_digests_is_sent_no_slabs() {
    let options = TransportOptions::default();
    let listener = avp_transport::listen(&"avp+mem:plain-peer".parse().unwrap(), &options).await.unwrap();
    let server = tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let mut hello = agent().hello();
        let keys = [ext::KIND, ext::TRANSFER, ext::SLAB].map(str::to_owned).to_vec();
        avp_handshake::Capabilities { weights: None, keys, codecs: Vec::new() }.announce(&mut hello);
        let config = avp_handshake::NegotiatorConfig::new(hello, connection.peer_id());
        avp_transport::negotiate_server(&mut connection, config).await.unwrap();
        let context = connection.recv().await.unwrap().unwrap();
        let asked = connection.recv().await.unwrap().unwrap();
        let answer =
            question("answer", asked.metadata.extra.get(ext::TRANSFER).map(String::as_str), json!({}));
        connection.send_frame(&answer, &EncodeOptions::default()).await.unwrap();
        context
    });
    let context = thought().await;
    let outgoing = outgoing(&context);
    let ask = Ask { prompt: "question".into(), context: Some(outgoing.clone()), ..Default::default() };
    connect("avp+mem:plain-peer").await.ask(&ask).await.unwrap();
    let whole = server.await.unwrap();
    assert_eq!(whole.kv().unwrap().header(), outgoing.kv_header());
}

// spec: exchange 3.7
#[tokio::test]
async fn a_question_before_the_slabs_is_answered_when_they_are_there_and_not_before() {
    let (url, _stop) = start("avp+mem:early", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let (manifest, slabs) = frames(&outgoing, &context);
    let mut raw = Raw::connect(&url).await;
    say(&mut raw, &manifest).await;
    ack(&mut raw, &outgoing).await;
    let asked = question(
        "question",
        Some(outgoing.transfer().as_str()),
        json!({ "max_tokens": 6, "temperature": 0 }),
    );
    raw.send(asked, "text", &EncodeOptions::default()).await;
    let (last, rest) = slabs.split_last().unwrap();
    for slab in rest.iter().rev() {
        say(&mut raw, slab).await;
    }
    assert!(timeout(Duration::from_millis(200), raw.connection.head()).await.is_err(), "nothing is said yet");
    say(&mut raw, last).await;
    assert!(ack(&mut raw, &outgoing).await.is_complete());
    let answer = timeout(LONG, raw.receive()).await.unwrap();
    assert_eq!(answer.metadata.extra[ext::TRANSFER], outgoing.transfer().as_str());
    let message = TextMessage::from_json(&answer.payload).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(message.extra["answer"]["tokens"].clone()).unwrap();
    assert_eq!(tokens, alone(&context).await);
}

// spec: exchange 3.3, slabs 8.8
#[tokio::test]
async fn a_manifest_of_another_model_is_refused_at_once_and_text_goes_instead() {
    let (url, _stop) = start("avp+mem:refused-manifest", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let (mut manifest, _) = frames(&outgoing, &context);
    manifest.metadata.hidden_dim = 9;
    let mut raw = Raw::connect(&url).await;
    say(&mut raw, &manifest).await;
    let refusal = raw.receive().await;
    assert_eq!(refusal.metadata.extra[ext::TRANSFER], outgoing.transfer().as_str());
    assert_eq!(Reject::from_frame(&refusal).unwrap().code, Some(ErrorCode::KvModelMismatch));
    assert_eq!(raw.ask(None, json!({ "max_tokens": 1 })).await, None, "the session goes on");
}

// spec: exchange 3.4
#[tokio::test]
async fn more_contexts_than_a_session_may_hold_are_refused() {
    let mut options = ServeOptions::default();
    options.max_contexts = 1;
    let (url, _stop) = start("avp+mem:many-contexts", options).await;
    let context = thought().await;
    let mut raw = Raw::connect(&url).await;
    let (first, second) = (outgoing(&context), outgoing(&context));
    say(&mut raw, &frames(&first, &context).0).await;
    ack(&mut raw, &first).await;
    say(&mut raw, &frames(&second, &context).0).await;
    assert_eq!(Reject::from_frame(&raw.receive().await).unwrap().code, Some(ErrorCode::Busy));
}

#[tokio::test]
async fn a_peer_that_leaves_in_the_middle_frees_the_place_of_its_question() {
    let mut options = ServeOptions::default();
    options.max_generations = 1;
    let (url, _stop) = start("avp+mem:leaves-early", options).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let mut raw = Raw::connect(&url).await;
    say(&mut raw, &frames(&outgoing, &context).0).await;
    ack(&mut raw, &outgoing).await;
    let asked = question("question", Some(outgoing.transfer().as_str()), json!({}));
    raw.send(asked, "text", &EncodeOptions::default()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(raw);
    let ask = Ask { prompt: "question".into(), options: greedy(), ..Default::default() };
    let answer = timeout(LONG, connect(&url).await.ask(&ask)).await.unwrap().unwrap();
    assert_eq!(answer.tokens.len(), 6);
}

#[tokio::test]
async fn questions_whose_contexts_never_come_hold_up_nobody_and_end() {
    let mut options = ServeOptions::default();
    options.max_generations = 1;
    options.transport.limits.frame_timeout = Duration::from_secs(1);
    let (url, _stop) = start("avp+mem:dawdler", options).await;
    let context = thought().await;
    let mut raw = Raw::connect(&url).await;
    for _ in 0..3 {
        let outgoing = outgoing(&context);
        say(&mut raw, &frames(&outgoing, &context).0).await;
        ack(&mut raw, &outgoing).await;
        let asked = question("question", Some(outgoing.transfer().as_str()), json!({}));
        raw.send(asked, "text", &EncodeOptions::default()).await;
    }
    let ask = Ask { prompt: "question".into(), options: greedy(), ..Default::default() };
    timeout(LONG, connect(&url).await.ask(&ask)).await.unwrap().unwrap();
    let refusal = timeout(LONG, raw.receive()).await.unwrap();
    assert_eq!(Reject::from_frame(&refusal).unwrap().code, Some(ErrorCode::SlabsMissing));
}

// spec: exchange 5.3
#[tokio::test]
async fn two_questions_before_the_slabs_are_both_answered() {
    let (url, _stop) = start("avp+mem:two-early", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let (manifest, slabs) = frames(&outgoing, &context);
    let mut raw = Raw::connect(&url).await;
    say(&mut raw, &manifest).await;
    ack(&mut raw, &outgoing).await;
    for tokens in [2, 3] {
        let generate = json!({ "max_tokens": tokens, "temperature": 0 });
        let asked = question("question", Some(outgoing.transfer().as_str()), generate);
        raw.send(asked, "text", &EncodeOptions::default()).await;
    }
    for slab in &slabs {
        say(&mut raw, slab).await;
    }
    assert!(ack(&mut raw, &outgoing).await.is_complete());
    for tokens in [2, 3] {
        let answer = timeout(LONG, raw.receive()).await.unwrap();
        let message = TextMessage::from_json(&answer.payload).unwrap();
        assert_eq!(message.extra["answer"]["tokens"].as_array().map(Vec::len), Some(tokens));
    }
}

// spec: exchange 1.5
#[tokio::test]
async fn a_damaged_manifest_is_refused_at_once() {
    let (url, _stop) = start("avp+mem:damaged-manifest", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let mut raw = Raw::connect(&url).await;
    let manifest = addressed(&raw, &frames(&outgoing, &context).0);
    let mut encoded = manifest.encode(&EncodeOptions::default()).unwrap();
    let mut bytes = encoded.payload.to_vec();
    bytes[0] ^= 1;
    encoded.payload = bytes.into();
    raw.connection.send(encoded).await.unwrap();
    let refusal = timeout(LONG, raw.receive()).await.unwrap();
    assert_eq!(Reject::from_frame(&refusal).unwrap().code, Some(ErrorCode::ChecksumMismatch));
}

#[tokio::test]
async fn refused_contexts_leave_their_places_to_others() {
    let mut options = ServeOptions::default();
    options.max_contexts = 1;
    let (url, _stop) = start("avp+mem:places", options).await;
    let context = thought().await;
    let mut frame = context.to_frame(&avp::ContextStamp::default(), &BufferPool::new(0)).unwrap();
    frame.metadata.hidden_dim = 9;
    let mut peer = connect(&url).await;
    for _ in 0..3 {
        let other = Some(OutgoingContext::of_frame(&frame).unwrap());
        let ask = Ask { prompt: "question".into(), context: other, ..Default::default() };
        let error = timeout(LONG, peer.ask(&ask)).await.unwrap().unwrap_err();
        assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::KvModelMismatch), .. }), "{error}");
    }
    for _ in 0..3 {
        timeout(LONG, peer.hand_over(&outgoing(&context), &|_| ())).await.unwrap().unwrap();
    }
    let ask = Ask {
        prompt: "question".into(),
        context: Some(outgoing(&context)),
        options: greedy(),
        ..Default::default()
    };
    assert_eq!(timeout(LONG, peer.ask(&ask)).await.unwrap().unwrap().tokens, alone(&context).await);
}

#[tokio::test]
async fn contexts_beyond_the_bytes_that_are_kept_push_out_the_longest_unused() {
    let context = thought().await;
    let mut options = ServeOptions::default();
    options.max_kept_bytes = outgoing(&context).kv_bytes() * 2;
    let (url, _stop) = start("avp+mem:kept", options).await;
    let all: Vec<_> = (0..3).map(|_| outgoing(&context)).collect();
    for outgoing in &all {
        let mut peer = connect(&url).await;
        assert!(peer.hand_over(outgoing, &|_| ()).await.unwrap() > 0);
        peer.close().await.unwrap();
    }
    // The last two are here still, the first had to make room.
    for (outgoing, is_kept) in [(&all[2], true), (&all[1], true), (&all[0], false)] {
        let mut peer = connect(&url).await;
        assert_eq!(peer.hand_over(outgoing, &|_| ()).await.unwrap() == 0, is_kept);
        peer.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_manifest_alone_claims_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("received.avp");
    let (url, _stop, mut received) = receiver("claim", ReceiveInto::File(target.clone())).await;
    let context = thought().await;
    let mut raw = Raw::connect(&url).await;
    let never = outgoing(&context);
    say(&mut raw, &frames(&never, &context).0).await;
    ack(&mut raw, &never).await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    connect(&url).await.hand_over(&outgoing(&context), &|_| ()).await.unwrap();
    assert_eq!(path(&mut received).await, target);
}

/// Receives into `into` until the returned sender is dropped.
async fn receiver(name: &str, into: ReceiveInto) -> (String, oneshot::Sender<()>, Received) {
    let (events, received) = tokio::sync::mpsc::unbounded_channel();
    let model = agent().backend().info().clone();
    let on = move |event| drop(events.send(event));
    let url = format!("avp+mem:{name}");
    let receiver = receive("receiver", model, &url, into, ReceiveOptions::default(), on).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(receiver.run(async move { drop(stopped.await) }));
    (url, stop, received)
}

type Received = tokio::sync::mpsc::UnboundedReceiver<ReceiveEvent>;

async fn path(received: &mut Received) -> std::path::PathBuf {
    loop {
        if let ReceiveEvent::Received { path, from } = timeout(LONG, received.recv()).await.unwrap().unwrap()
        {
            assert_eq!(from, "agent");
            return path;
        }
    }
}

fn load(path: &Path) -> Context {
    let agent = agent();
    load_context(path, agent.backend().as_ref(), VerificationPolicy::Allow, &BufferPool::new(0)).unwrap()
}

#[tokio::test]
async fn a_context_is_received_into_one_frame_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("received.avp");
    let (url, _stop, mut received) = receiver("file", ReceiveInto::File(target.clone())).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    connect(&url).await.hand_over(&outgoing, &|_| ()).await.unwrap();
    assert_eq!(path(&mut received).await, target);
    let expected = context.to_frame(&avp::ContextStamp::default(), &BufferPool::new(0)).unwrap();
    let frame = read_frame(&target, &BufferPool::new(0)).unwrap();
    assert_eq!(frame.payload, expected.payload);
    assert!(frame.metadata.payload_checksum.is_some());
    assert_eq!(alone(&load(&target)).await, alone(&context).await);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    // Another context is not for this file.
    let error = connect(&url).await.hand_over(&self::outgoing(&context), &|_| ()).await.unwrap_err();
    assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{error}");
    // A file can be handed over as well.
    let again = open_context(&target, &BufferPool::new(0)).unwrap();
    assert_eq!(again.kv_header(), outgoing.kv_header());
}

#[tokio::test]
async fn what_is_no_transfer_is_refused_by_a_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _stop, _) = receiver("folder", ReceiveInto::Folder(folder.path().to_owned())).await;
    let mut peer = connect(&url).await;
    let error = peer.ask(&Ask { prompt: "question".into(), ..Default::default() }).await.unwrap_err();
    assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::NoHandler), .. }), "{error}");
    let context = thought().await;
    let mut raw = Raw::connect(&url).await;
    let (_, slabs) = frames(&outgoing(&context), &context);
    say(&mut raw, &slabs[0]).await;
    assert_eq!(Reject::from_frame(&raw.receive().await).unwrap().code, Some(ErrorCode::UnexpectedFrame));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
