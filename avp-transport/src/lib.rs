//! Agent Vector Protocol: transports behind one set of traits.
//!
//! [`connect`] and [`listen`] take a [`TransportUrl`] such as `avp+tcp://127.0.0.1:7700` and give [`Connection`]s,
//! which carry frames of `avp-wire` in order, both ways. Read [`Connection`] first, then [`Options`]: every wait has
//! a deadline there, everything a peer can use up a budget. [`FrameReceiver`] shows how a frame is judged by its head
//! before memory is spent on it. [`negotiate_client`] and [`negotiate_server`] run the handshake over a connection,
//! [`Transfers`] carries several transfers at once.
//!
//! New transports implement [`FrameSender`], [`FrameReceiver`], [`Connector`] and [`Listener`], or give a byte stream
//! to [`connection_over`], and run the behaviour suite of the `testing` feature.
//!
//! Errors ([`TransportError`]) say first who is at fault. Metrics ([`describe_metrics`]) and spans say what goes on,
//! never with payload, text or token.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)
)]

mod auth;
mod bodies;
mod budget;
mod busy_poll;
mod connection;
#[cfg(target_os = "linux")]
mod descriptors;
mod error;
mod half_open;
mod handshaking;
mod http;
mod idle;
mod intake;
mod link;
mod memory;
mod negotiate;
mod open;
mod options;
mod party;
mod patience;
mod quic;
mod receiver;
mod sender;
mod shm;
mod socket;
mod stream;
mod tcp;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
mod transfers;
mod turns;
mod url;
mod work;

pub use auth::{Authorize, BearerTokens, InvalidToken, MAX_TOKEN, Token, TokenFileError, Unauthorized};
pub use connection::{Connection, Peer, PeerAddress};
pub use error::{Deadline, Incompatible, IoFault, LimitExceeded, PeerFault, TransportError, UsageError};
pub use http::{
    HttpAgent, HttpAnswer, HttpCaller, HttpClient, HttpConnector, HttpHandler, HttpLimits, HttpListener,
    HttpRefusal, HttpReply, HttpServerOptions, HttpService, HttpSession, MetricsText,
};
pub use link::{BoxFuture, Connector, FrameReceiver, FrameSender, Halves, Listener, Result, Streams};
pub use memory::{MemoryConnector, MemoryListener, memory_pair};
pub use negotiate::{negotiate_client, negotiate_server};
pub use open::{connect, connector, listen};
pub use options::{Budgets, Options, Timeouts};
pub use party::Party;
pub use quic::{Congestion, QuicConnector, QuicListener, QuicOptions};
#[cfg(target_os = "linux")]
pub use shm::{ShmConnector, ShmListener};
pub use shm::{ShmFault, ShmMode, ShmOptions};
pub use stream::connection_over;
pub use tcp::{TcpConnector, TcpListener};
pub use telemetry::describe_metrics;
pub use tls::{
    TlsAuthorities, TlsCertificate, TlsConfigError, TlsConnector, TlsFault, TlsListener, TlsOptions,
};
pub use transfers::{Stripe, Transfer, Transfers};
pub use url::{Scheme, TransportUrl, UrlError};
