//! Options that every command takes: which masters, who asks, and how it is shown.

use super::CliError;
use crate::client::Client;
use crate::client::server::{SOCKET_DEFAULT, Server, ServerAddress, Token};
use crate::client::tls::{self, Trust};
use crate::output::{ColorWhen, Format};
use saltern_wire::RequestId;
use saltern_wire::crypto::Fingerprint;
use saltern_wire::io::Entropy;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest token file, in bytes: a token is one short line.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// Most servers: a cluster has at most 32 masters.
const SERVERS_MAX: usize = saltern_wire::limits::MASTERS_MAX;

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// How data is written to stdout
    #[arg(
        short,
        long,
        visible_alias = "out",
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "nested"
    )]
    pub output: Format,
    /// When colours are used; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,
    /// A master's API, repeatable: unix:///PATH or https://HOST[:4511]; tried in this order
    #[arg(long, global = true, env = "SALTERN_SERVER", value_name = "URL", value_delimiter = ',', default_value = SOCKET_DEFAULT)]
    pub server: Vec<ServerAddress>,
    /// A file with the bearer token for https (or the variable SALTERN_TOKEN)
    #[arg(long, global = true, env = "SALTERN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Believe the masters of the cluster whose CA has this fingerprint
    #[arg(long, global = true, env = "SALTERN_CA_FINGERPRINT", value_name = "HEX", conflicts_with = "ca_file")]
    pub ca_fingerprint: Option<Fingerprint>,
    /// Believe the CA certificates in this PEM file
    #[arg(long, global = true, env = "SALTERN_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Read only what a majority confirms to be current; without a quorum that fails (exit 75)
    #[arg(long, global = true)]
    pub consistent: bool,
    /// Show of when an answer is: json and yaml are wrapped in what the API says of it, the rest gets a line on stderr
    #[arg(long, global = true)]
    pub as_of: bool,
    /// Repeat a write whose outcome was unknown: finds the first answer instead of writing twice
    #[arg(long, global = true, value_name = "HEX")]
    pub request_id: Option<RequestId>,
}

impl Global {
    /// A client of the chosen masters. Reads the token and the CA file.
    pub fn client(&self, entropy: Arc<dyn Entropy>) -> Result<Client, CliError> {
        if self.server.is_empty() || self.server.len() > SERVERS_MAX {
            let message = format!("{} servers are named; name 1 to {SERVERS_MAX} with --server", self.server.len());
            return Err(CliError::Usage(message));
        }
        let mut https = None;
        let mut servers = Vec::with_capacity(self.server.len());
        for address in &self.server {
            servers.push(match address {
                ServerAddress::Unix(path) => Server::Unix(path.clone()),
                ServerAddress::Https(address) => {
                    let (tls, token) = match &https {
                        Some(known) => known,
                        None => https.insert((Arc::new(self.tls()?), self.token()?)),
                    };
                    Server::Https { address: address.clone(), tls: tls.clone(), token: token.clone() }
                }
            });
        }
        let mut client = Client::new(servers, entropy, self.request_id);
        client.set_consistent(self.consistent);
        Ok(client)
    }

    /// What may help a caller who was denied: the kernel vouches for callers of a socket, a token for everybody else.
    pub fn advice_when_denied(&self) -> &'static str {
        if self.server.iter().any(|server| matches!(server, ServerAddress::Https(_))) {
            "Over https a token proves who asks: --token-file FILE, or the variable SALTERN_TOKEN."
        } else {
            "On the unix socket, root and the user that the master runs as may ask."
        }
    }

    fn tls(&self) -> Result<rustls::ClientConfig, CliError> {
        let trust = match (&self.ca_fingerprint, &self.ca_file) {
            (Some(fingerprint), _) => Trust::Fingerprint(*fingerprint),
            (None, Some(file)) => Trust::File(file),
            (None, None) => {
                let message = "an https server needs --ca-fingerprint HEX or --ca-file FILE; \
                               `saltern cluster status` on a master shows the fingerprint";
                return Err(CliError::Usage(message.into()));
            }
        };
        tls::client(&trust).map_err(|error| CliError::Usage(error.to_string()))
    }

    fn token(&self) -> Result<Option<Token>, CliError> {
        if let Some(path) = &self.token_file {
            return token_from(path).map(Some);
        }
        match std::env::var("SALTERN_TOKEN") {
            Ok(text) => match Token::new(&text) {
                Some(token) => Ok(Some(token)),
                None => Err(CliError::Usage("SALTERN_TOKEN holds no token: one word of visible ASCII".into())),
            },
            Err(_) => Ok(None),
        }
    }
}

fn token_from(path: &Path) -> Result<Token, CliError> {
    let refuse = |cause: &dyn std::fmt::Display| {
        CliError::Usage(format!("token file {}: {cause}; it holds one word of visible ASCII", path.display()))
    };
    let length = std::fs::metadata(path).map_err(|error| refuse(&error))?.len();
    if length > TOKEN_BYTES_MAX {
        return Err(refuse(&format!("it has {length} bytes, the limit is {TOKEN_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refuse(&error))?;
    Token::new(&text).ok_or_else(|| refuse(&"it holds no token"))
}
