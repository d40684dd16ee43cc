//! Strangers at the ports of masters (4510) and of operators (4511).

use super::ground::{Dice, Ground, Outcome, Target, strike, trickle};
use anyhow::Context;
use saltern_ops::client::tls::{Trust, client};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};

/// How long a master may take to end a request that it does not want.
const ENDED_WITHIN: Duration = Duration::from_secs(45);

/// What a stranger does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Rubbish for a TLS handshake.
    Rubbish,
    /// HTTP without TLS.
    Plain,
    /// A TLS record that comes one byte at a time.
    SlowTls,
    /// Nothing.
    Silent,
    /// TLS without the certificate that masters have.
    NoCertificate,
    /// A head of a request that does not end.
    HugeHead,
    /// A body of a gigabyte.
    HugeBody,
    /// A head that comes one byte at a time.
    SlowHead,
    /// Nearly the whole of the largest body, and then nothing.
    SlowBody,
}

/// All of them, with a name for the report.
pub const OPERATORS: [(Operator, &str); 9] = [
    (Operator::Rubbish, "rubbish for TLS"),
    (Operator::Plain, "HTTP without TLS"),
    (Operator::SlowTls, "slow TLS"),
    (Operator::Silent, "silence for TLS"),
    (Operator::NoCertificate, "mesh without certificate"),
    (Operator::HugeHead, "endless request head"),
    (Operator::HugeBody, "body of a gigabyte"),
    (Operator::SlowHead, "slow request head"),
    (Operator::SlowBody, "request body that stops"),
];

/// A TLS record's header that announces a ClientHello of 400 bytes, and its beginning.
fn tls_beginning() -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 1, 0x94, 1, 0, 1, 0x90, 3, 3];
    bytes.resize(300, 7);
    bytes
}

/// Speaks TLS as somebody without a certificate.
pub struct Speaker(TlsConnector);

impl Speaker {
    /// For the cluster under attack.
    pub fn new(ground: &Ground) -> anyhow::Result<Self> {
        let config = client(&Trust::Fingerprint(ground.ca))?;
        Ok(Self(TlsConnector::from(Arc::<rustls::ClientConfig>::new(config))))
    }

    async fn call(&self, to: SocketAddr, dice: &mut Dice) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = dice.connect(to).await.context("no connection")?;
        let name = ServerName::IpAddress(to.ip().into());
        Ok(tokio::time::timeout(Duration::from_secs(10), self.0.connect(name, stream)).await??)
    }

    /// Strikes once.
    pub async fn attack(&self, operator: Operator, ground: &Ground, dice: &mut Dice) -> Outcome {
        let target = dice.one(&ground.targets);
        let either = dice.one(&[target.mesh, target.api]);
        match operator {
            Operator::Rubbish => {
                let len = dice.number(5..5000);
                strike(ground, dice.connect(either).await, &dice.rubbish(len)).await
            }
            Operator::Plain => {
                let request = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
                strike(ground, dice.connect(either).await, request).await
            }
            Operator::SlowTls => {
                trickle(ground, dice.connect(either).await, &tls_beginning(), Duration::from_millis(200)).await
            }
            Operator::Silent => strike(ground, dice.connect(either).await, &[]).await,
            Operator::NoCertificate
            | Operator::HugeHead
            | Operator::HugeBody
            | Operator::SlowHead
            | Operator::SlowBody => {
                let spoken = tokio::select! {
                    spoken = self.speak(operator, target, dice) => spoken,
                    () = ground.over.cancelled() => return Outcome::Over,
                };
                spoken.unwrap_or(Outcome::Unreached)
            }
        }
    }

    async fn speak(&self, operator: Operator, target: Target, dice: &mut Dice) -> anyhow::Result<Outcome> {
        if operator == Operator::NoCertificate {
            // TLS 1.3 tells a client that it is not wanted after its part is done.
            let Ok(mut stream) = self.call(target.mesh, dice).await else { return Ok(Outcome::Cut) };
            let _ = stream.write_all(&[0, 0, 0, 4, 1, 2, 3, 4]).await;
            return Ok(ended(&mut stream).await);
        }
        let mut stream = self.call(target.api, dice).await?;
        match operator {
            Operator::HugeHead => {
                let _ = stream.write_all(b"GET /v1/minions HTTP/1.1\r\nHost: x\r\n").await;
                let line = [b"X-Long: ".as_slice(), &[b'a'; 8000], b"\r\n"].concat();
                for _ in 0..100 {
                    if stream.write_all(&line).await.is_err() {
                        return Ok(Outcome::Cut);
                    }
                }
            }
            Operator::HugeBody => {
                let _ = stream.write_all(&post(1 << 30)).await;
                for _ in 0..1000 {
                    if stream.write_all(&[b' '; 16_384]).await.is_err() {
                        return Ok(Outcome::Cut);
                    }
                }
            }
            Operator::SlowHead => {
                for byte in b"GET /v1/minions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nX-A: aaaaaaaaaaaaaaaaa"
                {
                    if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                        return Ok(Outcome::Cut);
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            Operator::SlowBody => {
                let _ = stream.write_all(&post(1_000_000)).await;
                let _ = stream.write_all(&vec![b' '; 990_000]).await;
            }
            Operator::Rubbish | Operator::Plain | Operator::SlowTls | Operator::Silent | Operator::NoCertificate => {}
        }
        Ok(ended(&mut stream).await)
    }
}

fn post(len: usize) -> Vec<u8> {
    format!("POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n")
        .into_bytes()
}

async fn ended(stream: &mut TlsStream<TcpStream>) -> Outcome {
    let mut heard = [0; 4096];
    let listening = async { while let Ok(1..) = stream.read(&mut heard).await {} };
    match tokio::time::timeout(ENDED_WITHIN, listening).await {
        Ok(()) => Outcome::Cut,
        Err(_) => Outcome::Kept,
    }
}
