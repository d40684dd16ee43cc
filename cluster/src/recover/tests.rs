//! Plans are judged by Raft's order and by who is missing; they say what nobody can know.

use super::*;
use saltern_wire::{LogicalTime, MasterId};

fn report_of(master: u64, (last_term, last, committed): (u64, u64, u64)) -> Report {
    let named = |id: u64| (MasterId(id), format!("m{id}"));
    Report {
        cluster: ClusterId::from_bytes([1; 16]),
        master: MasterId(master),
        name: format!("m{master}"),
        generation: 3,
        last,
        last_term,
        last_time: LogicalTime::from_unix_micros(1_795_392_390_000_000),
        committed,
        applied: committed,
        voters: (1..=5).map(named).collect(),
        learners: vec![],
    }
}

#[test]
fn the_newest_log_is_chosen_and_what_is_missing_is_named() {
    let reports = vec![report_of(1, (7, 100, 90)), report_of(4, (8, 95, 95))];
    let plan = Plan::of(reports).expect("one cluster");
    assert_eq!(plan.survivors.iter().map(|report| report.master.0).collect::<Vec<_>>(), [4, 1], "the term comes first");
    assert!(!plan.is_majority());
    let text = plan.to_string();
    for words in [
        "2 of 5 voters are here, 3 make a majority",
        "choose      m4",
        "every entry up to 95",
        "m1 holds entries behind 95 that m4 lacks",
        "what m2 (2) and m3 (3) and m5 (5) acknowledged among themselves behind entry 95",
        "generation 4",
        "recover apply --confirm 01010101",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    assert!(!text.contains("brought back"), "everything is known to be committed:\n{text}");
}

#[test]
fn a_majority_needs_no_recovery_and_entries_of_unknown_fate_are_brought_back() {
    let two = || vec![report_of(1, (7, 100, 90)), report_of(2, (7, 100, 100))];
    let plan = Plan::of([two(), vec![report_of(3, (6, 80, 80))]].concat()).expect("one cluster");
    assert!(plan.is_majority() && plan.to_string().contains("not needed"), "{plan}");
    let twice = Plan::of([two(), two()].concat()).expect("one cluster");
    assert!(!twice.is_majority(), "one master counts once, however often its report is given");
    let text = Plan::of(vec![report_of(1, (7, 100, 90))]).expect("one cluster").to_string();
    assert!(text.contains("entries 91 to 100"), "{text}");
}

#[test]
fn reports_are_carried_as_lines_and_strange_ones_are_refused() {
    let own = report_of(1, (7, 100, 90));
    assert_eq!(Report::parse(&format!("report {}\n", own.line())).expect("own"), own);
    assert_eq!(Report::parse(&own.line()).expect("own"), own);
    assert_eq!(Report::parse("report nothing").expect_err("no report").exit_code(), 64);
    let other = Report { cluster: ClusterId::from_bytes([2; 16]), ..report_of(2, (9, 9, 9)) };
    assert!(matches!(Plan::of(vec![own, other]), Err(RecoverError::OtherCluster { .. })));
    assert!(matches!(Plan::of(vec![]), Err(RecoverError::Empty)));
}
