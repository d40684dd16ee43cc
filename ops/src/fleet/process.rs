//! One process of ours: started, watched, killed, frozen. It ends when its owner is dropped.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Environment variable in which every process of a fleet finds its own name, and hands it on to what it starts.
pub const MEMBER_VARIABLE: &str = "SALTERN_FLEET_MEMBER";

/// Environment variable with the folder of the process that started it, so that what a process left behind can be found.
pub const FOLDER_VARIABLE: &str = "SALTERN_FLEET_FOLDER";

/// Bytes of a log's end that an error shows.
const LOG_TAIL_BYTES: usize = 2_000;

/// What can go wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{name} cannot be started from {program}: {source}")]
    Start {
        /// Which.
        name: String,
        /// Its program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ran to its end and failed.
    #[error("{name} failed: {cause}")]
    Said {
        /// Which.
        name: String,
        /// What it said.
        cause: String,
    },
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints is appended to `folder/log`.
    pub fn start(name: &str, program: &Path, arguments: &[String], folder: &Path) -> Result<Self, ProcessError> {
        let log = folder.join("log");
        let start = || {
            let out = File::options().create(true).append(true).open(&log)?;
            let err = out.try_clone()?;
            let mut command = Command::new(program);
            command.args(arguments).env(MEMBER_VARIABLE, name).env(FOLDER_VARIABLE, folder);
            command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()
        };
        let child =
            start().map_err(|source| ProcessError::Start { name: name.into(), program: program.into(), source })?;
        Ok(Self { name: name.into(), child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself; that is what a signal wants anyway.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Stops its execution (SIGSTOP).
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Goes on with its execution (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// If it has ended by itself: a sentence with its exit status and the end of its log.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{} ended ({status}); the end of {}:\n{}", self.name, self.log.display(), tail(&self.log)))
    }

    /// Resident memory in KiB, shared pages counted in part (PSS).
    pub fn memory_kib(&self) -> Option<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id())).ok()?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

/// Kills whatever still runs for the member in `folder`: the process itself, its jobs and their supervisors. Gives how many
/// processes that were.
pub fn kill_all_of(folder: &Path) -> usize {
    let wanted = format!("{FOLDER_VARIABLE}={}", folder.display());
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        let ours = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        if let Some(pid) = Pid::from_raw(id).filter(|_| ours) {
            // It may have ended since it was listed.
            killed += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
    }
    killed
}

/// Runs `program` to its end and returns what it printed.
pub fn run(program: &Path, arguments: &[String]) -> Result<String, ProcessError> {
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output =
        output.map_err(|source| ProcessError::Start { name: name.clone(), program: program.into(), source })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(ProcessError::Said { name, cause: format!("{}: {}", output.status, complaint.trim()) })
}
