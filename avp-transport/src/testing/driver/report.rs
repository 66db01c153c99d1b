//! What came of a chaos run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::TransportError;
use crate::testing::census::Census;

/// Outcomes by transfer, and what the process held before and after.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChaosReport {
    /// What was run, in words.
    pub what: String,
    /// Transfers that were begun.
    pub transfers: u64,
    /// Transfers whose frames both ways came as they were sent.
    pub exact: u64,
    /// Transfers whose client left on purpose.
    pub left: u64,
    /// Transfers whose server ended before its answer.
    pub ended_early: u64,
    /// Transfers that ended in an error at the client, by kind.
    pub failed: BTreeMap<String, u64>,
    /// Errors that the server saw, by kind.
    pub server_failed: BTreeMap<String, u64>,
    /// Exact transfers whose `close` did not come about.
    pub rough_ends: u64,
    /// Frames whose payload is as sent and whose metadata is not. The checksum of a frame covers its payload only, so
    /// a transport that does not protect its bytes can let a flip of a metadata bit through.
    pub altered_heads: u64,
    /// Frames whose payload is not as sent.
    pub altered_payloads: u64,
    /// Which frames were altered, in words.
    pub altered: Vec<String>,
    /// Transfers and sessions that went on beyond their deadlines.
    pub late: Vec<String>,
    /// Whether the transport protects its bytes, so that no altered head is to be expected.
    pub protected: bool,
    /// The longest transfer.
    pub longest: Duration,
    /// The whole run.
    pub took: Duration,
    /// Before the run.
    pub before: Census,
    /// After it.
    pub after: Census,
}

impl ChaosReport {
    /// Every promise that was broken, in words; empty where all were kept.
    #[must_use]
    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = self.late.clone();
        if self.altered_payloads > 0 {
            broken.push(format!(
                "{} payloads were other than what was sent: {:?}",
                self.altered_payloads, self.altered
            ));
        }
        if self.protected && self.altered_heads > 0 {
            broken.push(format!(
                "{} heads were altered on a protected transport: {:?}",
                self.altered_heads, self.altered
            ));
        }
        if self.after.panics > self.before.panics {
            broken.push(format!("{} panics", self.after.panics - self.before.panics));
        }
        broken.extend(self.after.leaks(&self.before).map(|leaks| format!("not given back: {leaks}")));
        broken
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "  transfers          {:>6}  in {:.1} s", self.transfers, self.took.as_secs_f64())?;
        writeln!(f, "  exact              {:>6}  {} closed roughly", self.exact, self.rough_ends)?;
        writeln!(f, "  client left        {:>6}  on purpose", self.left)?;
        writeln!(f, "  server ended early {:>6}", self.ended_early)?;
        for (kind, count) in &self.failed {
            writeln!(f, "  error              {count:>6}  {kind}")?;
        }
        for (kind, count) in &self.server_failed {
            writeln!(f, "  error at server    {count:>6}  {kind}")?;
        }
        let why = if self.protected || self.altered_heads == 0 {
            ""
        } else {
            "  flips in metadata, which no checksum covers over a transport without TLS (docs/spec/transports.md, 1.3)"
        };
        writeln!(f, "  altered heads      {:>6}{why}", self.altered_heads)?;
        writeln!(f, "  altered payloads   {:>6}", self.altered_payloads)?;
        writeln!(f, "  beyond deadlines   {:>6}", self.late.len())?;
        writeln!(f, "  longest            {:>6.2} s", self.longest.as_secs_f64())?;
        writeln!(f, "  before: {}", self.before)?;
        write!(f, "  after:  {}", self.after)
    }
}

/// Who is at fault, and the stable code.
pub(super) fn kind(error: &TransportError) -> String {
    let fault = match error {
        TransportError::Peer(_) => "peer",
        TransportError::Incompatible(_) => "incompatible",
        TransportError::Limit(_) => "limit",
        TransportError::Usage(_) => "usage",
        TransportError::Io(_) => "io",
    };
    format!("{fault}: {}", error.code().as_str())
}
