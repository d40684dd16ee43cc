//! A swarm: as many minions as a fleet has, in a few processes on one machine, to size masters by and to break them with.
//!
//! ```text
//!   saltern-minion swarm                 orders (stdin, --control) ──▶ crew ──▶ figures, events, answers (stdout)
//!        │ one process a worker                                        │ lines of JSON
//!        ▼                                                             ▼
//!   worker: board (who works) · members (agents, started, stopped, frozen, cut) · one transport · one pool
//!                                      │
//!                                      ▼  each its own key, id, sessions, subscription, ledger
//!                                    Agent (crate::agent), the one that production runs
//! ```
//!
//! Everything is real but three things: functions run inside the worker and harm nobody ([`work`]); the small files of a
//! worker's minions stand in one log that is synced for all who wait at one time ([`pool`]), as one disk does for one host;
//! and a signature that one minion of a worker has found genuine is not checked again by its neighbours
//! ([`saltern_wire::crypto::memo`]), who in a real fleet have processors of their own.
//!
//! **Invariants.** A minion of a swarm keeps key, journal and outbox over restarts of the swarm; a second swarm in the same
//! folder is refused. A worker that ends by itself ends the swarm with an error: figures never describe half of it.
//!
//! **Caveats.** All minions come from one address, so masters have to allow one address that many connections
//! (`connections_per_address_max`). Workers take processor time from masters on the same machine: figures of both together are a
//! lower bound of what masters do alone.

pub mod board;
pub mod crew;
pub mod held;
pub mod members;
pub mod orders;
pub mod pool;
pub mod work;
pub mod worker;

use crate::config::Config;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// Most minions of one swarm: more has not been tried, and one address has no more ports for one master.
pub const MINIONS_MAX: usize = 20_000;

/// Most workers. Each has a few threads; more processes than this only wait for each other.
pub const WORKERS_MAX: usize = 64;

/// File descriptors of one minion: a session and a subscription with its master and the same with the next one while it moves
/// or has a second one that waits, three each: the TCP socket and both ends of the unix stream behind it.
pub const DESCRIPTORS_PER_MINION: u64 = 12;

/// File descriptors of a worker besides its minions'.
pub const DESCRIPTORS_RESERVED: u64 = 200;

/// What a swarm is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Minions.
    pub count: usize,
    /// Processes that run them.
    pub workers: usize,
    /// Where their files are kept, one folder a worker.
    pub folder: PathBuf,
    /// How their ids begin; a number follows, from 1.
    pub prefix: String,
    /// How many are started a second.
    pub per_second: usize,
    /// How often figures are told.
    pub every: Duration,
    /// Whether each minion's changes are told.
    pub events: bool,
    /// What all of them are configured with. Id and data folder are each one's own.
    pub config: Config,
}

/// Why a swarm does not start. One line each, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// That many cannot be.
    #[error(
        "--count {0}: a swarm has 1 to {MINIONS_MAX} minions; start a second one with a folder and a prefix of its own"
    )]
    Count(usize),
    /// That many processes help nobody.
    #[error("--workers {0}: give 1 to {WORKERS_MAX}")]
    Workers(usize),
    /// The processes may not open that many files.
    #[error(
        "{count} minions in {workers} workers need {needed} file descriptors each, and a process may have {limit}: give \
         --workers {enough}, or raise the limit (`ulimit -Hn`, LimitNOFILE=) to {needed}"
    )]
    Descriptors {
        /// Minions.
        count: usize,
        /// Processes.
        workers: usize,
        /// What each needs.
        needed: u64,
        /// What each may have.
        limit: u64,
        /// Processes that would do.
        enough: usize,
    },
}

/// The file descriptors that a worker with so many minions needs.
fn descriptors(minions: usize) -> u64 {
    minions as u64 * DESCRIPTORS_PER_MINION + DESCRIPTORS_RESERVED
}

/// The fewest workers for `count` minions if a process may have `limit` descriptors.
pub fn workers_needed(count: usize, limit: u64) -> usize {
    let each = limit.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_MINION;
    count.div_ceil(usize::try_from(each).unwrap_or(usize::MAX).max(1)).max(1)
}

impl Plan {
    /// Refuses what cannot be, where a process may have `limit` file descriptors.
    pub fn check(&self, limit: u64) -> Result<(), PlanError> {
        let (count, workers) = (self.count, self.workers);
        if !(1..=MINIONS_MAX).contains(&count) {
            return Err(PlanError::Count(count));
        }
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(PlanError::Workers(workers));
        }
        let needed = descriptors(count.div_ceil(workers));
        if needed > limit {
            let enough = workers_needed(count, limit);
            return Err(PlanError::Descriptors { count, workers, needed, limit, enough });
        }
        Ok(())
    }

    /// The numbers, from 1, of the minions of worker `number`.
    pub fn minions_of(&self, number: usize) -> Range<usize> {
        let until = |worker: usize| 1 + self.count * worker / self.workers.max(1);
        until(number)..until(number + 1)
    }

    /// The folder of worker `number`.
    pub fn folder_of(&self, number: usize) -> PathBuf {
        self.folder.join(format!("worker-{}", number + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::MinionId;

    fn plan(count: usize, workers: usize) -> Plan {
        Plan {
            count,
            workers,
            folder: "/f".into(),
            prefix: "web".into(),
            per_second: 500,
            every: Duration::from_secs(1),
            events: false,
            config: Config::new(MinionId::new("web").expect("an id")),
        }
    }

    #[test]
    fn workers_share_the_minions() {
        let plan = plan(10, 4);
        let all: Vec<usize> = (0..4).flat_map(|number| plan.minions_of(number)).collect();
        assert_eq!(all, (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn too_few_descriptors_are_refused_with_what_helps() {
        let error = plan(6000, 2).check(20_000).expect_err("too few").to_string();
        assert!(error.contains("need 36200 file descriptors each") && error.contains("--workers 4"), "{error}");
        let enough = workers_needed(6000, 20_000);
        assert_eq!((enough, plan(6000, enough).check(20_000)), (4, Ok(())));
        assert!(matches!(plan(6000, enough - 1).check(20_000), Err(PlanError::Descriptors { .. })));
        assert_eq!(plan(0, 1).check(20_000), Err(PlanError::Count(0)));
        assert_eq!(plan(1, 65).check(20_000), Err(PlanError::Workers(65)));
    }
}
