//! A server as applications have it, for rigs: accepting never waits for sessions, each negotiates in a task of its own.

use std::future::Future;
use std::sync::Arc;

use avp_handshake::{Established, Hello, ModelIdentity, NegotiatorConfig, PeerId};
use avp_wire::{EncodeOptions, Frame, Metadata};
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::Connection;
use crate::error::TransportError;
use crate::link::{Listener, Result};
use crate::negotiate::negotiate_server;
use crate::open::listen;
use crate::options::Options;
use crate::tls::{DevCa, TlsAuthorities, TlsCertificate};
use crate::url::TransportUrl;

/// Options for the two ends of a rig.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The client's.
    pub client: Options,
    /// The server's.
    pub server: Options,
    /// The authority that the client trusts, in PEM, for clients in other processes.
    pub authority: String,
}

impl Ends {
    /// `options` for both ends, with a certificate for loopback that the client trusts.
    ///
    /// # Panics
    /// Where the certificate cannot be made.
    #[must_use]
    pub fn secured(options: Options) -> Self {
        let authority = DevCa::new("rig").unwrap();
        let issued = authority.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let (mut client, mut server) = (options.clone(), options);
        client = Self::trusting(client, authority.certificate());
        server.tls.certificate = Some(TlsCertificate::from_pem(&issued.certificate, &issued.key).unwrap());
        Self { client, server, authority: authority.certificate().to_owned() }
    }

    /// `options` for a client that trusts an authority.
    ///
    /// # Panics
    /// Where `authority` is no certificate in PEM.
    #[must_use]
    pub fn trusting(mut options: Options, authority: &str) -> Options {
        options.tls.authorities = Some(TlsAuthorities::from_pem(authority).unwrap());
        options
    }
}

/// What an agent of this name says first.
#[must_use]
pub fn hello(name: &str) -> NegotiatorConfig {
    let identity = ModelIdentity { model_hash: "44136fa3".into(), ..Default::default() };
    NegotiatorConfig::new(Hello::new(name, identity), PeerId::new("set from the connection"))
}

/// A listener and the tasks of its sessions. Dropping it ends them, soon.
#[derive(Debug)]
pub struct Service {
    url: TransportUrl,
    task: JoinHandle<()>,
}

impl Service {
    /// Listens at `url`; `session` gets each connection that has negotiated, or why it has not.
    ///
    /// # Errors
    /// Those of [`listen`].
    pub async fn start<F>(
        url: &TransportUrl,
        options: &Options,
        session: impl Fn(Result<(Box<Established>, Connection)>) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = listen(url, options).await?;
        let url = listener.local_url().clone();
        Ok(Self { url, task: tokio::spawn(accept(listener, Arc::new(session))) })
    }

    /// A service that answers each frame of 64 bytes or more with one of 64 bytes, and takes smaller ones in silence.
    ///
    /// # Errors
    /// Those of [`listen`].
    pub async fn acknowledging(url: &TransportUrl, options: &Options) -> Result<Self> {
        Self::start(url, options, |negotiated| async {
            if let Ok((_, connection)) = negotiated {
                // Whatever ends a session is the peer's, and only ends that session.
                let _: Result<(), TransportError> = acknowledge(connection).await;
            }
        })
        .await
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &TransportUrl {
        &self.url
    }

    /// Ends it; its address is free again when this returns.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<S, F>(listener: Box<dyn Listener>, session: Arc<S>)
where
    S: Fn(Result<(Box<Established>, Connection)>) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut sessions = JoinSet::new();
    loop {
        let mut connection = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => connection,
                Err(_) => return,
            },
            Some(_) = sessions.join_next() => continue,
        };
        let session = Arc::clone(&session);
        sessions.spawn(async move {
            let negotiated = negotiate_server(&mut connection, hello("server")).await;
            session(negotiated.map(|established| (established, connection))).await;
        });
    }
}

async fn acknowledge(mut connection: Connection) -> Result<()> {
    let reply = Frame::new(Metadata::default(), vec![6; 64]);
    while let Some(frame) = connection.recv().await? {
        if frame.payload.len() >= 64 {
            connection.send_frame(&reply, &EncodeOptions::default()).await?;
        }
    }
    connection.close().await
}
