//! The minions of one worker: their agents, started, stopped, frozen and cut.

use super::Plan;
use super::board::{Board, follow};
use super::held::{CutTransport, Dials, Held, polled_while_free};
use super::work::{Harmless, Tally};
use crate::agent::{Agent, AgentHandle, StartError};
use crate::config::Config;
use crate::folder::Folder;
use futures::FutureExt;
use saltern_wire::io::{Disk, Io};
use saltern_wire::{Map, MinionId};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// Pause between two lots of minions that are started.
const LOT: Duration = Duration::from_millis(50);

/// What the minions of a worker share.
pub struct Shared {
    /// The edges; the disk is the pool.
    pub io: Io,
    /// What all are configured with.
    pub config: Config,
    /// Facts of the host, the same for all.
    pub facts: Map,
    /// Who works.
    pub board: Arc<Board>,
    /// What was done.
    pub tally: Arc<Tally>,
    /// Sessions that were dialled.
    pub dials: Arc<Dials>,
    followers: TaskTracker,
}

impl Shared {
    /// What the minions of a worker of `plan` share.
    pub fn new(plan: &Plan, io: Io, board: Arc<Board>) -> Self {
        let facts = json!({
            "os": "Swarm",
            "os_family": "Swarm",
            "kernel": "Linux",
            "cpuarch": std::env::consts::ARCH,
            "swarm": plan.prefix,
        });
        let facts = facts.as_object().cloned().unwrap_or_default();
        let (tally, dials, followers) = (Arc::default(), Arc::default(), TaskTracker::new());
        Self { io, config: plan.config.clone(), facts, board, tally, dials, followers }
    }
}

/// One minion.
struct Member {
    id: MinionId,
    hold: watch::Sender<Held>,
    agent: Option<AgentHandle>,
}

/// The minions, by their number in the worker.
pub struct Members {
    shared: Arc<Shared>,
    members: Vec<Member>,
}

impl Members {
    /// Minions with these ids, all of them away.
    pub fn new(shared: Shared, ids: Vec<MinionId>) -> Self {
        let member = |id| Member { id, hold: watch::Sender::new(Held::default()), agent: None };
        Self { shared: Arc::new(shared), members: ids.into_iter().map(member).collect() }
    }

    fn numbers(&self, count: usize, wanted: impl Fn(&Member) -> bool) -> Vec<usize> {
        let found = self.members.iter().enumerate().filter(|(_, member)| wanted(member));
        found.map(|(number, _)| number).take(count).collect()
    }

    /// Starts those that are away, `per_second` of them, and tells how many. Fails with the first that does not start.
    pub async fn start(&mut self, per_second: usize) -> Result<usize, StartError> {
        let away = self.numbers(usize::MAX, |member| member.agent.is_none());
        let lot = (per_second / 20).max(1);
        for (place, numbers) in away.chunks(lot).enumerate() {
            if place > 0 && per_second < away.len() {
                tokio::time::sleep(LOT).await;
            }
            let mut starting = JoinSet::new();
            for number in numbers {
                let (shared, number) = (self.shared.clone(), *number);
                let member = &self.members[number];
                let (id, held) = (member.id.clone(), member.hold.subscribe());
                self.shared.board.tell_away(number, false);
                starting.spawn(async move { (number, start(&shared, number, id, held)) });
            }
            while let Some(started) = starting.join_next().await {
                // A panic in there ends the worker as any other.
                let Ok((number, started)) = started else { continue };
                match started {
                    Ok(agent) => self.members[number].agent = Some(agent),
                    Err(error) => {
                        self.shared.board.tell_away(number, true);
                        return Err(error);
                    }
                }
            }
        }
        Ok(away.len())
    }

    /// Ends the sessions of the first `count` that run.
    pub async fn stop(&mut self, count: usize) -> usize {
        let numbers = self.numbers(count, |member| member.agent.is_some());
        let mut stopping = JoinSet::new();
        for number in &numbers {
            let Some(agent) = self.members[*number].agent.take() else { continue };
            self.thaw_one(*number);
            self.shared.board.tell_away(*number, true);
            stopping.spawn(agent.stop());
        }
        stopping.join_all().await;
        numbers.len()
    }

    /// Ends the sessions of the first `count` that run and starts them again at once.
    pub async fn restart(&mut self, count: usize) -> Result<usize, StartError> {
        let stopped = self.stop(count).await;
        self.start(usize::MAX).await?;
        Ok(stopped)
    }

    /// Cuts the connections of the first `count` that run.
    pub fn cut(&self, count: usize) -> usize {
        let numbers = self.numbers(count, |member| member.agent.is_some());
        for number in &numbers {
            self.members[*number].hold.send_modify(|held| held.cuts += 1);
        }
        numbers.len()
    }

    /// Stands the first `count` still that run and do not stand still yet.
    pub fn freeze(&self, count: usize) -> usize {
        let numbers = self.numbers(count, |member| member.agent.is_some() && !member.hold.borrow().frozen);
        for number in &numbers {
            self.shared.board.tell_frozen(*number, true);
            self.members[*number].hold.send_modify(|held| held.frozen = true);
        }
        numbers.len()
    }

    /// Lets all go on that stand still.
    pub fn thaw(&self) -> usize {
        let numbers = self.numbers(usize::MAX, |member| member.hold.borrow().frozen);
        numbers.iter().for_each(|number| self.thaw_one(*number));
        numbers.len()
    }

    fn thaw_one(&self, number: usize) {
        self.shared.board.tell_frozen(number, false);
        self.members[number].hold.send_modify(|held| held.frozen = false);
    }
}

/// Starts one agent, and somebody who follows how it is doing.
fn start(
    shared: &Arc<Shared>,
    number: usize,
    id: MinionId,
    held: watch::Receiver<Held>,
) -> Result<AgentHandle, StartError> {
    let config = Config { data_dir: id.as_str().into(), id, ..shared.config.clone() };
    let disk: Arc<dyn Disk> = shared.io.disk.clone();
    let outbox = Folder::at(disk.clone(), &config.data_dir).outbox();
    let executor = Harmless::new(disk, outbox, shared.facts.clone(), shared.tally.clone(), number);
    let transport = CutTransport::new(shared.io.transport.clone(), held.clone(), shared.dials.clone());
    let io = Io { transport: Arc::new(transport), ..shared.io.clone() };
    let agent = Agent::start_inside(config, io, Arc::new(executor), |agent| polled_while_free(agent, held).boxed())?;
    shared.followers.spawn(follow(shared.board.clone(), number, agent.watch()));
    Ok(agent)
}
