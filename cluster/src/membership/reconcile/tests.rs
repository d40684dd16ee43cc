//! The first member that needs something gets one step, and nobody is taken out who is needed.

use super::super::tests::{directory, group, ids, set};
use super::*;

fn look(directory: &Directory, group: &LeaderState, reachable: &[u64]) -> Result<Option<Step>, String> {
    look_far(directory, group, reachable, &[])
}

fn look_far(
    directory: &Directory,
    group: &LeaderState,
    reachable: &[u64],
    far: &[u64],
) -> Result<Option<Step>, String> {
    next(&View { own: MasterId(1), directory, group, reachable: &ids(reachable), far: &ids(far) })
}

fn voters(step: Result<Option<Step>, String>) -> Vec<u64> {
    match step {
        Ok(Some(Step::Voters { voters, .. })) => voters.into_iter().map(|id| id.0).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_joiner_becomes_a_learner_then_a_voter_then_active() {
    let mut wanted = directory(&[1, 2], &[]);
    set(&mut wanted, 2, |master| master.state = MasterState::Joining);
    assert_eq!(look(&wanted, &group(&[1], &[]), &[1]), Ok(Some(Step::AddLearner(MasterId(2)))));
    let mut far = group(&[1], &[2]);
    far.matched.insert(MasterId(2), Some(10_000 - LAG_MAX - 1));
    assert_eq!(look(&wanted, &far, &[1, 2]), Ok(None), "it catches up");
    assert_eq!(
        look_far(&wanted, &group(&[1], &[2]), &[1, 2], &[2]).map(|step| matches!(step, Some(Step::Voters { .. }))),
        Ok(false)
    );
    assert_eq!(voters(look(&wanted, &group(&[1], &[2]), &[1, 2])), [1, 2]);
    assert_eq!(look(&wanted, &group(&[1, 2], &[]), &[1, 2]), Ok(Some(Step::Activate(MasterId(2)))));
}

#[test]
fn a_demoted_master_is_not_promoted_again_by_itself() {
    assert_eq!(look(&directory(&[1, 2], &[3]), &group(&[1, 2], &[3]), &[1, 2, 3]), Ok(None));
    assert_eq!(voters(look(&directory(&[1, 2], &[3]), &group(&[1, 2, 3], &[]), &[1, 2, 3])), [1, 2]);
}

#[test]
fn the_sixth_master_waits_for_a_place_and_takes_it_in_one_step_with_the_one_who_leaves() {
    let six = directory(&[1, 2, 3, 4, 5, 6], &[]);
    assert_eq!(look(&six, &group(&[1, 2, 3, 4, 5], &[6]), &[1, 2, 3, 4, 5, 6]), Ok(None));
    let swapped = directory(&[1, 2, 3, 4, 6], &[5]);
    assert_eq!(voters(look(&swapped, &group(&[1, 2, 3, 4, 5], &[6]), &[1, 2, 3, 4, 5, 6])), [1, 2, 3, 4, 6]);
}

#[test]
fn a_leader_that_is_to_go_hands_over_to_a_voter_that_keeps_up_answers_and_stays() {
    let everybody = [1, 2, 3];
    let step = |wanted: &Directory, group: &LeaderState| match look(wanted, group, &everybody) {
        Ok(Some(Step::HandOver { heir, .. })) => heir.0,
        other => panic!("{other:?}"),
    };
    let (mut removed, mut demoted) = (directory(&[1, 2, 3], &[]), directory(&[2, 3], &[1]));
    removed.masters.remove(0);
    let mut draining = directory(&[1, 2, 3], &[]);
    set(&mut draining, 1, |master| master.state = MasterState::Draining);
    let mut lagging = group(&[1, 2, 3], &[]);
    lagging.matched.insert(MasterId(2), Some(1));
    for wanted in [&removed, &demoted, &draining] {
        assert_eq!(step(wanted, &group(&[1, 2, 3], &[])), 2);
        assert_eq!(step(wanted, &lagging), 3, "the other one keeps up");
    }
    set(&mut demoted, 2, |master| master.state = MasterState::Draining);
    assert_eq!(step(&demoted, &group(&[1, 2, 3], &[])), 3, "the other one stays");
}

#[test]
fn nobody_is_taken_out_who_is_needed_and_whoever_is_dead_may_go() {
    let mut wanted = directory(&[1, 2, 3], &[]);
    wanted.masters.pop();
    let three = group(&[1, 2, 3], &[]);
    let cause = look(&wanted, &three, &[1, 3]).expect_err("m2 is dead");
    assert!(cause.contains("1 answer and 2 are needed"), "{cause}");
    assert_eq!(look(&wanted, &three, &[1, 2]), Ok(Some(Step::Remove(MasterId(3)))), "m3 itself is dead");
    let cause = look(&directory(&[1, 2], &[3]), &three, &[1, 3]).expect_err("m2 is dead");
    assert!(cause.contains("cannot be changed yet"), "{cause}");
}

#[test]
fn a_change_that_was_left_half_done_is_finished_before_anything_else() {
    let mut joint = group(&[1, 2, 3], &[]);
    joint.joint = true;
    assert_eq!(look(&directory(&[1, 2], &[]), &joint, &[1]), Ok(Some(Step::Settle)));
}
