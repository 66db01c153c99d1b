//! A small agent that serves, and a session with it in which any frame can be said.

pub(crate) mod delivery;

use std::sync::Arc;
use std::time::Duration;

use avp::{Agent, ServeOptions, TransportOptions, serve};
use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_handshake::{NegotiatorConfig, Reject, TextMessage};
use avp_transport::{Connection, negotiate_client};
use avp_wire::{EncodeOptions, Frame, Metadata, Mode, ext};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

const DIM: usize = 8;
/// Far beyond what anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn model() -> MatrixBackend {
    let input = (0..256 * DIM).map(|i| (i % 7) as f32 - 3.0).collect();
    MatrixBackend::new("model", MatrixTables { hidden_dim: DIM, input, output: None }, 512)
}

pub(crate) fn agent() -> Agent {
    Agent::new("agent", Arc::new(model()))
}

/// Serves until the returned sender is dropped.
pub(crate) async fn start(url: &str, options: ServeOptions) -> (String, oneshot::Sender<()>) {
    let server = serve(agent(), url, options, |_| ()).await.unwrap();
    let url = server.url().to_string();
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    (url, stop)
}

/// A session in which any frame can be said.
pub(crate) struct Raw {
    pub(crate) connection: Connection,
    pub(crate) session: String,
    /// Transfers so far.
    transfers: usize,
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::connect_with(url, &TransportOptions::default()).await
    }

    pub(crate) async fn connect_with(url: &str, options: &TransportOptions) -> Self {
        let mut connection = avp_transport::connect(&url.parse().unwrap(), options).await.unwrap();
        let config = NegotiatorConfig::new(agent().hello(), connection.peer_id());
        let session = negotiate_client(&mut connection, config).await.unwrap().session.id.to_string();
        Self { connection, session, transfers: 0 }
    }

    /// A number that no transfer of the session has.
    pub(crate) fn next_id(&mut self) -> usize {
        self.transfers += 1;
        self.transfers
    }

    pub(crate) async fn send(&mut self, mut frame: Frame, kind: &str, encoding: &EncodeOptions) {
        frame.metadata.session_id.clone_from(&self.session);
        frame.metadata.extra.insert(ext::KIND.into(), kind.into());
        self.connection.send_frame(&frame, encoding).await.unwrap();
    }

    /// Asks, with `transfer` and with `generate` as it stands; gives the refusal, if it is one.
    pub(crate) async fn ask(&mut self, transfer: Option<&str>, generate: Value) -> Option<Reject> {
        self.send(question("question", transfer, generate), "text", &EncodeOptions::default()).await;
        Reject::from_frame(&self.receive().await)
    }

    pub(crate) async fn receive(&mut self) -> Frame {
        self.connection.recv().await.unwrap().unwrap()
    }
}

/// A question without a session yet.
pub(crate) fn question(content: &str, transfer: Option<&str>, generate: Value) -> Frame {
    let extra = Map::from_iter([("generate".to_owned(), generate)]);
    let message = TextMessage { content: content.into(), extra, ..Default::default() };
    let mut metadata = Metadata { mode: Mode::Json, ..Default::default() };
    metadata.extra.extend(transfer.map(|id| (ext::TRANSFER.to_owned(), id.to_owned())));
    Frame::new(metadata, message.to_json().into_bytes())
}
