//! The supervisor: one process a job, which outlives the agent and writes the job's outcome into the outbox itself.
//!
//! ```text
//!   agent ── spawn, work on stdin ──▶ supervise: session of its own → lock jobs/JID.lock → jobs/JID.started on disk
//!                                        → run the function → outbox/JID on disk → exit
//! ```
//!
//! **Invariants.** The lock is held by the living supervisor and by nobody else, whatever pids are reused. `started` is on
//! disk before the function runs, and whoever finds it there never runs the job. An agent that gets the lock writes
//! `started` itself before it reports the job as interrupted, so that a supervisor that comes late does nothing.
//!
//! A disk that cannot be written takes no outcome from us: a supervisor whose mark is refused runs nothing and says why, and
//! one whose outcome is refused keeps it in memory and tries again, until it is written or the data folder is gone. A
//! supervisor that is killed leaves its command behind; the agent ends it (see [`crate::remains`]) before it reports the
//! job as interrupted.

use crate::executor::{Executor, Work, killed};
use crate::folder::Folder;
use crate::modules::{self, Context, Failure};
use crate::remains::{self, JOB_VARIABLE};
use crate::{grains, outbox};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use saltern_wire::fault_point;
use saltern_wire::io::Clock;
use saltern_wire::job::Outcome;
use saltern_wire::limits::JOB_BYTES_MAX;
use saltern_wire::{JobId, Map, decode, encode};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::TaskTracker;

/// Largest work that a supervisor reads, in bytes: a job and its envelope.
const WORK_BYTES_MAX: usize = 2 * JOB_BYTES_MAX;

/// First pause before an outcome that the disk refused is written again; it doubles.
const KEEP_AGAIN_FIRST: Duration = Duration::from_millis(100);

/// Longest pause between two tries: a disk that has room again is used soon, and one that never will costs nothing.
const KEEP_AGAIN_MAX: Duration = Duration::from_secs(5);

/// Starts supervisors from this program.
pub struct Supervised {
    program: PathBuf,
    folder: Folder,
    tasks: TaskTracker,
}

impl Supervised {
    /// Supervisors are `program supervise`. `/proc/self/exe` is this very program, even after an upgrade replaced its file.
    pub fn new(program: impl Into<PathBuf>, folder: Folder) -> Self {
        Self { program: program.into(), folder, tasks: TaskTracker::new() }
    }

    /// The lock of a job, if nobody holds it.
    fn free_lock(&self, jid: JobId) -> io::Result<Option<File>> {
        try_lock(&self.folder.job_lock(jid))
    }
}

impl Executor for Supervised {
    fn facts(&self) -> Map {
        grains::host_facts()
    }

    fn start(&self, work: Work, _: Context, ended: UnboundedSender<JobId>) -> io::Result<()> {
        let jid = work.jid;
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("supervise").arg("--folder").arg(self.folder.root());
        command.env(JOB_VARIABLE, jid.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(false);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        self.tasks.spawn(async move {
            if let Some(mut stdin) = stdin
                && let Err(error) = stdin.write_all(&encode(&work)).await
            {
                tracing::error!(%jid, %error, "the supervisor did not take its work");
            }
            match child.wait().await {
                Ok(status) if status.success() => tracing::debug!(%jid, "the supervisor is done"),
                Ok(status) => tracing::warn!(%jid, %status, "the supervisor died"),
                Err(error) => tracing::error!(%jid, %error, "the supervisor cannot be waited for"),
            }
            // An agent that is gone finds the outcome in the outbox.
            let _ = ended.send(jid);
        });
        Ok(())
    }

    fn is_living(&self, jid: JobId) -> io::Result<bool> {
        let Some(lock) = self.free_lock(jid)? else { return Ok(true) };
        let path = self.folder.job_started(jid);
        if self.folder.disk().read(&path, WORK_BYTES_MAX as u64)?.is_none() {
            // Not a work: whoever reads it knows only that the job must not start any more.
            self.folder.disk().replace(&path, b"void")?;
        }
        drop(lock);
        Ok(false)
    }

    fn started(&self, jid: JobId) -> Option<Work> {
        let read = self.folder.disk().read(&self.folder.job_started(jid), WORK_BYTES_MAX as u64);
        decode(&read.ok()??).ok()
    }

    fn end_remains(&self, jid: JobId) -> io::Result<usize> {
        match self.started(jid) {
            Some(work) if work.pid != 0 => remains::end(jid, work.pid),
            // It never came to run anything.
            Some(_) | None => Ok(0),
        }
    }

    fn end(&self, jid: JobId) -> io::Result<bool> {
        if self.free_lock(jid)?.is_some() {
            return Ok(false);
        }
        // The lock is held, so the pid that its holder wrote is that of a living process.
        let pid = self.started(jid).and_then(|work| Pid::from_raw(i32::try_from(work.pid).ok()?));
        let Some(pid) = pid else { return Ok(false) };
        match kill_process(pid, Signal::TERM) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Locks the file at `path`, which is made if need be; `None` if somebody else holds it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why a supervisor did not run its job.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The data folder cannot be used.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What came on standard input is no work.
    #[error("no work on standard input: {0}; supervisors are started by the minion, not by hand")]
    Work(String),
    /// The job has a supervisor, or had one.
    #[error("job {0} was started before")]
    Started(JobId),
    /// The outcome could not be written.
    #[error(transparent)]
    Outbox(#[from] outbox::OutboxError),
}

/// The supervisor process: reads its work from standard input and runs it once.
pub async fn supervise(folder: Folder, clock: Arc<dyn Clock>) -> Result<(), SuperviseError> {
    // A terminal that closes, or a Ctrl-C meant for the agent, does not reach a session of our own. It fails only for a
    // process that leads its group, which was then started by hand and keeps its terminal.
    let _ = rustix::process::setsid();
    let mut work = read_work()?;
    let jid = work.jid;
    let disk_error = |path: PathBuf| move |source| SuperviseError::Disk { path, source };
    let path = folder.job_lock(jid);
    let Some(lock) = try_lock(&path).map_err(disk_error(path.clone()))? else {
        return Err(SuperviseError::Started(jid));
    };
    let path = folder.job_started(jid);
    let found = folder.disk().read(&path, WORK_BYTES_MAX as u64).map_err(disk_error(path.clone()))?;
    if found.is_some() {
        return Err(SuperviseError::Started(jid));
    }
    // From here on a second SIGTERM handler would be too late: a job that started has to have an outcome.
    let mut term = signal(SignalKind::terminate()).map_err(disk_error("SIGTERM".into()))?;
    work.pid = std::process::id();
    if let Err(error) = folder.disk().replace(&path, &encode(&work)) {
        let text = format!("the job was not started, because its mark cannot be written: {error}");
        let outcome = modules::outcome(&work.function, Err(Failure::Failed(text)), 0);
        keep(&folder, jid, &outcome).await?;
        return Ok(());
    }
    let context = Context {
        id: work.minion.clone(),
        grains: Arc::default(),
        clock,
        output_bytes_max: usize::try_from(work.output_bytes_max).unwrap_or(usize::MAX),
    };
    fault_point!("job.run.before");
    let outcome = tokio::select! {
        biased;
        _ = term.recv() => killed(&work.function),
        outcome = modules::run(context, work.invocation()) => outcome,
    };
    fault_point!("job.run.after");
    keep(&folder, jid, &outcome).await?;
    drop(lock);
    Ok(())
}

/// Writes the outcome, however long the disk refuses it. Only a data folder that is gone ends the waiting: then nobody will
/// ever look for it.
async fn keep(folder: &Folder, jid: JobId, outcome: &Outcome) -> Result<(), SuperviseError> {
    let mut pause = KEEP_AGAIN_FIRST;
    loop {
        let Err(error) = outbox::write(folder.disk().as_ref(), &folder.outbox(), jid, outcome) else { return Ok(()) };
        if !folder.root().is_dir() {
            return Err(error.into());
        }
        // The agent that would read it may be gone.
        let _ = writeln!(
            io::stderr(),
            "saltern-minion: the outcome of job {jid} cannot be written, again in {} ms: {error}",
            pause.as_millis()
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(KEEP_AGAIN_MAX);
    }
}

fn read_work() -> Result<Work, SuperviseError> {
    let mut bytes = Vec::new();
    let limit = WORK_BYTES_MAX as u64 + 1;
    io::stdin().take(limit).read_to_end(&mut bytes).map_err(|error| SuperviseError::Work(error.to_string()))?;
    if bytes.len() > WORK_BYTES_MAX {
        return Err(SuperviseError::Work(format!("it is longer than {WORK_BYTES_MAX} bytes")));
    }
    decode(&bytes).map_err(|error| SuperviseError::Work(error.to_string()))
}
