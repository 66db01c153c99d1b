//! The HTTP binding: what is answered to whom, by hand over sockets and through the client.

use std::sync::Arc;
use std::time::Duration;

use avp_handshake::TextMessage;
use avp_transport::testing::{encoded, sample};
use avp_transport::{
    BearerTokens, HttpAgent, HttpAnswer, HttpClient, HttpListener, HttpServerOptions, Incompatible, Listener,
    MetricsText, Options, Token, TransportError, connect,
};
use avp_wire::{Compression, EncodeOptions, ErrorCode, Frame};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::http::{client, dial, listen_to, parts, request, serve, service, talk, transmit, wire};
use crate::common::{config, secure_client, secure_server};

const FRAME: &str = "Content-Type: application/avp+binary";
const JSON: &str = "Content-Type: application/json";

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

fn refusal(error: &TransportError) -> &avp_transport::HttpRefusal {
    match error {
        TransportError::Incompatible(Incompatible::Refused { refusal, .. }) => refusal,
        other => panic!("{other}"),
    }
}

fn fields(answer: HttpAnswer) -> Value {
    match answer {
        HttpAnswer::Json(fields) => Value::Object(fields),
        other => panic!("{other:?}"),
    }
}

// spec: http 2.1, http 2.2
#[tokio::test]
async fn each_request_is_answered_as_the_sdk_answers_it() {
    let listener = serve(Options::default(), service(false)).await;
    let url = listener.local_url();
    let good = wire(1000);
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let cases: [(Vec<u8>, u16, &str); 12] = [
        (request("GET /health", &[], b""), 200, r#"{"status":"ok"}"#),
        (request("GET /", &[], b""), 404, r#"{"detail":"Not Found"}"#),
        (request("GET /metrics", &[], b""), 404, r#"{"detail":"Not Found"}"#),
        (request("GET /avp/v2/transmit", &[], b""), 405, r#"{"detail":"Method Not Allowed"}"#),
        (request("POST /health", &[], b""), 405, r#"{"detail":"Method Not Allowed"}"#),
        (
            request("POST /avp/v2/text", &[JSON], b"{}"),
            501,
            r#"{"success":false,"message":"Text handler not configured","code":"transport.no_handler"}"#,
        ),
        (request("POST /avp/v2/handshake", &[JSON], b"nonsense"), 400, r#""message":"Invalid handshake: "#),
        (request("POST /avp/v2/handshake", &["Content-Type: text/plain"], b"{}"), 415, r#"{"success":false"#),
        (transmit(&[JSON], &good), 415, r#"{"success":false"#),
        (transmit(&[FRAME], &damaged), 400, r#""code":"frame.checksum_mismatch""#),
        (transmit(&[FRAME], &good[..500]), 400, r#""code":"transport.connection_lost""#),
        (transmit(&[FRAME], b""), 400, r#""code":"frame.truncated""#),
    ];
    for (request, status, says) in cases {
        let answer = talk(url, &request).await;
        let (found, body) = parts(&answer);
        let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
        assert_eq!(found, status, "{line}: {answer}");
        assert!(body.contains(says), "{line}: {answer}");
        assert!(answer.to_lowercase().contains("content-type: application/json"), "{answer}");
        if status == 405 {
            let allowed = if line.starts_with("GET") { "allow: POST" } else { "allow: GET" };
            assert!(answer.contains(allowed), "{answer}");
        }
    }
    for (what, trailing) in [("a byte", &b"x"[..]), ("a frame", &good)] {
        let answer = talk(url, transmit(&[FRAME], &[&good, trailing].concat())).await;
        assert!(parts(&answer).1.contains("frame.trailing_bytes"), "{what}: {answer}");
    }
    let answer = talk(url, transmit(&[], &good)).await;
    assert!(parts(&answer).1.starts_with(r#"{"success":true,"#), "{answer}");
}

// spec: http 1.1
#[tokio::test]
async fn a_client_says_who_it_is_and_what_it_sends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let mut options = Options::default();
    options.token = Some(token("s3cret"));
    let client = HttpClient::new(&url, "planner", options).unwrap();
    let frame = encoded(&sample(1, 10));
    let length = frame.len();
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"success\":true}").await.unwrap();
        String::from_utf8_lossy(&head[..count]).to_lowercase()
    };
    let (answer, head) = tokio::join!(client.transmit(frame), answering);
    assert!(answer.unwrap().transmit_response().unwrap().success);
    for line in [
        "post /avp/v2/transmit http/1.1",
        "avp-version: 0.4",
        "avp-agent-id: planner",
        "authorization: bearer s3cret",
        "content-type: application/avp+binary",
        &format!("content-length: {length}"),
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
}

// spec: http 1.2
#[tokio::test]
async fn frames_and_texts_arrive_over_http1_http2_and_tls() {
    let plain = serve(Options::default(), service(true)).await;
    let secure = HttpListener::serve(
        &"https://localhost:0".parse().unwrap(),
        secure_server(Options::default()),
        service(true),
    )
    .await
    .unwrap();
    let clients = [
        client(&plain, Options::default()),
        client(&plain, Options::default()).with_http2(),
        client(&secure, secure_client(Options::default())),
    ];
    let zstd = EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() };
    for (n, client) in clients.into_iter().enumerate() {
        client.health().await.unwrap();
        let session = client.handshake(config("client")).await.unwrap();
        assert!(!session.echoed && session.established.remote.agent_id == "server", "{n}");
        assert_eq!(session.established.resolution().path.as_str(), "hash_match");
        for (len, options) in
            [(0, EncodeOptions::default()), (5 << 20, EncodeOptions::default()), (5 << 20, zstd)]
        {
            let mut frame = sample(7, len);
            frame.metadata.session_id = session.established.session.id.to_string();
            let answer = fields(client.transmit(frame.encode(&options).unwrap()).await.unwrap());
            assert_eq!(answer["bytes"], len, "{n}");
            assert_eq!(answer["blake3"], blake3::hash(&frame.payload).to_hex().as_str(), "{n}");
            assert_eq!((&answer["session"], &answer["agent"]), (&json!("client"), &json!("client")), "{n}");
            frame.metadata.target_agent_id = "back".into();
            let HttpAnswer::Frame(back) = client.transmit(frame.encode(&options).unwrap()).await.unwrap()
            else {
                panic!("no frame came back")
            };
            assert_eq!(back.payload, frame.payload, "{n}");
        }
        let message = TextMessage { content: "héllo".into(), ..TextMessage::default() };
        let answer = client.text(&message).await.unwrap();
        assert_eq!(answer.text_message().unwrap().content, "HÉLLO", "{n}");
    }
}

// spec: http 1.2
#[tokio::test]
async fn tls_clients_get_the_protocol_that_they_offer() {
    let url = "https://127.0.0.1:0".parse().unwrap();
    let listener = HttpListener::serve(&url, secure_server(Options::default()), service(true)).await.unwrap();
    for (offered, chosen) in
        [(vec!["h2", "http/1.1"], "h2"), (vec!["http/1.1"], "http/1.1"), (vec!["http/1.1", "h2"], "h2")]
    {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in crate::common::authority_der() {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = dial(listener.local_url()).await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
    }
}

// spec: http 2.5
#[tokio::test]
async fn a_client_certificate_names_the_peer_of_a_request_and_keeps_its_session() {
    let mut options = secure_server(Options::default());
    options.tls.authorities = Some(crate::common::authorities());
    let url = "https://127.0.0.1:0".parse().unwrap();
    let listener = HttpListener::serve(&url, options, service(true)).await.unwrap();
    let mut options = secure_client(Options::default());
    options.tls.certificate = Some(crate::common::certificate(&crate::common::issue(&["alice.example"])));
    let session = client(&listener, options.clone()).handshake(config("client")).await.unwrap();
    let mut frame = sample(1, 10);
    frame.metadata.session_id = session.established.session.id.to_string();
    let answer = fields(client(&listener, options).transmit(encoded(&frame)).await.unwrap());
    assert_eq!(answer["identity"], "cert:alice.example");
    assert_eq!(answer["session"], "client", "on another connection of the same peer");
    let error = client(&listener, secure_client(Options::default())).health().await.unwrap_err();
    assert!(matches!(error, TransportError::Incompatible(Incompatible::Tls { .. })), "{error}");
}

// spec: http 3.3
#[tokio::test]
async fn a_frame_answers_only_those_who_accept_one() {
    let listener = serve(Options::default(), service(true)).await;
    let mut frame = sample(1, 100);
    frame.metadata.target_agent_id = "back".into();
    let wire = encoded(&frame).to_vec();
    let answer = talk(listener.local_url(), transmit(&[FRAME, "Accept: application/json, */*"], &wire)).await;
    assert_eq!(parts(&answer).0, 406, "{answer}");
    let answer =
        talk(listener.local_url(), transmit(&[FRAME, "Accept: application/avp+binary;q=0.5"], &wire)).await;
    assert!(answer.contains("content-type: application/avp+binary"), "{answer}");
}

// spec: http 2.2, http 2.5
#[tokio::test]
async fn a_token_is_asked_for_before_a_body_is_read_and_names_the_session() {
    let mut options = Options::default();
    let tokens = BearerTokens::new().with("alice", &token("s3cret")).with("bob", &token("hunter2"));
    options.authorize = Some(Arc::new(tokens));
    let mut http = HttpServerOptions::default();
    let agent = HttpAgent::new(config("server"), crate::common::http::Echo { takes_text: true }).unwrap();
    http.service = Some(Arc::new(agent.require_session()));
    let listener = serve(options, http).await;
    for shown in ["", "Authorization: Bearer guess\r\n", "Authorization: Basic s3cret\r\n"] {
        let head =
            format!("POST /avp/v2/transmit HTTP/1.1\r\nHost: h\r\n{shown}Content-Length: 1000000000\r\n\r\n");
        let answer = talk(listener.local_url(), head).await;
        assert_eq!(parts(&answer).0, 401, "{answer}");
        assert!(answer.contains("www-authenticate: Bearer") && answer.contains("handshake.unauthorized"));
        assert!(!answer.contains("guess"));
    }
    let as_peer = |secret: &str| {
        let mut options = Options::default();
        options.token = Some(token(secret));
        client(&listener, options)
    };
    let (alice, bob) = (as_peer("s3cret"), as_peer("hunter2"));
    let session = alice.handshake(config("client")).await.unwrap().established.session;
    let mut frame = sample(1, 1000);
    let error = alice.transmit(encoded(&frame)).await.unwrap_err();
    assert_eq!(refusal(&error).code, Some(ErrorCode::UnknownSession), "no session at all");
    frame.metadata.session_id = session.id.to_string();
    // Alice's session is hers on any connection, and nothing to Bob.
    let answer = fields(as_peer("s3cret").transmit(encoded(&frame)).await.unwrap());
    assert_eq!(answer["identity"], "token:alice");
    let error = bob.transmit(encoded(&frame)).await.unwrap_err();
    assert_eq!((refusal(&error).status, error.code()), (400, ErrorCode::UnknownSession));
    let message = TextMessage { session_id: session.id.to_string(), ..TextMessage::default() };
    assert_eq!(bob.text(&message).await.unwrap_err().code(), ErrorCode::UnknownSession);
    alice.text(&message).await.unwrap();
}

#[tokio::test]
async fn without_credentials_a_session_is_worth_nothing_on_another_connection() {
    let listener = serve(Options::default(), service(true)).await;
    let one = client(&listener, Options::default());
    let session = one.handshake(config("client")).await.unwrap().established.session;
    let mut frame = sample(1, 10);
    frame.metadata.session_id = session.id.to_string();
    let here = fields(one.transmit(encoded(&frame)).await.unwrap());
    let there = fields(client(&listener, Options::default()).transmit(encoded(&frame)).await.unwrap());
    assert_eq!((&here["session"], &there["session"]), (&json!("client"), &Value::Null));
}

#[tokio::test]
async fn a_connection_is_used_again_and_replaced_when_the_server_has_closed_it() {
    let listener = serve(Options::default(), service(true)).await;
    for client in [client(&listener, Options::default()), client(&listener, Options::default()).with_http2()]
    {
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let answer = fields(client.transmit(encoded(&sample(1, 10))).await.unwrap());
            addresses.push(answer["address"].as_str().unwrap().to_owned());
        }
        assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
    }
    let mut options = Options::default();
    options.limits.handshake_timeout = Duration::from_millis(300);
    let listener = serve(options, service(true)).await;
    let client = client(&listener, Options::default());
    client.health().await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.health().await.unwrap();
}

#[tokio::test]
async fn chunked_bodies_and_pipelined_requests_are_understood() {
    let listener = serve(Options::default(), service(true)).await;
    let frame = wire(10_000);
    let mut chunked =
        b"POST /avp/v2/transmit HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for part in frame.chunks(777) {
        chunked.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        chunked.extend_from_slice(part);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let health = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = talk(listener.local_url(), [&chunked[..], health, &chunked, health].concat()).await;
    let bodies: Vec<&str> =
        answer.split("HTTP/1.1 200 OK").skip(1).map(|part| part.rsplit("\r\n").next().unwrap()).collect();
    assert_eq!(bodies.len(), 4, "{answer}");
    for n in [0, 2] {
        assert!(bodies[n].contains(r#""bytes":10000"#), "{answer}");
        assert_eq!(bodies[n + 1], r#"{"status":"ok"}"#);
    }
}

#[tokio::test]
async fn requests_and_connections_share_a_port() {
    let listener = Arc::new(serve(Options::default(), service(true)).await);
    let accepting = Arc::clone(&listener);
    let serving = tokio::spawn(async move {
        let mut connection = accepting.accept().await.unwrap();
        while let Some(frame) = connection.recv().await.unwrap() {
            connection.send(encoded(&frame)).await.unwrap();
        }
    });
    let mut connection = connect(listener.local_url(), &Options::default()).await.unwrap();
    let client = client(&listener, Options::default());
    for n in 0..5 {
        let frame: Frame = sample(n, 100_000);
        connection.send(encoded(&frame)).await.unwrap();
        assert_eq!(fields(client.transmit(encoded(&frame)).await.unwrap())["bytes"], 100_000);
        assert_eq!(connection.recv().await.unwrap().unwrap().payload, frame.payload);
    }
    connection.close().await.unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn metrics_are_those_of_the_application() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || metrics::counter!("avp_test_total").increment(3));
    let mut options = Options::default();
    options.authorize = Some(Arc::new(BearerTokens::new().with("monitor", &token("s3cret"))));
    let mut http = HttpServerOptions::default();
    http.metrics = Some(MetricsText::new(move || handle.render()));
    let listener = serve(options, http).await;
    let answer = talk(listener.local_url(), request("GET /metrics", &[], b"")).await;
    assert_eq!(parts(&answer).0, 401);
    let answer =
        talk(listener.local_url(), request("GET /metrics", &["Authorization: Bearer s3cret"], b"")).await;
    assert!(parts(&answer).1.contains("avp_test_total 3"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
}

#[tokio::test]
async fn http_beyond_loopback_needs_permission() {
    for url in ["http://0.0.0.0:0", "http://192.0.2.1:80"] {
        let url = url.parse().unwrap();
        let refused = |error: TransportError| error.to_string().contains("allow_remote");
        assert!(refused(HttpListener::bind(&url, Options::default()).await.map(drop).unwrap_err()));
        assert!(refused(connect(&url, &Options::default()).await.map(drop).unwrap_err()));
        let client = HttpClient::new(&url, "a", Options::default()).unwrap();
        assert!(refused(client.health().await.unwrap_err()));
    }
}

#[tokio::test]
async fn a_listener_without_a_service_says_so() {
    let listener = serve(Options::default(), HttpServerOptions::default()).await;
    let error = client(&listener, Options::default()).transmit(encoded(&sample(1, 10))).await.unwrap_err();
    assert_eq!((refusal(&error).status, error.code()), (501, ErrorCode::NoHandler));
    let mut stream = dial(listener.local_url()).await;
    stream.write_all(&request("GET /health", &[], b"")).await.unwrap();
    assert!(listen_to(&mut stream).await.contains("200 OK"));
}
