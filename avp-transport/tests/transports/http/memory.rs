//! What the bodies of all requests of a listener take together.

use std::sync::Arc;
use std::time::Duration;

use avp_transport::testing::{Discard, encoded, sample};
use avp_transport::{
    HttpAgent, HttpListener, HttpServerOptions, Incompatible, Listener, Options, TransportError,
};
use avp_wire::{Compression, EncodeOptions, EncodedFrame, ErrorCode, Frame, Metadata};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::config;
use crate::common::http::{client, dial, listen_to, parts, request, serve, service, talk};

/// How long is waited for what is to happen.
const GENEROUS: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn of_memory(mut http: HttpServerOptions, bytes: usize) -> HttpServerOptions {
    http.limits.body_memory = bytes as u64;
    http
}

/// A listener that keeps what comes until it is told otherwise.
async fn keeping(bytes: usize) -> (Discard, HttpListener) {
    let discard = Discard::when_told();
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config("server"), discard.clone()).unwrap()));
    (discard, serve(Options::default(), of_memory(http, bytes)).await)
}

/// A text message of which no more than `sent` of `len` bytes come.
async fn unfinished(listener: &HttpListener, sent: usize, len: usize) -> TcpStream {
    let mut stream = dial(listener.local_url()).await;
    let head = format!("POST /avp/v2/text HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Refused bodies are read on.
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

fn is_full(error: &TransportError) -> bool {
    matches!(error, TransportError::Incompatible(Incompatible::Refused { refusal, .. })
        if refusal.status == 503 && refusal.code == Some(ErrorCode::Busy))
}

// spec: http 5.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_many_connections_stay_within_the_memory_of_their_listener() {
    let listener = serve(Options::default(), of_memory(service(true), 16 * MIB)).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(unfinished(&listener, 2 * MIB, 15 * MIB).await);
    }
    let mut answers = JoinSet::new();
    for mut stream in held {
        answers.spawn(async move {
            let answer = timeout(Duration::from_secs(1), listen_to(&mut stream)).await;
            (answer, stream)
        });
    }
    let mut held = Vec::new();
    for (answer, stream) in answers.join_all().await {
        match answer {
            Ok(answer) => {
                assert_eq!(parts(&answer).0, 503, "{answer}");
                assert!(answer.contains("retry-after: 1") && answer.contains("body_memory"), "{answer}");
            }
            Err(_) => held.push(stream),
        }
    }
    assert!((1..=8).contains(&held.len()), "{} bodies are kept", held.len());
    // An honest client beside them, at the same address, comes through once they have come to a stop.
    let body = format!(r#"{{"content":"{}"}}"#, "x".repeat(8 * MIB));
    let honest = request("POST /avp/v2/text", &[], body.as_bytes());
    let coming = async { while parts(&talk(listener.local_url(), &honest).await).0 != 200 {} };
    timeout(GENEROUS, coming).await.expect("it comes through");
    // What they held is free when they leave.
    drop(held);
    let body = format!(r#"{{"content":"{}"}}"#, "x".repeat(15 * MIB));
    let honest = request("POST /avp/v2/text", &[], body.as_bytes());
    let coming = async { while parts(&talk(listener.local_url(), &honest).await).0 != 200 {} };
    timeout(GENEROUS, coming).await.expect("there is room");
}

// spec: http 5.9
#[tokio::test]
async fn what_is_announced_and_does_not_come_takes_no_memory_of_others() {
    let listener = serve(Options::default(), of_memory(service(true), 16 * MIB)).await;
    let frame = Frame::new(Metadata::default(), vec![1; 15 * MIB]).encode(&EncodeOptions::default()).unwrap();
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = dial(listener.local_url()).await;
        let head =
            format!("POST /avp/v2/transmit HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", frame.len());
        stream.write_all(&[head.as_bytes(), &frame.head].concat()).await.unwrap();
        held.push(stream);
    }
    client(&listener, Options::default()).transmit(encoded(&sample(1, 8 * MIB))).await.unwrap();
}

async fn kept_until_answered(frame: EncodedFrame, h2: bool) {
    let (discard, listener) = keeping(16 * MIB).await;
    let client = |_| match h2 {
        true => client(&listener, Options::default()).with_http2(),
        false => client(&listener, Options::default()),
    };
    let clients: Vec<_> = (0..3).map(client).collect();
    let transmit = |number: usize| {
        let (client, frame) = (clients[number].clone(), frame.clone());
        tokio::spawn(async move { client.transmit(frame).await })
    };
    let first = transmit(0);
    timeout(GENEROUS, discard.came()).await.unwrap();
    let refused = timeout(GENEROUS, transmit(1)).await.unwrap().unwrap().unwrap_err();
    assert!(is_full(&refused), "{refused}");
    discard.go();
    first.await.unwrap().unwrap();
    let third = transmit(2);
    timeout(GENEROUS, discard.came()).await.unwrap();
    discard.go();
    third.await.unwrap().unwrap();
}

// spec: http 5.9
#[tokio::test]
async fn a_frame_is_charged_until_its_request_is_answered() {
    for h2 in [false, true] {
        kept_until_answered(encoded(&sample(1, 9 * MIB)), h2).await;
    }
}

// spec: http 5.9
#[tokio::test]
async fn a_compressed_frame_is_charged_for_what_it_unpacks_to() {
    let encoding = EncodeOptions { compression: Some(Compression::default()), ..EncodeOptions::default() };
    let frame = Frame::new(Metadata::default(), vec![7; 9 * MIB]).encode(&encoding).unwrap();
    assert!(frame.len() < MIB);
    kept_until_answered(frame, false).await;
}

// spec: http 5.2
#[tokio::test]
async fn a_frame_that_no_memory_of_the_listener_can_hold_is_refused_with_413() {
    let listener = serve(Options::default(), of_memory(service(true), MIB)).await;
    let client = client(&listener, Options::default());
    let error = client.transmit(encoded(&sample(1, 2 * MIB))).await.unwrap_err();
    assert!(error.to_string().contains("413 frame.memory_budget"), "{error}");
    client.transmit(encoded(&sample(1, MIB / 2))).await.unwrap();
}
