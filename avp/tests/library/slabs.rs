//! Contexts in slabs, to an agent that serves: over a session, across broken connections, while a question is read.

#![allow(clippy::single_range_in_vec_init)]

use std::sync::Mutex;
use std::time::Duration;

use avp::{
    Ask, AskError, BufferPool, ContextStamp, Handed, Handover, OutgoingContext, ServeOptions,
    TransportOptions,
};
use avp_handshake::{Capabilities, NegotiatorConfig, TextMessage};
use avp_transport::{listen, negotiate_server};
use avp_wire::{EncodeOptions, ErrorCode, ext};
use serde_json::json;
use tokio::time::timeout;

use crate::common::delivery::{Delivery, alone, ask, connect, outgoing, thought};
use crate::common::{LONG, agent, question, start};

// spec: exchange 3.1, slabs 2.7, slabs 8.1, slabs 8.4
#[tokio::test]
async fn a_context_in_slabs_is_continued_as_by_its_maker() {
    let (url, _stop) = start("avp+mem:slabs", ServeOptions::default()).await;
    let context = thought().await;
    let outgoing = outgoing(&context);
    let mut peer = connect(&url).await;
    let heard = Mutex::new(Vec::new());
    let ask = ask(Some(outgoing.clone()));
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
    let mut first = Delivery::connect(&url, &context).await;
    let (outgoing, slabs) = (first.outgoing.clone(), first.slabs.clone());
    let count = slabs.len() as u32;
    assert_eq!(first.offer().await.gaps, [0..count]);
    for slab in &slabs[..3] {
        first.say(slab).await;
    }
    // Something that is answered, so that the slabs before it were taken.
    assert_eq!(first.offer().await.gaps, [3..count]);
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
    let answer = connect(&url).await.ask(&ask(Some(outgoing))).await.unwrap();
    assert_eq!(answer.tokens, alone(&context).await);
}

// spec: slabs 8.6
#[tokio::test]
async fn another_manifest_under_a_known_id_is_refused() {
    let (url, _stop) = start("avp+mem:other-manifest", ServeOptions::default()).await;
    let mut delivery = Delivery::begin(&url, &thought().await).await;
    let mut other = delivery.manifest.clone();
    other.metadata.model_id = "another".into();
    delivery.say(&other).await;
    assert_eq!(delivery.refusal().await, Some(ErrorCode::SlabMismatch));
}

// spec: slabs 8.4
#[tokio::test]
async fn a_damaged_slab_is_asked_for_again() {
    let (url, _stop) = start("avp+mem:damaged-slab", ServeOptions::default()).await;
    let mut delivery = Delivery::begin(&url, &thought().await).await;
    let slabs = delivery.slabs.clone();
    for (index, slab) in slabs.iter().enumerate() {
        // One whose checksum is wrong, one whose digest is.
        match index {
            1 | 2 => {
                let encoding = EncodeOptions { checksum: index == 1, ..EncodeOptions::default() };
                delivery.say_damaged(slab, &encoding).await;
            }
            _ => delivery.say(slab).await,
        }
    }
    assert_eq!(delivery.ack().await.gaps, [1..3]);
    delivery.say(&slabs[1]).await;
    delivery.say(&slabs[2]).await;
    assert!(delivery.ack().await.is_complete());
}

// spec: exchange 3.6
#[tokio::test]
async fn a_peer_that_announces_no_digests_is_sent_no_slabs() {
    let options = TransportOptions::default();
    let listener = listen(&"avp+mem:plain-peer".parse().unwrap(), &options).await.unwrap();
    let server = tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let mut hello = agent().hello();
        let keys = [ext::KIND, ext::TRANSFER, ext::SLAB].map(str::to_owned).to_vec();
        Capabilities { keys, ..Capabilities::default() }.announce(&mut hello);
        let config = NegotiatorConfig::new(hello, connection.peer_id());
        negotiate_server(&mut connection, config).await.unwrap();
        let context = connection.recv().await.unwrap().unwrap();
        let asked = connection.recv().await.unwrap().unwrap();
        let answer =
            question("answer", asked.metadata.extra.get(ext::TRANSFER).map(String::as_str), json!({}));
        connection.send_frame(&answer, &EncodeOptions::default()).await.unwrap();
        context
    });
    let outgoing = outgoing(&thought().await);
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
    let mut delivery = Delivery::begin(&url, &context).await;
    delivery.ask(json!({ "max_tokens": 6, "temperature": 0 })).await;
    let slabs = delivery.slabs.clone();
    let (last, rest) = slabs.split_last().unwrap();
    for slab in rest.iter().rev() {
        delivery.say(slab).await;
    }
    let silence = timeout(Duration::from_millis(200), delivery.raw.connection.head()).await;
    assert!(silence.is_err(), "nothing is said yet");
    delivery.say(last).await;
    assert!(delivery.ack().await.is_complete());
    let answer = delivery.receive().await;
    assert_eq!(answer.metadata.extra[ext::TRANSFER], delivery.outgoing.transfer().as_str());
    let message = TextMessage::from_json(&answer.payload).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(message.extra["answer"]["tokens"].clone()).unwrap();
    assert_eq!(tokens, alone(&context).await);
}

// spec: exchange 3.3, slabs 8.8
#[tokio::test]
async fn a_manifest_of_another_model_is_refused_at_once_and_text_goes_instead() {
    let (url, _stop) = start("avp+mem:refused-manifest", ServeOptions::default()).await;
    let mut delivery = Delivery::connect(&url, &thought().await).await;
    let mut manifest = delivery.manifest.clone();
    manifest.metadata.hidden_dim = 9;
    delivery.say(&manifest).await;
    let refusal = delivery.receive().await;
    assert_eq!(refusal.metadata.extra[ext::TRANSFER], delivery.outgoing.transfer().as_str());
    let code = avp_handshake::Reject::from_frame(&refusal).unwrap().code;
    assert_eq!(code, Some(ErrorCode::KvModelMismatch));
    assert_eq!(delivery.raw.ask(None, json!({ "max_tokens": 1 })).await, None, "the session goes on");
}

// spec: exchange 3.4
#[tokio::test]
async fn more_contexts_than_a_session_may_hold_are_refused() {
    let mut options = ServeOptions::default();
    options.max_contexts = 1;
    let (url, _stop) = start("avp+mem:many-contexts", options).await;
    let context = thought().await;
    let mut second = Delivery::begin(&url, &context).await.another(&context);
    second.say(&second.manifest.clone()).await;
    assert_eq!(second.refusal().await, Some(ErrorCode::Busy));
}

#[tokio::test]
async fn a_peer_that_leaves_in_the_middle_frees_the_place_of_its_question() {
    let mut options = ServeOptions::default();
    options.max_generations = 1;
    let (url, _stop) = start("avp+mem:leaves-early", options).await;
    let mut leaving = Delivery::begin(&url, &thought().await).await;
    leaving.ask(json!({})).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(leaving);
    let answer = timeout(LONG, connect(&url).await.ask(&ask(None))).await.unwrap().unwrap();
    assert_eq!(answer.tokens.len(), 6);
}

#[tokio::test]
async fn questions_whose_contexts_never_come_hold_up_nobody_and_end() {
    let mut options = ServeOptions::default();
    options.max_generations = 1;
    options.transport.limits.frame_timeout = Duration::from_secs(1);
    let (url, _stop) = start("avp+mem:dawdler", options).await;
    let context = thought().await;
    let mut dawdler = Delivery::connect(&url, &context).await;
    for _ in 0..3 {
        dawdler = dawdler.another(&context);
        dawdler.offer().await;
        dawdler.ask(json!({})).await;
    }
    timeout(LONG, connect(&url).await.ask(&ask(None))).await.unwrap().unwrap();
    assert_eq!(dawdler.refusal().await, Some(ErrorCode::SlabsMissing));
}

// spec: exchange 5.3
#[tokio::test]
async fn two_questions_before_the_slabs_are_both_answered() {
    let (url, _stop) = start("avp+mem:two-early", ServeOptions::default()).await;
    let mut delivery = Delivery::begin(&url, &thought().await).await;
    for tokens in [2, 3] {
        delivery.ask(json!({ "max_tokens": tokens, "temperature": 0 })).await;
    }
    for slab in delivery.slabs.clone() {
        delivery.say(&slab).await;
    }
    assert!(delivery.ack().await.is_complete());
    for tokens in [2, 3] {
        let message = TextMessage::from_json(&delivery.receive().await.payload).unwrap();
        assert_eq!(message.extra["answer"]["tokens"].as_array().map(Vec::len), Some(tokens));
    }
}

// spec: exchange 1.5
#[tokio::test]
async fn a_damaged_manifest_is_refused_at_once() {
    let (url, _stop) = start("avp+mem:damaged-manifest", ServeOptions::default()).await;
    let mut delivery = Delivery::connect(&url, &thought().await).await;
    delivery.say_damaged(&delivery.manifest.clone(), &EncodeOptions::default()).await;
    assert_eq!(delivery.refusal().await, Some(ErrorCode::ChecksumMismatch));
}

#[tokio::test]
async fn refused_contexts_leave_their_places_to_others() {
    let mut options = ServeOptions::default();
    options.max_contexts = 1;
    let (url, _stop) = start("avp+mem:places", options).await;
    let context = thought().await;
    let mut frame = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
    frame.metadata.hidden_dim = 9;
    let mut peer = connect(&url).await;
    for _ in 0..3 {
        let other = ask(Some(OutgoingContext::of_frame(&frame).unwrap()));
        let error = timeout(LONG, peer.ask(&other)).await.unwrap().unwrap_err();
        assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::KvModelMismatch), .. }), "{error}");
    }
    for _ in 0..3 {
        timeout(LONG, peer.hand_over(&outgoing(&context), &|_| ())).await.unwrap().unwrap();
    }
    let answer = timeout(LONG, peer.ask(&ask(Some(outgoing(&context))))).await.unwrap().unwrap();
    assert_eq!(answer.tokens, alone(&context).await);
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
