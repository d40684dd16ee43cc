//! A network namespace for one test, and packets that get lost in it.
//!
//! The test starts itself again under `unshare`, so that the namespace goes with its processes. Packets are dropped where
//! they arrive: the sender hears nothing, as of a broken cable.

use anyhow::{Context, ensure};
use saltern_ops::fleet::ports::Ports;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Set inside the namespace.
const INSIDE: &str = "SALTERN_TEST_NAMESPACE";

/// What is dropped between a master and its minions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Everything.
    Both,
    /// What the master sends.
    ToMinions,
    /// What minions send.
    FromMinions,
}

/// Whether this process is in a namespace that [`run_inside`] made.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test `name` of this program in a new namespace.
pub fn run_inside(name: &str) -> anyhow::Result<()> {
    // Whoever is not root is root of a user namespace.
    let is_root = Command::new("id").arg("-u").output()?.stdout.trim_ascii() == b"0";
    let mut command = Command::new("unshare");
    command.arg(if is_root { "-n" } else { "-rn" }).arg(std::env::current_exe()?);
    command.args([name, "--exact", "--nocapture"]).env(INSIDE, "1");
    let status = command.status().context("unshare is part of util-linux, which is not installed")?;
    ensure!(status.success(), "in a network namespace: {status}; what it said stands above");
    Ok(())
}

/// Makes the loopback of the namespace work.
pub fn bring_up() -> anyhow::Result<()> {
    run(tool("ip").args(["link", "set", "lo", "up"]), "")
}

/// Drops what `direction` says between the master at `address` and every minion.
pub fn cut(address: Ipv4Addr, ports: Ports, direction: Direction) -> anyhow::Result<()> {
    let ports = format!("{{ {}, {} }}", ports.publish, ports.session);
    let from = format!("ip daddr {address} tcp dport {ports} counter drop");
    let to = format!("ip saddr {address} tcp sport {ports} counter drop");
    let rules = match direction {
        Direction::Both => format!("{from}\n{to}"),
        Direction::ToMinions => to,
        Direction::FromMinions => from,
    };
    nft(&format!(
        "table inet cut {{\n chain arriving {{\n type filter hook input priority 0; policy accept;\n{rules}\n }}\n}}\n"
    ))
}

/// Packets dropped since [`cut`].
pub fn dropped() -> anyhow::Result<u64> {
    let output = tool("nft").args(["list", "table", "inet", "cut"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace();
    let mut dropped = 0;
    while words.by_ref().any(|word| word == "packets") {
        dropped += words.next().and_then(|count| count.parse::<u64>().ok()).context(text.clone())?;
    }
    Ok(dropped)
}

/// Drops nothing any more.
pub fn heal() -> anyhow::Result<()> {
    nft("delete table inet cut\n")
}

fn nft(script: &str) -> anyhow::Result<()> {
    run(tool("nft").args(["-f", "-"]), script)
}

/// A program of the administrator, which may be where only root's PATH looks.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

fn run(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let said = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("{said}: ops/setup installs it"))?;
    child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{said}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
