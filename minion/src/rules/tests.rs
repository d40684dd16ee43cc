//! Stories about the rules, and the property that matters most: nothing starts twice.

use super::*;
use crate::testing::{ORDINAL, ca, directory, job, master, offer, time};
use proptest::prelude::*;
use roaring::RoaringBitmap;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::master::Directory;
use saltern_wire::{ClusterId, MasterId};

fn rules() -> Rules {
    crate::testing::rules(Ledger::default())
}
fn starts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Start(_) | Action::Inside(_))).count()
}

fn ignored(actions: &[Action]) -> Option<&Ignored> {
    match actions {
        [Action::Ignore(_, reason)] => Some(reason),
        _ => None,
    }
}

#[test]
fn a_job_is_journalled_before_it_starts_and_told_after() {
    let actions = rules().handle_offer(&offer(&job(1, "cmd.run"), &master(1)), &Room::default());
    assert!(matches!(actions[..], [Action::Journal(_), Action::Start(_), Action::Accept(_)]), "{actions:?}");
    let actions = rules().handle_offer(&offer(&job(1, "mine.send"), &master(1)), &Room::default());
    assert!(matches!(actions[..], [Action::Journal(_), Action::Inside(_), Action::Accept(_)]), "{actions:?}");
}

#[test]
fn a_pure_job_runs_without_a_journal_and_once_per_life() {
    let mut rules = rules();
    let offer = offer(&job(1, "test.ping"), &master(1));
    assert!(matches!(rules.handle_offer(&offer, &Room::default())[..], [Action::RunPure(_)]));
    assert_eq!(ignored(&rules.handle_offer(&offer, &Room::default())), Some(&Ignored::Known));
    rules.handle_pure_done(job(1, "").jid);
    assert_eq!(ignored(&rules.handle_offer(&offer, &Room::default())), Some(&Ignored::Known));
    assert!(rules.ledger().is_empty());
}

#[test]
fn only_genuine_jobs_for_this_minion_run() {
    let mut other_cluster = job(1, "cmd.run");
    other_cluster.cluster = ClusterId::from_bytes([8; 16]);
    let mut fenced = job(2, "cmd.run");
    fenced.generation = 2;
    let mut stranger = job(3, "cmd.run");
    stranger.master = MasterId(9);
    let mut pure_and_forged = job(4, "test.ping");
    pure_and_forged.master = MasterId(2);
    for (job, signer) in [
        (&other_cluster, master(1)),
        (&fenced, master(1)),
        (&stranger, master(9)),
        (&pure_and_forged, master(1)),
        (&job(5, "cmd.run"), Identity::from_seed([99; 32])),
    ] {
        let mut rules = rules();
        let actions = rules.handle_offer(&offer(job, &signer), &Room::default());
        assert!(matches!(ignored(&actions), Some(Ignored::Refused(_))), "{actions:?}");
        assert!(rules.ledger().is_empty());
    }
    let mut elsewhere = job(6, "cmd.run");
    elsewhere.targets = RoaringBitmap::from_iter([6]);
    let actions = rules().handle_offer(&offer(&elsewhere, &master(1)), &Room::default());
    assert_eq!(ignored(&actions), Some(&Ignored::ForOthers));
    let mut late = offer(&job(7, "cmd.run"), &master(1));
    late.remaining_ms = 0;
    assert_eq!(ignored(&rules().handle_offer(&late, &Room::default())), Some(&Ignored::Expired));
    let mut unaccepted = rules();
    unaccepted.handle_ordinal(None);
    let actions = unaccepted.handle_offer(&offer(&job(8, "test.ping"), &master(1)), &Room::default());
    assert_eq!(ignored(&actions), Some(&Ignored::NotAccepted));
}

#[test]
fn a_master_that_was_removed_signs_in_vain() {
    let mut rules = rules();
    rules.trust.handle_directory(ca().public_key(), &directory(3, 2, &[2])).expect("genuine").expect("newer");
    let actions = rules.handle_offer(&offer(&job(1, "cmd.run"), &master(1)), &Room::default());
    assert_eq!(ignored(&actions), Some(&Ignored::Refused(JobRefusal::Signer(MasterId(1)))));
    let old = rules.trust.handle_directory(ca().public_key(), &directory(3, 1, &[1, 2])).expect("genuine");
    assert_eq!(old, None, "an older directory does not bring it back");
    let forged = Identity::from_seed([66; 32]);
    assert!(rules.trust.handle_directory(forged.public_key(), &directory(9, 9, &[1])).is_err());
}

#[test]
fn a_restored_cluster_is_followed_and_the_former_one_is_left_for_good() {
    let mut rules = rules();
    let successor = ClusterId::from_bytes([8; 16]);
    let restored = |generation, succeeds| {
        let signed = directory(generation, 1, &[7]);
        let listed = signed.verify(&ca().public_key()).expect("genuine").into_inner();
        Signed::new(&Directory { cluster: successor, succeeds, ..listed }, &ca())
    };
    let former = rules.trust.directory().expect("there is one").cluster;
    for stranger in [restored(4, vec![]), restored(3, vec![former])] {
        assert!(rules.trust.handle_directory(ca().public_key(), &stranger).is_err());
    }
    rules
        .trust
        .handle_directory(ca().public_key(), &restored(4, vec![former]))
        .expect("genuine")
        .expect("it is followed");
    assert_eq!(rules.trust.expectation().cluster, Some(successor));
    let actions = rules.handle_offer(&offer(&job(1, "cmd.run"), &master(1)), &Room::default());
    assert_eq!(ignored(&actions), Some(&Ignored::Refused(JobRefusal::Signer(MasterId(1)))));
    let back = rules.trust.handle_directory(ca().public_key(), &directory(99, 9, &[1, 2]));
    assert!(back.is_err(), "nobody is led back: {back:?}");
}

#[test]
fn a_refusal_is_remembered_and_repeated() {
    let mut rules = rules();
    let offer = offer(&job(1, "cmd.run"), &master(1));
    let full = Room { refuse: Some("the outbox is full".into()) };
    let actions = rules.handle_offer(&offer, &full);
    assert!(matches!(actions[..], [Action::Journal(_), Action::Answer(..)]), "{actions:?}");
    let actions = rules.handle_offer(&offer, &Room::default());
    let [Action::Answer(_, outcome)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(outcome.kind, OutcomeKind::Refused);
    assert!(outcome.value.to_string().contains("the outbox is full"));
}

#[test]
fn a_job_that_did_not_reach_the_disk_is_refused_for_good_and_the_reason_is_told() {
    let mut rules = rules();
    let first = offer(&job(1, "cmd.run"), &master(1));
    let actions = rules.handle_offer(&first, &Room::default());
    let [Action::Journal(entries), ..] = &actions[..] else { panic!("{actions:?}") };
    let answers = rules.handle_unwritable(entries, "/data/journal: No space left on device");
    for actions in [answers, rules.handle_offer(&first, &Room::default())] {
        let [Action::Answer(_, outcome)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(outcome.kind, OutcomeKind::Refused);
        assert!(outcome.value.to_string().contains("No space left on device"), "{outcome:?}");
    }
    assert!(
        rules.ledger().entries().iter().any(|entry| matches!(entry, Entry::Refused { .. })),
        "the next write has it"
    );
    assert_eq!(
        starts(&rules.handle_offer(&offer(&job(2, "cmd.run"), &master(1)), &Room::default())),
        1,
        "the next is taken"
    );
}

#[test]
fn a_lost_journal_runs_nothing_older_than_the_next_beacon() {
    let mut rules = rules();
    rules.handle_journal_lost();
    let old = offer(&job(10, "cmd.run"), &master(1));
    assert_eq!(ignored(&rules.handle_offer(&old, &Room::default())), Some(&Ignored::JournalLost));
    let actions = rules.handle_time(time(20));
    assert!(matches!(actions[..], [Action::Journal(_)]));
    assert_eq!(ignored(&rules.handle_offer(&old, &Room::default())), Some(&Ignored::TooOld));
    assert_eq!(starts(&rules.handle_offer(&offer(&job(21, "cmd.run"), &master(1)), &Room::default())), 1);
}

/// What may happen to a minion.
#[derive(Debug, Clone)]
enum Happening {
    Offer(u64, bool),
    OfferWhenFull(u64),
    /// The journal cannot be written; whether the bytes reached the disk all the same.
    OfferUnwritable(u64, bool),
    Settle(u64),
    Restart,
    Time(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        5 => (0..6u64, any::<bool>()).prop_map(|(number, second)| Happening::Offer(number, second)),
        1 => (0..6u64).prop_map(Happening::OfferWhenFull),
        2 => (0..6u64, any::<bool>()).prop_map(|(number, kept)| Happening::OfferUnwritable(number, kept)),
        2 => (0..6u64).prop_map(Happening::Settle),
        2 => Just(Happening::Restart),
        2 => (0..400_000u64).prop_map(Happening::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Offers of the same jobs through two masters, in any order, with crashes, commits and forgetting in between.
    #[test]
    fn no_job_starts_twice(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut rules = rules();
        let mut disk: Vec<Entry> = Vec::new();
        let mut started = [0u32; 6];
        for happening in happenings {
            let actions = match happening {
                Happening::Offer(number, second) => {
                    let mut job = job(number, "cmd.run");
                    let id = if second { 2 } else { 1 };
                    job.master = MasterId(id);
                    rules.handle_offer(&offer(&job, &master(id)), &Room::default())
                }
                Happening::OfferWhenFull(number) => {
                    let full = Room { refuse: Some("full".into()) };
                    rules.handle_offer(&offer(&job(number, "cmd.run"), &master(1)), &full)
                }
                Happening::OfferUnwritable(number, kept) => {
                    let actions = rules.handle_offer(&offer(&job(number, "cmd.run"), &master(1)), &Room::default());
                    match &actions[..] {
                        [Action::Journal(entries), ..] => {
                            let answers = rules.handle_unwritable(entries, "full");
                            let entries = entries.clone();
                            // The next write that succeeds writes the whole ledger.
                            disk = if kept { [disk, entries].concat() } else { disk };
                            prop_assert_eq!(starts(&answers), 0);
                            answers
                        }
                        _ => actions,
                    }
                }
                Happening::Settle(number) => vec![Action::Journal(rules.handle_settled(&[job(number, "").jid]))],
                Happening::Time(seconds) => {
                    let actions = rules.handle_time(time(seconds));
                    // What was forgotten is forgotten on disk as well when the journal is written anew.
                    disk = rules.ledger().entries();
                    actions
                }
                Happening::Restart => {
                    let mut ledger = Ledger::default();
                    disk.iter().for_each(|entry| ledger.apply(entry));
                    rules = Rules::new(rules.trust.clone(), ledger);
                    rules.handle_ordinal(Some(ORDINAL));
                    Vec::new()
                }
            };
            for action in actions {
                match action {
                    Action::Journal(entries) => disk.extend(entries),
                    Action::Start(job) => {
                        let number = (0..6).find(|number| JobId::mint(time(*number), 1) == job.jid).expect("ours");
                        started[usize::try_from(number).expect("small")] += 1;
                    }
                    Action::Inside(_) | Action::RunPure(_) | Action::Accept(_) | Action::Answer(..) | Action::Ignore(..) => {}
                }
            }
        }
        prop_assert!(started.iter().all(|times| *times <= 1), "{started:?}");
    }
}
