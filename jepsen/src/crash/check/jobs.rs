//! P2 to P5: jobs, their starts and their returns.

use super::{Facts, Violation};
use crate::crash::history::{Deed, JobAsked, JobSeen, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// What a client knows of one submission.
struct Asked<'a> {
    operation: &'a Operation,
    job: &'a JobAsked,
    jid: Option<&'a str>,
}

struct Jobs<'a> {
    facts: &'a Facts<'a>,
    /// By token.
    asked: BTreeMap<&'a str, Asked<'a>>,
    /// How often each minion started each submission's job.
    started: BTreeMap<(&'a str, &'a str), u64>,
    /// At the end: jid, then master.
    held: BTreeMap<&'a str, BTreeMap<&'a str, Option<&'a JobSeen>>>,
}

pub(super) fn check(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let jobs = Jobs::of(facts);
    jobs.check_submissions(found);
    jobs.check_starts(found);
    for (jid, masters) in &jobs.held {
        jobs.check_agreement(jid, masters, found);
        for (master, seen) in masters {
            if let Some(seen) = seen {
                jobs.check_settled(jid, master, seen, found);
            }
        }
    }
    jobs.check_reads(found);
}

impl<'a> Jobs<'a> {
    fn of(facts: &'a Facts<'a>) -> Self {
        let mut jobs = Self { facts, asked: BTreeMap::new(), started: BTreeMap::new(), held: BTreeMap::new() };
        for operation in facts.operations {
            if let Deed::Submit { token, job, jid } = &operation.deed {
                jobs.asked.insert(token, Asked { operation, job, jid: jid.as_deref() });
            } else if let Deed::Started { token, minion, times } = &operation.deed {
                *jobs.started.entry((token, minion)).or_insert(0) += times;
            } else if let Deed::FinalJob { jid, job } = &operation.deed {
                jobs.held.entry(jid).or_default().insert(&operation.process, job.as_ref());
            }
        }
        jobs
    }

    /// An acknowledged job is on every master, under one jid; a refused one is nowhere.
    fn check_submissions(&self, found: &mut BTreeSet<Violation>) {
        let mut jids: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (jid, masters) in &self.held {
            for seen in masters.values().flatten() {
                jids.entry(&seen.token).or_default().insert((*jid).to_owned());
            }
        }
        for (token, asked) in &self.asked {
            let mut all = jids.get(token).cloned().unwrap_or_default();
            all.extend(asked.jid.map(str::to_owned));
            if all.len() > 1 {
                found.insert(Violation::SubmittedTwice { token: (*token).to_owned(), jids: all });
            }
            match (asked.jid, asked.operation.ended()) {
                (Some(jid), _) => self.check_held(token, jid, found),
                (None, Some(_)) => self.check_refused(token, jids.get(token), found),
                (None, None) => drop(found.insert(Violation::Unresolved(format!("the submission {token}")))),
            }
        }
    }

    fn check_held(&self, token: &str, jid: &str, found: &mut BTreeSet<Violation>) {
        for master in &self.facts.masters {
            let seen = self.held.get(jid).and_then(|masters| masters.get(master).copied().flatten());
            if seen.is_none_or(|seen| seen.token != token) {
                found.insert(Violation::Lost { what: format!("the job {jid} ({token})"), at: (*master).to_owned() });
            }
        }
    }

    fn check_refused(&self, token: &str, jids: Option<&BTreeSet<String>>, found: &mut BTreeSet<Violation>) {
        let mut ran = |at: String| found.insert(Violation::RefusedRan { token: token.to_owned(), at });
        for jid in jids.into_iter().flatten() {
            ran(format!("the job {jid}"));
        }
        for (_, minion) in self.started.keys().filter(|(started, _)| *started == token) {
            ran((*minion).to_owned());
        }
    }

    fn check_starts(&self, found: &mut BTreeSet<Violation>) {
        for ((token, minion), times) in &self.started {
            let (token, minion, times) = ((*token).to_owned(), (*minion).to_owned(), *times);
            let asked = self.asked.get(token.as_str()).is_some_and(|asked| asked.job.minions.contains(&minion));
            if times > 1 {
                found.insert(Violation::StartedTwice { token: token.clone(), minion: minion.clone(), times });
            }
            if !asked {
                found.insert(Violation::StartedUnasked { token, minion });
            }
        }
    }

    fn check_agreement(&self, jid: &str, masters: &BTreeMap<&str, Option<&JobSeen>>, found: &mut BTreeSet<Violation>) {
        let views: BTreeSet<String> = masters.values().map(|seen| format!("{seen:?}")).collect();
        if views.len() > 1 {
            found.insert(Violation::Differs { what: format!("the job {jid}"), masters: format!("{masters:?}") });
        }
    }

    /// Every targeted minion of a job has one settled state at the end, which fits what happened.
    fn check_settled(&self, jid: &str, master: &str, seen: &JobSeen, found: &mut BTreeSet<Violation>) {
        let Some(asked) = self.asked.get(seen.token.as_str()) else {
            found.insert(Violation::StartedUnasked { token: seen.token.clone(), minion: format!("job {jid}") });
            return;
        };
        self.check_states(jid, master, seen, asked, found);
        if !seen.done {
            wrong(found, jid, "everybody", master, "the job is open at the end");
        }
        for (minion, state) in &seen.missing {
            let times = self.started.get(&(seen.token.as_str(), minion.as_str())).copied().unwrap_or_default();
            match state.as_str() {
                "expired" if times == 0 => {}
                "expired" => wrong(found, jid, minion, master, "it started the job and has no outcome: expired"),
                other => wrong(found, jid, minion, master, &format!("no outcome at the end: {other}")),
            }
        }
    }

    /// Every targeted minion is in exactly one state; what has returned is right.
    fn check_states(&self, jid: &str, at: &str, seen: &JobSeen, asked: &Asked<'_>, found: &mut BTreeSet<Violation>) {
        if seen.minions != asked.job.minions {
            wrong(found, jid, "everybody", at, &format!("it is for {:?}, not as asked", seen.minions));
        }
        let mut times: BTreeMap<&String, u32> = asked.job.minions.iter().map(|minion| (minion, 0)).collect();
        for minion in seen.returns.keys().chain(seen.missing.iter().map(|(minion, _)| minion)) {
            *times.entry(minion).or_insert(0) += 1;
        }
        for (minion, count) in times {
            if count != 1 || !asked.job.minions.contains(minion) {
                wrong(found, jid, minion, at, &format!("it is in {count} states"));
            }
        }
        for (minion, (state, digest)) in &seen.returns {
            self.check_return(jid, at, minion, (state, digest), seen, asked, found);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one return is named by all of them")]
    fn check_return(
        &self,
        jid: &str,
        at: &str,
        minion: &str,
        (state, digest): (&str, &str),
        seen: &JobSeen,
        asked: &Asked<'_>,
        found: &mut BTreeSet<Violation>,
    ) {
        let started = self.started.get(&(seen.token.as_str(), minion)).copied().unwrap_or_default();
        let hurt = self.facts.was_hurt_after(minion, asked.operation.begun_ns);
        match state {
            "returned" if *digest != asked.job.expect => wrong(found, jid, minion, at, "it returned something else"),
            "returned" if !asked.job.pure && started == 0 => {
                wrong(found, jid, minion, at, "it returned and its disk shows no start");
            }
            "returned" => {}
            "interrupted" | "failed" if hurt => {}
            other => wrong(found, jid, minion, at, &format!("{other}, and nothing struck it")),
        }
    }

    /// Consistent reads show what was acknowledged before they began, and nothing that is gone or other later.
    fn check_reads(&self, found: &mut BTreeSet<Violation>) {
        let tokens: BTreeMap<&str, &Asked<'_>> =
            self.asked.values().filter_map(|asked| Some((asked.jid?, asked))).collect();
        for operation in self.facts.operations.iter().filter(|operation| operation.ok) {
            let Deed::ReadJob { jid, job } = &operation.deed else { continue };
            let Some(asked) = tokens.get(jid.as_str()) else { continue };
            let at = format!("a read of {} at {} ms", operation.process, operation.begun_ns / 1_000_000);
            let Some(seen) = job else {
                let acknowledged = asked.operation.ended().is_some_and(|end| end <= operation.begun_ns);
                if acknowledged {
                    found.insert(Violation::Lost { what: format!("the job {jid}"), at });
                }
                continue;
            };
            self.check_states(jid, &at, seen, asked, found);
            let last = self.held.get(jid.as_str()).and_then(|masters| masters.values().copied().flatten().next());
            for (minion, shown) in &seen.returns {
                let kept = last.and_then(|last| last.returns.get(minion));
                if kept != Some(shown) {
                    let cause = format!("the return was {shown:?} at {at}, and is {kept:?} at the end");
                    wrong(found, jid, minion, "the end", &cause);
                }
            }
        }
    }
}

fn wrong(found: &mut BTreeSet<Violation>, jid: &str, minion: &str, at: &str, cause: &str) {
    let (jid, minion, at, cause) = (jid.to_owned(), minion.to_owned(), at.to_owned(), cause.to_owned());
    found.insert(Violation::Outcome { jid, minion, at, cause });
}
