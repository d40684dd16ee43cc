//! The fleet that works while it is attacked: its jobs, its sessions, and its masters' memory.

use crate::real::World;
use saltern_ops::client::{Client, ClientError};
use saltern_ops::fleet::jobs;
use saltern_wire::api::{JobView, MinionList, Presence, Submit};
use saltern_wire::target::TargetKind;
use saltern_wire::{LogicalTime, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two jobs.
const JOB_PAUSE: Duration = Duration::from_millis(200);

/// How long a job may take. Jobs have a minute to be accepted; most are done in milliseconds.
const JOB_WITHIN: Duration = Duration::from_secs(60);

/// Every so many jobs one is written to the minions' disks, the others are pure.
const JOURNALLED_EVERY: u64 = 5;

/// Jobs of a run.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    /// Jobs that were asked for.
    pub asked: u64,
    /// Those to which every minion returned.
    pub completed: u64,
    /// What was wrong with the others; the first few.
    pub faults: Vec<String>,
    /// Times that a job was refused by name and asked for again: attackers, masters and minions share the processors here,
    /// and a leader that gets none loses its lease.
    pub refused: u64,
    /// The slowest, from asking to the last return.
    pub slowest_ms: u64,
}

/// Asks for jobs through one master after the other until it is `over`.
pub async fn work(mut clients: Vec<Client>, minions: usize, over: CancellationToken) -> Jobs {
    let mut jobs = Jobs::default();
    while !over.is_cancelled() {
        let at = usize::try_from(jobs.asked).unwrap_or(0) % clients.len();
        jobs.asked += 1;
        let (function, arguments) = if jobs.asked.is_multiple_of(JOURNALLED_EVERY) {
            ("cmd.run", vec![Value::String("echo done".into())])
        } else {
            ("test.ping", vec![])
        };
        let job = jobs::job(TargetKind::Glob, "minion-*", function, &arguments);
        match timed(persist(&mut clients[at], &job, &mut jobs.refused)).await {
            (Ok(view), took_ms) if is_complete(&view, minions) => {
                jobs.completed += 1;
                jobs.slowest_ms = jobs.slowest_ms.max(took_ms);
            }
            (Ok(view), _) => {
                jobs.fault(format!("{} returns of {minions}, missing {:?}", view.returns.len(), view.missing))
            }
            (Err(error), _) => jobs.fault(error.to_string()),
        }
        tokio::select! {
            () = tokio::time::sleep(JOB_PAUSE) => {}
            () = over.cancelled() => {}
        }
    }
    jobs
}

/// Asks until the job is taken, as an operator does who is told to try again, and waits for its returns.
async fn persist(client: &mut Client, job: &Submit, refused: &mut u64) -> Result<JobView, ClientError> {
    let mut tries = JOB_WITHIN.as_millis() / JOB_PAUSE.as_millis();
    loop {
        match jobs::submit(client, job).await {
            Ok(submitted) => return jobs::wait(client, submitted.jid, JOB_WITHIN).await,
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {
                (tries, *refused) = (tries - 1, *refused + 1);
                tokio::time::sleep(JOB_PAUSE).await;
            }
        }
    }
}

impl Jobs {
    fn fault(&mut self, fault: String) {
        if self.faults.len() < 10 {
            self.faults.push(fault);
        }
    }
}

fn is_complete(view: &JobView, minions: usize) -> bool {
    view.returns.len() == minions && view.missing.is_empty()
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, u64) {
    use saltern_pubsub::clock::SystemClock;
    use saltern_wire::io::Clock;
    let clock = SystemClock::new();
    let outcome = work.await;
    (outcome, u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX))
}

/// Which session each minion of the fleet has: its master, and since when.
pub type Sessions = BTreeMap<String, (String, LogicalTime)>;

/// The sessions of the fleet, as one master sees them.
pub async fn sessions(world: &World) -> anyhow::Result<Sessions> {
    let list = world.cluster.client(0).get::<MinionList>("/v1/minions", "").await?.value;
    let minions = list.minions.into_iter().filter(|view| view.id.as_str().starts_with("minion-"));
    let standing = minions.filter(|view| view.presence == Presence::Connected);
    Ok(standing.filter_map(|view| Some((view.id.as_str().to_owned(), (view.master?, view.since?)))).collect())
}

/// A master's memory in the course of a run, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Before the attack.
    pub before: u64,
    /// The most that was seen.
    pub most: u64,
    /// After it.
    pub after: u64,
}

/// The memory of each master now, in KiB; 0 for one that is gone.
pub fn memory(world: &World) -> Vec<u64> {
    let masters = world.cluster.fleet.masters.iter();
    masters.map(|master| master.process.as_ref().and_then(|process| process.memory_kib()).unwrap_or(0)).collect()
}
