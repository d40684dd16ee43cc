//! Good and bad histories: a checker that never complains proves nothing.

use super::*;
use crate::sim::history::History;
use std::time::Duration;

const JID: &str = "20261123000000000101";

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn job(request: &str) -> JobSeen {
    let state = |state: &str| ["minion-1", "minion-2"].map(|minion| (minion.to_owned(), state.to_owned())).into();
    JobSeen {
        request: request.into(),
        pure: false,
        may_expire: false,
        expected: names(&["minion-1", "minion-2"]),
        progress: state("returned"),
        returns: state("finished true"),
        conflicts: 0,
        done: true,
    }
}

fn submit(request: &str, jid: Option<&str>, revision: u64, begun_ns: u64, ended_ns: i64) -> Operation {
    let minions = names(&["minion-1", "minion-2"]);
    let deed = Deed::Submit { request: request.into(), minions, jid: jid.map(str::to_owned) };
    Operation { process: "operator-1".into(), deed, ok: jid.is_some(), revision, begun_ns, ended_ns }
}

/// One job, done by two minions, read on three masters.
fn good() -> Vec<Operation> {
    let history = History::default();
    let at = Duration::from_nanos;
    history.note("m1", Deed::Lead { master: "m1".into() }, 0, at(1));
    history.note("operator-1", Deed::Accept { minion: "minion-1".into() }, 3, at(2));
    history.push(submit("r1", Some(JID), 5, 10, 20));
    history.note("nemesis", Deed::Fault { fault: "crash m1".into() }, 0, at(21));
    for minion in ["minion-1", "minion-2"] {
        history.note(minion, Deed::Start { jid: JID.into() }, 0, at(22));
    }
    for master in Host::masters().map(Host::name) {
        history.note(master.clone(), Deed::ReadJob { jid: JID.into(), job: job("r1") }, 9, at(90));
        let keys = BTreeMap::from([("minion-1".to_owned(), "accepted".to_owned())]);
        history.note(master.clone(), Deed::ReadKeys { keys }, 9, at(91));
        history.note(master, Deed::ReadDigest { digest: "ab".into() }, 9, at(92));
    }
    history.operations()
}

/// Changes a good history and expects a complaint that contains `words`.
fn expect(words: &str, change: impl FnOnce(&mut Vec<Operation>)) {
    let mut history = good();
    change(&mut history);
    let found: Vec<String> = check(&history).iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|complaint| complaint.contains(words)), "{words:?} is not among {found:#?}");
}

fn each_job(history: &mut [Operation], mut change: impl FnMut(&mut JobSeen)) {
    for operation in history {
        if let Deed::ReadJob { job, .. } = &mut operation.deed {
            change(job);
        }
    }
}

fn position(history: &[Operation], is: impl Fn(&Deed) -> bool) -> usize {
    history.iter().position(|operation| is(&operation.deed)).expect("it is there")
}

#[test]
fn a_good_history_passes() {
    assert_eq!(check(&good()), []);
}

#[test]
fn a_lost_job_is_found() {
    expect("is missing on m1", |history| {
        history.remove(position(history, |deed| matches!(deed, Deed::ReadJob { .. })));
    });
    expect("disagree about the job", |history| {
        history.remove(position(history, |deed| matches!(deed, Deed::ReadJob { .. })));
    });
}

#[test]
fn a_lost_acceptance_is_found() {
    expect("the acceptance of minion-1 was acknowledged and is missing on m2", |history| {
        for operation in history.iter_mut().filter(|operation| operation.process == "m2") {
            if let Deed::ReadKeys { keys } = &mut operation.deed {
                keys.insert("minion-1".into(), "pending".into());
            }
        }
    });
}

#[test]
fn a_second_start_is_found() {
    expect("minion-1 started 20261123000000000101 twice", |history| {
        history.push(history[position(history, |deed| matches!(deed, Deed::Start { .. }))].clone());
    });
    expect("which no master holds", |history| {
        let deed = Deed::Start { jid: "20261123000000000201".into() };
        history
            .push(Operation { deed, ..history[position(history, |deed| matches!(deed, Deed::Start { .. }))].clone() });
    });
}

#[test]
fn a_request_with_two_jobs_is_found() {
    expect("the request r1 has the jobs", |history| {
        let second = "20261123000000000201";
        for operation in history.clone() {
            if let Deed::ReadJob { job, .. } = &operation.deed {
                let deed = Deed::ReadJob { jid: second.into(), job: job.clone() };
                history.push(Operation { deed, ..operation });
            }
        }
    });
    expect("the request r1 has the jobs", |history| {
        history.push(submit("r1", Some("20261123000000000301"), 6, 30, 40))
    });
}

#[test]
fn a_refused_job_that_ran_is_found_and_an_unknown_one_may_run() {
    expect("was refused and has the job", |history| {
        let at = position(history, |deed| matches!(deed, Deed::Submit { .. }));
        history[at].ok = false;
    });
    let mut history = good();
    let unknown = submit("r9", None, 0, 30, NEVER);
    history.push(unknown);
    assert_eq!(check(&history), [], "nobody knows what became of it, and that is allowed");
}

#[test]
fn an_outcome_that_does_not_fit_is_found() {
    expect("at the end it is waiting", |history| {
        each_job(history, |job| drop(job.progress.insert("minion-2".into(), "waiting".into())));
    });
    expect("has no state", |history| each_job(history, |job| drop(job.progress.remove("minion-2"))));
    expect("without a return", |history| each_job(history, |job| drop(job.returns.remove("minion-2"))));
    expect("contradict", |history| each_job(history, |job| job.conflicts = 1));
    expect("is not done", |history| each_job(history, |job| job.done = false));
    expect("never started", |history| history.retain(|operation| !matches!(operation.deed, Deed::Start { .. })));
    let expired = |history: &mut Vec<Operation>, may_expire| {
        each_job(history, |job| {
            job.may_expire = may_expire;
            job.progress.insert("minion-2".into(), "expired".into());
            job.returns.remove("minion-2");
        });
    };
    expect("at the end it is expired", |history| expired(history, true));
    let mut unstarted = good();
    unstarted.retain(|operation| operation.process != "minion-2");
    expired(&mut unstarted, false);
    assert_eq!(check(&unstarted).len(), 1, "its time has not ended");
    expired(&mut unstarted, true);
    assert_eq!(check(&unstarted), [], "nobody offered it in time");
    expect("which has", |history| each_job(history, |job| job.expected.retain(|minion| minion != "minion-2")));
}

#[test]
fn masters_that_disagree_are_found() {
    expect("disagree about the job", |history| {
        let at = position(history, |deed| matches!(deed, Deed::ReadJob { .. }));
        if let Deed::ReadJob { job, .. } = &mut history[at].deed {
            job.returns.insert("minion-1".into(), "finished false".into());
        }
    });
    expect("disagree about their rows", |history| {
        let at = position(history, |deed| matches!(deed, Deed::ReadDigest { .. }));
        history[at].deed = Deed::ReadDigest { digest: "cd".into() };
    });
    expect("disagree about keys", |history| {
        let at = position(history, |deed| matches!(deed, Deed::ReadKeys { .. }));
        history[at].deed = Deed::ReadKeys { keys: BTreeMap::new() };
    });
}

#[test]
fn writes_out_of_order_are_found() {
    let mut history = good();
    let second = "20261123000000000201";
    history.push(submit("r2", Some(second), 7, 30, 40));
    for operation in history.clone() {
        if let Deed::ReadJob { .. } = &operation.deed {
            let deed = Deed::ReadJob { jid: second.into(), job: job("r2") };
            history.push(Operation { deed, ..operation });
        }
    }
    for minion in ["minion-1", "minion-2"] {
        let started = position(&history, |deed| matches!(deed, Deed::Start { .. }));
        let deed = Deed::Start { jid: second.into() };
        history.push(Operation { process: minion.into(), deed, ..history[started].clone() });
    }
    assert_eq!(check(&history), []);
    let at = history.iter().position(|operation| operation.revision == 7).expect("it is there");
    history[at].revision = 4;
    let found = check(&history);
    assert!(matches!(found.as_slice(), [Violation::OutOfOrder { .. }]), "{found:?}");
    history[at].begun_ns = 15;
    assert_eq!(check(&history), [], "they overlapped");
}

#[test]
fn a_run_that_shows_nothing_is_no_success() {
    assert!(check(&[]).len() >= 3);
    expect("no fault was made", |history| history.retain(|operation| !matches!(operation.deed, Deed::Fault { .. })));
    expect("of 2 submissions", |history| {
        let at = position(history, |deed| matches!(deed, Deed::Submit { .. }));
        history.remove(at);
        history.push(submit("r2", None, 0, 30, NEVER));
        history.push(submit("r3", None, 0, 30, NEVER));
    });
}
