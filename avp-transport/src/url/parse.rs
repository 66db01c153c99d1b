//! Reading addresses, and what is wrong with a text that is none.

use std::path::PathBuf;
use std::str::FromStr;

use super::{Scheme, TransportUrl};

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
        "unknown scheme `{scheme}` in `{url}`{}; schemes that reach another process: {}",
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
    #[error(
        "no scheme in `{url}`: write for example `{}`; schemes that reach another process: {}",
        with_scheme(url),
        list_schemes()
    )]
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
    let schemes = Scheme::ALL.into_iter().filter(|scheme| *scheme != Scheme::Memory);
    schemes.map(|scheme| format!("`{scheme}`")).collect::<Vec<_>>().join(", ")
}

/// What is probably meant by a text without a scheme: one whose colon is missing, or host and port alone.
fn with_scheme(text: &str) -> String {
    let after = |scheme: Scheme| {
        let rest = text.get(scheme.as_str().len()..).filter(|rest| rest.starts_with('/'))?;
        let begins = text.get(..scheme.as_str().len())?.eq_ignore_ascii_case(scheme.as_str());
        begins.then(|| match (scheme, rest.trim_start_matches('/')) {
            (Scheme::Memory, name) => format!("{scheme}:{name}"),
            (Scheme::SharedMemory, path) => format!("{scheme}:///{path}"),
            (_, host) => format!("{scheme}://{host}"),
        })
    };
    let slip = Scheme::ALL.into_iter().find_map(after);
    slip.unwrap_or_else(|| match text {
        "" => "avp+tcp://127.0.0.1:7700".to_owned(),
        _ => format!("{}://{text}", Scheme::Tcp),
    })
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), UrlError> {
    let no_scheme = || UrlError::NoScheme { url: text.to_owned() };
    let (name, rest) = text.split_once(':').ok_or_else(no_scheme)?;
    let looks_like_scheme = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    // `localhost:7700` and `127.0.0.1:7700` are hosts, not schemes.
    let looks_like_port = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit());
    if let Some(scheme) = Scheme::named(name) {
        return Ok((scheme, rest));
    }
    if !looks_like_scheme || looks_like_port {
        return Err(no_scheme());
    }
    let (url, scheme, meant) = (text.to_owned(), name.to_owned(), Scheme::meant_by(name));
    Err(UrlError::UnknownScheme { url, scheme, meant })
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
            let mut others = Scheme::ALL.iter().filter(|scheme| **scheme != Scheme::Memory);
            assert!(others.all(|scheme| message.contains(scheme.as_str())), "{message}");
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
    fn a_missing_colon_is_put_where_it_belongs() {
        for (text, meant) in [
            ("avp+tcp//127.0.0.1:7700", "avp+tcp://127.0.0.1:7700"),
            ("avp+tcp//x", "avp+tcp://x"),
            ("avp+quic/localhost:7702", "avp+quic://localhost:7702"),
            ("avp+shm///run/avp.sock", "avp+shm:///run/avp.sock"),
            ("HTTPS//example.org", "https://example.org"),
            ("localhost:7700", "avp+tcp://localhost:7700"),
            ("", "avp+tcp://127.0.0.1:7700"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("write for example `{meant}`;")), "{message}");
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
