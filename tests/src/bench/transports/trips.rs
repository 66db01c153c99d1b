//! Round trips of a small frame, beside bare ones.

use std::time::Duration;

use anyhow::Result;
use avp_transport::testing::{Apart, ping_pong_tcp, ping_pong_udp};

use super::{encoding, ends};
use crate::measure::{Side, alternate};
use crate::report::{Bound, Figure, Group};

const ROUNDS: usize = 11;
const TRIPS: u32 = 3000;
const SIZE: usize = 1 << 10;

pub(crate) fn run() -> Result<Group> {
    let directory = tempfile::tempdir()?;
    let shm = format!("avp+shm://{}", directory.path().join("trips.sock").display());
    let mut group = Group::new("Round trip of a frame of 1 KiB");
    let bare_udp = || Ok(ping_pong_udp(SIZE, TRIPS)?);
    contest(&mut group, "TCP", "avp+tcp://127.0.0.1:0", "bare TCP", || Ok(ping_pong_tcp(SIZE, TRIPS)?), 1.3)?;
    contest(&mut group, "QUIC", "avp+quic://127.0.0.1:0", "bare UDP", bare_udp, 3.0)?;
    #[cfg(target_os = "linux")]
    {
        use avp_transport::testing::ping_pong_eventfd;
        contest(&mut group, "shared memory", &shm, "eventfds", || Ok(ping_pong_eventfd(TRIPS)?), 1.5)?;
    }
    group.note(format!(
        "median of {ROUNDS} alternating rounds of {TRIPS} round trips with the defaults; each end has a thread and a \
         runtime of its own; `sleeping` is without Timeouts::busy_poll, so that a thread that waits has to be woken, as \
         the bare sides' have"
    ));
    Ok(group)
}

fn contest(
    group: &mut Group,
    name: &str,
    url: &str,
    bare_name: &str,
    bare: impl Fn() -> Result<Duration>,
    most: f64,
) -> Result<()> {
    let ours = |busy: bool| -> Result<f64> {
        let mut ends = ends(true);
        if !busy {
            ends.client.timeouts.busy_poll = Duration::ZERO;
            ends.server.timeouts.busy_poll = Duration::ZERO;
        }
        let mut pair = Apart::new()?.pair(&url.parse()?, &ends)?;
        let frame = avp_wire::Frame::new(avp_wire::Metadata::default(), vec![1; SIZE]);
        pair.round_trip(&frame, encoding(true), TRIPS / 10)?;
        Ok(pair.round_trip(&frame, encoding(true), TRIPS)?.as_secs_f64())
    };
    let mut sides: [Side<'_>; 3] =
        [Box::new(|| Ok(bare()?.as_secs_f64())), Box::new(|| ours(true)), Box::new(|| ours(false))];
    let samples = alternate(ROUNDS, &mut sides)?;
    let figure = Figure::microseconds(name, &samples[1]).cost_beside(bare_name, &samples[1], &samples[0]);
    group.figures.push(figure.target(Bound::RatioAtMost(most)));
    let sleeping = Figure::microseconds(format!("{name}, sleeping"), &samples[2]);
    group.figures.push(sleeping.cost_beside(bare_name, &samples[2], &samples[0]));
    Ok(())
}
