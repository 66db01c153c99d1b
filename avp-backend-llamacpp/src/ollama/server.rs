//! A running Ollama server, asked to let go of a model.

use std::env;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::name::ModelName;
use crate::shown::shown;

/// Where an Ollama server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OllamaServer {
    url: String,
}

/// What became of the server's copy of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unload {
    /// The server let go of it, or had not loaded it.
    Unloaded,
    /// No server is running.
    NotRunning,
}

/// Why a server could not be asked. What it says is escaped and cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is none.
    #[error("'{address}' is no address of an Ollama server: {problem}; set OLLAMA_HOST to host:port")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The server does not know the model.
    #[error("the Ollama server at {url} has no model '{name}'; check that it uses the same models folder")]
    UnknownModel {
        /// The server.
        url: String,
        /// The model.
        name: String,
    },
    /// Nothing came back in time.
    #[error("the Ollama server at {url} did not answer within {} ms; stop the model with 'ollama stop'", deadline.as_millis())]
    Deadline {
        /// The server.
        url: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// The server refused, or something else answers there.
    #[error("the server at {url} answered {status} to unloading '{name}': {message}; is it Ollama?")]
    Answer {
        /// The server.
        url: String,
        /// The model.
        name: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The connection failed.
    #[error("the Ollama server at {url} could not be asked: {problem}; check OLLAMA_HOST")]
    Connection {
        /// The server.
        url: String,
        /// Why.
        problem: String,
    },
}

impl OllamaServer {
    /// The server that `OLLAMA_HOST` names, `http://127.0.0.1:11434` where it is not set.
    ///
    /// # Errors
    ///
    /// [`ServerError::Address`].
    pub fn from_env() -> Result<Self, ServerError> {
        env::var("OLLAMA_HOST").unwrap_or_default().parse()
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks the server to let go of its copy of a model. Blocks for at most `deadline`.
    ///
    /// # Errors
    ///
    /// A server that does not know the model, answers something else, or not in time. That none is running is no error.
    pub fn unload(&self, name: &ModelName, deadline: Duration) -> Result<Unload, ServerError> {
        // A proxy is not for this machine's own server, and a redirect not what Ollama answers.
        let config = ureq::Agent::config_builder();
        let config = config.timeout_global(Some(deadline)).proxy(None).max_redirects(0);
        let agent = config.http_status_as_error(false).build().new_agent();
        let body = serde_json::json!({ "model": name.to_string(), "keep_alive": 0, "stream": false });
        let request = agent.post(format!("{}/api/generate", self.url)).content_type("application/json");
        let answer = request.send(body.to_string()).and_then(|mut response| {
            let body = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec()?;
            Ok((response.status().as_u16(), body))
        });
        match answer {
            Ok((status, body)) => self.judge(name, status, &body),
            Err(ureq::Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(Unload::NotRunning),
            Err(ureq::Error::Timeout(_)) => Err(ServerError::Deadline { url: self.url.clone(), deadline }),
            Err(e) => Err(ServerError::Connection { url: self.url.clone(), problem: shown(&e.to_string()) }),
        }
    }

    fn judge(&self, name: &ModelName, status: u16, body: &[u8]) -> Result<Unload, ServerError> {
        let (url, name) = (self.url.clone(), name.to_string());
        let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
        match status {
            200 if answer.done_reason == "unload" => Ok(Unload::Unloaded),
            404 if answer.error.contains("not found") => Err(ServerError::UnknownModel { url, name }),
            _ => {
                let start = body.get(..body.len().min(400)).unwrap_or_default();
                let message = match answer.error.is_empty() {
                    true => shown(&String::from_utf8_lossy(start)),
                    false => shown(&answer.error),
                };
                Err(ServerError::Answer { url, name, status, message })
            }
        }
    }
}

/// `[http://]host[:port][/path]`, as `OLLAMA_HOST` may be written; the addresses that stand for all interfaces stand for this
/// machine.
impl FromStr for OllamaServer {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let invalid = |problem| ServerError::Address { address: shown(text), problem };
        let trimmed = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\''));
        let (rest, default_port) = match trimmed.split_once("://") {
            None => (trimmed, DEFAULT_PORT),
            Some(("http", rest)) => (rest, 80),
            Some(("https", _)) => return Err(invalid("https is not supported")),
            Some(_) => return Err(invalid("it does not begin with http://")),
        };
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_port(address).ok_or_else(|| invalid("its port is no number below 65536"))?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if !host.chars().all(is_host) {
            return Err(invalid("its host has characters that no host has"));
        }
        if !path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_')) {
            return Err(invalid("its path has characters that no path has"));
        }
        let host = match host {
            "" | "0.0.0.0" => "127.0.0.1".to_owned(),
            "::" | "[::]" => "[::1]".to_owned(),
            v6 if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]"),
            other => other.to_owned(),
        };
        let path = path.trim_end_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        Ok(Self { url: format!("http://{host}:{}{slash}{path}", port.unwrap_or(default_port)) })
    }
}

/// Host and port, where there is one; `None` where the port is none.
fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    match address.rsplit_once(':') {
        // The colons of an IPv6 address without brackets.
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => Some((address, None)),
        Some((host, port)) if !port.contains(']') => Some((host, Some(port.parse().ok()?))),
        _ => Some((address, None)),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    done_reason: String,
    error: String,
}

const DEFAULT_PORT: u16 = 11_434;
const LONGEST_ANSWER: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::OllamaServer;

    #[test]
    fn addresses_are_read_as_ollama_reads_them() {
        for (text, url) in [
            ("", "http://127.0.0.1:11434"),
            (" \"example.org\" ", "http://example.org:11434"),
            ("example.org:80", "http://example.org:80"),
            ("http://example.org", "http://example.org:80"),
            ("http://example.org:1/sub/", "http://example.org:1/sub"),
            (":8080", "http://127.0.0.1:8080"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("[::]:9", "http://[::1]:9"),
            ("::1", "http://[::1]:11434"),
            ("[2001:db8::1]", "http://[2001:db8::1]:11434"),
        ] {
            assert_eq!(text.parse::<OllamaServer>().unwrap().url(), url, "{text}");
        }
        for (text, says) in [
            ("host:99999", "port"),
            ("host:", "port"),
            ("ftp://host", "http://"),
            ("https://host", "https"),
            ("user@host", "characters"),
            ("host/a?b", "path"),
            ("ho\nst", "'ho\\nst'"),
        ] {
            let error = text.parse::<OllamaServer>().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
