//! The schemes, and which one a misspelt word means.

use std::fmt;

/// The transports that a URL can name. [`Scheme::available`] says which of them this build carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `avp+mem:name`: between tasks of one process.
    Memory,
    /// `avp+tcp://host:port`: plain TCP.
    Tcp,
    /// `avp+tls://host:port`: TCP under TLS 1.3.
    Tls,
    /// `avp+quic://host:port`: QUIC.
    Quic,
    /// `avp+shm:///path/to.sock`: shared memory, found through a Unix socket. Linux only.
    SharedMemory,
    /// `http://host[:port]`: the HTTP binding (docs/spec/http.md).
    Http,
    /// `https://host[:port]`: the HTTP binding under TLS.
    Https,
}

impl Scheme {
    /// Every scheme, in the order in which messages list them.
    pub const ALL: [Self; 7] =
        [Self::Memory, Self::Tcp, Self::Tls, Self::Quic, Self::SharedMemory, Self::Http, Self::Https];

    /// The scheme as it stands in a URL, without the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "avp+mem",
            Self::Tcp => "avp+tcp",
            Self::Tls => "avp+tls",
            Self::Quic => "avp+quic",
            Self::SharedMemory => "avp+shm",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// How an address of this scheme is written.
    #[must_use]
    pub const fn form(self) -> &'static str {
        match self {
            Self::Memory => "avp+mem:NAME",
            Self::Tcp => "avp+tcp://HOST:PORT",
            Self::Tls => "avp+tls://HOST:PORT",
            Self::Quic => "avp+quic://HOST:PORT",
            Self::SharedMemory => "avp+shm:///PATH",
            Self::Http => "http://HOST[:PORT]",
            Self::Https => "https://HOST[:PORT]",
        }
    }

    /// Whether certificates secure it.
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Quic | Self::Https)
    }

    /// Whether this build can connect and listen there.
    #[must_use]
    pub const fn available(self) -> bool {
        match self {
            Self::SharedMemory => cfg!(target_os = "linux"),
            _ => true,
        }
    }

    /// The scheme of this name, in letters of either case.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(name))
    }

    /// The scheme that a misspelt name probably means, with `avp+` or without.
    pub(super) fn meant_by(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let full = Self::ALL.map(|scheme| (scheme.as_str(), scheme));
        let short = full.map(|(spelling, scheme)| (spelling.trim_start_matches("avp+"), scheme));
        full.into_iter()
            .chain(short)
            .map(|(spelling, scheme)| (distance(&name, spelling), scheme))
            .filter(|&(edits, _)| edits <= 2)
            .min_by_key(|&(edits, _)| edits)
            .map(|(_, scheme)| scheme)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Edits (insert, delete, replace, reorder) between two short words.
fn distance(a: &str, b: &str) -> usize {
    let sorted = |word: &str| {
        let mut letters = word.as_bytes().to_vec();
        letters.sort_unstable();
        letters
    };
    // `tsl` is a slip of `tls`, not of `tcp`.
    if a != b && sorted(a) == sorted(b) {
        return 1;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let up = *cell;
            left = (corner + usize::from(x != y)).min(up + 1).min(left + 1);
            corner = up;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(a.len())
}
