//! Addresses: `avp+tcp://host:port` and its siblings choose the transport.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A parsed address.
///
/// ```
/// use avp_transport::TransportUrl;
/// let url: TransportUrl = "avp+tcp://127.0.0.1:7700".parse()?;
/// assert_eq!(url, TransportUrl::Tcp { host: "127.0.0.1".into(), port: 7700 });
/// # Ok::<(), avp_transport::UrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportUrl {
    /// `avp+mem:name`
    Memory {
        /// Name within this process.
        name: String,
    },
    /// `avp+tcp://host:port`
    Tcp {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port; 0 lets a listener take a free one.
        port: u16,
    },
    /// `avp+tls://host:port`
    Tls {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `avp+quic://host:port`
    Quic {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `avp+shm:///path/to.sock`
    SharedMemory {
        /// Path of the Unix socket.
        path: PathBuf,
    },
    /// `http://host[:port]` or `https://host[:port]`
    Http {
        /// Whether TLS is used.
        tls: bool,
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port, 80 or 443 where the URL says none.
        port: u16,
    },
}

impl TransportUrl {
    /// The transport that this address names.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match self {
            Self::Memory { .. } => Scheme::Memory,
            Self::Tcp { .. } => Scheme::Tcp,
            Self::Tls { .. } => Scheme::Tls,
            Self::Quic { .. } => Scheme::Quic,
            Self::SharedMemory { .. } => Scheme::SharedMemory,
            Self::Http { tls: false, .. } => Scheme::Http,
            Self::Http { tls: true, .. } => Scheme::Https,
        }
    }
}

impl fmt::Display for TransportUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme();
        match self {
            Self::Memory { name } => write!(f, "{scheme}:{name}"),
            Self::SharedMemory { path } => write!(f, "{scheme}://{}", path.display()),
            Self::Tcp { host, port }
            | Self::Tls { host, port }
            | Self::Quic { host, port }
            | Self::Http { host, port, .. } => {
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}

impl FromStr for TransportUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        match scheme {
            Scheme::Memory => memory(text, rest),
            Scheme::SharedMemory => shared_memory(text, rest),
            Scheme::Tcp => authority(text, rest, None).map(|(host, port)| Self::Tcp { host, port }),
            Scheme::Tls => authority(text, rest, None).map(|(host, port)| Self::Tls { host, port }),
            Scheme::Quic => authority(text, rest, None).map(|(host, port)| Self::Quic { host, port }),
            Scheme::Http => {
                authority(text, rest, Some(80)).map(|(host, port)| Self::Http { tls: false, host, port })
            }
            Scheme::Https => {
                authority(text, rest, Some(443)).map(|(host, port)| Self::Http { tls: true, host, port })
            }
        }
    }
}

/// Why a text is not an address. Every message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The scheme is none of ours.
    #[error(
        "unknown scheme `{scheme}` in `{url}`{}; valid schemes: {}",
        suggest(*.meant),
        list_schemes()
    )]
    UnknownScheme {
        /// The whole text.
        url: String,
        /// What stood before the colon.
        scheme: String,
        /// The scheme that is probably meant.
        meant: Option<Scheme>,
    },
    /// There is no scheme.
    #[error("no scheme in `{url}`: write for example `avp+tcp://{url}`; valid schemes: {}", list_schemes())]
    NoScheme {
        /// The whole text.
        url: String,
    },
    /// Host, port, name or path is missing or malformed.
    #[error("`{url}` {problem}: write {expected}")]
    Malformed {
        /// The whole text.
        url: String,
        /// What is wrong.
        problem: &'static str,
        /// The form that is expected.
        expected: &'static str,
    },
}

fn suggest(meant: Option<Scheme>) -> String {
    meant.map_or_else(String::new, |scheme| format!(" (did you mean `{scheme}`?)"))
}

fn list_schemes() -> String {
    Scheme::ALL.map(|scheme| format!("`{scheme}`")).join(", ")
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), UrlError> {
    let no_scheme = || UrlError::NoScheme { url: text.to_owned() };
    let (name, rest) = text.split_once(':').ok_or_else(no_scheme)?;
    let looks_like_scheme = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    // `localhost:7700` and `127.0.0.1:7700` are hosts, not schemes.
    let looks_like_port = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit());
    let lower = name.to_ascii_lowercase();
    if let Some(scheme) = Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == lower) {
        return Ok((scheme, rest));
    }
    if !looks_like_scheme || looks_like_port {
        return Err(no_scheme());
    }
    let meant = Scheme::ALL
        .into_iter()
        .map(|scheme| (distance(&lower, scheme.as_str()), scheme))
        .chain(
            Scheme::ALL
                .into_iter()
                .map(|scheme| (distance(&lower, scheme.as_str().trim_start_matches("avp+")), scheme)),
        )
        .filter(|&(edits, _)| edits <= 2)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, scheme)| scheme);
    Err(UrlError::UnknownScheme { url: text.to_owned(), scheme: name.to_owned(), meant })
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

fn memory(url: &str, name: &str) -> Result<TransportUrl, UrlError> {
    let name = name.strip_prefix("//").unwrap_or(name);
    if name.is_empty() || name.contains(['/', ':', '?', '#']) {
        return Err(UrlError::Malformed {
            url: url.to_owned(),
            problem: "has no plain name",
            expected: "`avp+mem:NAME`",
        });
    }
    Ok(TransportUrl::Memory { name: name.to_owned() })
}

fn shared_memory(url: &str, rest: &str) -> Result<TransportUrl, UrlError> {
    match rest.strip_prefix("//").filter(|path| path.starts_with('/') && path.len() > 1) {
        Some(path) => Ok(TransportUrl::SharedMemory { path: PathBuf::from(path) }),
        None => Err(UrlError::Malformed {
            url: url.to_owned(),
            problem: "has no absolute socket path",
            expected: "`avp+shm:///path/to.sock`, with three slashes",
        }),
    }
}

fn authority(url: &str, rest: &str, default_port: Option<u16>) -> Result<(String, u16), UrlError> {
    let malformed = |problem| UrlError::Malformed {
        url: url.to_owned(),
        problem,
        expected: "`SCHEME://HOST:PORT`, an IPv6 address in brackets",
    };
    let rest = rest.strip_prefix("//").ok_or_else(|| malformed("lacks `//` after the scheme"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(malformed("has a path, which this transport does not use"));
    }
    if rest.contains('@') {
        return Err(malformed("carries a user name"));
    }
    let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (host, tail) = inner.split_once(']').ok_or_else(|| malformed("has an open bracket"))?;
        let port = match tail.strip_prefix(':') {
            Some(port) => Some(port),
            None if tail.is_empty() => None,
            None => return Err(malformed("has text after the bracket")),
        };
        (host, port)
    } else {
        match rest.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err(malformed("has a bare IPv6 address")),
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(malformed("has no host"));
    }
    let port = match (port, default_port) {
        (Some(port), _) => port.parse().map_err(|_| malformed("has a port that is not 0 to 65535"))?,
        (None, Some(port)) => port,
        (None, None) => return Err(malformed("has no port")),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TransportUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn every_scheme_parses_and_prints_back() {
        for text in [
            "avp+mem:alpha",
            "avp+tcp://127.0.0.1:7700",
            "avp+tcp://[::1]:7700",
            "avp+tls://example.org:1",
            "avp+quic://example.org:65535",
            "avp+shm:///run/avp.sock",
            "http://example.org:8000",
            "https://example.org:8443",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for scheme in Scheme::ALL {
            let text = scheme.form().replace("HOST", "h").replace("[:PORT]", ":1").replace("PORT", "1");
            assert_eq!(parse(&text).unwrap().scheme(), scheme, "{text}");
        }
        assert_eq!(parse("https://example.org").unwrap().to_string(), "https://example.org:443");
        assert_eq!(parse("AVP+TCP://localhost:0").unwrap().scheme(), Scheme::Tcp);
    }

    #[test]
    fn a_misspelt_scheme_is_named_with_the_valid_ones() {
        for (text, meant) in [
            ("avp+tpc://h:1", Scheme::Tcp),
            ("avp+tsl://h:1", Scheme::Tls),
            ("tcp://h:1", Scheme::Tcp),
            ("avp-quic://h:1", Scheme::Quic),
            ("shm:///a", Scheme::SharedMemory),
            ("htp://h", Scheme::Http),
        ] {
            let error = parse(text).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(&format!("did you mean `{meant}`")), "{message}");
            assert!(Scheme::ALL.iter().all(|scheme| message.contains(scheme.as_str())), "{message}");
        }
        assert!(matches!(parse("gopher://h:1"), Err(UrlError::UnknownScheme { meant: None, .. })));
    }

    #[test]
    fn a_bare_host_and_port_is_told_to_name_a_scheme() {
        for text in ["localhost:7700", "127.0.0.1:7700", "plain", ""] {
            assert!(matches!(parse(text), Err(UrlError::NoScheme { .. })), "{text}");
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "avp+mem:",
            "avp+mem:a/b",
            "avp+tcp://host",
            "avp+tcp:host:1",
            "avp+tcp://:1",
            "avp+tcp://h:65536",
            "avp+tcp://h:-1",
            "avp+tcp://h:1/path",
            "avp+tcp://user@h:1",
            "avp+tcp://::1:7700",
            "avp+tcp://[::1:7700",
            "avp+tcp://[::1]7700",
            "avp+shm://relative/path",
            "avp+shm:///",
        ] {
            assert!(matches!(parse(text), Err(UrlError::Malformed { .. })), "{text}");
        }
    }
}
