//! Who may use a listener: bearer tokens, certificates, or a rule of the application's own.
//!
//! A connector puts [`Token`] into its hello, a listener asks [`Authorize`] before it answers one. Over TLS and QUIC
//! the peer's certificate is checked before that and is part of the [`Peer`].

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::connection::Peer;

/// Longest token, in bytes: what one entry of a hello's `extra` map holds.
pub const MAX_TOKEN: usize = 4096;

/// Decides who may open a session, and under which name its sessions and transfers are kept.
pub trait Authorize: Send + Sync + fmt::Debug {
    /// The peer's identity, or why there is no session for it. `peer` holds what the transport has authenticated.
    ///
    /// # Errors
    /// [`Unauthorized`]; the peer is told `handshake.unauthorized` and no more.
    fn authorize(&self, peer: &Peer, token: Option<&str>) -> Result<String, Unauthorized>;
}

/// Why a peer may not open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unauthorized {
    /// It showed no token.
    #[error("no token was shown; give the one that the listener expects (--token-file)")]
    MissingToken,
    /// Its token is not known.
    #[error("the token is not known to the listener")]
    UnknownToken,
    /// It is not who may come.
    #[error("this peer may not open a session")]
    Refused,
}

/// A secret that a connector shows. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token of 1 to [`MAX_TOKEN`] printable ASCII characters without spaces.
    ///
    /// # Errors
    /// [`InvalidToken`] for any other text.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidToken> {
        let text = text.into();
        let fits = (1..=MAX_TOKEN).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(InvalidToken)
        }
    }

    /// Reads a file that holds the token and nothing else but space around it.
    ///
    /// # Errors
    /// [`TokenFileError`] naming the file.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = read(path)?;
        Self::new(text.trim()).map_err(|source| TokenFileError::Token { path: path.to_owned(), source })
    }

    /// The secret.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A text that cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is 1 to {MAX_TOKEN} printable ASCII characters without spaces")]
pub struct InvalidToken;

/// Tokens and whose they are. Only their hashes are kept, and all are compared in constant time.
#[derive(Clone, Default)]
pub struct BearerTokens {
    known: Vec<(String, blake3::Hash)>,
}

impl BearerTokens {
    /// None yet, so nobody may come.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a peer's token; a peer may have several.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, token: &Token) -> Self {
        self.known.push((name.into(), blake3::hash(token.0.as_bytes())));
        self
    }

    /// Reads a file of lines `NAME:TOKEN`; empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// [`TokenFileError`] naming the line that is wrong.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = read(path)?;
        let mut tokens = Self::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(':').filter(|(name, _)| !name.is_empty());
            let parsed = parsed.and_then(|(name, token)| Some((name, Token::new(token).ok()?)));
            let Some((name, token)) = parsed else {
                return Err(TokenFileError::Line { path: path.to_owned(), line: index + 1 });
            };
            tokens = tokens.with(name, &token);
        }
        if tokens.known.is_empty() {
            return Err(TokenFileError::Empty { path: path.to_owned() });
        }
        Ok(tokens)
    }

    /// Whose token this is.
    #[must_use]
    pub fn owner(&self, token: &str) -> Option<&str> {
        let hash = blake3::hash(token.as_bytes());
        // No early end, and blake3 compares in constant time: the answer's time says nothing about what is known.
        self.known
            .iter()
            .fold(None, |found, (name, known)| if *known == hash { Some(name.as_str()) } else { found })
    }
}

impl fmt::Debug for BearerTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerTokens").field("known", &self.known.len()).finish()
    }
}

impl Authorize for BearerTokens {
    fn authorize(&self, _peer: &Peer, token: Option<&str>) -> Result<String, Unauthorized> {
        let token = token.ok_or(Unauthorized::MissingToken)?;
        self.owner(token).map(|name| format!("token:{name}")).ok_or(Unauthorized::UnknownToken)
    }
}

fn read(path: &Path) -> Result<String, TokenFileError> {
    fs::read_to_string(path).map_err(|source| TokenFileError::Io { path: path.to_owned(), source })
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}: {source}; check the path and who may read it", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is not `NAME:TOKEN`.
    #[error("{}, line {line}: write NAME:TOKEN, the token of printable ASCII without spaces", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// What is in the file of one token is none.
    #[error("{} is to hold one token and nothing else: {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What a token is.
        source: InvalidToken,
    },
    /// It has no token, so nobody could connect.
    #[error("{} holds no token; write one NAME:TOKEN a line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::PeerAddress;

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    #[test]
    fn a_token_names_its_owner_and_no_other_text_does() {
        let tokens = BearerTokens::new().with("alice", &token("s3cret")).with("bob", &token("hunter2"));
        let peer = Peer::at(PeerAddress::Memory("p".into()));
        assert_eq!(tokens.authorize(&peer, Some("hunter2")), Ok("token:bob".to_owned()));
        for wrong in ["", "s3cre", "s3crett", "S3CRET", "s3cret "] {
            assert_eq!(tokens.authorize(&peer, Some(wrong)), Err(Unauthorized::UnknownToken), "{wrong}");
        }
        assert_eq!(tokens.authorize(&peer, None), Err(Unauthorized::MissingToken));
    }

    #[test]
    fn secrets_are_not_printed() {
        let tokens = BearerTokens::new().with("alice", &token("s3cret"));
        assert!(!format!("{:?} {tokens:?}", token("s3cret")).contains("s3cret"));
    }

    #[test]
    fn tokens_that_could_not_be_sent_are_refused() {
        for text in ["", "a b", "a\n", "ü", &"x".repeat(4097)] {
            assert_eq!(Token::new(text), Err(InvalidToken), "{text}");
        }
        assert!(Token::new("x".repeat(4096)).is_ok());
    }

    #[test]
    fn a_file_of_tokens_is_read_or_its_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        fs::write(&file, "# who: secret\n\nalice:a:b\n bob:c\n").unwrap();
        let tokens = BearerTokens::read(&file).unwrap();
        assert_eq!((tokens.owner("a:b"), tokens.owner("c")), (Some("alice"), Some("bob")));
        for (text, says) in [("alice:a\nbob\n", "line 2"), (":a", "line 1"), ("# none\n", "no token")] {
            fs::write(&file, text).unwrap();
            let message = BearerTokens::read(&file).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        assert!(BearerTokens::read(&folder.path().join("missing")).is_err());

        fs::write(&file, "s3cret\n").unwrap();
        assert_eq!(Token::read(&file).unwrap(), token("s3cret"));
        for text in ["", "alice: s3cret"] {
            fs::write(&file, text).unwrap();
            let message = Token::read(&file).unwrap_err().to_string();
            assert!(message.contains("tokens") && message.contains("one token"), "{message}");
        }
    }
}
