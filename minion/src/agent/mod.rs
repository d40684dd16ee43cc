//! The agent: one loop that keeps a minion attached to a master, takes jobs, and brings their outcomes home.
//!
//! ```text
//!              ┌────────────────────────── run: the loop ──────────────────────────┐
//!   master ◀──▶│ connection   session + fan-out of one attached master             │
//!  another ◀──▶│ beside       the session that waits, and moves                    │
//!              │ core         rules, journal, outbox, delivery: what is decided    │──▶ executor (supervisors)
//!              │ outcomes     what is over: to the disk, and off it once committed │
//!              │ calls        what is asked of the master, and its answers         │
//!              │ hear         what the master says                                 │
//!              └── desk ◀── inside: mine.*, saltutil.*, grains.setval ─────────────┘
//! ```
//!
//! **Invariants.** One task owns all state; nothing is shared. What was decided is on disk before it is done, and what was
//! done is told only after it is on disk. Nothing depends on a message arriving: masters offer again, the agent asks again.
//!
//! **It refuses** to obey a master that is not in the directory, and to forget an outcome that is not committed.

mod asks;
mod beside;
mod calls;
mod connection;
mod core;
mod desk;
mod facts;
mod hear;
mod inside;
mod outcomes;
mod run;

use crate::config::Config;
use crate::executor::Executor;
use crate::folder::FolderError;
use crate::journal::JournalError;
use crate::outbox::OutboxError;
use futures::FutureExt;
use futures::future::BoxFuture;
use saltern_wire::MasterId;
use saltern_wire::crypto::Fingerprint;
use saltern_wire::io::{Address, Io};
use saltern_wire::session::Standing;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why an agent does not start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No CA is pinned.
    #[error(
        "ca_fingerprint is not set: put the fingerprint that `saltern cluster status` shows into the configuration"
    )]
    NoPin,
    /// No master is configured.
    #[error("no master is configured: set `master: [HOST, …]` in the configuration or give --master")]
    NoMaster,
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The outbox cannot be used.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// How an agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The fingerprint of its key.
    pub fingerprint: Fingerprint,
    /// The master that it is attached to and obeys.
    pub attached: Option<Attached>,
    /// What the truth thinks of its key, as far as it has heard.
    pub standing: Option<Standing>,
    /// Whether it listens to its master's fan-out.
    pub subscribed: bool,
    /// The master with which a second session waits.
    pub standby: Option<Attached>,
    /// Journalled jobs without an outcome.
    pub running: usize,
    /// Outcomes that are not committed yet.
    pub waiting: usize,
}

/// An attached master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its number.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Where it was dialled.
    pub address: Address,
}

/// A minion.
pub struct Agent;

impl Agent {
    /// Opens the data folder, settles what an earlier life left open, and starts the loop. `io` and `executor` are all
    /// that differs between production, a test and the simulation. Has to be called inside a runtime.
    pub fn start(config: Config, io: Io, executor: Arc<dyn Executor>) -> Result<AgentHandle, StartError> {
        Self::start_inside(config, io, executor, |agent| agent)
    }

    /// As [`Agent::start`], with the loop inside of another future, which decides when it is polled.
    pub fn start_inside(
        config: Config,
        io: Io,
        executor: Arc<dyn Executor>,
        inside: impl FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>,
    ) -> Result<AgentHandle, StartError> {
        let (core, inlets) = core::Core::open(config, io, executor)?;
        let (tell, status) = watch::channel(Status {
            fingerprint: core.identity.public_key().fingerprint(),
            attached: None,
            standing: None,
            subscribed: false,
            standby: None,
            running: core.running.len(),
            waiting: core.delivery.len(),
        });
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(inside(run::run(core, inlets, tell, token.clone(), tasks.clone()).boxed()));
        tasks.close();
        Ok(AgentHandle { status, token, tasks })
    }
}

/// A running agent. Dropping it does not stop the agent; [`AgentHandle::stop`] does.
pub struct AgentHandle {
    status: watch::Receiver<Status>,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl AgentHandle {
    /// How it is doing now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows how it is doing.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the status fits `wanted` and gives it; `None` if the agent stopped before.
    pub async fn wait_for(&self, wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        self.status.clone().wait_for(wanted).await.ok().map(|status| status.clone())
    }

    /// Waits until the loop has ended, which it does by itself only when it panics.
    pub async fn ended(&self) {
        let mut status = self.status.clone();
        // Only the loop's end closes the channel.
        while status.changed().await.is_ok() {}
    }

    /// Ends the loop and waits for it. Supervised jobs run on.
    pub async fn stop(self) {
        self.token.cancel();
        self.tasks.wait().await;
    }
}
