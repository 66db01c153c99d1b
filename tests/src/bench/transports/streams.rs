//! Byte streams: TCP beside bare sockets, TLS beside bare rustls.

use anyhow::Result;
use avp_transport::testing::{Apart, Ends, blast, blast_tls};

use super::{LOADS, Load, encoding, ends};
use crate::measure::{Side, alternate};
use crate::report::{Bound, Figure, Group};

/// A transport and what it is held against.
struct Contest<'a> {
    url: &'static str,
    bare_name: &'static str,
    bare: &'a dyn Fn(&Load) -> Result<f64>,
    /// The least ratio without checks, and with the defaults.
    least: (f64, Option<f64>),
}

pub(crate) fn tcp() -> Result<Group> {
    let bare = |load: &Load| Ok(blast(load.size, load.count)?.as_secs_f64());
    let mut group = Group::new("TCP on loopback");
    let contest = Contest {
        url: "avp+tcp://127.0.0.1:0",
        bare_name: "bare sockets",
        bare: &bare,
        least: (0.95, Some(0.6)),
    };
    contest.run(&mut group)?;
    Ok(group)
}

pub(crate) fn tls() -> Result<Group> {
    let bare_ends = ends(false);
    let bare = |load: &Load| Ok(blast_tls(&bare_ends, load.size, load.count)?.as_secs_f64());
    let mut group = Group::new("TLS 1.3 on loopback");
    let contest =
        Contest { url: "avp+tls://localhost:0", bare_name: "bare rustls", bare: &bare, least: (0.9, None) };
    contest.run(&mut group)?;
    Ok(group)
}

impl Contest<'_> {
    fn run(&self, group: &mut Group) -> Result<()> {
        let (unchecked, checked) = (ends(false), ends(true));
        for load in LOADS {
            let mut sides: [Side<'_>; 3] = [
                Box::new(|| (self.bare)(&load)),
                Box::new(|| frames(self.url, &unchecked, &load, false)),
                Box::new(|| frames(self.url, &checked, &load, true)),
            ];
            let samples = alternate(load.rounds, &mut sides)?;
            let (least, least_checked) = self.least;
            let ways = [("no checks", &samples[1], Some(least)), ("checksums", &samples[2], least_checked)];
            for (what, seconds, least) in ways {
                let name = format!("frames of {}, {what}", load.name);
                let figure = Figure::rate(name, load.bytes(), seconds).speed_beside(
                    self.bare_name,
                    seconds,
                    &samples[0],
                );
                group.figures.push(match least {
                    Some(least) => figure.target(Bound::RatioAtLeast(least)),
                    None => figure,
                });
            }
        }
        group.note(
            "median of 7 alternating rounds, 3 of 1 GiB; each end has a thread of one process, and a runtime of its own; \
             the bare side writes and reads into one warm buffer; frames of 1 KiB go out gathered",
        );
        Ok(())
    }
}

/// Seconds of a load over a connection that has carried some of it already.
pub(super) fn frames(url: &str, ends: &Ends, load: &Load, checksum: bool) -> Result<f64> {
    let mut pair = Apart::new()?.pair(&url.parse()?, ends)?;
    let (frame, encoding) = (load.frame(), encoding(checksum));
    pair.frames(&frame, encoding, load.count.div_ceil(4), load.gathered())?;
    Ok(pair.frames(&frame, encoding, load.count, load.gathered())?.as_secs_f64())
}
