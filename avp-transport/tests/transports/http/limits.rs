//! What an HTTP client can use up, and what ends its connection.

use std::sync::Arc;
use std::time::Duration;

use avp_transport::testing::{encoded, sample};
use avp_transport::{BearerTokens, Listener, Options, Token};
use avp_wire::{EncodeOptions, Frame, Metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::common::http::{client, dial, listen_to, parts, request, serve, service, talk, transmit, wire};

const FRAME: &str = "Content-Type: application/avp+binary";
/// How long is waited for what is to happen.
const GENEROUS: Duration = Duration::from_secs(30);

// spec: http 5.1
#[tokio::test]
async fn headers_beyond_their_limit_are_refused_with_431() {
    let listener = serve(Options::default(), service(true)).await;
    let long = format!("X-Long: {}", "x".repeat(17 << 10));
    let many: Vec<String> = (0..80).map(|n| format!("X-{n}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for headers in [&[long.as_str()][..], &many] {
        let answer = talk(listener.local_url(), request("GET /health", headers, b"")).await;
        assert_eq!(parts(&answer).0, 431, "{answer}");
    }
}

// spec: http 5.2
#[tokio::test]
async fn bodies_beyond_their_limit_are_refused_with_413() {
    let mut options = Options::default();
    options.limits.memory_budget = 1 << 20;
    let listener = serve(options, service(true)).await;
    let url = listener.local_url();
    // By the announced length, with nothing sent.
    let announced = "POST /avp/v2/handshake HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n";
    assert_eq!(parts(&talk(url, announced).await).0, 413);
    // By what came, where no length was announced.
    let head = "POST /avp/v2/handshake HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n";
    let answer = talk(url, [head.as_bytes(), &[b' '; 0x11170], b"\r\n"].concat()).await;
    assert_eq!(parts(&answer).0, 413, "{answer}");
    // A frame by its head, with nothing of its payload sent.
    let frame =
        Frame::new(Metadata::default(), vec![1; (1 << 20) + 1]).encode(&EncodeOptions::default()).unwrap();
    let head =
        format!("POST /avp/v2/transmit HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", frame.len());
    let answer = talk(url, [head.as_bytes(), &frame.head].concat()).await;
    assert_eq!(parts(&answer).0, 413, "{answer}");
    assert!(answer.contains("frame.memory_budget"), "{answer}");
}

// spec: http 5.3
#[tokio::test]
async fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let mut http = service(true);
    (http.limits.request_burst, http.limits.requests_per_second) = (5, 1);
    let listener = serve(Options::default(), http).await;
    let client = client(&listener, Options::default());
    let mut refused = None;
    for _ in 0..10 {
        refused = refused.or(client.health().await.err());
    }
    let error = refused.expect("ten requests at once are too many");
    let avp_transport::TransportError::Incompatible(avp_transport::Incompatible::Refused { refusal, .. }) =
        &error
    else {
        panic!("{error}")
    };
    assert_eq!((refusal.status, refusal.retry_after), (429, Some(Duration::from_secs(1))));
}

// spec: http 5.3
#[tokio::test]
async fn connections_that_begin_with_their_upgrade_are_not_counted_as_requests() {
    let mut http = service(true);
    (http.limits.request_burst, http.limits.requests_per_second) = (1, 1);
    let listener = serve(Options::default(), http).await;
    let client = client(&listener, Options::default());
    let spend = async || while client.health().await.is_ok() {};
    spend().await;
    for _ in 0..3 {
        drop(avp_transport::connect(listener.local_url(), &Options::default()).await.unwrap());
    }
    let connect = "GET /avp/v2/connect HTTP/1.1\r\nHost: h\r\n";
    let upgrade = "Connection: upgrade\r\nUpgrade: avp/1\r\n\r\n";
    let answer = talk(listener.local_url(), format!("{connect}{upgrade}")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // What only looks like it, a guess of a token, and what does not come first.
    for (requests, refused) in [
        (format!("{connect}\r\n"), 1),
        (format!("{connect}Authorization: Bearer guess\r\n{upgrade}"), 1),
        (format!("GET /health HTTP/1.1\r\nHost: h\r\n\r\n{connect}{upgrade}"), 2),
    ] {
        spend().await;
        let answer = talk(listener.local_url(), requests).await;
        assert_eq!(answer.matches("HTTP/1.1 429").count(), refused, "{answer}");
    }
}

// spec: http 2.9
#[tokio::test]
async fn a_web_page_without_credentials_is_refused() {
    let listener = serve(Options::default(), service(true)).await;
    for (origin, status) in [("", 200), ("Origin: http://page.example\r\n", 403), ("Origin: null\r\n", 403)] {
        let body = r#"{"content":"hi"}"#;
        let head = format!(
            "POST /avp/v2/text HTTP/1.1\r\nHost: h\r\n{origin}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = talk(listener.local_url(), format!("{head}{body}")).await;
        assert_eq!(parts(&answer).0, status, "{answer}");
    }
}

// spec: http 5.4
#[tokio::test]
async fn connections_beyond_the_limit_of_a_peer_are_refused_and_others_go_on() {
    let (mut options, mut http) = (Options::default(), service(true));
    http.limits.connections_per_peer = 2;
    // None is closed for its silence meanwhile.
    options.limits.handshake_timeout = 4 * GENEROUS;
    let listener = serve(options, http).await;
    let url = listener.local_url();
    let ask = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut held = [dial(url).await, dial(url).await];
    for stream in &mut held {
        stream.write_all(ask).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    let (mut third, mut answer) = (dial(url).await, Vec::new());
    third.write_all(ask).await.unwrap();
    // Closed, be it by a reset.
    let _ = timeout(GENEROUS, third.read_to_end(&mut answer)).await.expect("it is closed");
    assert_eq!(parts(&String::from_utf8_lossy(&answer)).0, 429);
    held[0].write_all(ask).await.unwrap();
    assert!(listen_to(&mut held[0]).await.contains("200 OK"));
    drop(held);
    // Once the listener has noticed.
    let again = async { while parts(&talk(url, ask).await).0 != 200 {} };
    timeout(GENEROUS, again).await.expect("there is room again");
}

// spec: http 5.8
#[tokio::test]
async fn connections_that_ask_for_health_alone_take_no_places_of_those_with_credentials() {
    let (mut options, mut http) = (Options::default(), service(true));
    options.authorize = Some(Arc::new(BearerTokens::new().with("alice", &Token::new("s3cret").unwrap())));
    options.limits.max_half_open_per_peer = 8;
    options.limits.handshake_timeout = 4 * GENEROUS;
    http.limits.connections_per_peer = 32;
    let listener = serve(options, http).await;
    let mut held = Vec::new();
    for _ in 0..80 {
        let mut stream = dial(listener.local_url()).await;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        timeout(GENEROUS, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200", "{} are held", held.len());
        held.push(stream);
    }
    let credentials = ["Authorization: Bearer s3cret"];
    let answer = talk(listener.local_url(), request("GET /health", &credentials, b"")).await;
    assert_eq!(parts(&answer).0, 200, "{answer}");
}

// spec: http 5.5
#[tokio::test]
async fn a_client_that_trickles_its_headers_is_cut_off() {
    let mut options = Options::default();
    options.limits.handshake_timeout = Duration::from_millis(500);
    let listener = serve(options, service(true)).await;
    for start in [&b""[..], b"PRI", b"GET /health HTTP/1.1\r\n"] {
        let mut stream = dial(listener.local_url()).await;
        stream.write_all(start).await.unwrap();
        let trickling = async {
            while stream.write_all(b"X").await.is_ok() {
                let mut answer = [0; 100];
                if start.is_empty() || start == b"PRI" {
                    // One of these bytes would make it HTTP/1.1.
                    return stream.read(&mut answer).await.unwrap_or(0);
                }
                if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(50), stream.read(&mut answer)).await
                {
                    return 0;
                }
            }
            0
        };
        let ended = timeout(GENEROUS, trickling).await;
        assert!(ended.is_ok(), "{start:?}");
    }
}

// spec: http 5.5
#[tokio::test]
async fn a_client_that_trickles_its_body_is_answered_408() {
    let mut options = Options::default();
    options.limits.frame_timeout = Duration::from_millis(300);
    options.limits.min_rate = 1 << 30;
    let listener = serve(options, service(true)).await;
    let frame = wire(10_000);
    let message = vec![b' '; 1000];
    for (request, body) in
        [(transmit(&[FRAME], &frame), &frame), (request("POST /avp/v2/text", &[], &message), &message)]
    {
        let mut stream = dial(listener.local_url()).await;
        stream.write_all(&request[..request.len() - body.len()]).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut answer = [0; 12];
        let trickling = async {
            for byte in body {
                if write.write_all(&[*byte]).await.is_err() {
                    // The answer is there to be read.
                    std::future::pending::<()>().await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            read = read.read_exact(&mut answer) => { read.unwrap(); }
            () = trickling => panic!("the whole body was taken"),
        }
        assert_eq!(&answer, b"HTTP/1.1 408");
    }
}

// spec: http 5.6
#[tokio::test]
async fn a_connection_of_many_bad_requests_is_given_up() {
    let listener = serve(Options::default(), service(true)).await;
    let bad = b"POST /avp/v2/handshake HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    let answer = talk(listener.local_url(), bad.repeat(30)).await;
    assert_eq!(answer.matches("HTTP/1.1 400").count(), 16, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 429").count(), 1, "{answer}");
}

#[tokio::test]
async fn silent_connections_make_room_for_an_honest_client() {
    let mut options = Options::default();
    // None is dropped for its silence meanwhile.
    options.limits.handshake_timeout = 4 * GENEROUS;
    let listener = serve(options, service(true)).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(dial(listener.local_url()).await);
    }
    client(&listener, Options::default()).transmit(encoded(&sample(1, 1000))).await.unwrap();
    let mut byte = [0; 1];
    let first = timeout(GENEROUS, silent[0].read(&mut byte)).await;
    assert!(matches!(first, Ok(Ok(0) | Err(_))), "the oldest was dropped");
}

#[tokio::test]
async fn a_refused_body_is_taken_for_a_while_so_that_the_answer_is_seen() {
    let listener = serve(Options::default(), service(true)).await;
    let body = wire(4 << 20);
    let answer = talk(listener.local_url(), transmit(&["Content-Type: text/plain"], &body)).await;
    assert_eq!(parts(&answer).0, 415, "{answer}");
}
