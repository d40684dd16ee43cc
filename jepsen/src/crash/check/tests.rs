//! The checker finds what it is for: histories that are right pass, and each doctored one is found out.

use super::{Verdict, Violation, check};
use crate::crash::history::{Deed, JobAsked, JobSeen, NEVER, Operation, read, to_bytes};
use std::collections::{BTreeMap, BTreeSet};

const MASTERS: [&str; 3] = ["master-1", "master-2", "master-3"];

fn operation(process: &str, deed: Deed, begun_ns: u64, ended_ns: i64) -> Operation {
    Operation { process: process.into(), deed, ok: true, revision: begun_ns, begun_ns, ended_ns }
}

fn submit(token: &str, jid: &str, at: u64) -> Operation {
    let minions = BTreeSet::from(["minion-1".to_owned(), "minion-2".to_owned()]);
    let job = JobAsked { pure: false, minions, expect: format!("what {token} returns") };
    operation("jobs-1", Deed::Submit { token: token.into(), job, jid: Some(jid.into()) }, at, at as i64 + 2)
}

fn seen(token: &str) -> JobSeen {
    let returned = ("returned".to_owned(), format!("what {token} returns"));
    let minions = ["minion-1".to_owned(), "minion-2".to_owned()];
    JobSeen {
        token: token.into(),
        minions: minions.iter().cloned().collect(),
        done: true,
        returns: minions.into_iter().map(|minion| (minion, returned.clone())).collect(),
        missing: Vec::new(),
    }
}

fn decide(decision: &str, at: u64) -> Operation {
    let deed = Deed::Decide { minion: "minion-7".into(), decision: decision.into(), changed: true };
    operation("keys", deed, at, at as i64 + 2)
}

fn keys(state: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("minion-7".to_owned(), state.to_owned())])
}

fn read_mine(process: &str, consistent: bool, counter: u64, at: u64) -> Operation {
    let deed = Deed::ReadMine { minion: "minion-1".into(), consistent, counter: Some(counter) };
    operation(process, deed, at, at as i64 + 1)
}

/// A run in which everything went well. Doctored histories differ from it in one thing.
fn good() -> Vec<Operation> {
    let strike = Deed::Strike {
        strike: "log.sync.after=abort@1 Running".into(),
        point: Some("log.sync.after".into()),
        victims: BTreeSet::from(["master-2".to_owned()]),
    };
    let mut history = vec![
        operation("nemesis", Deed::Phase { phase: "faults".into() }, 1, 1),
        submit("jobs-1-1", "10", 10),
        operation("nemesis", strike, 12, 14),
        operation("nemesis", Deed::Restart { member: "master-2".into(), cause: None }, 15, 16),
        submit("jobs-1-2", "20", 20),
        operation("reads", Deed::ReadJob { jid: "10".into(), job: Some(seen("jobs-1-1")) }, 25, 26),
        decide("accept", 30),
        operation("reads", Deed::ReadKeys { keys: keys("accepted") }, 33, 34),
        decide("reject", 36),
        operation("mine", Deed::MineSend { minion: "minion-1".into(), counter: 1 }, 40, 42),
        operation("mine", Deed::MineSend { minion: "minion-1".into(), counter: 2 }, 43, 45),
        read_mine("session", false, 1, 44),
        read_mine("session", false, 2, 46),
        read_mine("reads", true, 2, 47),
    ];
    for token in ["jobs-1-1", "jobs-1-2"] {
        for minion in ["minion-1", "minion-2"] {
            let deed = Deed::Started { token: token.into(), minion: minion.into(), times: 1 };
            history.push(operation("disk", deed, 100, 100));
        }
    }
    for master in MASTERS {
        history.push(operation(master, Deed::FinalKeys { keys: keys("rejected") }, 100, 100));
        let counters = BTreeMap::from([("minion-1".to_owned(), 2)]);
        history.push(operation(master, Deed::FinalMine { counters }, 100, 100));
        for (jid, token) in [("10", "jobs-1-1"), ("20", "jobs-1-2")] {
            let deed = Deed::FinalJob { jid: jid.into(), job: Some(seen(token)) };
            history.push(operation(master, deed, 100, 100));
        }
    }
    history
}

/// Doctors a good history and gives what is found.
fn doctored(doctor: impl Fn(&mut Operation)) -> Vec<Violation> {
    let mut history = good();
    history.iter_mut().for_each(doctor);
    assert_ne!(history, good(), "the doctor did something");
    check(&history)
}

fn assert_found(found: &[Violation], wanted: impl Fn(&Violation) -> bool) {
    assert!(found.iter().any(wanted), "{found:?}");
    assert_eq!(Verdict::of(found), Verdict::Fail, "{found:?}");
}

/// What the last master shows of the job `jid`.
fn last_view<'a>(operation: &'a mut Operation, wanted: &str) -> Option<&'a mut Option<JobSeen>> {
    match &mut operation.deed {
        Deed::FinalJob { jid, job } if jid == wanted && operation.process == "master-3" => Some(job),
        _ => None,
    }
}

fn views<'a>(operation: &'a mut Operation, wanted: &str) -> Option<&'a mut JobSeen> {
    match &mut operation.deed {
        Deed::FinalJob { jid, job } if jid == wanted => job.as_mut(),
        _ => None,
    }
}

#[test]
fn a_good_history_passes_also_after_a_journey_through_a_file() {
    assert_eq!(check(&good()), []);
    let text = String::from_utf8(to_bytes(&good()).expect("written")).expect("text");
    assert_eq!(read(&text).expect("read"), good());
    assert_eq!(Verdict::of(&[]), Verdict::Pass);
}

#[test]
fn a_job_lost_on_one_master_is_found() {
    let found = doctored(|operation| {
        if let Some(view) = last_view(operation, "20") {
            *view = None;
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::Lost { at, .. } if at == "master-3"));
    assert_found(&found, |violation| matches!(violation, Violation::Differs { .. }));
}

#[test]
fn a_job_missing_at_a_consistent_read_is_found() {
    let found = doctored(|operation| {
        if let Deed::ReadJob { job, .. } = &mut operation.deed {
            *job = None;
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::Lost { what, .. } if what.contains("10")));
}

#[test]
fn a_doubled_start_and_a_start_that_nobody_asked_for_are_found() {
    let found = doctored(|operation| {
        if let Deed::Started { token, minion, times } = &mut operation.deed
            && (token.as_str(), minion.as_str()) == ("jobs-1-2", "minion-1")
        {
            *times = 2;
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::StartedTwice { times: 2, .. }));
    let found = doctored(|operation| {
        if let Deed::Started { token, .. } = &mut operation.deed {
            *token = "jobs-9-9".into();
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::StartedUnasked { .. }));
}

#[test]
fn one_submission_with_two_jobs_is_found() {
    let mut history = good();
    for master in MASTERS {
        let deed = Deed::FinalJob { jid: "21".into(), job: Some(seen("jobs-1-2")) };
        history.push(operation(master, deed, 100, 100));
    }
    assert_found(
        &check(&history),
        |violation| matches!(violation, Violation::SubmittedTwice { jids, .. } if jids.len() == 2),
    );
}

#[test]
fn a_refused_submission_that_ran_is_found() {
    let found = doctored(|operation| {
        if let Deed::Submit { token, jid, .. } = &mut operation.deed
            && token == "jobs-1-2"
        {
            *jid = None;
            operation.ok = false;
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::RefusedRan { at, .. } if at == "minion-1"));
    assert_found(&found, |violation| matches!(violation, Violation::RefusedRan { at, .. } if at.contains("20")));
}

#[test]
fn an_outcome_that_nobody_could_find_out_is_no_pass() {
    let found = doctored(|operation| {
        if let Deed::Submit { token, jid, .. } = &mut operation.deed
            && token == "jobs-1-2"
        {
            *jid = None;
            operation.ok = false;
            operation.ended_ns = NEVER;
        }
    });
    assert!(matches!(found.as_slice(), [Violation::Unresolved(_)]), "{found:?}");
    assert_eq!(Verdict::of(&found), Verdict::Unknown);
}

#[test]
fn a_flipped_key_is_found_at_a_read_and_at_the_end() {
    let found = doctored(|operation| {
        if let Deed::ReadKeys { keys: read } = &mut operation.deed {
            *read = keys("pending");
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::Key { at, .. } if at.contains("reads")));
    let found = doctored(|operation| {
        if let Deed::FinalKeys { keys: read } = &mut operation.deed {
            *read = keys("accepted");
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::Key { at, .. } if at.contains("master-2")));
}

#[test]
fn a_read_beside_a_decision_may_show_either_side_of_it() {
    for state in ["accepted", "rejected"] {
        let mut history = good();
        history.push(operation("reads", Deed::ReadKeys { keys: keys(state) }, 37, 39));
        assert_eq!(check(&history), [], "{state}");
    }
    let mut history = good();
    history.push(operation("reads", Deed::ReadKeys { keys: keys("accepted") }, 39, 40));
    assert_found(&check(&history), |violation| matches!(violation, Violation::Key { .. }));
}

#[test]
fn a_lost_a_changed_and_a_wrong_return_are_found() {
    // Lost: it was shown once, and at the end the minion has no outcome.
    let found = doctored(|operation| {
        if let Some(view) = views(operation, "10") {
            view.returns.remove("minion-2");
            view.missing.push(("minion-2".into(), "expired".into()));
        }
    });
    assert_found(
        &found,
        |violation| matches!(violation, Violation::Outcome { cause, .. } if cause.contains("at the end")),
    );
    assert_found(
        &found,
        |violation| matches!(violation, Violation::Outcome { cause, .. } if cause.contains("expired")),
    );
    // Wrong: something else than what the job prints.
    let found = doctored(|operation| {
        if let Some(view) = views(operation, "20") {
            view.returns.insert("minion-1".into(), ("returned".into(), "something else".into()));
        }
    });
    assert_found(
        &found,
        |violation| matches!(violation, Violation::Outcome { cause, .. } if cause.contains("something else")),
    );
}

#[test]
fn two_states_at_once_no_state_and_an_open_job_are_found() {
    let found = doctored(|operation| {
        if let Some(view) = views(operation, "20") {
            view.missing.push(("minion-1".into(), "accepted".into()));
        }
    });
    assert_found(
        &found,
        |violation| matches!(violation, Violation::Outcome { cause, .. } if cause == "it is in 2 states"),
    );
    let found = doctored(|operation| {
        if let Some(view) = views(operation, "20") {
            view.returns.remove("minion-1");
            view.done = false;
        }
    });
    assert_found(
        &found,
        |violation| matches!(violation, Violation::Outcome { cause, .. } if cause == "it is in 0 states"),
    );
    assert_found(&found, |violation| matches!(violation, Violation::Outcome { cause, .. } if cause.contains("open")));
}

#[test]
fn an_interruption_is_right_only_where_something_was_struck() {
    let interrupt = |operation: &mut Operation| {
        if let Some(view) = views(operation, "20") {
            view.returns.insert("minion-1".into(), ("interrupted".into(), String::new()));
        }
    };
    assert_found(
        &doctored(interrupt),
        |violation| matches!(violation, Violation::Outcome { cause, .. } if cause.contains("nothing struck it")),
    );
    let mut history = good();
    history.iter_mut().for_each(interrupt);
    let victims = BTreeSet::from(["minion-1".to_owned()]);
    let strike = Deed::Strike { strike: "machine of minion-1".into(), point: None, victims };
    history.push(operation("nemesis", strike, 21, 22));
    assert_eq!(check(&history), []);
}

#[test]
fn a_mine_that_goes_back_is_found() {
    for back in [read_mine("session", false, 1, 50), read_mine("reads", true, 1, 50), read_mine("reads", true, 3, 50)] {
        let mut history = good();
        history.push(back);
        assert_found(&check(&history), |violation| matches!(violation, Violation::Mine { .. }));
    }
    let found = doctored(|operation| {
        if let Deed::FinalMine { counters } = &mut operation.deed {
            counters.clear();
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::Mine { at, .. } if at.contains("at the end")));
}

#[test]
fn a_log_out_of_order_is_found() {
    let found = doctored(|operation| {
        if let Deed::Submit { token, .. } = &operation.deed
            && token == "jobs-1-2"
        {
            operation.revision = 5;
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::OutOfOrder { .. }));
}

#[test]
fn who_does_not_come_up_is_found() {
    let found = doctored(|operation| {
        if let Deed::Restart { cause, .. } = &mut operation.deed {
            *cause = Some("exit status: 78: the log is torn".into());
        }
    });
    assert_found(&found, |violation| matches!(violation, Violation::NotUp { member, .. } if member == "master-2"));
}

#[test]
fn a_run_that_shows_too_little_is_no_pass() {
    for doctor in [
        // A fault that was asked for and never seen.
        (|operation: &mut Operation| {
            if let Deed::Strike { .. } = &operation.deed {
                operation.ok = false;
            }
        }) as fn(&mut Operation),
        // Hardly anything carried out.
        |operation| {
            if matches!(
                operation.deed,
                Deed::ReadMine { .. } | Deed::ReadKeys { .. } | Deed::ReadJob { .. } | Deed::MineSend { .. }
            ) {
                operation.ok = false;
                operation.ended_ns = NEVER;
            }
        },
    ] {
        let mut history = good();
        history.iter_mut().for_each(doctor);
        history.extend((0..20).map(|at| {
            let mut refused = operation("reads", Deed::ReadKeys { keys: keys("rejected") }, 60 + at, 61);
            refused.ok = false;
            refused
        }));
        let found = check(&history);
        assert!(found.iter().any(|violation| matches!(violation, Violation::Empty(_))), "{found:?}");
        assert_ne!(Verdict::of(&found), Verdict::Pass);
    }
    assert_ne!(Verdict::of(&check(&[])), Verdict::Pass, "an empty history shows nothing");
}
