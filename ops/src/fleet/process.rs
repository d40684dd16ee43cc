//! One process of ours: started, watched, killed, frozen. It ends when its owner is dropped.

use crate::fleet::Environment;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Environment variable in which every process of a fleet finds its own name, and hands it on to what it starts.
pub const MEMBER_VARIABLE: &str = "SALTERN_FLEET_MEMBER";

/// Environment variable with the folder of the process that started it, so that what a process left behind can be found.
pub const FOLDER_VARIABLE: &str = "SALTERN_FLEET_FOLDER";

/// Bytes of a log's end that an error shows.
const LOG_TAIL_BYTES: usize = 2_000;

/// Pause between two looks at whether a process has ended.
const POLL: Duration = Duration::from_millis(5);

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
    /// Where in the log its own part begins, in bytes: an earlier life wrote what is before.
    log_from: u64,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Its exit status: a code or a signal.
    pub status: ExitStatus,
    /// The last lines that it wrote in this life, oldest first.
    pub said: Vec<String>,
}

impl Process {
    /// Starts `program` with `environment` beside what this process has; what it prints is appended to `folder/log`.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        folder: &Path,
        environment: &Environment,
    ) -> Result<Self, ProcessError> {
        let log = folder.join("log");
        let start = || {
            let out = File::options().create(true).append(true).open(&log)?;
            let log_from = out.metadata()?.len();
            let err = out.try_clone()?;
            let mut command = Command::new(program);
            command.args(arguments).envs(environment).env(MEMBER_VARIABLE, name).env(FOLDER_VARIABLE, folder);
            let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
            Ok((child, log_from))
        };
        let (child, log_from) =
            start().map_err(|source| ProcessError::Start { name: name.into(), program: program.into(), source })?;
        Ok(Self { name: name.into(), child, log, log_from })
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

    /// Stops its execution and waits until no thread of it runs any code of its own: each is stopped, or in a call to the
    /// kernel that does not return before the process goes on. `false` if that does not come.
    pub async fn freeze_whole(&self, within: Duration) -> bool {
        self.freeze();
        let frozen = async {
            while !self.is_frozen() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(within, frozen).await.is_ok()
    }

    /// Whether every thread is stopped, dead, or in an uninterruptible call to the kernel.
    fn is_frozen(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else { return true };
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in brackets and may hold anything.
            let state = status.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            state.is_none_or(|state| matches!(state, 'T' | 't' | 'D' | 'Z' | 'X'))
        })
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

    /// How it ended, if it has ended: by itself, or by a signal from outside.
    pub fn ending(&mut self) -> Option<Ending> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(Ending { status, said: last_lines(&self.said()) })
    }

    /// Waits until it has ended, at most `within`.
    pub async fn wait(&mut self, within: Duration) -> Option<Ending> {
        let ended = async {
            loop {
                if let Some(ending) = self.ending() {
                    return ending;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(within, ended).await.ok()
    }

    /// What it and the processes that it started wrote in this life. Text that is not UTF-8 is shown with replacements.
    pub fn said(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.log_from))?;
            log.read_to_end(&mut bytes)
        });
        // A log that cannot be read says nothing.
        if read.is_err() {
            bytes.clear();
        }
        String::from_utf8_lossy(&bytes).into_owned()
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

fn last_lines(text: &str) -> Vec<String> {
    /// As many as tell what went wrong; a panic's message takes two or three.
    const LINES: usize = 8;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
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
