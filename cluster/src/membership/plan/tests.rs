//! What would lose the quorum is refused with its numbers; what is so already is left alone.

use super::super::tests::{directory, ids, set};
use super::*;

fn ground<'a>(directory: &'a Directory, voters: &[u64], reachable: &[u64]) -> Ground<'a> {
    Ground {
        directory,
        voters: ids(voters),
        reachable: ids(reachable),
        lag: directory.masters.iter().map(|master| (master.id, 0)).collect(),
        leader: Some(MasterId(1)),
        minions: BTreeMap::from([(MasterId(2), 40)]),
    }
}

fn planned(ground: &Ground<'_>, change: MemberChange, wanted: &str) -> Plan {
    ground.plan(change, wanted).expect("it is there")
}

fn refused(plan: &Plan) -> &str {
    assert!(plan.next.is_none() && plan.view.steps.is_empty(), "{plan:?}");
    plan.view.refused.as_deref().expect("refused")
}

#[test]
fn what_would_lose_the_quorum_is_refused_with_numbers_and_a_remedy() {
    let three = directory(&[1, 2, 3], &[]);
    let one_dead = ground(&three, &[1, 2, 3], &[1, 2]);
    for change in [MemberChange::Demote, MemberChange::Remove] {
        let plan = planned(&one_dead, change, "m2");
        let cause = refused(&plan);
        assert!(cause.contains("1 of 2 voters answer and 2 are needed") && cause.contains("Bring m3 back"), "{cause}");
    }
    let plan = planned(&one_dead, MemberChange::Remove, "m3");
    assert_eq!(plan.view.tolerance, (0, 0));
    assert_eq!(plan.next.expect("the dead one may go").masters.len(), 2);

    let one = directory(&[1], &[]);
    assert!(refused(&planned(&ground(&one, &[1], &[1]), MemberChange::Demote, "m1")).contains("only voter"));
    assert!(refused(&planned(&ground(&one, &[1], &[1]), MemberChange::Remove, "m1")).contains("only master"));
    let with_learner = directory(&[1], &[2]);
    assert!(
        refused(&planned(&ground(&with_learner, &[1], &[1, 2]), MemberChange::Remove, "m1")).contains("only voter")
    );
}

#[test]
fn the_way_up_and_down_says_what_the_cluster_bears() {
    let wanted = directory(&[1, 2, 3, 4], &[5]);
    let all = ground(&wanted, &[1, 2, 3, 4], &[1, 2, 3, 4, 5]);
    let up = planned(&all, MemberChange::Promote, "m5");
    assert_eq!((up.view.tolerance, up.view.voters.1.len(), up.view.directory), ((1, 2), 5, (1, 7)));
    let next = up.next.expect("a directory");
    assert_eq!((next.version, next.master(MasterId(5)).map(|master| master.role)), (8, Some(Role::Voter)));
    let down = planned(&all, MemberChange::Demote, "m1");
    assert_eq!(down.view.tolerance, (1, 1));
    assert!(down.view.steps[0].contains("hands leadership over first"), "{:?}", down.view.steps);
}

#[test]
fn a_voter_that_does_not_answer_and_a_sixth_one_are_refused() {
    let wanted = directory(&[1, 2], &[3]);
    let plan = planned(&ground(&wanted, &[1, 2], &[1, 2]), MemberChange::Promote, "3");
    assert!(refused(&plan).contains("m3 does not answer"), "{plan:?}");
    let full = directory(&[1, 2, 3, 4, 5], &[6]);
    let plan = planned(&ground(&full, &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]), MemberChange::Promote, "m6");
    assert!(refused(&plan).contains("5 is all that may"), "{plan:?}");
}

#[test]
fn whoever_repeats_a_change_has_it_already() {
    let mut wanted = directory(&[1, 2], &[3]);
    set(&mut wanted, 2, |master| master.state = MasterState::Draining);
    let all = ground(&wanted, &[1, 2], &[1, 2, 3]);
    for (change, master) in [
        (MemberChange::Promote, "m1"),
        (MemberChange::Demote, "m3"),
        (MemberChange::Drain, "m2"),
        (MemberChange::Undrain, "m1"),
        (MemberChange::Remove, "m9"),
    ] {
        let plan = planned(&all, change, master);
        assert!(plan.next.is_none() && plan.view.refused.is_none() && plan.view.steps.is_empty(), "{change}: {plan:?}");
    }
    let error = all.plan(MemberChange::Demote, "m9").expect_err("nobody").to_string();
    assert!(error.contains("m1, m2, m3"), "{error}");
}

#[test]
fn minions_of_a_draining_master_must_have_somewhere_to_go() {
    let wanted = directory(&[1, 2], &[]);
    let plan = planned(&ground(&wanted, &[1, 2], &[1]), MemberChange::Drain, "m1");
    assert!(refused(&plan).contains("nowhere to go"), "{plan:?}");
    let plan = planned(&ground(&wanted, &[1, 2], &[1, 2]), MemberChange::Drain, "m2");
    assert!(plan.view.steps[0].contains("40 minions"), "{plan:?}");
}
