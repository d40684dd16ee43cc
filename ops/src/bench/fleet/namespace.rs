//! A network namespace for the whole benchmark, in which packets to a master can get lost without anybody being told.
//!
//! The program starts itself again under `unshare`: the namespace goes with its processes. Where that is not allowed, the
//! benchmark runs as it is and measures no black hole.

use anyhow::{Context, ensure};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, ExitStatus, Stdio};

/// Set inside the namespace.
const INSIDE: &str = "SALTERN_BENCH_NAMESPACE";

/// Whether this process is in a namespace of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Whether a namespace and rules in it can be made here.
pub fn can_be_made() -> bool {
    let script = "ip link set lo up && nft list ruleset";
    let mut command = unshare();
    let status =
        command.args(["sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs this very command line in a new namespace, to its end.
pub fn run_inside() -> anyhow::Result<ExitStatus> {
    let mut command = unshare();
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    command.status().context("unshare is part of util-linux, which is not installed")
}

/// Makes the loopback of the namespace work.
pub fn bring_up() -> anyhow::Result<()> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]), "")
}

/// Drops every packet from and to the master at `address`, also those of other masters.
pub fn cut(address: Ipv4Addr) -> anyhow::Result<()> {
    let rules = format!("ip daddr {address} drop\nip saddr {address} drop");
    let chain = "type filter hook input priority 0; policy accept;";
    nft(&format!("table inet hole {{\n chain arriving {{\n {chain}\n{rules}\n }}\n}}\n"))
}

/// Drops nothing any more.
pub fn heal() -> anyhow::Result<()> {
    nft("delete table inet hole\n")
}

fn unshare() -> Command {
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command.arg(if is_root { "-n" } else { "-rn" });
    with_tools(&mut command);
    command
}

fn nft(script: &str) -> anyhow::Result<()> {
    run(Command::new("nft").args(["-f", "-"]), script)
}

/// Programs of the administrator may be where only root's PATH looks.
fn with_tools(command: &mut Command) {
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
}

fn run(command: &mut Command, input: &str) -> anyhow::Result<()> {
    with_tools(command);
    let said = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("{said}: ops/setup installs it"))?;
    child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{said}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
