//! Asks a master that wakes up, from the moment it does, and again and again: whatever it calls fresh has to hold what was
//! committed while it was frozen.

use anyhow::{Context, ensure};
use saltern_jepsen::real::World;
use saltern_ops::client::Client;
use saltern_ops::client::server::Server;
use saltern_ops::edge::{SystemClock, SystemEntropy};
use saltern_wire::JobId;
use saltern_wire::api::{Answer, JobPage, KeyView};
use saltern_wire::io::Clock;
use saltern_wire::key::KeyState;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a master is watched after it was woken. It has caught up in a fraction of it.
const WATCHED: Duration = Duration::from_secs(4);

/// Those that ask at one time: the requests of some lie in its queues when it wakes.
const ASKERS: usize = 6;

/// What the answers were.
#[derive(Debug, Default)]
pub struct Seen {
    /// Answers that called themselves fresh.
    pub fresh: usize,
    /// Answers that said that they may be old.
    pub stale: usize,
    /// Refusals, and requests without an answer.
    pub refused: usize,
    /// Fresh answers that lack something: what, and how long after the wake-up.
    pub wrong: Vec<String>,
}

/// Those who ask.
pub struct Watcher {
    askers: Vec<JoinHandle<Seen>>,
}

impl Watcher {
    /// Begins to ask `number`, which is frozen. It has to know that the key of `rejected` was rejected, and of the job `jid`.
    pub fn begin(world: &World, number: usize, rejected: &str, jid: JobId) -> Self {
        let socket = world.cluster.fleet.masters[number].socket();
        let ask_at = |place: usize| {
            // Half of them ask for what a majority confirms; that may be refused, and never be old.
            let query = if place.is_multiple_of(2) { "" } else { "consistent=true" };
            tokio::spawn(ask(socket.clone(), query, rejected.to_owned(), jid))
        };
        Self { askers: (0..ASKERS).map(ask_at).collect() }
    }

    /// Waits for the last answer and gives what was seen.
    pub async fn end(self) -> anyhow::Result<Seen> {
        let mut all = Seen::default();
        for asker in self.askers {
            let seen = asker.await.context("an asker failed")?;
            all.fresh += seen.fresh;
            all.stale += seen.stale;
            all.refused += seen.refused;
            all.wrong.extend(seen.wrong);
        }
        ensure!(all.fresh > 0, "it never answered fresh: {all:?}");
        Ok(all)
    }
}

async fn ask(socket: PathBuf, query: &'static str, rejected: String, jid: JobId) -> Seen {
    let (mut seen, clock) = (Seen::default(), SystemClock::new());
    let began = clock.monotonic();
    while clock.monotonic() < began + WATCHED {
        // A client of its own for each question: one that saw an answer asks for nothing older than that.
        let client = || Client::new(vec![Server::Unix(socket.clone())], Arc::new(SystemEntropy), None);
        let keys = client().get::<Vec<KeyView>>("/v1/keys", query).await.ok();
        let took = clock.monotonic() - began;
        seen.take(keys, query, took, |keys| {
            keys.iter().any(|key| key.minion.as_str() == rejected && key.state == KeyState::Rejected)
        });
        let jobs = client().get::<JobPage>("/v1/jobs", query).await.ok();
        let took = clock.monotonic() - began;
        seen.take(jobs, query, took, |page| page.jobs.iter().any(|job| job.jid == jid));
    }
    seen
}

impl Seen {
    fn take<T>(&mut self, answer: Option<Answer<T>>, query: &str, after: Duration, holds: impl Fn(&T) -> bool) {
        let Some(answer) = answer else {
            self.refused += 1;
            return;
        };
        // What a majority confirmed may not be old, whatever it says of itself.
        if answer.stale_ms.is_some() && query.is_empty() {
            self.stale += 1;
            return;
        }
        self.fresh += 1;
        if !holds(&answer.value) {
            self.wrong.push(format!("after {} ms, {query:?}, revision {}", after.as_millis(), answer.revision));
        }
    }
}
