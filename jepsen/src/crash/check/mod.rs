//! Judges a history of the crash loop. Pure: whoever has the lines can judge them again.
//!
//! | promise | what is looked for |
//! |---|---|
//! | P1 | every consistent read and every master at the end shows the last acknowledged decision on a key |
//! | P2 | an acknowledged job is at every consistent read that began later and on every master; a refused one ran nowhere |
//! | P3 | no minion's disk shows more than one start of a job, or a start of one that nobody asked for |
//! | P4 | a return that was shown once is there at the end, with the same content, and it is the right one |
//! | P5 | every targeted minion is in exactly one state, and at the end in a settled one that fits what happened to it |
//! | P6 | the mine shows nothing older than what was acknowledged, and never goes back within a session |
//! | P8 | revisions rise with real time |
//! | | every process that died came up again, and every master holds the same at the end |
//!
//! What nobody could find out is [`Violation::Unresolved`], and a run that showed nothing is [`Violation::Empty`]; neither is
//! a pass.

mod jobs;
mod keys;
mod mine;
mod run;
#[cfg(test)]
mod tests;

pub use run::phases;

use super::history::{Deed, Operation};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a history broke. Every variant names where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Something acknowledged is missing.
    Lost {
        /// What was acknowledged.
        what: String,
        /// Where it is missing.
        at: String,
    },
    /// One submission has more than one job.
    SubmittedTwice {
        /// The submission.
        token: String,
        /// Its jobs.
        jids: BTreeSet<String>,
    },
    /// A refused submission has a job or was started.
    RefusedRan {
        /// The submission.
        token: String,
        /// Where it was seen.
        at: String,
    },
    /// A minion started a job more than once.
    StartedTwice {
        /// The submission.
        token: String,
        /// The minion.
        minion: String,
        /// How often.
        times: u64,
    },
    /// A minion started what nobody asked it for.
    StartedUnasked {
        /// The submission.
        token: String,
        /// The minion.
        minion: String,
    },
    /// A targeted minion's state is not what it must be.
    Outcome {
        /// The job.
        jid: String,
        /// The minion.
        minion: String,
        /// Where it was read.
        at: String,
        /// What is wrong.
        cause: String,
    },
    /// A key is not as it was decided.
    Key {
        /// The minion.
        minion: String,
        /// Where it was read.
        at: String,
        /// What was read and what was allowed.
        cause: String,
    },
    /// The mine went back, or shows what nobody sent.
    Mine {
        /// The minion.
        minion: String,
        /// Where it was read.
        at: String,
        /// What was read and what was allowed.
        cause: String,
    },
    /// Two masters disagree at the end.
    Differs {
        /// About what.
        what: String,
        /// What each of them holds.
        masters: String,
    },
    /// An operation that began after another one was acknowledged stands before it in the log.
    OutOfOrder {
        /// The earlier one and its revision.
        earlier: String,
        /// The later one and its revision.
        later: String,
    },
    /// A process did not come up again.
    NotUp {
        /// Which.
        member: String,
        /// What it said.
        cause: String,
    },
    /// The outcome of a write could not be found out.
    Unresolved(String),
    /// The run does not show what it has to.
    Empty(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { what, at } => write!(f, "{what} was acknowledged and is missing at {at}"),
            Self::SubmittedTwice { token, jids } => write!(f, "the submission {token} has the jobs {jids:?}"),
            Self::RefusedRan { token, at } => write!(f, "the submission {token} was refused and was seen at {at}"),
            Self::StartedTwice { token, minion, times } => write!(f, "{minion} started {token} {times} times"),
            Self::StartedUnasked { token, minion } => write!(f, "{minion} started {token}, which nobody asked it for"),
            Self::Outcome { jid, minion, at, cause } => write!(f, "{minion} in {jid} at {at}: {cause}"),
            Self::Key { minion, at, cause } => write!(f, "the key of {minion} at {at}: {cause}"),
            Self::Mine { minion, at, cause } => write!(f, "the mine of {minion} at {at}: {cause}"),
            Self::Differs { what, masters } => write!(f, "the masters disagree about {what}: {masters}"),
            Self::OutOfOrder { earlier, later } => write!(f, "{later} began after {earlier} was acknowledged"),
            Self::NotUp { member, cause } => write!(f, "{member} did not come up: {cause}"),
            Self::Unresolved(what) => write!(f, "nobody could find out the outcome of {what}"),
            Self::Empty(cause) => write!(f, "the run shows too little: {cause}"),
        }
    }
}

/// The judgement over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything acknowledged is there, and the run showed what it had to.
    Pass,
    /// Something is broken.
    Fail,
    /// Nothing is known to be broken, and not everything is known.
    Unknown,
}

impl Verdict {
    /// The judgement that follows from what was found.
    pub fn of(violations: &[Violation]) -> Self {
        let unknown = |violation: &Violation| matches!(violation, Violation::Unresolved(_) | Violation::Empty(_));
        match violations {
            [] => Self::Pass,
            some if some.iter().all(unknown) => Self::Unknown,
            _ => Self::Fail,
        }
    }
}

/// What a history says, sorted by what it is about.
struct Facts<'a> {
    operations: &'a [Operation],
    /// Masters that were read at the end.
    masters: BTreeSet<&'a str>,
    /// Ends of strikes that hurt a minion or its jobs, by minion.
    hurt: BTreeMap<&'a str, Vec<u64>>,
}

impl<'a> Facts<'a> {
    fn of(operations: &'a [Operation]) -> Self {
        let mut facts = Self { operations, masters: BTreeSet::new(), hurt: BTreeMap::new() };
        for operation in operations {
            if let Deed::FinalKeys { .. } = &operation.deed {
                facts.masters.insert(&operation.process);
            } else if let Deed::Strike { victims, .. } = &operation.deed {
                for victim in victims {
                    facts.hurt.entry(victim).or_default().push(operation.ended().unwrap_or(u64::MAX));
                }
            }
        }
        facts
    }

    /// Whether `minion` or a job of it was struck at or after `since`.
    fn was_hurt_after(&self, minion: &str, since: u64) -> bool {
        self.hurt.get(minion).is_some_and(|ends| ends.iter().any(|end| *end >= since))
    }
}

/// Everything that a history breaks, sorted.
pub fn check(operations: &[Operation]) -> Vec<Violation> {
    let facts = Facts::of(operations);
    let mut found = BTreeSet::new();
    jobs::check(&facts, &mut found);
    keys::check(&facts, &mut found);
    mine::check(&facts, &mut found);
    run::check(&facts, &mut found);
    found.into_iter().collect()
}
