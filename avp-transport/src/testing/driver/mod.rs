//! Transfers through chaos: each ends in exactly the bytes that were sent or in a typed error, before its deadlines,
//! and leaves nothing behind.
//!
//! A transfer is a connection of its own with a handshake, a frame up and one down, checksums on. Its faults follow
//! from the seed and its number alone, so a run can be repeated, whatever the order in which transfers are scheduled.
//! Clients misbehave too: they leave, drop futures, or say nothing. Where no proxy can stand in front of the transport
//! (memory) that is all the chaos there is.
//!
//! What is promised of bytes: a payload is what was sent, by its CRC-32, over any transport. The CRC does not cover
//! metadata. TLS and QUIC protect it, so a changed head is a broken promise there; over plain sockets a flip that leaves
//! metadata well-formed goes unnoticed, and is counted.

mod job;
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avp_handshake::{Established, Reject};
use avp_wire::{BufferPool, ErrorCode, Frame};
use tokio::io::split;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::job::{Job, Manner, Verdict};
pub use self::report::ChaosReport;
use self::report::kind;
use super::census::Census;
use super::chaos::{Chaos, Plan, Relay, unruly_pipe};
use super::datagrams::Direction;
use super::dice::Dice;
use super::service::{Ends, Service, hello};
use crate::connection::{Connection, Peer, PeerAddress};
use crate::error::IoFault;
use crate::link::Result;
use crate::negotiate::{negotiate_client, negotiate_server};
use crate::open::connect;
use crate::options::Options;
use crate::stream::connection_over;
use crate::url::{Scheme, TransportUrl};

/// Beyond the deadlines, for a machine that is busy.
const SLACK: Duration = Duration::from_secs(3);
/// How long tasks and sockets may take to end after their owners: QUIC drains a connection for three probe timeouts, and
/// stalls make those long.
const SETTLING: Duration = Duration::from_secs(30);

/// A run of transfers through faults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChaosRun {
    /// Where the server listens; `None` for pipes in this process, which show what [`connection_over`] does.
    pub url: Option<TransportUrl>,
    /// Faults, sizes and manners follow from it.
    pub seed: u64,
    /// How many transfers.
    pub transfers: u64,
    /// How many run at once (32).
    pub at_once: usize,
    /// The largest payload (4 MiB).
    pub largest: usize,
}

impl ChaosRun {
    /// A run with the defaults.
    #[must_use]
    pub fn new(url: Option<TransportUrl>, seed: u64, transfers: u64) -> Self {
        Self { url, seed, transfers, at_once: 32, largest: 4 << 20 }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of listening, and of the rig's own sockets. What goes wrong with transfers is in the report.
    pub async fn run(&self) -> Result<ChaosReport> {
        let options = hurried();
        let pool = options.pool.clone();
        let ends = Ends::secured(options);
        let before = Census::take(&pool);
        let begun = Instant::now();
        let tally = self.transfer_all(ends).await?;
        let took = begun.elapsed();
        let after = Census::settled(&before, &pool, SETTLING).await;
        let over = self.url.as_ref().map_or("pipe".to_owned(), |url| url.scheme().to_string());
        let plain = self
            .url
            .as_ref()
            .is_none_or(|url| matches!(url.scheme(), Scheme::Tcp | Scheme::Http | Scheme::SharedMemory));
        let report = ChaosReport {
            what: format!("chaos over {over}, seed {}", self.seed),
            transfers: self.transfers,
            protected: !plain,
            took,
            before,
            after,
            ..tally
        };
        Ok(report)
    }

    async fn transfer_all(&self, ends: Ends) -> Result<ChaosReport> {
        let shared = Arc::new(Shared {
            run: self.clone(),
            ends,
            tally: Mutex::new(nothing()),
            broken: AtomicU64::new(0),
        });
        let service = match &self.url {
            Some(url) => {
                let sessions = Arc::clone(&shared);
                let serve = move |negotiated| Arc::clone(&sessions).serve(negotiated);
                Some(Service::start(url, &shared.ends.server, serve).await?)
            }
            None => None,
        };
        let url = service.as_ref().map(Service::url);
        let mut running = JoinSet::new();
        for index in 0..self.transfers {
            if running.len() >= self.at_once.max(1) {
                running.join_next().await;
            }
            running.spawn(Arc::clone(&shared).transfer(index, url.cloned()));
        }
        while running.join_next().await.is_some() {}
        if let Some(service) = service {
            service.stop().await;
        }
        let tally = shared.tally().clone();
        match shared.broken.load(Ordering::Relaxed) {
            0 => Ok(tally),
            count => {
                let source = std::io::Error::other(format!("{count} proxies of the rig could not be set up"));
                Err(IoFault::Broken { peer: "the rig".into(), source }.into())
            }
        }
    }
}

/// Short deadlines, so that stalls end in seconds.
fn hurried() -> Options {
    let mut options = Options::default();
    options.limits.handshake_timeout = Duration::from_secs(2);
    options.limits.frame_timeout = Duration::from_secs(1);
    options.limits.min_rate = 1 << 20;
    options.limits.memory_budget = 64 << 20;
    options.timeouts.connect = Duration::from_secs(2);
    options.timeouts.idle = Duration::from_secs(2);
    options.timeouts.close = Duration::from_secs(1);
    options.pool = BufferPool::new(16 << 20);
    options
}

fn nothing() -> ChaosReport {
    let census = Census { descriptors: None, tasks: 0, lent: 0, resident: None, panics: 0 };
    ChaosReport {
        what: String::new(),
        transfers: 0,
        exact: 0,
        left: 0,
        ended_early: 0,
        failed: Default::default(),
        server_failed: Default::default(),
        rough_ends: 0,
        altered_heads: 0,
        altered_payloads: 0,
        altered: Vec::new(),
        late: Vec::new(),
        protected: false,
        longest: Duration::ZERO,
        took: Duration::ZERO,
        before: census,
        after: census,
    }
}

/// How a client's part ended, where no error ended it.
enum Ending {
    Answered(Verdict, bool),
    EndedEarly,
    Left,
}

struct Shared {
    run: ChaosRun,
    ends: Ends,
    tally: Mutex<ChaosReport>,
    /// Transfers for which the rig could not set up its proxy.
    broken: AtomicU64,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, ChaosReport> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, index: u64) -> Job {
        let proxied = self.run.url.as_ref().is_none_or(|url| url.scheme() != Scheme::Memory);
        Job::of(self.run.seed, index, self.run.largest, if proxied { 0.2 } else { 0.6 })
    }

    async fn transfer(self: Arc<Self>, index: u64, url: Option<TransportUrl>) {
        let job = self.job(index);
        let seed = Dice::new(self.run.seed, &[index, 1]).bits();
        let (mut through, mut chaos) = (url, None);
        if let Some(url) = &through {
            match Chaos::before(url, seed).await {
                Ok(proxy) => chaos = proxy,
                Err(_) => {
                    self.broken.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        if let Some(chaos) = &chaos {
            through = Some(chaos.url().clone());
        }
        let allowed = job.allowed(&self.ends.client) + SLACK;
        let begun = Instant::now();
        let ended = timeout(allowed, self.call(&job, through.as_ref(), seed)).await;
        let took = begun.elapsed();
        drop(chaos);
        let mut tally = self.tally();
        tally.longest = tally.longest.max(took);
        match ended {
            Err(_) => tally.late.push(format!("transfer {index} was not over after {allowed:?}: {job:?}")),
            Ok(Err(error)) => *tally.failed.entry(kind(&error)).or_default() += 1,
            Ok(Ok(Ending::Left)) => tally.left += 1,
            Ok(Ok(Ending::EndedEarly)) => tally.ended_early += 1,
            Ok(Ok(Ending::Answered(Verdict::Exact, closed))) => {
                tally.exact += 1;
                tally.rough_ends += u64::from(!closed);
            }
            // Counted where it was judged.
            Ok(Ok(Ending::Answered(..))) => {}
        }
    }

    fn judge(&self, job: &Job, frame: &Frame, direction: Direction, session: &str) -> Verdict {
        let verdict = job.judge(frame, direction, session);
        let mut tally = self.tally();
        match verdict {
            Verdict::Exact => return verdict,
            Verdict::AlteredHead => tally.altered_heads += 1,
            Verdict::AlteredPayload => tally.altered_payloads += 1,
        }
        let Frame { metadata, payload } = frame;
        let came = format!("came as {} bytes with {metadata:?}", payload.len());
        tally.altered.push(format!("{verdict:?} {direction:?} of {job:?}: {came}"));
        verdict
    }

    /// The client's part.
    async fn call(self: &Arc<Self>, job: &Job, url: Option<&TransportUrl>, seed: u64) -> Result<Ending> {
        let (mut connection, _relay) = match url {
            Some(url) => (connect(url, &self.ends.client).await?, None),
            None => {
                let (client, relay) = self.pipe(seed);
                (client, Some(relay))
            }
        };
        let established = negotiate_client(&mut connection, hello(&job.name())).await?;
        let session = established.session.id.as_str();
        let frame = job.frame(Direction::Up, session);
        match job.manner {
            Manner::Leave => return Ok(Ending::Left),
            Manner::Dawdle => {
                sleep(self.ends.server.timeouts.idle * 3 / 2).await;
                return Ok(Ending::Left);
            }
            Manner::LeaveWhileSending(after) => {
                let _ = timeout(after, connection.send_frame(&frame, job.encoding(Direction::Up))).await;
                return Ok(Ending::Left);
            }
            Manner::Straight | Manner::CancelReceive => {}
        }
        connection.send_frame(&frame, job.encoding(Direction::Up)).await?;
        drop(frame);
        let answer = if job.manner == Manner::CancelReceive {
            impatiently(&mut connection).await?
        } else {
            connection.recv().await?
        };
        let Some(answer) = answer else { return Ok(Ending::EndedEarly) };
        let verdict = self.judge(job, &answer, Direction::Down, session);
        drop(answer);
        Ok(Ending::Answered(verdict, connection.close().await.is_ok()))
    }

    /// The client's end of a pipe whose other end is served.
    fn pipe(self: &Arc<Self>, seed: u64) -> (Connection, Relay) {
        const REACH: u64 = 8 << 20;
        let plans = [0, 1].map(|direction| Plan::draw(&mut Dice::new(seed, &[direction]), REACH));
        let (client, server, relay) = unruly_pipe(plans, seed);
        let end = |io, options: &Options| {
            let (read, write) = split(io);
            connection_over(read, write, Peer::at(PeerAddress::Memory("pipe".into())), options)
        };
        let (client, mut server) = (end(client, &self.ends.client), end(server, &self.ends.server));
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let negotiated = negotiate_server(&mut server, hello("server")).await;
            shared.serve(negotiated.map(|established| (established, server))).await;
        });
        (client, relay)
    }

    /// The server's part.
    async fn serve(self: Arc<Self>, negotiated: Result<(Box<Established>, Connection)>) {
        let outcome = match negotiated {
            Ok((established, connection)) => {
                let Some(index) = Job::index_of(&established.remote.agent_id) else {
                    self.tally().late.push(format!("a hello came from {:?}", established.remote.agent_id));
                    return;
                };
                let job = self.job(index);
                let allowed = job.allowed(&self.ends.server) + SLACK;
                let session = established.session.id.as_str();
                match timeout(allowed, self.answer(&job, session, connection)).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        self.tally().late.push(format!("session {index} was not over after {allowed:?}"));
                        return;
                    }
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            *self.tally().server_failed.entry(kind(&error)).or_default() += 1;
        }
    }

    async fn answer(&self, job: &Job, session: &str, mut connection: Connection) -> Result<()> {
        let Some(frame) = connection.recv().await? else { return Ok(()) };
        if let Some(refusal) = Reject::from_frame(&frame) {
            // The answer to the hello was damaged on its way, and the client says so.
            let code = refusal.code.map_or("unknown", ErrorCode::as_str);
            *self.tally().server_failed.entry(format!("refused by the client: {code}")).or_default() += 1;
            return Ok(());
        }
        self.judge(job, &frame, Direction::Up, session);
        drop(frame);
        let answer = job.frame(Direction::Down, session);
        connection.send_frame(&answer, job.encoding(Direction::Down)).await?;
        connection.close().await
    }
}

/// Drops the future many times before it waits.
async fn impatiently(connection: &mut Connection) -> Result<Option<Frame>> {
    for _ in 0..50 {
        if let Ok(received) = timeout(Duration::from_micros(500), connection.recv()).await {
            return received;
        }
    }
    connection.recv().await
}
