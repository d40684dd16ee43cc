//! Questions to a member of the benchmark, over the unix socket in its folder.

use anyhow::Context;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The socket's name in a member's folder.
pub const SOCKET: &str = "bench.sock";

/// How long a member that was just started may take to open its socket.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two tries.
const POLL: Duration = Duration::from_millis(10);

/// A member that can be asked.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its place in the fleet, from 0.
    pub number: usize,
    socket: PathBuf,
}

/// What a member said: numbers by name.
#[derive(Debug, Clone)]
pub struct Said(Value);

impl Said {
    /// The number called `name`.
    pub fn number(&self, name: &str) -> anyhow::Result<f64> {
        self.0.get(name).and_then(Value::as_f64).with_context(|| format!("the member said no {name}: {}", self.0))
    }
}

impl Member {
    /// The member in `folder`.
    pub fn new(number: usize, folder: &std::path::Path) -> Self {
        Self { number, socket: folder.join(SOCKET) }
    }

    /// Asks one question, and waits for its answer as long as it takes, at most `within`.
    pub async fn ask(&self, question: Value, within: Duration) -> anyhow::Result<Said> {
        let asked = tokio::time::timeout(within, self.converse(&question)).await;
        asked.with_context(|| format!("member {} did not answer {question} within {within:?}", self.number + 1))?
    }

    async fn converse(&self, question: &Value) -> anyhow::Result<Said> {
        let mut stream = self.connect().await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("member {} ended while it was asked {question}", self.number + 1))?;
        match answer.get("error") {
            Some(error) => anyhow::bail!("member {} cannot answer {question}: {error}", self.number + 1),
            None => Ok(Said(answer)),
        }
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        let mut tries = START_PATIENCE.as_millis() / POLL.as_millis();
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) if tries == 0 => {
                    return Err(error).with_context(|| format!("no connection to {}", self.socket.display()));
                }
                Err(_) => tries -= 1,
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
