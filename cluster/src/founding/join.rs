//! `saltern-master join TOKEN`: asks the masters in the token, one after the other, for a certificate and the state secret.

use super::token::{self, TokenError};
use super::{FoundingError, prepare, require_vacant};
use crate::config::Config;
use crate::pki::{Credentials, PkiError, certificate_from_pem, tls};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use saltern_wire::api::{Answer, Failure, FailureBody, FailureCode, JoinGrant, JoinRequest, REQUEST_HEADER};
use saltern_wire::crypto::{Fingerprint, Identity};
use saltern_wire::io::{Address, Disk, Entropy, draw};
use saltern_wire::level::{LEVEL, Newer};
use saltern_wire::limits::API_BODY_BYTES_MAX;
use saltern_wire::{ClusterId, MasterId, RequestId};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls};
use zeroize::Zeroizing;

/// How long one master may take to be reached, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one master may take to answer: two proposals with their own timeout, and the way there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why this machine did not join. Nothing stays behind.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No master in the token answered. One line a master.
    #[error("no master of the token could be asked: {}", .0.join("; "))]
    Unreached(Vec<String>),
    /// A master said no.
    #[error("{address} refused: {failure}")]
    Refused {
        /// Which master.
        address: Address,
        /// What it said.
        failure: Failure,
    },
    /// A master's grant contradicts itself or the token.
    #[error("{address} sent a grant that cannot be used: {cause}")]
    Grant {
        /// Which master.
        address: Address,
        /// What is wrong with it.
        cause: String,
    },
}

impl JoinError {
    /// sysexits.h: 64 for a token that is none, 69 if nobody answered, 75 if the same token may work later, 77 if refused,
    /// 78 for a folder that cannot be used.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Token(_) => 64,
            Self::Unreached(_) => 69,
            Self::Refused { failure, .. } => failure.code.exit_code(),
            Self::Grant { .. } | Self::Pki(_) => 70,
            Self::Founding(_) => 78,
        }
    }
}

/// What was joined. Its `Display` is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Which cluster.
    pub cluster: ClusterId,
    /// This master's id.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// What minions pin.
    pub ca_fingerprint: Fingerprint,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Where the API's bearer token is.
    pub api_token_file: PathBuf,
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cluster         {}", self.cluster)?;
        writeln!(f, "master          {} ({})", self.name, self.master)?;
        writeln!(f, "CA fingerprint  {}", self.ca_fingerprint)?;
        writeln!(f, "data folder     {}", self.data_dir.display())?;
        writeln!(f, "API token       {}", self.api_token_file.display())?;
        writeln!(f)?;
        writeln!(f, "Start it with the same configuration; it catches up and then votes:")?;
        write!(f, "    saltern-master run")
    }
}

/// Joins the cluster of `token` under the name and addresses of `config`.
pub async fn join(config: &Config, token: &str, disk: &dyn Disk, entropy: &dyn Entropy) -> Result<Joined, JoinError> {
    let token = token::read(token)?;
    require_vacant(disk, &config.data_dir)?;
    let identity = Identity::from_seed(*Zeroizing::new(draw(entropy)));
    let request = JoinRequest {
        secret: token.secret.clone(),
        name: config.id.clone(),
        public_key: identity.public_key(),
        endpoints: config.endpoints(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        level: LEVEL,
    };
    // One name for the write at every master: an answer that was lost is found again, not given twice.
    let name = RequestId::from_bytes(draw(entropy));
    let client = Arc::new(tls::pinned_client(token.ca_fingerprint)?);
    let mut unreached = Vec::new();
    for address in &token.addresses {
        let grant = match ask(address, Arc::clone(&client), &request, name).await {
            Ok(grant) => grant,
            Err(Ask::Elsewhere(cause)) => {
                unreached.push(format!("{address}: {cause}"));
                continue;
            }
            Err(Ask::Refused(failure)) => {
                return Err(JoinError::Refused { address: address.clone(), failure });
            }
        };
        let unusable = |cause: String| JoinError::Grant { address: address.clone(), cause };
        let credentials = accept(config, identity, grant, token.ca_fingerprint).map_err(unusable)?;
        prepare(disk, entropy, &config.data_dir, &config.api_token_file, &credentials, None)?;
        return Ok(Joined {
            cluster: credentials.cluster,
            master: credentials.master,
            name: credentials.name,
            ca_fingerprint: credentials.ca.fingerprint(),
            data_dir: config.data_dir.clone(),
            api_token_file: config.api_token_file.clone(),
        });
    }
    Err(JoinError::Unreached(unreached))
}

/// Checks a grant against the token and makes credentials of it.
pub fn accept(
    config: &Config,
    identity: Identity,
    grant: JoinGrant,
    pinned: Fingerprint,
) -> Result<Credentials, String> {
    if grant.ca.fingerprint() != pinned {
        return Err(format!("its CA has fingerprint {}, the token says {pinned}", grant.ca.fingerprint()));
    }
    if grant.level > LEVEL {
        return Err(Newer::level("that cluster", grant.level).to_string());
    }
    let mut state_secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(&grant.state_secret, state_secret.as_mut_slice())
        .map_err(|_| "the state secret is not 64 hexadecimal digits".to_owned())?;
    let pem = |what: &str, text: &str| certificate_from_pem(what, text).map_err(|error| error.to_string());
    let credentials = Credentials {
        cluster: grant.cluster,
        master: grant.master,
        name: config.id.clone(),
        endpoints: config.endpoints(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        identity: Arc::new(identity),
        certificate: grant.certificate,
        ca: grant.ca,
        ca_certificate: pem("the CA certificate", &grant.ca_certificate_pem)?,
        ca_certificate_pem: grant.ca_certificate_pem,
        tls_certificate: pem("the master certificate", &grant.tls_certificate_pem)?,
        tls_certificate_pem: grant.tls_certificate_pem,
        ring: crate::pki::ring::Keyring::new(&state_secret),
        state_secret,
        directory: grant.directory,
    };
    credentials.check().map_err(|(_, cause)| cause)?;
    let directory = credentials.directory.verify(&credentials.ca).map_err(|error| error.to_string())?;
    if directory.master(credentials.master).is_none() {
        return Err("its directory does not name this machine".into());
    }
    Ok(credentials)
}

/// Why one master gave no grant.
enum Ask {
    /// Another one may.
    Elsewhere(String),
    /// None will.
    Refused(Failure),
}

async fn ask(
    address: &Address,
    client: Arc<rustls::ClientConfig>,
    request: &JoinRequest,
    name: RequestId,
) -> Result<JoinGrant, Ask> {
    let elsewhere = |cause: &dyn fmt::Display| Ask::Elsewhere(cause.to_string());
    let server =
        rustls::pki_types::ServerName::try_from(address.host().to_owned()).map_err(|error| elsewhere(&error))?;
    let connect = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        TlsConnector::from(client).connect(server, stream).await
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| elsewhere(&format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))?
        .map_err(|error| elsewhere(&error))?;
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| elsewhere(&error))?;
        let body = serde_json::to_vec(request).map_err(|error| elsewhere(&error))?;
        let request = hyper::Request::post("/v1/cluster/join")
            .header(hyper::header::HOST, address.to_string())
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .header(REQUEST_HEADER, name.to_string())
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| elsewhere(&error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| elsewhere(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), API_BODY_BYTES_MAX).collect().await;
            Ok::<_, Ask>((status, body.map_err(|error| elsewhere(&error))?.to_bytes()))
        };
        // The connection lives as long as this exchange, and no task outlives it. If it ends first, whatever it brought is
        // waiting in the answer.
        tokio::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(elsewhere(&error)),
            },
        }
    };
    let (status, body) = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| elsewhere(&format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))??;
    if status.is_success() {
        let answer: Answer<JoinGrant> = serde_json::from_slice(&body).map_err(|error| elsewhere(&error))?;
        return Ok(answer.value);
    }
    let Ok(FailureBody { error: failure }) = serde_json::from_slice(&body) else {
        return Err(elsewhere(&format!("it answered with HTTP status {status}")));
    };
    match failure.code {
        FailureCode::NoQuorum | FailureCode::Unknown | FailureCode::Busy | FailureCode::Internal => {
            Err(elsewhere(&failure))
        }
        FailureCode::Invalid
        | FailureCode::NotFound
        | FailureCode::NoMatch
        | FailureCode::Denied
        | FailureCode::Conflict => Err(Ask::Refused(failure)),
    }
}
