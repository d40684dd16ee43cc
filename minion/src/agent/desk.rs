//! How functions that the agent carries out itself ask the agent's loop for what only it has.

use super::inside::Failed;
use crate::book::Waiter;
use crate::config::MineFunction;
use crate::executor::{Executor, Work};
use crate::modules::Failure;
use saltern_wire::mine::MineEntry;
use saltern_wire::target::Target;
use saltern_wire::{JobId, Map, Value};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// What the loop is asked.
pub(super) enum Ask {
    /// Report these mine values; told when they are committed.
    Report(Vec<(String, Option<Value>)>, Waiter),
    /// Report these mine values as far as they changed; nobody waits.
    ReportChanged(Vec<(String, Option<Value>)>),
    /// Which functions have values in the mine.
    MineNames(oneshot::Sender<Vec<String>>),
    /// Mine values of others.
    MineGet(Target, String, oneshot::Sender<Result<Vec<MineEntry>, Failed>>),
    /// What was refused, by reason.
    Refusals(oneshot::Sender<Map>),
    /// What runs.
    Running(oneshot::Sender<Vec<Work>>),
    /// End a job; the pid that was told, if it runs.
    Kill(JobId, oneshot::Sender<Result<Option<u32>, Failed>>),
    /// Set or remove a grain; told when it is committed.
    SetGrain(String, Option<Value>, oneshot::Sender<Result<(), Failed>>),
    /// New facts of the host; told when they are committed.
    NewFacts(Map, oneshot::Sender<Result<(), Failed>>),
}

/// The way to the loop.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) mine_functions: Arc<Vec<MineFunction>>,
}

impl Desk {
    /// Asks, and waits for the answer.
    pub(super) async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.tell(make(reply)).await?;
        answer.await.map_err(|_| Failure::Failed("the minion is stopping".into()))
    }

    /// Asks for something that has no answer.
    pub(super) async fn tell(&self, ask: Ask) -> Result<(), Failure> {
        self.asks.send(ask).await.map_err(|_| Failure::Failed("the minion is stopping".into()))
    }
}
