//! Every transport keeps the same promises.

use avp_transport::testing::Harness;
use avp_transport::{BoxFuture, Connection, Connector, Listener, Options, connector, listen};

/// Connects through addresses, as an application does.
struct Url(&'static str);

impl Harness for Url {
    fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
        Box::pin(async move {
            let listener: Box<dyn Listener> = listen(&self.0.parse().unwrap(), &server).await.unwrap();
            let url = listener.local_url();
            let connector: Box<dyn Connector> = connector(url, &client).unwrap();
            let (client, server) = tokio::join!(connector.connect(url), listener.accept());
            (client.unwrap(), server.unwrap())
        })
    }
}

mod tcp {
    avp_transport::conformance_tests!(super::Url("avp+tcp://127.0.0.1:0"));
}

mod tls {
    avp_transport::conformance_tests!(crate::common::Secure("avp+tls://127.0.0.1:0"));
}

mod quic {
    avp_transport::conformance_tests!(crate::common::Secure("avp+quic://127.0.0.1:0"));
}

mod http {
    avp_transport::conformance_tests!(super::Url("http://127.0.0.1:0"));
}

mod https {
    avp_transport::conformance_tests!(crate::common::Secure("https://127.0.0.1:0"));
}

mod memory {
    use std::sync::atomic::{AtomicU32, Ordering};

    use avp_transport::{TransportUrl, connect};

    use super::*;

    /// Each pair has a name of its own, since tests run at once in one process.
    struct Memory;

    impl Harness for Memory {
        fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            Box::pin(async move {
                let name = format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed));
                let url = TransportUrl::Memory { name };
                let listener = listen(&url, &server).await.unwrap();
                let (client, server) = tokio::join!(connect(&url, &client), listener.accept());
                (client.unwrap(), server.unwrap())
            })
        }
    }

    avp_transport::conformance_tests!(Memory);
}

mod byte_stream {
    use avp_transport::{Peer, PeerAddress, connection_over};

    use super::*;

    /// A pipe that takes 37,777 bytes at a time, so that reads and writes break everywhere.
    struct Pipe;

    impl Harness for Pipe {
        fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
            Box::pin(async move {
                let (left, right) = tokio::io::duplex(37_777);
                let end = |io, options: &Options| {
                    let (read, write) = tokio::io::split(io);
                    connection_over(read, write, Peer::at(PeerAddress::Memory("pipe".into())), options)
                };
                (end(left, &client), end(right, &server))
            })
        }
    }

    avp_transport::conformance_tests!(Pipe);
}

#[cfg(target_os = "linux")]
mod shm {
    use std::sync::atomic::{AtomicU32, Ordering};

    use avp_transport::{ShmMode, TransportUrl, connect};

    use super::*;

    /// Each pair has a socket of its own. A sealing connector gets its way.
    struct Shm(ShmMode);

    impl Harness for Shm {
        fn pair(&self, mut client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            client.shm.mode = self.0;
            Box::pin(async move {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
                let url = TransportUrl::SharedMemory { path };
                let listener = listen(&url, &server).await.unwrap();
                let (client, server) = tokio::join!(connect(&url, &client), listener.accept());
                (client.unwrap(), server.unwrap())
            })
        }
    }

    mod pooled {
        avp_transport::conformance_tests!(super::Shm(super::ShmMode::Pooled));
    }

    mod sealed {
        avp_transport::conformance_tests!(super::Shm(super::ShmMode::Sealed));
    }
}

mod buffering_stream {
    use avp_transport::{Peer, PeerAddress, connection_over};
    use tokio::io::BufWriter;

    use super::*;

    /// A pipe that keeps what it is given until it is full or flushed, as TLS may.
    struct Buffering;

    impl Harness for Buffering {
        fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
            Box::pin(async move {
                let (left, right) = tokio::io::duplex(64 << 10);
                let end = |io, options: &Options| {
                    let (read, write) = tokio::io::split(io);
                    let peer = Peer::at(PeerAddress::Memory("pipe".into()));
                    connection_over(read, BufWriter::with_capacity(100_000, write), peer, options)
                };
                (end(left, &client), end(right, &server))
            })
        }
    }

    avp_transport::conformance_tests!(Buffering);
}
