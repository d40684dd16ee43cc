//! What a minion does with a job that it is offered. Pure: no I/O, no clock; decisions come out as [`Action`]s.
//!
//! ```text
//!   offer ─ for me? ─ genuine? ─ in time? ─┬─ pure ──────────────▶ RunPure
//!                                          ├─ known ─────────────▶ Accept again · Answer again · nothing
//!                                          ├─ no room ───────────▶ Journal(Refused), Answer
//!                                          └─ new ───────────────▶ Journal(Accepted), Start, Accept
//! ```
//!
//! **Invariants.** A job starts only behind its own journal entry in the list of actions, and a jid that the ledger knows,
//! or that is below its floor, never starts: any order of offers, through any master, before and after any restart, starts
//! it once at most. The loop performs actions in order and stops a job's actions when its journal entry fails: the job is
//! refused then, with the reason.

use crate::ledger::{Entry, Known, Ledger};
use crate::modules;
use crate::trust::{JobRefusal, Trust};
use saltern_wire::fanout::Offer;
use saltern_wire::id::Ordinal;
use saltern_wire::job::{Job, Outcome, OutcomeKind};
use saltern_wire::{JobId, LogicalTime, Value};
use std::collections::{BTreeSet, VecDeque};

/// Pure jobs that were answered in this life of the process and are not run again when they are offered once more. A
/// master offers a job again within its TTL; at a thousand pings a second this covers the default TTL.
const PURE_ANSWERED_MAX: usize = 65_536;

/// Pure jobs that run at one time. What is beyond it is offered again by the master's next sweep.
const PURE_RUNNING_MAX: usize = 256;

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put these on disk before anything behind them is done.
    Journal(Vec<Entry>),
    /// Start the job under a supervisor.
    Start(Box<Job>),
    /// Have the agent carry the job out; it is in the journal.
    Inside(Box<Job>),
    /// Run the job in the process; it is in no journal.
    RunPure(Box<Job>),
    /// Tell the masters that the job was accepted.
    Accept(JobId),
    /// Send an outcome that is kept in memory only.
    Answer(JobId, Box<Outcome>),
    /// The job is not obeyed; somebody should know.
    Ignore(Option<JobId>, Ignored),
}

/// Why an offer led to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It is not genuine.
    #[error(transparent)]
    Refused(#[from] JobRefusal),
    /// This minion's key is not accepted.
    #[error("this minion's key is not accepted")]
    NotAccepted,
    /// It is for other minions.
    #[error("it is for other minions")]
    ForOthers,
    /// Its time to be accepted is over.
    #[error("its time to be accepted is over")]
    Expired,
    /// It was offered before.
    #[error("it was offered before")]
    Known,
    /// It is too old to tell whether it ran.
    #[error("it is too old to tell whether it ran here before")]
    TooOld,
    /// The journal is damaged, and from when on it is whole again is not known yet.
    #[error("the journal was damaged, and no beacon has said what time it is")]
    JournalLost,
    /// Too many pure jobs run.
    #[error("{0} jobs run at this moment; it will be offered again")]
    Busy(usize),
}

/// What the shell knows and the rules ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// Why no job may be taken now, if so.
    pub refuse: Option<String>,
}

/// The state of the decisions.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Whom to obey.
    pub trust: Trust,
    ordinal: Option<Ordinal>,
    ledger: Ledger,
    pure_running: BTreeSet<JobId>,
    pure_answered: BTreeSet<JobId>,
    pure_order: VecDeque<JobId>,
    time: LogicalTime,
}

impl Rules {
    /// Starts from what the journal holds.
    pub fn new(trust: Trust, ledger: Ledger) -> Self {
        Self {
            trust,
            ordinal: None,
            ledger,
            pure_running: BTreeSet::new(),
            pure_answered: BTreeSet::new(),
            pure_order: VecDeque::new(),
            time: LogicalTime::ZERO,
        }
    }

    /// What the journal holds.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The newest time of the truth that was heard of.
    pub fn time(&self) -> LogicalTime {
        self.time
    }

    /// The minion's number; `None` while its key is not accepted.
    pub fn handle_ordinal(&mut self, ordinal: Option<Ordinal>) {
        self.ordinal = ordinal;
    }

    /// The truth's time, from a genuine beacon. Says from when on a damaged journal is whole again, and forgets what
    /// nobody can offer any more.
    pub fn handle_time(&mut self, time: LogicalTime) -> Vec<Action> {
        self.time = self.time.max(time);
        if self.ledger.is_lost() {
            let entry = Entry::Floor { expires: LogicalTime::ZERO, opened: self.time };
            self.ledger.apply(&entry);
            return vec![Action::Journal(vec![entry])];
        }
        self.ledger.forget(self.time);
        Vec::new()
    }

    /// A job that a master offers, directly or by its fan-out.
    pub fn handle_offer(&mut self, offer: &Offer, room: &Room) -> Vec<Action> {
        let peeked = match offer.job.peek() {
            Ok(job) => job,
            Err(error) => {
                let refusal = JobRefusal::Malformed(error.to_string());
                return vec![Action::Ignore(None, refusal.into())];
            }
        };
        let jid = peeked.jid;
        let Some(ordinal) = self.ordinal else { return vec![Action::Ignore(Some(jid), Ignored::NotAccepted)] };
        // A wide fan-out carries jobs for others: they are not worth a signature check. Nothing is done with them.
        if !peeked.is_for(ordinal) {
            return vec![Action::Ignore(Some(jid), Ignored::ForOthers)];
        }
        match self.trust.check_job(&offer.job, &peeked) {
            Err(refusal) => vec![Action::Ignore(Some(jid), refusal.into())],
            Ok(_) if offer.remaining_ms == 0 => vec![Action::Ignore(Some(jid), Ignored::Expired)],
            Ok(job) => self.decide(job.into_inner(), room),
        }
    }

    /// A genuine job for this minion, in time.
    fn decide(&mut self, job: Job, room: &Room) -> Vec<Action> {
        let jid = job.jid;
        let function = modules::find(&job.function);
        // A function that does not exist has no effect either: its answer needs no journal.
        if function.is_none_or(|function| function.pure) {
            return self.decide_pure(job);
        }
        match self.ledger.get(jid) {
            // The master has not heard of the acceptance, or has not applied it yet: saying it twice is harmless.
            Some(Known::Accepted { .. }) => return vec![Action::Accept(jid)],
            Some(Known::Refused { reason, .. }) => return vec![Action::Answer(jid, Box::new(refused(reason)))],
            Some(Known::Settled { .. }) => return vec![Action::Ignore(Some(jid), Ignored::Known)],
            None if self.ledger.is_lost() => return vec![Action::Ignore(Some(jid), Ignored::JournalLost)],
            None if self.ledger.is_below_floor(job.opened, job.expires()) => {
                return vec![Action::Ignore(Some(jid), Ignored::TooOld)];
            }
            None => {}
        }
        let (opened, expires) = (job.opened, job.expires());
        if let Some(reason) = &room.refuse {
            let entry = Entry::Refused { jid, expires, reason: reason.clone() };
            self.ledger.apply(&entry);
            return vec![Action::Journal(vec![entry]), Action::Answer(jid, Box::new(refused(reason)))];
        }
        let entry = Entry::Accepted { jid, opened, expires, function: job.function.clone() };
        self.ledger.apply(&entry);
        let job = Box::new(job);
        let inside = function.is_some_and(|function| function.is_agents());
        let start = if inside { Action::Inside(job) } else { Action::Start(job) };
        vec![Action::Journal(vec![entry]), start, Action::Accept(jid)]
    }

    fn decide_pure(&mut self, job: Job) -> Vec<Action> {
        let jid = job.jid;
        if self.pure_answered.contains(&jid) || self.pure_running.contains(&jid) {
            return vec![Action::Ignore(Some(jid), Ignored::Known)];
        }
        if self.pure_running.len() >= PURE_RUNNING_MAX {
            return vec![Action::Ignore(Some(jid), Ignored::Busy(self.pure_running.len()))];
        }
        self.pure_running.insert(jid);
        vec![Action::RunPure(Box::new(job))]
    }

    /// A pure job has its outcome.
    pub fn handle_pure_done(&mut self, jid: JobId) {
        self.pure_running.remove(&jid);
        if self.pure_answered.insert(jid) {
            self.pure_order.push_back(jid);
        }
        while self.pure_order.len() > PURE_ANSWERED_MAX {
            if let Some(oldest) = self.pure_order.pop_front() {
                self.pure_answered.remove(&oldest);
            }
        }
    }

    /// The journal entries of an offer did not reach the disk, because of `cause`: the job is not started, here or ever, and
    /// the operator is told. That it was refused is written with the next write that succeeds; a crash before it forgets
    /// the refusal, which the truth has by then or which nobody heard.
    pub fn handle_unwritable(&mut self, entries: &[Entry], cause: &str) -> Vec<Action> {
        let mut actions = Vec::new();
        for entry in entries {
            let (jid, expires, reason) = match entry {
                Entry::Accepted { jid, expires, .. } => {
                    (*jid, *expires, format!("its journal cannot be written: {cause}"))
                }
                Entry::Refused { jid, expires, reason } => (*jid, *expires, reason.clone()),
                Entry::Settled { .. } | Entry::Floor { .. } | Entry::Lost => continue,
            };
            self.ledger.retract(jid);
            actions.push(Action::Answer(jid, Box::new(refused(&reason))));
            self.ledger.apply(&Entry::Refused { jid, expires, reason });
        }
        actions
    }

    /// These outcomes are committed: the entries to journal before they leave the disk.
    pub fn handle_settled(&mut self, jids: &[JobId]) -> Vec<Entry> {
        let open = |jid: &&JobId| matches!(self.ledger.get(**jid), Some(Known::Accepted { .. }));
        let entries: Vec<Entry> = jids.iter().filter(open).map(|jid| Entry::Settled { jid: *jid }).collect();
        entries.iter().for_each(|entry| self.ledger.apply(entry));
        entries
    }

    /// Marks the journal as incomplete: nothing starts before a beacon says what time it is.
    pub fn handle_journal_lost(&mut self) -> Vec<Entry> {
        self.ledger.apply(&Entry::Lost);
        vec![Entry::Lost]
    }
}

/// The outcome of a job that was not taken.
pub fn refused(reason: &str) -> Outcome {
    Outcome {
        kind: OutcomeKind::Refused,
        success: false,
        retcode: 1,
        value: Value::String(format!("The minion refused the job: {reason}")),
        duration_ms: 0,
    }
}

/// The outcome of a job that a crash took.
pub fn interrupted(function: &str) -> Outcome {
    let text = format!(
        "{function} was accepted and a crash took it before it had a result. It was not run again; what it had done \
         by then, it did."
    );
    Outcome { kind: OutcomeKind::Interrupted, success: false, retcode: 1, value: Value::String(text), duration_ms: 0 }
}

#[cfg(test)]
mod tests;
