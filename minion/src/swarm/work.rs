//! What the minions of a swarm do: functions that harm nobody, inside the worker, counted.
//!
//! **Invariants.** Nothing that thousands of minions would do to the one host under them is done: whatever is neither pure
//! nor `test.*` nor carried out by the agent itself is answered with a failure that says so. A journalled job that began twice
//! on one minion is counted, for as far back as [`STARTS_MAX`] reaches.

use super::orders::MARK_LETTERS_MAX;
use crate::executor::{Executor, InProcess, Work};
use crate::modules::{self, Context, Failure, Invocation};
use crate::outbox;
use futures::FutureExt;
use futures::future::BoxFuture;
use saltern_wire::io::{Clock, Disk};
use saltern_wire::job::Outcome;
use saltern_wire::swarm::Mark;
use saltern_wire::{JobId, Map};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;

/// Starts of journalled jobs that are remembered: 170 jobs on 6,000 minions in one worker.
const STARTS_MAX: usize = 1 << 20;

/// Marks that are remembered.
const MARKS_MAX: usize = 10_000;

/// How the text of a marked call begins.
const MARK_PREFIX: &str = "mark:";

/// What the minions of one worker did.
#[derive(Default)]
pub struct Tally {
    /// Functions that ran.
    pub executed: AtomicU64,
    /// Those that failed.
    pub failed: AtomicU64,
    /// Journalled jobs that began.
    pub jobs: AtomicU64,
    /// Journalled jobs that began twice on one minion.
    pub doubled: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    starts: BTreeSet<(JobId, usize)>,
    marks: BTreeMap<String, Mark>,
}

impl Tally {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who ran the call that is marked `name`.
    pub fn mark(&self, name: &str) -> Mark {
        self.book().marks.get(name).copied().unwrap_or_default()
    }

    fn note_call(&self, call: &Invocation, clock: &dyn Clock) {
        self.executed.fetch_add(1, Relaxed);
        let marked = call.arguments.first().and_then(|text| text.as_str()?.strip_prefix(MARK_PREFIX));
        let Some(name) = marked.filter(|name| name.len() <= MARK_LETTERS_MAX) else { return };
        let mut book = self.book();
        if book.marks.len() >= MARKS_MAX && !book.marks.contains_key(name) {
            book.marks.pop_first();
        }
        book.marks.entry(name.to_owned()).or_default().note(clock.wall_unix_micros());
    }

    fn note_outcome(&self, outcome: &Outcome) {
        self.failed.fetch_add(u64::from(!outcome.success), Relaxed);
    }

    fn note_start(&self, jid: JobId, minion: usize) {
        self.executed.fetch_add(1, Relaxed);
        self.jobs.fetch_add(1, Relaxed);
        let mut book = self.book();
        if !book.starts.insert((jid, minion)) {
            self.doubled.fetch_add(1, Relaxed);
        }
        if book.starts.len() > STARTS_MAX {
            book.starts.pop_first();
        }
    }
}

/// Runs the functions of one minion of a swarm.
pub struct Harmless {
    inner: InProcess,
    disk: Arc<dyn Disk>,
    outbox: PathBuf,
    tally: Arc<Tally>,
    /// The minion's number in its worker.
    minion: usize,
}

impl Harmless {
    /// For the minion `minion`, whose outcomes go to the folder `outbox` on `disk` and whose host has `facts`.
    pub fn new(disk: Arc<dyn Disk>, outbox: PathBuf, facts: Map, tally: Arc<Tally>, minion: usize) -> Self {
        Self { inner: InProcess::new(disk.clone(), outbox.clone(), facts), disk, outbox, tally, minion }
    }
}

fn is_harmless(function: &str) -> bool {
    function.starts_with("test.") || modules::find(function).is_none_or(|function| function.pure)
}

impl Executor for Harmless {
    fn facts(&self) -> Map {
        self.inner.facts()
    }

    fn call(&self, context: Context, call: Invocation) -> BoxFuture<'static, Outcome> {
        self.tally.note_call(&call, context.clock.as_ref());
        let tally = self.tally.clone();
        let run = modules::run(context, call);
        run.inspect(move |outcome| tally.note_outcome(outcome)).boxed()
    }

    fn start(&self, work: Work, context: Context, ended: UnboundedSender<JobId>) -> io::Result<()> {
        self.tally.note_start(work.jid, self.minion);
        if is_harmless(&work.function) {
            return self.inner.start(work, context, ended);
        }
        self.tally.failed.fetch_add(1, Relaxed);
        let text =
            format!("a minion of a swarm does not run {}: it runs test.* and what changes nothing", work.function);
        let outcome = modules::outcome(&work.function, Err(Failure::Failed(text)), 0);
        outbox::write(self.disk.as_ref(), &self.outbox, work.jid, &outcome).map_err(|error| error.source)?;
        // An agent that is gone finds the outcome in the outbox.
        let _ = ended.send(work.jid);
        Ok(())
    }

    fn is_living(&self, jid: JobId) -> io::Result<bool> {
        self.inner.is_living(jid)
    }

    fn started(&self, jid: JobId) -> Option<Work> {
        self.inner.started(jid)
    }

    fn end(&self, jid: JobId) -> io::Result<bool> {
        self.inner.end(jid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_pubsub::clock::SystemClock;
    use saltern_wire::LogicalTime;
    use serde_json::json;

    #[test]
    fn commands_are_not_run_thousands_of_times_on_one_host() {
        for (function, expect) in
            [("test.ping", true), ("test.sleep", true), ("grains.items", true), ("no.such", true), ("cmd.run", false)]
        {
            assert_eq!(is_harmless(function), expect, "{function}");
        }
    }

    #[test]
    fn marks_and_second_starts_are_counted() {
        let (tally, clock) = (Tally::default(), SystemClock::new());
        let call = |text: &str| Invocation {
            function: "test.echo".into(),
            arguments: vec![json!(text)],
            keywords: Map::new(),
        };
        for text in ["mark:a", "mark:a", "mark:b", "hello"] {
            tally.note_call(&call(text), &clock);
        }
        assert_eq!(["a", "b", "c"].map(|name| tally.mark(name).count), [2, 1, 0]);
        let jid = JobId::mint(LogicalTime::from_unix_micros(1_795_392_390_000_000), 1);
        for minion in [1, 2, 1] {
            tally.note_start(jid, minion);
        }
        assert_eq!((tally.jobs.load(Relaxed), tally.doubled.load(Relaxed)), (3, 1));
    }
}
