//! Somebody who listens where a master did, accepts every connection, and never says what a master would.

use anyhow::Context;
use saltern_ops::fleet::ports::Ports;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long the ports of a master that was killed may take to become free.
const FREE_WITHIN: Duration = Duration::from_secs(10);

/// What it does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Nothing.
    Silent,
    /// ZeroMQ's greeting and the command that makes a connection ready; then nothing.
    Greets,
}

/// Two ports that are served in one manner, until it is dropped.
pub struct Mute {
    accepted: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Mute {
    /// Listens on the fan-out and session ports of `address`.
    pub async fn listen(address: Ipv4Addr, ports: Ports, manner: Manner) -> anyhow::Result<Self> {
        let mut mute = Self { accepted: Arc::default(), tasks: Vec::new() };
        for (port, kind) in [(ports.publish, "PUB"), (ports.session, "ROUTER")] {
            let bind = async {
                loop {
                    match TcpListener::bind((address, port)).await {
                        Ok(listener) => return listener,
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            };
            let listener = tokio::time::timeout(FREE_WITHIN, bind).await.context("the master's ports are not free")?;
            let words = match manner {
                Manner::Silent => Vec::new(),
                Manner::Greets => greeting(kind),
            };
            mute.tasks.push(tokio::spawn(serve(listener, words, mute.accepted.clone())));
        }
        Ok(mute)
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(listener: TcpListener, words: Vec<u8>, accepted: Arc<AtomicUsize>) {
    let mut held = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        // Whether they arrive is the peer's affair; the connection is held either way.
        let _ = stream.write_all(&words).await;
        held.push(stream);
    }
}

/// ZMTP 3.0, mechanism NULL: <https://rfc.zeromq.org/spec/23/>.
fn greeting(kind: &str) -> Vec<u8> {
    let mut words = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0];
    words.extend_from_slice(b"NULL");
    words.resize(64, 0);
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend_from_slice(&u32::try_from(kind.len()).unwrap_or(0).to_be_bytes());
    ready.extend_from_slice(kind.as_bytes());
    words.extend_from_slice(&[0x04, u8::try_from(ready.len()).unwrap_or(0)]);
    words.extend_from_slice(&ready);
    words
}
