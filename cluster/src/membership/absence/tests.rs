//! A voter is replaced only if it is wanted, after its time, and by one that fits.

use super::super::tests::{directory, group, ids, set};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings { auto_replace: true, auto_replace_seconds: 60, ..Settings::default() }
}

/// Voters 1, 2, 3 and learner 4; 3 has been dead for `seconds`.
fn replaced(settings: &Settings, seconds: u32, wanted: &Directory) -> Option<Vec<(u64, Role)>> {
    let (mut absences, group, alive) = (Absences::default(), group(&[1, 2, 3], &[4]), ids(&[1, 2, 4]));
    for at in 0..=seconds {
        absences.handle_look(&group.voters, &alive, SECOND * at);
    }
    let view = View { own: MasterId(1), directory: wanted, group: &group, reachable: &alive, far: &ids(&[]) };
    let (next, _) = replacement(&view, settings, &absences, SECOND * seconds)?;
    assert_eq!(next.version, wanted.version + 1);
    Some(next.masters.iter().map(|master| (master.id.0, master.role)).collect())
}

#[test]
fn a_dead_voter_gives_its_vote_to_a_learner_of_its_region_and_only_if_wanted() {
    let wanted = directory(&[1, 2, 3], &[4]);
    let expect = vec![(1, Role::Voter), (2, Role::Voter), (3, Role::Learner), (4, Role::Voter)];
    assert_eq!(replaced(&settings(), 60, &wanted), Some(expect));
    assert_eq!(replaced(&settings(), 59, &wanted), None, "it may come back");
    assert_eq!(replaced(&Settings { auto_replace: false, ..settings() }, 600, &wanted), None);
    assert_eq!(replaced(&Settings { min_voters: 4, ..settings() }, 60, &wanted), None, "three would answer");
    let mut elsewhere = wanted;
    set(&mut elsewhere, 4, |master| master.region = "us".into());
    assert_eq!(replaced(&settings(), 60, &elsewhere), None, "it is of another region");
}

#[test]
fn whoever_answers_once_and_a_leader_that_stood_still_begin_anew() {
    let (all, alive) = (ids(&[1, 2]), ids(&[1]));
    let mut absences = Absences::default();
    (0..=30).for_each(|at| absences.handle_look(&all, &alive, SECOND * at));
    assert_eq!(absences.lasting(MasterId(2), SECOND * 30), Some(SECOND * 30));
    absences.handle_look(&all, &all, SECOND * 31);
    absences.handle_look(&all, &alive, SECOND * 32);
    assert_eq!(absences.lasting(MasterId(2), SECOND * 33), Some(SECOND));
    absences.handle_look(&all, &alive, SECOND * 600);
    assert_eq!(absences.lasting(MasterId(2), SECOND * 600), Some(Duration::ZERO), "it was the leader that was away");
}
