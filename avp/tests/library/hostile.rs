//! What a hostile peer cannot do to an agent that serves.

use std::sync::Arc;
use std::time::Duration;

use avp::{
    Ask, AskError, BufferPool, ContextStamp, GenerateOptions, OutgoingContext, Peer, Prompt, ServeOptions,
    TransportOptions,
};
use avp_transport::{BearerTokens, Token};
use avp_wire::{Compression, EncodeOptions, ErrorCode, Frame, KvDtype, KvHeader, Metadata, PayloadType, ext};
use serde_json::json;
use tokio::net::TcpStream;

use crate::common::{Raw, agent, delivery, start};

async fn connect(url: &str) -> Peer {
    Peer::connect(url, agent().hello(), &TransportOptions::default()).await.unwrap()
}

fn question() -> Ask {
    let options = GenerateOptions { max_tokens: 3, ..Default::default() };
    Ask { prompt: "question".into(), options, ..Default::default() }
}

#[tokio::test]
async fn silent_connections_do_not_keep_an_honest_peer_waiting() {
    let mut options = ServeOptions::default();
    // So that only room among the half-open connections can let the honest peer in.
    options.transport.limits.handshake_timeout = Duration::from_secs(86_400);
    let (url, _stop) = start("avp+tcp://127.0.0.1:0", options).await;
    let address = url.trim_start_matches("avp+tcp://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert!(connect(&url).await.ask(&question()).await.is_ok());
}

// spec: exchange 1.3
#[tokio::test]
async fn a_peer_without_a_place_is_told_so_and_the_next_one_gets_the_place_that_comes_free() {
    let mut options = ServeOptions::default();
    options.max_sessions = 1;
    let (url, _stop) = start("avp+tcp://127.0.0.1:0", options).await;
    let mut first = connect(&url).await;
    assert!(first.ask(&question()).await.is_ok());
    let refused = connect(&url).await.ask(&question()).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{refused}");
    first.close().await.unwrap();
    while let Err(error) = connect(&url).await.ask(&question()).await {
        assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{error}");
    }
}

// spec: limits 8.2
#[tokio::test]
async fn a_peer_that_holds_all_sessions_keeps_nobody_out() {
    let token = |secret: &str| Token::new(secret).unwrap();
    let tokens = BearerTokens::new().with("alice", &token("open")).with("bob", &token("sesame"));
    let mut options = ServeOptions::default();
    options.max_sessions = 3;
    options.transport.authorize = Some(Arc::new(tokens));
    let (url, _stop) = start("avp+tcp://127.0.0.1:0", options).await;
    let connect = async |secret: &str| {
        let mut options = TransportOptions::default();
        options.token = Some(token(secret));
        Peer::connect(&url, agent().hello(), &options).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect("open").await);
        held.last_mut().unwrap().ask(&question()).await.unwrap();
    }
    let busy = connect("open").await.ask(&question()).await.unwrap_err();
    assert!(matches!(busy, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{busy}");
    connect("sesame").await.ask(&question()).await.unwrap();
    // The longest unused one went; its peer can come again.
    assert!(held[0].ask(&question()).await.unwrap_err().is_worth_another_try());
    assert!(held[1].ask(&question()).await.is_ok());
}

// spec: exchange 1.3
#[tokio::test]
async fn a_peer_without_a_place_is_told_so_while_it_hands_a_context_over() {
    for listen in ["avp+tcp://127.0.0.1:0", "avp+mem:no-place"] {
        let mut options = ServeOptions::default();
        options.max_sessions = 1;
        let (url, _stop) = start(listen, options).await;
        let mut first = connect(&url).await;
        assert!(first.ask(&question()).await.is_ok());
        let context = delivery::thought().await;
        let (slabs, whole) = (delivery::outgoing(&context), OutgoingContext::of_context(&context).unwrap());
        for context in [slabs.clone(), whole] {
            let error = connect(&url).await.ask(&delivery::ask(Some(context))).await.unwrap_err();
            assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{error}");
        }
        let error = connect(&url).await.hand_over(&slabs, &|_| ()).await.unwrap_err();
        assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{error}");
        assert!(first.ask(&delivery::ask(Some(slabs))).await.is_ok(), "whoever is there goes on");
    }
}

// spec: exchange 2.2
#[tokio::test]
async fn a_generate_object_of_another_type_is_refused() {
    let (url, _stop) = start("avp+mem:types", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    for wrong in [json!([1]), json!("x"), json!(null), json!({ "max_tokens": -1 }), json!({ "stop": "x" })] {
        let reject = raw.ask(None, wrong.clone()).await.unwrap_or_else(|| panic!("{wrong} was taken"));
        assert_eq!(reject.code, Some(ErrorCode::InvalidArgument), "{wrong}");
    }
    assert_eq!(raw.ask(None, json!({ "max_tokens": 1 })).await, None);
}

// spec: exchange 1.5, limits 2.3
#[tokio::test]
async fn a_small_frame_that_unpacks_to_more_than_any_context_is_refused_before_it_is_unpacked() {
    let (url, _stop) = start("avp+mem:bomb", ServeOptions::default()).await;
    let mut raw = Raw::connect(&url).await;
    let header =
        KvHeader { num_layers: 1, num_kv_heads: 1, head_dim: 4, seq_len: 4 << 20, dtype: KvDtype::F32 };
    let mut payload = vec![0; header.payload_len().unwrap()];
    header.write_to(&mut payload).unwrap();
    let mut metadata = Metadata { payload_type: PayloadType::KvCache, num_layers: 1, ..Default::default() };
    metadata.extra.insert(ext::TRANSFER.into(), "1".into());
    let fast = EncodeOptions { compression: Some(Compression::Fast), ..Default::default() };
    raw.send(Frame::new(metadata, payload), "slab", &fast).await;
    let reject = raw.ask(Some("1"), json!({})).await.unwrap();
    assert_eq!(reject.code, Some(ErrorCode::MemoryBudget), "{}", reject.message);
}

#[tokio::test]
async fn numbers_that_are_none_in_a_context_are_the_sender_s_mistake() {
    let (url, _stop) = start("avp+mem:nan", ServeOptions::default()).await;
    let context = agent().think(Prompt::User("notes".into()), None, 1).await.unwrap();
    let mut frame = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
    let mut payload = frame.payload.to_vec();
    for number in payload[KvHeader::SIZE..].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    frame.payload = payload.into();
    let ask = Ask { context: Some(OutgoingContext::of_frame(&frame).unwrap()), ..question() };
    let refused = connect(&url).await.ask(&ask).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused { code: Some(ErrorCode::InvalidArgument), .. }), "{refused}");
}
