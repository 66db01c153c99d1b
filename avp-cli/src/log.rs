//! The log of `avp serve` and `avp recv`, on stderr: what becomes of sessions, never what is said in them.

use std::io::{self, Write};

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{fmt, registry};

use crate::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Logs this workspace's crates up to `level`. Other crates might write out what they carry, so no more than their
/// warnings come.
pub(crate) fn start(level: LogLevel) {
    let level = LevelFilter::from(level);
    let targets = Targets::new().with_target("avp", level).with_default(level.min(LevelFilter::WARN));
    let lines = fmt::layer().with_ansi(false).with_writer(|| Lines);
    registry().with(lines.with_filter(targets)).init();
}

/// Logs warnings of this workspace's crates, where a command has no log of its own.
pub(crate) fn warnings() {
    let targets = Targets::new().with_target("avp", LevelFilter::WARN);
    let lines = fmt::layer().with_ansi(false).without_time().with_writer(|| Lines);
    // Where there is a log already, they go there.
    let _ = registry().with(lines.with_filter(targets)).try_init();
}

/// Writes each event as one line for a terminal, whatever a peer put into it.
struct Lines;

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        output::note(&output::short_line(&String::from_utf8_lossy(event)));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
