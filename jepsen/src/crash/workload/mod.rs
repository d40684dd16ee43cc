//! The load: clients that do one thing each, one operation after another, and write down what they heard.
//!
//! ```text
//!   jobs (3)   submit pure jobs and jobs that leave a mark on their minion's disk; wait for some of them
//!   keys       accepts, rejects and deletes the keys of minions that have no other work
//!   mine       lets minions report numbers that rise
//!   reads      consistent reads of jobs, keys and mine at drawn masters; one session over all of them
//! ```
//!
//! **Invariants.** A key and a mine value have one writer each, so what a read may show is known. A write is asked for until its
//! outcome is known. Every client ends when the run does, after the operation that it is at.

pub mod jobs;
mod keys;
pub mod mine;
mod reads;

pub(super) use reads::{numbers, states};

use super::plan::{GUESTS, MINIONS};
use super::site::Site;
use saltern_wire::JobId;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Clients that submit jobs.
const JOB_CLIENTS: u64 = 3;

/// Jobs that readers choose from: the newest are the ones that a fault may take away.
const RECENT_JOBS: usize = 64;

/// Jobs that were acknowledged lately.
#[derive(Debug, Clone, Default)]
struct Recent(Arc<Mutex<Vec<JobId>>>);

impl Recent {
    fn add(&self, jid: JobId) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_JOBS {
            recent.remove(0);
        }
        recent.push(jid);
    }

    fn all(&self) -> Vec<JobId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The ids of the minions that work.
fn workers() -> Vec<String> {
    (1..=MINIONS).map(|number| format!("minion-{number}")).collect()
}

/// The ids of the minions whose keys come and go.
pub(super) fn guests() -> Vec<String> {
    (MINIONS + 1..=MINIONS + GUESTS).map(|number| format!("minion-{number}")).collect()
}

/// Starts every client. Each ends after [`Site::stop`].
pub fn start(site: &Site) -> JoinSet<()> {
    let (recent, mut clients) = (Recent::default(), JoinSet::new());
    for number in 0..JOB_CLIENTS {
        clients.spawn(jobs::run(site.clone(), number, recent.clone()));
    }
    clients.spawn(keys::run(site.clone()));
    clients.spawn(mine::run(site.clone()));
    clients.spawn(reads::run(site.clone(), recent));
    clients
}

/// Streams of random numbers, one a client; the plan has the first.
mod stream {
    pub const JOBS: u64 = 100;
    pub const KEYS: u64 = 2;
    pub const MINE: u64 = 3;
    pub const READS: u64 = 4;
}
