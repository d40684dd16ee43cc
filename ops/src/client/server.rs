//! Where a master's API is: a unix socket or `https`.

use rustls::ClientConfig;
use saltern_wire::io::Address;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The API's port.
pub const API_PORT: u16 = 4511;

/// The socket of the master on this machine.
pub const SOCKET_DEFAULT: &str = "unix:///run/saltern/master.sock";

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A unix socket's absolute path. Needs no token.
    Unix(PathBuf),
    /// Host and port, over TLS.
    Https(Address),
}

/// Why a text names no server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Plain http.
    #[error("{0:?}: the API is never served without TLS; write https://HOST:{API_PORT} or unix:///PATH")]
    Plain(String),
    /// A socket path that depends on where one stands.
    #[error("{0:?}: the socket's path must begin with '/'; write unix:///PATH")]
    Relative(String),
    /// A path or query behind the host.
    #[error("{0:?}: nothing may stand behind the port; write https://HOST:{API_PORT}")]
    Behind(String),
    /// The host or port is wrong.
    #[error(transparent)]
    Address(#[from] saltern_wire::io::AddressError),
}

impl FromStr for ServerAddress {
    type Err = ServerError;
    /// `unix:///PATH`, `/PATH`, `https://HOST[:PORT]` or `HOST[:PORT]`.
    fn from_str(text: &str) -> Result<Self, ServerError> {
        let shown = || text.chars().take(100).collect::<String>();
        if text.starts_with("http://") {
            return Err(ServerError::Plain(shown()));
        }
        if let Some(path) = text.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest)) {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(ServerError::Relative(shown()))
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let host = text.strip_prefix("https://").unwrap_or(text);
        let host = host.strip_suffix('/').unwrap_or(host);
        if host.contains(['/', '?', '#']) {
            return Err(ServerError::Behind(shown()));
        }
        Ok(Self::Https(Address::parse(host, Some(API_PORT))?))
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Https(address) => write!(f, "https://{address}"),
        }
    }
}

/// A bearer token; never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// From the text of a file or variable; surrounding white space is not part of it. `None` if it cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The value of the `authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A master's API and how to be believed there.
#[derive(Clone)]
pub enum Server {
    /// On this machine; the kernel tells the master who asks.
    Unix(PathBuf),
    /// Over TLS.
    Https {
        /// Where.
        address: Address,
        /// Whom to believe.
        tls: Arc<ClientConfig>,
        /// Who asks.
        token: Option<Token>,
    },
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Https { address, .. } => write!(f, "https://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_read_as_people_write_them() {
        for (text, expect) in [
            ("unix:///run/saltern/master.sock", "unix:///run/saltern/master.sock"),
            ("unix:/run/x", "unix:///run/x"),
            ("/run/x", "unix:///run/x"),
            ("https://m1.example.org", "https://m1.example.org:4511"),
            ("https://m1.example.org:99/", "https://m1.example.org:99"),
            ("10.0.0.1", "https://10.0.0.1:4511"),
            ("[::1]:7", "https://[::1]:7"),
        ] {
            assert_eq!(text.parse::<ServerAddress>().map(|server| server.to_string()), Ok(expect.to_owned()));
        }
        for (text, part) in [
            ("http://m1", "TLS"),
            ("unix://run/x", "unix:///PATH"),
            ("https://m1/v1", "behind the port"),
            ("m1:notaport", "port"),
            ("", "host"),
        ] {
            let error = text.parse::<ServerAddress>().expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn tokens_fit_a_header_and_stay_hidden() {
        let token = Token::new(" abc-123\n").expect("a token");
        assert_eq!(token.header(), "Bearer abc-123");
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::new(" \n").is_none() && Token::new("two words").is_none());
    }
}
