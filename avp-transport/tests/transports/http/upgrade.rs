//! Connections over HTTP: the upgrade, and servers that do not know it.

use std::sync::Arc;
use std::time::Duration;

use avp_transport::testing::{encoded, sample};
use avp_transport::{
    BearerTokens, HttpClient, HttpServerOptions, Incompatible, Listener, Options, PeerFault, Token,
    TransportError, TransportUrl, connect, listen, negotiate_client, negotiate_server,
};
use avp_wire::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::common::config;
use crate::common::http::{dial, parts, serve, talk};

const ASK: &str =
    "GET /avp/v2/connect HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: avp/1\r\n";

fn tokens() -> Options {
    let mut options = Options::default();
    let tokens = BearerTokens::new().with("alice", &Token::new("s3cret").unwrap());
    options.authorize = Some(Arc::new(tokens));
    options
}

/// A web server that answers every request alike.
async fn web_server(answer: &'static str) -> TransportUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

// spec: http 4.1, http 4.2
#[tokio::test]
async fn frames_sent_along_with_the_request_are_not_lost() {
    let listener = serve(Options::default(), HttpServerOptions::default()).await;
    let mut stream = dial(listener.local_url()).await;
    let frame = sample(1, 1000);
    stream.write_all(&[format!("{ASK}\r\n").as_bytes(), &encoded(&frame).to_vec()].concat()).await.unwrap();
    let mut connection = listener.accept().await.unwrap();
    assert_eq!(connection.recv().await.unwrap().unwrap().payload, frame.payload);
    connection.send(encoded(&frame)).await.unwrap();
    drop(connection);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let text = String::from_utf8_lossy(&all);
    assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
    assert!(text.contains("upgrade: avp/1"), "{text}");
    assert!(all.ends_with(&encoded(&frame).to_vec()));
}

// spec: http 4.1
#[tokio::test]
async fn a_request_that_does_not_ask_rightly_is_told_how() {
    let listener = serve(Options::default(), HttpServerOptions::default()).await;
    for wrong in [
        ASK.replace("avp/1", "websocket"),
        ASK.replace("keep-alive, Upgrade", "keep-alive"),
        ASK.replace("Upgrade: avp/1\r\n", ""),
    ] {
        let answer = talk(listener.local_url(), format!("{wrong}\r\n")).await;
        assert_eq!(parts(&answer).0, 426, "{answer}");
        assert!(answer.contains("upgrade: avp/1"), "{answer}");
    }
}

// spec: http 4.3
#[tokio::test]
async fn a_token_on_the_request_lets_in_and_a_wrong_one_does_not() {
    let listener = serve(tokens(), HttpServerOptions::default()).await;
    let mut stream = dial(listener.local_url()).await;
    stream.write_all(format!("{ASK}Authorization: Bearer s3cret\r\n\r\n").as_bytes()).await.unwrap();
    let mut connection = listener.accept().await.unwrap();
    assert_eq!(connection.peer().identity(), Some("token:alice"));
    let answer = talk(listener.local_url(), format!("{ASK}Authorization: Bearer guess\r\n\r\n")).await;
    assert_eq!(parts(&answer).0, 401, "{answer}");

    // Let in by the request, the peer need not show the token in its hello.
    let hello = {
        let (mut client, mut server) = avp_transport::memory_pair("hello", &Options::default());
        let saying =
            tokio::spawn(async move { negotiate_client(&mut client, config("client")).await.map(drop) });
        let hello = server.recv().await.unwrap().unwrap();
        saying.abort();
        hello
    };
    stream.write_all(&encoded(&hello).to_vec()).await.unwrap();
    negotiate_server(&mut connection, config("server")).await.unwrap();
}

// spec: http 4.3
#[tokio::test]
async fn a_token_may_come_with_the_hello_instead() {
    let listener = serve(tokens(), HttpServerOptions::default()).await;
    for secret in [Some("s3cret"), None] {
        let mut options = Options::default();
        options.token = secret.map(|secret| Token::new(secret).unwrap());
        let mut client = connect(listener.local_url(), &options).await.unwrap();
        let mut server = listener.accept().await.unwrap();
        let (ours, theirs) = tokio::join!(
            negotiate_client(&mut client, config("client")),
            negotiate_server(&mut server, config("server"))
        );
        match secret {
            Some(_) => {
                theirs.unwrap();
                assert_eq!(server.peer().identity(), Some("token:alice"));
            }
            None => assert_eq!(ours.unwrap_err().code(), ErrorCode::Unauthorized),
        }
    }
    let mut wrong = Options::default();
    wrong.token = Some(Token::new("guess").unwrap());
    let error = connect(listener.local_url(), &wrong).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthorized, "{error}");
}

#[tokio::test]
async fn connections_that_nobody_accepts_are_refused_beyond_the_backlog() {
    let mut http = HttpServerOptions::default();
    http.limits.backlog = 2;
    let listener = serve(Options::default(), http).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(connect(listener.local_url(), &Options::default()).await.unwrap());
    }
    let error = connect(listener.local_url(), &Options::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Busy, "{error}");
    listener.accept().await.unwrap();
    connect(listener.local_url(), &Options::default()).await.unwrap();
}

#[tokio::test]
async fn a_web_server_that_does_not_know_the_upgrade_is_named() {
    for (answer, status, server) in [
        (
            "HTTP/1.1 404 Not Found\r\nServer: nginx/1.2\r\nContent-Length: 6\r\n\r\n<html>",
            404,
            Some("nginx/1.2"),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, None),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\n{\"detail\":\"Not Found\"}", 404, None),
    ] {
        let error = connect(&web_server(answer).await, &Options::default()).await.unwrap_err();
        let TransportError::Incompatible(Incompatible::NoUpgrade { status: found, server: name, .. }) =
            &error
        else {
            panic!("{error}")
        };
        assert_eq!((*found, name.as_deref()), (status, server));
        assert!(error.to_string().contains("does not carry AVP connections"), "{error}");
    }
    let other =
        web_server("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
    let error = connect(&other, &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::Answer { .. })), "{error}");
}

#[tokio::test]
async fn a_client_at_another_kind_of_server_gets_a_typed_error() {
    let cases = [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.0\r\n",
    ];
    for answer in cases {
        let client = HttpClient::new(&web_server(answer).await, "a", Options::default()).unwrap();
        let error = client.transmit(encoded(&sample(1, 10))).await.unwrap_err();
        assert!(matches!(error, TransportError::Peer(PeerFault::Answer { .. })), "{answer}: {error}");
        assert!(error.to_string().contains("is another service listening there?"), "{error}");
    }
    let error = connect(&web_server("SSH-2.0-OpenSSH_9.0\r\n").await, &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::Answer { .. })), "{error}");
}

#[tokio::test]
async fn a_client_at_the_port_of_another_scheme_is_told_at_once_which_to_use() {
    let at = |scheme: &str, listener: &dyn Listener| -> TransportUrl {
        let url = listener.local_url().to_string();
        url.replacen(url.split("://").next().unwrap(), scheme, 1).parse().unwrap()
    };
    let plain = listen(&"avp+tcp://127.0.0.1:0".parse().unwrap(), &Options::default()).await.unwrap();
    let secure = crate::common::secure_server(Options::default());
    let secure = listen(&"https://127.0.0.1:0".parse().unwrap(), &secure).await.unwrap();
    let (to_plain, to_secure) = (at("http", &*plain), at("http", &*secure));
    let serving = tokio::spawn(async move {
        loop {
            let mut connection = plain.accept().await.unwrap();
            tokio::spawn(async move { negotiate_server(&mut connection, config("server")).await.map(drop) });
        }
    });
    let within = Duration::from_secs(4);
    for (url, scheme) in [(to_plain, "avp+tcp://"), (to_secure, "https://")] {
        let one = HttpClient::new(&url, "a", Options::default()).unwrap();
        let two = one.clone().with_http2();
        for error in [
            timeout(within, connect(&url, &Options::default())).await.unwrap().map(drop).unwrap_err(),
            timeout(within, one.transmit(encoded(&sample(1, 10)))).await.unwrap().map(drop).unwrap_err(),
            timeout(within, two.transmit(encoded(&sample(1, 10)))).await.unwrap().map(drop).unwrap_err(),
        ] {
            let named = matches!(&error, TransportError::Incompatible(Incompatible::NotHttp { scheme: found, .. })
                if found.contains(scheme));
            assert!(named, "{url}: {error}");
        }
    }
    serving.abort();
    let http = serve(Options::default(), HttpServerOptions::default()).await;
    let mut connection = connect(&at("avp+tcp", &http), &Options::default()).await.unwrap();
    let talking = negotiate_client(&mut connection, config("client"));
    let error = timeout(within, talking).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::NotAvp { .. })), "{error}");
    assert!(error.to_string().contains("http://"), "{error}");
}

#[tokio::test]
async fn a_refusal_for_want_of_a_token_says_what_to_do() {
    let listener = serve(tokens(), crate::common::http::service(true)).await;
    for (shown, says) in [
        (None, "no token was shown; give the one that it expects"),
        (Some("guess"), "is not one of those it knows"),
    ] {
        let mut options = Options::default();
        options.token = shown.map(|shown| Token::new(shown).unwrap());
        let client = HttpClient::new(listener.local_url(), "a", options.clone()).unwrap();
        let error = client.transmit(encoded(&sample(1, 10))).await.unwrap_err();
        assert!(error.to_string().contains(says) && error.to_string().contains("--token-file"), "{error}");
        if shown.is_some() {
            let error = connect(listener.local_url(), &options).await.unwrap_err();
            let turned_away = matches!(
                error,
                TransportError::Incompatible(Incompatible::TurnedAway { showed_token: true, .. })
            );
            assert!(turned_away && error.to_string().contains(says), "{error}");
        }
        // A proxy before the server has words of its own.
        let proxy = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
        let client = HttpClient::new(&web_server(proxy).await, "a", options).unwrap();
        let error = client.transmit(encoded(&sample(1, 10))).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: TransportUrl = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let mut options = Options::default();
    options.timeouts.connect = Duration::from_millis(200);
    options.timeouts.idle = Duration::from_millis(200);
    let within = Duration::from_secs(5);
    let error = timeout(within, connect(&url, &options)).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Limit(_)), "{error}");
    let client = HttpClient::new(&url, "a", options.clone()).unwrap();
    let error = timeout(within, client.health()).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Limit(_)), "{error}");
}
