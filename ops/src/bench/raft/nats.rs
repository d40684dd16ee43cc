//! The same writes on NATS JetStream, where it is installed: a stream with three replicas in files, beside each other on this
//! machine.
//!
//! **What is compared.** JetStream acknowledges a message that a majority of the replicas holds; its disk syncs follow, by default
//! after two minutes (`sync_interval`, nats.io's documentation of JetStream's configuration). Versions from 2.10 know
//! `sync_interval: always`, which is asked for where it is understood: the figure's name says which of the two was measured.

use super::crowd::{Writer, rate};
use anyhow::Context;
use saltern_wire::io::Clock;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Members.
const MEMBERS: usize = 3;

/// How long they may take until a stream can be made.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long one answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(200);

/// Bytes of a message.
const VALUE_BYTES: usize = 256;

/// Bytes of an answer: what is told of a stream has some hundreds.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where a connection hears answers.
const INBOX: &str = "_INBOX.saltern";

/// Three members with one stream.
pub struct Nats {
    members: Vec<Child>,
    port: u16,
    syncs_always: bool,
}

impl Nats {
    /// Whether it is installed.
    pub fn is_installed() -> bool {
        version().is_some()
    }

    /// Starts the members in `folder` and makes the stream.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let syncs_always = version().is_some_and(|version| version >= (2, 10));
        // Each listener holds its port until all are known.
        let held = (0..MEMBERS * 2).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let ports = held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<std::io::Result<Vec<_>>>()?;
        drop(held);
        let (clients, routes) = ports.split_at(MEMBERS);
        let all: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut nats = Self { members: Vec::new(), port: clients[0], syncs_always };
        for number in 0..MEMBERS {
            let name = format!("nats-{number}");
            let (store, file) = (folder.join(&name), folder.join(format!("{name}.conf")));
            let sync = if syncs_always { "sync_interval: always" } else { "" };
            let text = format!(
                "server_name: {name}\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\"\n {sync} }}\n\
                 cluster {{ name: bench, listen: 127.0.0.1:{}, routes: [{}] }}\n",
                clients[number],
                store.display(),
                routes[number],
                all.join(", ")
            );
            std::fs::write(&file, text)?;
            let mut command = Command::new("nats-server");
            command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            nats.members.push(command.spawn().context("nats-server cannot be started")?);
        }
        let made = tokio::time::timeout(START_PATIENCE, make_stream(clients)).await;
        nats.port = made.context("no stream can be made: the members do not find each other")?;
        Ok(nats)
    }

    /// Its name in figures.
    pub fn name(&self) -> &'static str {
        if self.syncs_always { "nats" } else { "nats without syncs" }
    }

    /// Messages per second by `writers`, each waiting for the acknowledgement of its last one.
    pub async fn publish(
        &self,
        writers: u32,
        within: Duration,
        clock: &(impl Clock + Clone + 'static),
    ) -> anyhow::Result<f64> {
        let port = self.port;
        rate(writers, within, clock, |number| async move {
            let (subject, value) = (format!("bench.{number}"), "x".repeat(VALUE_BYTES));
            Ok(Publishing { connection: Connection::open(port).await?, subject, value })
        })
        .await
    }
}

/// Publishes one message again and again.
struct Publishing {
    connection: Connection,
    subject: String,
    value: String,
}

impl Writer for Publishing {
    async fn write(&mut self) -> anyhow::Result<()> {
        let answer = self.connection.ask(&self.subject, &self.value).await?;
        anyhow::ensure!(answer["seq"].is_number(), "a message was not taken: {answer}");
        Ok(())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// The installed version, major and minor.
fn version() -> Option<(u32, u32)> {
    let output = Command::new("nats-server").arg("--version").output().ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

fn version_in(said: &str) -> Option<(u32, u32)> {
    let (_, number) = said.trim().rsplit_once('v')?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Makes the stream and finds the member that leads it: a client elsewhere would measure one more hop.
async fn make_stream(ports: &[u16]) -> u16 {
    let wanted = json!({ "name": "BENCH", "subjects": ["bench.*"], "num_replicas": MEMBERS, "storage": "file" });
    loop {
        if let Ok(mut connection) = Connection::open(ports[0]).await
            && let Ok(answer) = connection.ask("$JS.API.STREAM.CREATE.BENCH", &wanted.to_string()).await
            && let Some(leader) = answer["cluster"]["leader"].as_str()
            && let Some(number) = leader.strip_prefix("nats-").and_then(|number| number.parse::<usize>().ok())
            && let Some(port) = ports.get(number)
        {
            return *port;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A client's connection: one question at a time.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    async fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream: BufReader::new(stream) };
        let mut greeting = String::new();
        connection.stream.read_line(&mut greeting).await?;
        anyhow::ensure!(greeting.starts_with("INFO "), "that is no nats-server: {greeting}");
        let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {} 1\r\n", connection.inbox()?);
        connection.stream.write_all(hello.as_bytes()).await?;
        Ok(connection)
    }

    /// The subject that only this connection listens to: no other one has its port.
    fn inbox(&self) -> std::io::Result<String> {
        Ok(format!("{INBOX}.{}", self.stream.get_ref().local_addr()?.port()))
    }

    async fn ask(&mut self, subject: &str, body: &str) -> anyhow::Result<Value> {
        let message = format!("PUB {subject} {} {}\r\n{body}\r\n", self.inbox()?, body.len());
        self.stream.write_all(message.as_bytes()).await?;
        tokio::time::timeout(ANSWER_PATIENCE, self.answer()).await.context("no answer in time")?
    }

    async fn answer(&mut self) -> anyhow::Result<Value> {
        loop {
            let mut line = String::new();
            anyhow::ensure!(self.stream.read_line(&mut line).await? > 0, "the member has closed the connection");
            if line.starts_with("PING") {
                self.stream.write_all(b"PONG\r\n").await?;
                continue;
            }
            let Some(rest) = line.strip_prefix("MSG ") else {
                anyhow::ensure!(!line.starts_with("-ERR"), "the member says {line}");
                continue;
            };
            let len: usize = rest
                .split_whitespace()
                .next_back()
                .and_then(|len| len.parse().ok())
                .context("a message without length")?;
            anyhow::ensure!(len <= ANSWER_BYTES_MAX, "an answer of {len} bytes: at most {ANSWER_BYTES_MAX} are taken");
            let mut body = vec![0; len + 2];
            self.stream.read_exact(&mut body).await?;
            return Ok(serde_json::from_slice(&body[..len])?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_program_prints_them() {
        assert_eq!(version_in("nats-server: v2.9.10\n"), Some((2, 9)));
        assert_eq!(version_in("nats-server: v2.10.27"), Some((2, 10)));
        assert_eq!(version_in("command not found"), None);
    }
}
