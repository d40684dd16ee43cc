//! Where functions run. Production gives each job a process of its own; tests and the simulation run jobs in the process.
//!
//! **The contract.** [`Executor::start`] is called once for a jid in the life of a data folder, after its journal entry is
//! on disk. Whoever runs the job writes its outcome into the outbox before it says that the job ended. Once
//! [`Executor::is_living`] has said no, the job runs nowhere and never will: the agent may report it as interrupted.

use crate::modules::{self, Context, Invocation};
use crate::outbox;
use futures::FutureExt;
use futures::future::BoxFuture;
use saltern_wire::codec::Encoded;
use saltern_wire::io::Disk;
use saltern_wire::job::{Job, Outcome, OutcomeKind};
use saltern_wire::target::Target;
use saltern_wire::{JobId, Map, MinionId, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One job as it is handed to whoever runs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Which job.
    pub jid: JobId,
    /// The minion.
    pub minion: MinionId,
    /// `module.function`.
    pub function: String,
    /// Positional arguments.
    pub arguments: Vec<Value>,
    /// Keyword arguments.
    pub keywords: Map,
    /// Who asked.
    pub user: String,
    /// What the operator wrote as target.
    pub target: Target,
    /// Bytes of one stream of a command's output that are kept.
    pub output_bytes_max: u64,
    /// Who runs it: the supervisor's pid, 0 before it started.
    pub pid: u32,
}

impl Encoded for Work {
    const KIND: u8 = 204;
}

impl Work {
    /// The work that `job` asks for.
    pub fn of(job: &Job, minion: &MinionId, output_bytes_max: usize) -> Self {
        Self {
            jid: job.jid,
            minion: minion.clone(),
            function: job.function.clone(),
            arguments: job.arguments.clone(),
            keywords: job.keywords.clone(),
            user: job.user.clone(),
            target: job.target.clone(),
            output_bytes_max: output_bytes_max as u64,
            pid: 0,
        }
    }

    /// What is called.
    pub fn invocation(&self) -> Invocation {
        Invocation {
            function: self.function.clone(),
            arguments: self.arguments.clone(),
            keywords: self.keywords.clone(),
        }
    }
}

/// Where functions run.
pub trait Executor: Send + Sync + 'static {
    /// The facts of the host. May block for some milliseconds.
    fn facts(&self) -> Map;

    /// Runs a call inside this process: a pure function, or one of the mine.
    fn call(&self, context: Context, call: Invocation) -> BoxFuture<'static, Outcome> {
        modules::run(context, call).boxed()
    }

    /// Starts a job. When it ended, its outcome is in the outbox, unless a crash took it, and its jid is sent to `ended`.
    fn start(&self, work: Work, context: Context, ended: UnboundedSender<JobId>) -> io::Result<()>;

    /// Whether a job that an earlier agent started still runs. After a `false` it runs nowhere and never will.
    fn is_living(&self, jid: JobId) -> io::Result<bool>;

    /// Kills what a job that lives no more and has no outcome left running, and tells how many processes that were. It is
    /// asked again until there are none; only then the job is reported as interrupted. A job that is a task of this process
    /// leaves nothing.
    fn end_remains(&self, jid: JobId) -> io::Result<usize> {
        let _ = jid;
        Ok(0)
    }

    /// What is known about a job that was started.
    fn started(&self, jid: JobId) -> Option<Work>;

    /// Ends a running job with everything it started; `false` if it does not run. It returns as failed.
    fn end(&self, jid: JobId) -> io::Result<bool>;
}

/// Runs jobs as tasks of this process, with whatever clock the runtime has. A crash of the process takes them.
pub struct InProcess {
    disk: Arc<dyn Disk>,
    outbox: PathBuf,
    facts: Map,
    jobs: Arc<Mutex<BTreeMap<JobId, (Work, CancellationToken)>>>,
    tasks: TaskTracker,
}

impl InProcess {
    /// Writes outcomes to the outbox folder `outbox` on `disk`; `facts` are the host's.
    pub fn new(disk: Arc<dyn Disk>, outbox: PathBuf, facts: Map) -> Self {
        Self { disk, outbox, facts, jobs: Arc::default(), tasks: TaskTracker::new() }
    }
}

impl Executor for InProcess {
    fn facts(&self) -> Map {
        self.facts.clone()
    }

    fn start(&self, work: Work, context: Context, ended: UnboundedSender<JobId>) -> io::Result<()> {
        let (jid, token) = (work.jid, CancellationToken::new());
        let (jobs, disk, outbox) = (Arc::clone(&self.jobs), Arc::clone(&self.disk), self.outbox.clone());
        let call = work.invocation();
        jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(jid, (work, token.clone()));
        self.tasks.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = token.cancelled() => killed(&call.function),
                outcome = modules::run(context, call.clone()) => outcome,
            };
            if let Err(error) = outbox::write(disk.as_ref(), &outbox, jid, &outcome) {
                tracing::error!(%jid, %error, "the outcome of a job could not be written");
            }
            jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&jid);
            // An agent that is gone finds the outcome in the outbox.
            let _ = ended.send(jid);
        });
        Ok(())
    }

    fn is_living(&self, jid: JobId) -> io::Result<bool> {
        Ok(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&jid))
    }

    fn started(&self, jid: JobId) -> Option<Work> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(&jid).map(|(work, _)| work.clone())
    }

    fn end(&self, jid: JobId) -> io::Result<bool> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, token)) = jobs.get(&jid) else { return Ok(false) };
        token.cancel();
        Ok(true)
    }
}

/// The outcome of a job that was ended from outside.
pub fn killed(function: &str) -> Outcome {
    let text = format!("{function} was ended by saltutil.kill_job, with everything it had started.");
    Outcome { kind: OutcomeKind::Finished, success: false, retcode: 143, value: Value::String(text), duration_ms: 0 }
}
