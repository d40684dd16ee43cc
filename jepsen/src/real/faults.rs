//! The fault points of a running process: armed, cleared and counted through its control socket.
//!
//! ```text
//!   World ── SALTERN_FAULT_SOCKET=folder/faults.sock ─▶ process      Control::of(folder).arm("log.sync.after=abort@3")
//!         ── environment.insert(FAULTS, "…") ─────────▶ its next start, for what happens before anybody can connect
//! ```
//!
//! What a process says when a fault happens, [`seen`] finds in its log. **It refuses** to take a fault for armed that the
//! process did not acknowledge.

use anyhow::{Context, ensure};
use saltern_ops::fleet::{Environment, FOLDER_PLACEHOLDER};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Environment variable with faults that are armed from the start, separated by `;`.
pub const FAULTS: &str = "SALTERN_FAULTS";

/// Environment variable with the path of the control socket.
pub const FAULT_SOCKET: &str = "SALTERN_FAULT_SOCKET";

/// How long a process may take to answer a line. Its control thread only waits for a processor.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What every process of a [`World`](super::World) gets.
pub fn environment() -> Environment {
    Environment::from([(FAULT_SOCKET.into(), format!("{FOLDER_PLACEHOLDER}/faults.sock"))])
}

/// The control socket of one member.
#[derive(Debug, Clone)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// The control socket of the member in `folder`.
    pub fn of(folder: &Path) -> Self {
        Self { socket: folder.join("faults.sock") }
    }

    /// Arms a fault, e.g. `log.sync.after=abort@3`. A supervisor's fault is armed at its minion: `job.run.before=abort@3`
    /// happens in the third supervisor that starts from now on.
    pub fn arm(&self, spec: &str) -> anyhow::Result<()> {
        let answer = self.ask(&format!("arm {spec}"))?;
        ensure!(answer == "ok", "{}: {answer}", self.socket.display());
        Ok(())
    }

    /// Disarms everything.
    pub fn clear(&self) -> anyhow::Result<()> {
        let answer = self.ask("clear")?;
        ensure!(answer == "ok", "{}: {answer}", self.socket.display());
        Ok(())
    }

    /// How often the process passed each point since it started.
    pub fn hits(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let answer = self.ask("list")?;
        let row = |row: &str| Some((row.split_once('=')?.0.to_owned(), row.split_once('=')?.1.parse().ok()?));
        answer.split(' ').map(|text| row(text).with_context(|| format!("{text:?} is no count of hits"))).collect()
    }

    fn ask(&self, line: &str) -> anyhow::Result<String> {
        let said = || format!("{}: {line}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).with_context(said)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).with_context(said)?;
        stream.write_all(format!("{line}\n").as_bytes()).with_context(said)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).with_context(said)?;
        ensure!(!answer.is_empty(), "{}: no answer", said());
        Ok(answer.trim().to_owned())
    }
}

/// How often the point `name` said in `log` that its fault happened.
pub fn seen(log: &str, name: &str) -> usize {
    let line = format!("fault point {name}: ");
    log.lines().filter(|found| found.contains(&line)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_a_fault_counts() {
        let log = "INFO log.sync.after\nfault point log.sync.after: Abort at hit 3\nfault point log.sync.before: Panic at hit 1";
        assert_eq!((seen(log, "log.sync.after"), seen(log, "log.sync.before"), seen(log, "publish.after")), (1, 1, 0));
    }
}
