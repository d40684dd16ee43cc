//! Judges a history. Pure: whoever has the lines can judge them again.
//!
//! | promise | what is looked for |
//! |---|---|
//! | P1 | a key whose acceptance was acknowledged is accepted on every master |
//! | P2 | an acknowledged job is on every master, under one jid a request; a refused one is on none |
//! | P3 | no minion starts a jid twice, and none that no master knows |
//! | P4, P5 | every targeted minion ends in exactly one state; a finished return was started; nothing contradicts it |
//! | P8 | revisions rise with real time: what was acknowledged before something else began stands before it in the log |
//! | | at the end every master holds the same rows |
//!
//! A run that showed nothing is not a run that went well: [`check`] also complains when no fault was made, when nobody
//! ever led, or when fewer than 30 % of the submissions were acknowledged.

use super::history::{Deed, JobSeen, NEVER, Operation};
use super::plan::{Host, MASTERS};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Part of the submissions, in percent, that must have been acknowledged for the run to say anything.
const ACKNOWLEDGED_PERCENT_MIN: usize = 30;

/// What a history broke. Every variant names where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// An acknowledged write is missing on a master.
    Lost {
        /// What was acknowledged.
        what: String,
        /// Where it is missing.
        master: String,
    },
    /// One request opened, or was answered with, more than one job.
    RequestTwice {
        /// The request.
        request: String,
        /// The jobs.
        jids: BTreeSet<String>,
    },
    /// A request that was refused for good has a job.
    RefusedRan {
        /// The request.
        request: String,
        /// Its job.
        jid: String,
    },
    /// A minion started a job more than once.
    StartedTwice {
        /// The minion.
        minion: String,
        /// The job.
        jid: String,
    },
    /// A minion started a job that no master holds.
    StartedUnknown {
        /// The minion.
        minion: String,
        /// The job.
        jid: String,
    },
    /// Two masters disagree.
    Differs {
        /// About what.
        what: String,
        /// The masters, and what each of them holds.
        masters: String,
    },
    /// A targeted minion has no outcome, or one that does not fit what happened.
    Outcome {
        /// The job.
        jid: String,
        /// The minion.
        minion: String,
        /// What is wrong.
        cause: String,
    },
    /// An operation that began after another one was acknowledged stands before it in the log.
    OutOfOrder {
        /// The earlier one and its revision.
        earlier: String,
        /// The later one and its revision.
        later: String,
    },
    /// The run does not show anything.
    Empty(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { what, master } => write!(f, "{what} was acknowledged and is missing on {master}"),
            Self::RequestTwice { request, jids } => write!(f, "the request {request} has the jobs {jids:?}"),
            Self::RefusedRan { request, jid } => write!(f, "the request {request} was refused and has the job {jid}"),
            Self::StartedTwice { minion, jid } => write!(f, "{minion} started {jid} twice"),
            Self::StartedUnknown { minion, jid } => write!(f, "{minion} started {jid}, which no master holds"),
            Self::Differs { what, masters } => write!(f, "the masters disagree about {what}: {masters}"),
            Self::Outcome { jid, minion, cause } => write!(f, "{minion} in {jid}: {cause}"),
            Self::OutOfOrder { earlier, later } => write!(f, "{later} began after {earlier} was acknowledged"),
            Self::Empty(cause) => write!(f, "the run shows nothing: {cause}"),
        }
    }
}

/// What a history says, sorted by what it is about.
#[derive(Default)]
struct Facts<'a> {
    submits: Vec<(&'a Operation, &'a String, &'a BTreeSet<String>, Option<&'a String>)>,
    accepted: BTreeSet<&'a String>,
    starts: BTreeMap<(&'a String, &'a String), usize>,
    /// Jid, then master.
    jobs: BTreeMap<&'a String, BTreeMap<&'a String, &'a JobSeen>>,
    keys: BTreeMap<&'a String, &'a BTreeMap<String, String>>,
    digests: BTreeMap<&'a String, &'a String>,
    faults: usize,
    leaders: BTreeSet<&'a String>,
}

impl<'a> Facts<'a> {
    fn of(history: &'a [Operation]) -> Self {
        let mut facts = Self::default();
        for operation in history {
            let process = &operation.process;
            match &operation.deed {
                Deed::Accept { minion } if operation.ok => drop(facts.accepted.insert(minion)),
                Deed::Accept { .. } | Deed::Phase { .. } => {}
                Deed::Submit { request, minions, jid } => {
                    facts.submits.push((operation, request, minions, jid.as_ref()));
                }
                Deed::Start { jid } => *facts.starts.entry((process, jid)).or_default() += 1,
                Deed::Fault { .. } => facts.faults += 1,
                Deed::Lead { master } => drop(facts.leaders.insert(master)),
                Deed::ReadJob { jid, job } => drop(facts.jobs.entry(jid).or_default().insert(process, job)),
                Deed::ReadKeys { keys } => drop(facts.keys.insert(process, keys)),
                Deed::ReadDigest { digest } => drop(facts.digests.insert(process, digest)),
            }
        }
        facts
    }
}

/// Everything that a history broke, in a fixed order; empty if it kept every promise and showed something.
pub fn check(history: &[Operation]) -> Vec<Violation> {
    let facts = Facts::of(history);
    let mut found = BTreeSet::new();
    check_worth(&facts, &mut found);
    check_submits(&facts, &mut found);
    check_order(history, &mut found);
    check_starts(&facts, &mut found);
    check_outcomes(&facts, &mut found);
    check_keys(&facts, &mut found);
    check_agreement(&facts, &mut found);
    found.into_iter().collect()
}

fn check_worth(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let acknowledged = facts.submits.iter().filter(|(operation, ..)| operation.ok).count();
    if acknowledged * 100 < facts.submits.len() * ACKNOWLEDGED_PERCENT_MIN || acknowledged == 0 {
        let cause = format!("{acknowledged} of {} submissions were acknowledged", facts.submits.len());
        found.insert(Violation::Empty(cause));
    }
    if facts.faults == 0 {
        found.insert(Violation::Empty("no fault was made".into()));
    }
    if facts.leaders.is_empty() {
        found.insert(Violation::Empty("nobody ever led".into()));
    }
    for (what, read) in [("keys", facts.keys.len()), ("digest", facts.digests.len())] {
        if read != usize::from(MASTERS) {
            found.insert(Violation::Empty(format!("the {what} of {read} of {MASTERS} masters were read")));
        }
    }
}

fn check_submits(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let mut by_request: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
    for (jid, masters) in &facts.jobs {
        for job in masters.values() {
            by_request.entry(&job.request).or_default().insert((*jid).clone());
        }
    }
    for (operation, request, minions, jid) in &facts.submits {
        let mut jids = by_request.get(request).cloned().unwrap_or_default();
        if let (false, true, Some(jid)) = (operation.ok, operation.ended_ns != NEVER, jids.first()) {
            found.insert(Violation::RefusedRan { request: (*request).clone(), jid: jid.clone() });
        }
        if operation.ok {
            jids.extend(jid.cloned());
            for master in Host::masters().map(Host::name) {
                let held = jid.and_then(|jid| facts.jobs.get(jid)).and_then(|masters| masters.get(&master));
                match held {
                    None => {
                        found.insert(Violation::Lost { what: format!("the job {jid:?} of {request}"), master });
                    }
                    Some(job) if job.expected != **minions => {
                        let what = format!("the targets {minions:?} of {jid:?}, which has {:?},", job.expected);
                        found.insert(Violation::Lost { what, master });
                    }
                    Some(_) => {}
                }
            }
        }
        if jids.len() > 1 {
            found.insert(Violation::RequestTwice { request: (*request).clone(), jids });
        }
    }
}

/// Of two acknowledged writes, the one that began after the other had ended has the higher revision.
fn check_order(history: &[Operation], found: &mut BTreeSet<Violation>) {
    let write = |operation: &&Operation| {
        operation.ok && operation.revision > 0 && matches!(operation.deed, Deed::Submit { .. } | Deed::Accept { .. })
    };
    let mut by_begin: Vec<&Operation> = history.iter().filter(write).collect();
    let mut by_end = by_begin.clone();
    by_begin.sort_by_key(|operation| operation.begun_ns);
    by_end.sort_by_key(|operation| operation.ended_ns);
    let name = |operation: &Operation| format!("{:?} at revision {}", operation.deed, operation.revision);
    let (mut ended, mut newest): (_, Option<&Operation>) = (by_end.into_iter().peekable(), None);
    for later in by_begin {
        while let Some(earlier) =
            ended.next_if(|earlier| u64::try_from(earlier.ended_ns).is_ok_and(|end| end < later.begun_ns))
        {
            if newest.is_none_or(|newest| earlier.revision > newest.revision) {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = newest.filter(|earlier| earlier.revision >= later.revision) {
            found.insert(Violation::OutOfOrder { earlier: name(earlier), later: name(later) });
        }
    }
}

fn check_starts(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    for ((minion, jid), times) in &facts.starts {
        let (minion, jid) = ((*minion).clone(), (*jid).clone());
        if *times > 1 {
            found.insert(Violation::StartedTwice { minion: minion.clone(), jid: jid.clone() });
        }
        if !facts.jobs.contains_key(&jid) {
            found.insert(Violation::StartedUnknown { minion, jid });
        }
    }
}

fn check_outcomes(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    for (jid, masters) in &facts.jobs {
        for job in masters.values() {
            let mut wrong = |minion: &String, cause: String| {
                found.insert(Violation::Outcome { jid: (*jid).clone(), minion: minion.clone(), cause });
            };
            for minion in job.expected.symmetric_difference(&job.progress.keys().cloned().collect()) {
                wrong(minion, "it is targeted and has no state, or has one and is not targeted".into());
            }
            for minion in job.returns.keys().filter(|minion| !job.expected.contains(*minion)) {
                wrong(minion, "it returned and is not targeted".into());
            }
            for (minion, state) in &job.progress {
                let returned = job.returns.contains_key(minion);
                let started = facts.starts.contains_key(&(minion, *jid));
                match state.as_str() {
                    "returned" | "failed" if !returned => wrong(minion, format!("it is {state} without a return")),
                    "returned" if !started && !job.pure => wrong(minion, "it returned and never started".into()),
                    "interrupted" if !returned => wrong(minion, "it is interrupted without a return".into()),
                    "returned" | "failed" | "interrupted" => {}
                    // Whoever started it had accepted it, and its answer replaces whatever the truth thought meanwhile.
                    "expired" if job.may_expire && !started && !returned => {}
                    other => wrong(minion, format!("at the end it is {other}")),
                }
            }
            if !job.done {
                wrong(&"all".into(), "the job is not done".into());
            }
            if job.conflicts > 0 && !job.pure {
                wrong(&"some".into(), format!("{} answers contradict the recorded ones", job.conflicts));
            }
        }
    }
}

fn check_keys(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    for (master, keys) in &facts.keys {
        for minion in &facts.accepted {
            if keys.get(*minion).is_none_or(|state| state != "accepted") {
                let what = format!("the acceptance of {minion}");
                found.insert(Violation::Lost { what, master: (*master).clone() });
            }
        }
    }
}

fn check_agreement(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let mut compare = |what: String, values: BTreeSet<String>, masters: String| {
        if values.len() > 1 {
            found.insert(Violation::Differs { what, masters });
        }
    };
    for (jid, masters) in &facts.jobs {
        let missing = usize::from(MASTERS) - masters.len().min(usize::from(MASTERS));
        let mut values: BTreeSet<String> = masters.values().map(|job| format!("{job:?}")).collect();
        if missing > 0 {
            values.insert(format!("missing on {missing}"));
        }
        compare(format!("the job {jid}"), values, format!("{masters:?}"));
    }
    compare("keys".into(), facts.keys.values().map(|keys| format!("{keys:?}")).collect(), format!("{:?}", facts.keys));
    let digests = facts.digests.values().map(|digest| (*digest).clone()).collect();
    compare("their rows".into(), digests, format!("{:?}", facts.digests));
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
