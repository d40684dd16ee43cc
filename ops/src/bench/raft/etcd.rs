//! The same writes on etcd, where it is installed: three members beside each other on this machine, with real syncs.
//!
//! Two clients are tried, so that no client is what is measured: `etcdctl check perf`, etcd's own, and one here that speaks to
//! the leader's HTTP gateway over connections that stay open.

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

/// Its name in figures.
pub const NAME: &str = "etcd";

/// Its name in figures that its own load generator told.
pub const CHECKED_NAME: &str = "etcdctl check perf";

/// Members.
const MEMBERS: usize = 3;

/// How long they may take to elect a leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);

/// How long `etcdctl check perf` may take: it writes for a minute.
const CHECK_PATIENCE: Duration = Duration::from_secs(150);

/// 192 bytes in base64 are 256 letters of a key's value.
const VALUE_BYTES: usize = 256;

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Three members.
pub struct Etcd {
    members: Vec<Child>,
    clients: Vec<u16>,
    leader: u16,
}

impl Etcd {
    /// Whether it is installed.
    pub fn is_installed() -> bool {
        let runs = |program: &str, argument: &str| {
            let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        runs("etcd", "--version") && runs("etcdctl", "version")
    }

    /// Starts the members in folders below `folder`, and waits for a leader.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        // Each listener holds its port until all are known.
        let held = (0..MEMBERS * 2).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let ports = held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<std::io::Result<Vec<_>>>()?;
        drop(held);
        let (clients, peers) = ports.split_at(MEMBERS);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> =
            peers.iter().enumerate().map(|(number, port)| format!("etcd-{number}={}", url(port))).collect();
        let mut etcd = Self { members: Vec::new(), clients: clients.to_vec(), leader: 0 };
        for number in 0..MEMBERS {
            let name = format!("etcd-{number}");
            let mut command = Command::new("etcd");
            command.args(["--name", &name, "--data-dir", &folder.join(&name).display().to_string()]);
            command.args(["--listen-client-urls", &url(&clients[number])]);
            command.args(["--advertise-client-urls", &url(&clients[number])]);
            command.args(["--listen-peer-urls", &url(&peers[number])]);
            command.args(["--initial-advertise-peer-urls", &url(&peers[number])]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
            command.args(["--log-level", "error"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            etcd.members.push(command.spawn().context("etcd cannot be started")?);
        }
        etcd.leader = tokio::time::timeout(LEADER_PATIENCE, etcd.find_leader()).await.context("etcd has no leader")?;
        Ok(etcd)
    }

    async fn find_leader(&self) -> u16 {
        loop {
            for port in &self.clients {
                if let Ok(status) = ask_once(*port, "/v3/maintenance/status", &json!({})).await
                    && status["leader"].is_string()
                    && status["leader"] == status["header"]["member_id"]
                {
                    return *port;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes per second by `writers` through the leader's gateway.
    pub async fn through_gateway(
        &self,
        writers: u32,
        within: Duration,
        clock: &(impl Clock + Clone + 'static),
    ) -> anyhow::Result<f64> {
        let (port, value) = (self.leader, base64_of(VALUE_BYTES));
        rate(writers, within, clock, |number| {
            // The key's name in base64 is its own: any letters are.
            let put = json!({ "key": format!("bench{number:07}"), "value": value }).to_string();
            async move { Ok(Put { gateway: Gateway::connect(port).await?, put }) }
        })
        .await
    }

    /// Writes per second as `etcdctl check perf` counts them, with 500 clients that want 8,000 a second; takes a minute.
    pub async fn check_perf(&self) -> anyhow::Result<f64> {
        let endpoint = format!("http://127.0.0.1:{}", self.leader);
        let mut command = tokio::process::Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "check", "perf", "--load=l"]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(CHECK_PATIENCE, command.output()).await.context("it takes too long")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        throughput_in(&said).with_context(|| format!("etcdctl check perf told no throughput: {said}"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// The number before "writes/s".
fn throughput_in(said: &str) -> Option<f64> {
    let before = said.split(" writes/s").next().filter(|before| before.len() < said.len())?;
    before.rsplit(' ').next()?.parse().ok()
}

/// So many random-looking letters of base64.
fn base64_of(bytes: usize) -> String {
    let letter = |place: usize| char::from(b'A' + u8::try_from(place * 7 % 26).unwrap_or(0));
    (0..bytes * 4 / 3 / 4 * 4).map(letter).collect()
}

/// Writes one key again and again.
struct Put {
    gateway: Gateway,
    put: String,
}

impl Writer for Put {
    async fn write(&mut self) -> anyhow::Result<()> {
        self.gateway.post("/v3/kv/put", &self.put).await?;
        Ok(())
    }
}

/// A connection to a gateway that stays open.
struct Gateway {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Gateway {
    async fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), port })
    }

    async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<Vec<u8>> {
        let (port, len) = (self.port, body.len());
        let request = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len}\r\n\r\n{body}");
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        let (mut len, mut good, mut line) = (None, false, String::new());
        loop {
            line.clear();
            anyhow::ensure!(self.stream.read_line(&mut line).await? > 0, "etcd closed the connection");
            if line.starts_with("HTTP/1.1") {
                good = line.starts_with("HTTP/1.1 200");
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                len = Some(value.trim().parse::<usize>()?);
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = vec![0; len.context("etcd told no length")?];
        self.stream.read_exact(&mut answer).await?;
        anyhow::ensure!(good, "etcd refused: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }
}

async fn ask_once(port: u16, path: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = Gateway::connect(port).await?.post(path, &body.to_string()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throughput_is_found_in_what_etcdctl_says() {
        assert_eq!(throughput_in("60 / 60 Booooom !\nFAIL: Throughput too low: 3412 writes/s\n"), Some(3412.0));
        assert_eq!(throughput_in("PASS: Throughput is 7985 writes/s\nPASS: Slowest request took 0.1s"), Some(7985.0));
        assert_eq!(throughput_in("nothing"), None);
    }
}
