//! What an HTTP listener is given beside [`Options`](crate::Options), and what it allows (docs/spec/http.md, section 5).

use std::fmt;
use std::sync::Arc;

use super::service::HttpService;

/// What a listener serves beside connections.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HttpServerOptions {
    /// Who answers handshakes, frames and texts; `None` answers them with 501.
    pub service: Option<Arc<dyn HttpService>>,
    /// The text of `GET /metrics`; `None` answers it with 404.
    pub metrics: Option<MetricsText>,
    /// What a client may use.
    pub limits: HttpLimits,
}

/// Gives the text of `GET /metrics` in Prometheus' format. What this crate counts is in it where the recorder was installed
/// before the connections, clients and listeners that are to be seen.
///
/// ```
/// # use avp_transport::{HttpServerOptions, MetricsText, describe_metrics};
/// use metrics_exporter_prometheus::PrometheusBuilder;
/// let recorder = PrometheusBuilder::new().build_recorder();
/// let handle = recorder.handle();
/// metrics::set_global_recorder(recorder).expect("no other recorder is installed");
/// describe_metrics();
/// let mut options = HttpServerOptions::default();
/// options.metrics = Some(MetricsText::new(move || handle.render()));
/// ```
#[derive(Clone)]
pub struct MetricsText(Arc<dyn Fn() -> String + Send + Sync>);

impl MetricsText {
    /// Asks `render` at each request.
    #[must_use]
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    pub(super) fn render(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for MetricsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsText(..)")
    }
}

/// Budgets of an HTTP listener that other transports do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpLimits {
    /// Bytes of a request's headers (16 KiB).
    pub header_bytes: usize,
    /// Headers of a request over HTTP/1.1 (64).
    pub headers: usize,
    /// Connections of one peer that are not upgraded (256).
    pub connections_per_peer: usize,
    /// Requests per second that a peer may sustain (1,000). An upgrade without credentials that a connection begins with
    /// is none.
    pub requests_per_second: u32,
    /// Requests that a peer may make in a burst (2,000).
    pub request_burst: u32,
    /// Bytes of memory that the bodies of all requests of the listener may take together, from when they begin to come to
    /// when they are answered (2 GiB). Only what is there counts, with what may be in a connection's buffers: 512 KiB of
    /// each body over HTTP/1.1, 4 MiB over HTTP/2, and less where less is announced. Beyond it the peer that holds the most
    /// is answered 503, first for bodies that have come to a stop. Buffers grow by doubling, so that the process may take
    /// up to twice as much for a while. Frames on upgraded connections are not counted.
    pub body_memory: u64,
    /// Upgraded connections that wait to be accepted (64).
    pub backlog: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes: 16 << 10,
            headers: 64,
            connections_per_peer: 256,
            requests_per_second: 1_000,
            request_burst: 2_000,
            body_memory: 2 << 30,
            backlog: 64,
        }
    }
}
