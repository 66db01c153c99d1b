//! What is particular to QUIC: streams of their own for transfers, stripes, migration, strangers at the port.

mod hostile;
mod listeners;
mod relay;
mod transfers;

use std::net::SocketAddr;
use std::time::Duration;

use avp_transport::{Listener, Options, TransportUrl, listen};

use crate::common::secure_server;

const QUIC: &str = "avp+quic://127.0.0.1:0";
/// How long is waited for what is not to happen.
const A_WHILE: Duration = Duration::from_millis(300);
/// How long is waited for what is to happen.
const GENEROUS: Duration = Duration::from_secs(30);

async fn listener(options: Options) -> (Box<dyn Listener>, SocketAddr) {
    let listener = listen(&QUIC.parse().unwrap(), &secure_server(options)).await.unwrap();
    let TransportUrl::Quic { host, port } = listener.local_url().clone() else { panic!("not QUIC") };
    (listener, format!("{host}:{port}").parse().unwrap())
}

fn url(address: SocketAddr) -> TransportUrl {
    TransportUrl::Quic { host: address.ip().to_string(), port: address.port() }
}
