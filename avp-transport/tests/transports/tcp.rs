//! What is particular to TCP: addresses, ports, half-open connections.

use std::time::Duration;

use avp_transport::{
    IoFault, LimitExceeded, Listener, Options, PeerFault, TransportError, TransportUrl, UsageError, connect,
    listen,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

fn url(text: &str) -> TransportUrl {
    text.parse().unwrap()
}

async fn listener(options: &Options) -> Box<dyn Listener> {
    listen(&url("avp+tcp://127.0.0.1:0"), options).await.unwrap()
}

#[tokio::test]
async fn an_unreachable_peer_is_named_with_what_to_try() {
    // Held, so that nobody else gets the port, and without a listener.
    let held = TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = held.local_addr().unwrap().port();
    let error = connect(&url(&format!("avp+tcp://127.0.0.1:{port}")), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Unreachable { .. })));
    let message = error.to_string();
    assert!(message.contains(&format!("avp+tcp://127.0.0.1:{port}")), "{message}");
    assert!(message.ends_with("is an agent listening there?"), "{message}");
    let error = connect(&url("avp+mem:nobody"), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Unreachable { .. })));
}

// spec: limits 10.1
#[tokio::test]
async fn a_peer_that_stops_within_a_head_is_given_up_however_often_its_receiver_comes_back() {
    let mut options = Options::default();
    options.limits.frame_timeout = Duration::from_millis(300);
    let listener = listener(&options).await;
    let TransportUrl::Tcp { host, port } = listener.local_url() else { unreachable!() };
    let mut peer = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    peer.write_all(b"AV\x01\x00\x00\x00").await.unwrap();
    let mut connection = listener.accept().await.unwrap();
    let given_up = async {
        loop {
            if let Ok(ended) = timeout(Duration::from_millis(50), connection.recv()).await {
                return ended.unwrap_err();
            }
        }
    };
    let error = timeout(Duration::from_secs(30), given_up).await.expect("its time is not given anew");
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Deadline { .. })), "{error}");
}

// spec: transports 1.4
#[tokio::test]
async fn a_peer_that_left_without_a_word_is_in_nobodys_way() {
    let listener = listener(&Options::default()).await;
    let TransportUrl::Tcp { host, port } = listener.local_url() else { unreachable!() };
    let dial = async || TcpStream::connect((host.as_str(), *port)).await.unwrap();
    for _ in 0..3 {
        drop(dial().await);
    }
    let (mut left, silent) = (dial().await, dial().await);
    left.write_all(b"A").await.unwrap();
    let with_a_word = left.local_addr().unwrap().to_string();
    drop(left);
    let (first, second) = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    assert_eq!(first.peer().to_string(), with_a_word);
    assert_eq!(second.peer().to_string(), silent.local_addr().unwrap().to_string());
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let first = listener(&Options::default()).await;
    let error = listen(first.local_url(), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::PortInUse { .. })), "{error}");
    let name = url("avp+mem:taken");
    let _first = listen(&name, &Options::default()).await.unwrap();
    let error = listen(&name, &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Usage(UsageError::NameInUse { .. })), "{error}");
}

// spec: transports 1.2
#[tokio::test]
async fn beyond_loopback_needs_permission_and_says_so() {
    for address in ["avp+tcp://0.0.0.0:0", "avp+tcp://192.0.2.1:7700", "avp+tcp://[::]:0"] {
        for error in [
            listen(&url(address), &Options::default()).await.map(drop).unwrap_err(),
            connect(&url(address), &Options::default()).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(error, TransportError::Usage(UsageError::RemoteNotAllowed { .. })), "{error}");
            assert!(error.to_string().contains("allow_remote"), "{error}");
        }
    }
    let mut options = Options::default();
    options.allow_remote = true;
    listen(&url("avp+tcp://0.0.0.0:0"), &options).await.unwrap();
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_said_so() {
    let error = connect(&url("avp+tcp://no-such-host.invalid:1"), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Lookup { .. })), "{error}");
}

#[tokio::test]
async fn an_http_client_at_our_port_gets_a_typed_error() {
    let listener = listener(&Options::default()).await;
    let TransportUrl::Tcp { host, port } = listener.local_url() else { panic!("not TCP") };
    let mut browser = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = listener.accept().await.unwrap().recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::NotAvp { .. })), "{error}");
    assert!(error.to_string().contains("47 45 54"), "{error}");
}

#[tokio::test]
async fn a_dropped_accept_loses_no_connection() {
    let listener = listener(&Options::default()).await;
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(1), listener.accept()).await.is_err());
        let client = connect(listener.local_url(), &Options::default()).await.unwrap();
        let server = listener.accept().await.unwrap();
        let (ours, theirs) = tokio::join!(client.close(), server.close());
        ours.unwrap();
        theirs.unwrap();
    }
}
