//! How an HTTP listener shuts down.

use std::sync::Arc;
use std::time::Duration;

use avp_transport::testing::{Discard, encoded, sample};
use avp_transport::{
    HttpAgent, HttpClient, HttpListener, HttpServerOptions, IoFault, Listener, Options, TransportError,
    TransportUrl,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::common::config;
use crate::common::http::{client, dial, serve, service};

/// More than anything here takes, less than the deadlines that are not meant.
const A_WHILE: Duration = Duration::from_secs(5);

async fn slow(options: Options) -> (Discard, HttpListener) {
    let slow = Discard::when_told();
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config("server"), slow.clone()).unwrap()));
    (slow, serve(options, http).await)
}

fn clients(listener: &HttpListener) -> [HttpClient; 2] {
    [client(listener, Options::default()), client(listener, Options::default()).with_http2()]
}

async fn is_open(url: &TransportUrl) -> bool {
    let TransportUrl::Http { host, port, .. } = url else { panic!("{url}") };
    TcpStream::connect((host.as_str(), *port)).await.is_ok()
}

// spec: http 1.3
#[tokio::test]
async fn a_request_that_is_being_served_is_answered_when_the_listener_closes_or_is_dropped() {
    for (kind, dropped) in [(0, false), (1, false), (0, true), (1, true)] {
        let (slow, listener) = slow(Options::default()).await;
        let (url, client) = (listener.local_url().clone(), clients(&listener)[kind].clone());
        let request = tokio::spawn(async move { client.transmit(encoded(&sample(1, 1000))).await });
        slow.came().await;
        let closing =
            tokio::spawn(async move { if dropped { drop(listener) } else { listener.close().await } });
        timeout(A_WHILE, async {
            while is_open(&url).await {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the port is closed while the request is served");
        assert!(!request.is_finished() && closing.is_finished() == dropped);
        slow.go();
        request.await.unwrap().unwrap();
        timeout(A_WHILE, closing).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_that_outlasts_the_deadline_is_cut_off() {
    for kind in [0, 1] {
        let mut options = Options::default();
        options.timeouts.close = Duration::from_millis(200);
        let (slow, listener) = slow(options).await;
        let client = clients(&listener)[kind].clone();
        let request = tokio::spawn(async move { client.transmit(encoded(&sample(1, 1000))).await });
        slow.came().await;
        timeout(A_WHILE, listener.close()).await.unwrap();
        let error = timeout(A_WHILE, request).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
    }
}

#[tokio::test]
async fn connections_that_ask_for_nothing_end_with_the_listener() {
    let listener = serve(Options::default(), service(true)).await;
    let (mut silent, mut idle) = (dial(listener.local_url()).await, dial(listener.local_url()).await);
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    timeout(A_WHILE, listener.close()).await.unwrap();
    for stream in [&mut silent, &mut idle] {
        // Closed, be it by a reset.
        let _ = timeout(A_WHILE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    }
}

#[tokio::test]
async fn http2_clients_are_told_by_goaway() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    let listener = serve(Options::default(), service(true)).await;
    let mut stream = dial(listener.local_url()).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&SETTINGS).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let closing = tokio::spawn(listener.close());
    let code = timeout(A_WHILE, async {
        loop {
            let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut body).await.unwrap();
            if head[3] == GOAWAY {
                return body[4..8].to_vec();
            }
            stream.read_exact(&mut head).await.unwrap();
        }
    })
    .await
    .unwrap();
    assert_eq!(code, [0; 4], "NO_ERROR");
    drop(stream);
    timeout(A_WHILE, closing).await.unwrap().unwrap();
}
