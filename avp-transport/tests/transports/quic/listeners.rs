//! Listeners, clients whose address changes, and clients that nobody answers.

use std::net::SocketAddr;
use std::time::Duration;

use avp_transport::testing::{encoded, sample};
use avp_transport::{
    Connection, IoFault, LimitExceeded, Listener, Options, TransportError, TransportUrl, connect, listen,
};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::relay::Relay;
use super::{A_WHILE, GENEROUS, listener, url};
use crate::common::{secure_client, secure_server};

async fn relayed(client: Options, server: Options) -> (Connection, Connection, Relay, SocketAddr) {
    let (listener, address) = listener(server).await;
    let relay = Relay::to(address).await;
    let (url, options) = (url(relay.address), secure_client(client));
    let (client, server) = tokio::join!(connect(&url, &options), listener.accept());
    (client.unwrap(), server.unwrap(), relay, address)
}

// spec: transports 3.12
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_survives_a_change_of_the_clients_address() {
    let (mut client, mut server, relay, address) = relayed(Options::default(), Options::default()).await;
    let sending = tokio::spawn(async move {
        for i in 0..60 {
            client.send(encoded(&sample(i, 200_000))).await.unwrap();
        }
        client
    });
    let mut moved_to = 0;
    for i in 0..60 {
        if i == 20 {
            moved_to = relay.change_port(address).await;
        }
        assert_eq!(server.recv().await.unwrap().unwrap().payload, sample(i, 200_000).payload);
    }
    let client = sending.await.unwrap();
    let (ours, theirs) = tokio::join!(client.close(), server.close());
    ours.unwrap();
    theirs.unwrap();
    assert_eq!(relay.heard_at(), moved_to, "the server answers at the new address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_heard_of_is_given_up_with_the_reason() {
    let mut options = Options::default();
    (options.quic.idle_timeout, options.quic.keep_alive) = (Duration::from_secs(2), None);
    let (mut client, mut server, relay, _) = relayed(options.clone(), options).await;
    client.send(encoded(&sample(1, 100))).await.unwrap();
    assert!(server.recv().await.unwrap().is_some());
    relay.fall_silent();
    let error = client.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
    assert!(error.to_string().contains("idle_timeout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_prove_their_address_while_many_are_in_their_handshake() {
    let mut options = Options::default();
    options.quic.retry_above = 0;
    let (listener, address) = listener(options).await;
    let relay = Relay::to(address).await;
    let options = secure_client(Options::default());
    let url = url(relay.address);
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    ours.unwrap();
    theirs.unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_at_the_connect_deadline() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut options = secure_client(Options::default());
    options.timeouts.connect = A_WHILE;
    let error = connect(&url(silent.local_addr().unwrap()), &options).await.unwrap_err();
    let said = error.to_string();
    let TransportError::Limit(LimitExceeded::NoAnswer { .. }) = error else { panic!("{error}") };
    let address = silent.local_addr().unwrap();
    assert!(said.contains(&format!("nobody answered at {address} over UDP")), "{said}");
    assert!(said.contains("avp+quic://") && said.contains("firewall"), "{said}");
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let (_first, address) = listener(Options::default()).await;
    let error = listen(&url(address), &secure_server(Options::default())).await.map(drop).unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::PortInUse { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_their_listener_and_no_new_ones_are_made() {
    let (listener, address) = listener(Options::default()).await;
    let options = secure_client(Options::default());
    let url = url(address);
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    drop(listener);
    let error = connect(&url, &options).await.unwrap_err();
    assert!(error.to_string().contains("takes no more connections"), "{error}");
    ours.send(encoded(&sample(1, 1000))).await.unwrap();
    assert!(theirs.recv().await.unwrap().is_some());
}

// spec: transports 3.16
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_nobody_accepted_are_told_that_the_listener_is_gone() {
    let mut options = secure_client(Options::default());
    // Told, and not left to find out.
    options.quic.idle_timeout = 4 * GENEROUS;
    options.timeouts.connect = 4 * GENEROUS;
    // One that waits for its handshake.
    let (early, _relay, connecting) = one_that_waits(&options).await;
    assert!(!connecting.is_finished());
    drop(early);
    let error = timeout(GENEROUS, connecting).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("takes no more connections"), "{error}");

    // One whose handshake is done.
    let (late, _relay, connecting) = one_that_waits(&options).await;
    // Begins the handshake, and does not take what comes of it: polled once, since a timeout of nothing polls again.
    tokio::select! {
        biased;
        accepted = late.accept() => panic!("accepted within one poll: {:?}", accepted.is_ok()),
        () = std::future::ready(()) => {}
    }
    let mut client = timeout(GENEROUS, connecting).await.unwrap().unwrap().unwrap();
    drop(late);
    let gone = timeout(GENEROUS, client.recv()).await.expect("the client is told");
    assert!(!matches!(gone, Ok(Some(_))), "{gone:?}");
}

/// A listener that has the first packet of a client, and the client.
async fn one_that_waits(
    client: &Options,
) -> (Box<dyn Listener>, Relay, JoinHandle<Result<Connection, TransportError>>) {
    let mut server = Options::default();
    server.quic.idle_timeout = client.quic.idle_timeout;
    let (listener, address) = listener(server).await;
    let relay = Relay::to(address).await;
    let (url, client) = (url(relay.address), client.clone());
    let connecting = tokio::spawn(async move { connect(&url, &client).await });
    relay.asked().await;
    (listener, relay, connecting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_several_addresses_is_tried_at_all_of_them() {
    // `localhost` may stand for ::1 first, where nobody listens.
    let (listener, address) = listener(Options::default()).await;
    let url = TransportUrl::Quic { host: "localhost".into(), port: address.port() };
    let options = secure_client(Options::default());
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    ours.unwrap();
    theirs.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_accept_loses_no_connection() {
    let (listener, address) = listener(Options::default()).await;
    let options = secure_client(Options::default());
    for _ in 0..5 {
        let url = url(address);
        let connecting = tokio::spawn({
            let options = options.clone();
            async move { connect(&url, &options).await }
        });
        let server = loop {
            if let Ok(server) = timeout(Duration::from_millis(1), listener.accept()).await {
                break server.unwrap();
            }
        };
        let mut client = connecting.await.unwrap().unwrap();
        client.send(encoded(&sample(1, 10))).await.unwrap();
        let (ours, theirs) = tokio::join!(client.close(), server.close());
        ours.unwrap();
        theirs.unwrap();
    }
}
