//! TCP on loopback, beside a blast of the same bytes through bare sockets.

use anyhow::Result;
use avp_transport::testing::{blast, frames_over};
use avp_transport::{Options, connect, listen};
use avp_wire::{EncodeOptions, Frame, Metadata};

use crate::measure::{Side, alternate};
use crate::report::{Figure, Group};

const ROUNDS: usize = 7;
/// Payload sizes, and how many frames of each in a round.
const SIZES: [(&str, usize, usize); 3] =
    [("64 MiB", 64 << 20, 8), ("1 MiB", 1 << 20, 500), ("1 KiB", 1 << 10, 50_000)];
const BARE: &str = "bare sockets";

/// Frames with and without checksum.
pub(crate) fn run() -> Result<Group> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut group = Group::new("TCP on loopback");
    for (name, size, count) in SIZES {
        let frame = Frame::new(Metadata::default(), vec![1; size]);
        let bytes = size * count;
        let bare = || Ok(blast(size, count)?.time.as_secs_f64());
        let frames = |checksum: bool| runtime.block_on(connected(&frame, checksum, count));
        let mut sides: [Side<'_>; 3] =
            [Box::new(bare), Box::new(|| frames(false)), Box::new(|| frames(true))];
        let samples = alternate(ROUNDS, &mut sides)?;
        for (what, seconds) in [("no checksum", &samples[1]), ("checksum", &samples[2])] {
            let figure = Figure::rate(format!("frames of {name}, {what}"), bytes, seconds);
            group.figures.push(figure.speed_beside(BARE, seconds, &samples[0]));
        }
    }
    group.note(format!(
        "median of {ROUNDS} alternating rounds; sender and receiver are threads of one process and share its cores; the bare side writes and reads into one warm buffer; frames of 1 KiB go out gathered"
    ));
    Ok(group)
}

/// Seconds of `count` frames over a connection that has carried two already.
async fn connected(frame: &Frame, checksum: bool, count: usize) -> Result<f64> {
    let encoding = EncodeOptions { checksum, ..EncodeOptions::default() };
    let mut options = Options::default();
    options.limits.verify_checksum = checksum;
    let listener = listen(&"avp+tcp://127.0.0.1:0".parse()?, &options).await?;
    let (client, server) = tokio::join!(connect(listener.local_url(), &options), listener.accept());
    let (mut client, mut server) = (client?, server?);
    frames_over(&mut client, &mut server, frame, encoding, 2, false).await?;
    let gather = frame.payload.len() < 1 << 16;
    let run = frames_over(&mut client, &mut server, frame, encoding, count, gather).await?;
    Ok(run.time.as_secs_f64())
}
