//! The sweep by itself: who is offered what, when, and how much at once.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(micros: u64) -> LogicalTime {
    LogicalTime::from_unix_micros(micros)
}

fn jid(number: u64) -> JobId {
    JobId::mint(at(number * 100), 0)
}

fn set(numbers: &[u32]) -> RoaringBitmap {
    numbers.iter().collect()
}

/// A round at `now` seconds that may do everything; patience is two seconds, and nothing is spread.
fn round(now: u32) -> Round {
    Round {
        time: at(1),
        now: SECOND * now,
        patience: 2 * SECOND,
        offers_max: u64::MAX,
        jobs_max: usize::MAX,
        random: u64::from(jid(1).to_bytes()[15]),
    }
}

fn due(number: u64, whom: &[u32]) -> Due {
    Due { jid: jid(number), opened: at(1), whom: set(whom) }
}

#[test]
fn a_job_is_offered_again_until_it_is_accepted_or_over() {
    let mut ledger = Ledger::default();
    ledger.open(jid(1), set(&[1, 2, 3]), at(1), at(1000), 2 * SECOND);
    let attached = set(&[2, 3, 9]);
    assert_eq!(ledger.poll_overdue(&attached, &round(1)), []);
    assert_eq!(ledger.poll_overdue(&attached, &round(2)), [due(1, &[2, 3])]);
    assert_eq!(ledger.poll_overdue(&attached, &round(3)), [], "just offered");
    ledger.settle(jid(1), Ordinal(2));
    assert_eq!(ledger.poll_overdue(&attached, &round(4)), [due(1, &[3])]);
    let over = Round { time: at(1000), ..round(99) };
    assert_eq!(ledger.poll_overdue(&attached, &over), [], "its time is over");
    assert_eq!(ledger.poll_overdue(&attached, &round(199)), [due(1, &[3])], "the estimate was wrong");
    ledger.close(jid(1));
    assert!(ledger.is_empty() && ledger.agenda.is_empty());
}

#[test]
fn who_takes_no_offer_is_asked_less_and_less_often() {
    let mut ledger = Ledger::default();
    ledger.open(jid(1), set(&[1]), at(1), at(1000), 2 * SECOND);
    let offered = |now: &u32| !ledger.poll_overdue(&set(&[1]), &round(*now)).is_empty();
    let times: Vec<u32> = (0..70).filter(offered).collect();
    assert_eq!(times, [2, 4, 8, 16, 32, 48, 64]);
}

#[test]
fn looks_are_spread_over_a_quarter_of_the_wait() {
    let waits: BTreeSet<Duration> = (0..100).map(|random| Round { random, ..round(0) }.wait(jid(1), 1)).collect();
    assert!(waits.len() > 50, "{} different waits", waits.len());
    assert!(waits.iter().all(|wait| (4 * SECOND..5 * SECOND).contains(wait)), "{waits:?}");
}

#[test]
fn a_round_makes_a_bounded_number_of_offers_and_the_next_goes_on_where_it_stopped() {
    let mut ledger = Ledger::default();
    let all: RoaringBitmap = (0..1_000).collect();
    for number in 1..=3 {
        ledger.open(jid(number), all.clone(), at(1), at(1000), 2 * SECOND);
    }
    let mut offered: BTreeMap<JobId, RoaringBitmap> = BTreeMap::new();
    let mut rounds = 0;
    loop {
        let dues = ledger.poll_overdue(&all, &Round { offers_max: 300, ..round(2) });
        if dues.is_empty() {
            break;
        }
        rounds += 1;
        assert!(dues.iter().map(|due| due.whom.len()).sum::<u64>() <= 300);
        for due in dues {
            let before = offered.entry(due.jid).or_default();
            assert!(before.is_disjoint(&due.whom), "nobody twice");
            *before |= due.whom;
        }
    }
    assert_eq!(rounds, 10);
    assert!(offered.len() == 3 && offered.values().all(|whom| *whom == all), "nobody was left out");
}

#[test]
fn a_round_looks_at_a_bounded_number_of_jobs_and_in_turn_at_all() {
    let mut ledger = Ledger::default();
    for number in 1..=1_000 {
        // Only the last is for somebody who is here.
        ledger.open(jid(number), set(&[if number == 1_000 { 1 } else { 2 }]), at(1), at(1000), 2 * SECOND);
    }
    let bounded = Round { jobs_max: 300, ..round(2) };
    let found: Vec<usize> = (0..4).map(|_| ledger.poll_overdue(&set(&[1]), &bounded).len()).collect();
    assert_eq!(found, [0, 0, 0, 1]);
}

#[test]
fn whoever_comes_is_offered_every_open_job_once_in_order_and_not_all_at_once() {
    let mut ledger = Ledger::default();
    let late = Duration::from_secs(1 << 20);
    for number in 1..=500 {
        let whom = if number % 2 == 0 { set(&[7, 8, 9]) } else { set(&[9]) };
        let expires = if number == 4 { at(1) } else { at(1000) };
        ledger.open(jid(number), whom, at(1), expires, late);
    }
    ledger.seat(Ordinal(7));
    let attached = set(&[7, 8]);
    let first = ledger.poll_seated(&attached, &round(1));
    assert_eq!(first.len(), JOBS_AT_ONCE_MAX);
    ledger.seat(Ordinal(8));
    let mut offers: BTreeMap<u32, Vec<JobId>> = BTreeMap::new();
    let mut dues = first;
    let mut rounds = 0;
    while !dues.is_empty() {
        let mut at_once: BTreeMap<u32, usize> = BTreeMap::new();
        for due in dues {
            for ordinal in &due.whom {
                *at_once.entry(ordinal).or_default() += 1;
                offers.entry(ordinal).or_default().push(due.jid);
            }
        }
        assert!(at_once.values().all(|count| *count <= JOBS_AT_ONCE_MAX), "{at_once:?}");
        dues = ledger.poll_seated(&attached, &round(1));
        rounds += 1;
    }
    let all: Vec<JobId> = (1..=500).filter(|number| number % 2 == 0 && *number != 4).map(jid).collect();
    assert_eq!(offers.keys().collect::<Vec<_>>(), [&7, &8]);
    assert!(offers.values().all(|jids| *jids == all), "each once, in order");
    assert!(rounds <= 4, "{rounds}");
}

#[test]
fn a_herd_costs_one_look_at_every_job_and_who_left_meanwhile_nothing() {
    let mut ledger = Ledger::default();
    ledger.open(jid(1), (0..2_000).collect(), at(1), at(1000), SECOND);
    (0..2_000).for_each(|ordinal| ledger.seat(Ordinal(ordinal)));
    let here: RoaringBitmap = (0..1_500).collect();
    let dues = ledger.poll_seated(&here, &round(0));
    assert_eq!(dues.len(), 1);
    assert_eq!(dues[0].whom, here);
    assert_eq!(ledger.poll_seated(&here, &round(0)), []);
    assert!(ledger.seated.is_empty());
}

#[test]
fn a_ledger_that_takes_the_place_of_another_forgets_nobody_who_came() {
    let mut before = Ledger::default();
    before.seat(Ordinal(3));
    let mut after = Ledger::default();
    after.open(jid(1), set(&[3]), at(1), at(1000), 60 * SECOND);
    after.succeed(before);
    assert_eq!(after.poll_seated(&set(&[3]), &round(0)), [due(1, &[3])]);
}

#[test]
fn narrow_jobs_go_down_sessions_and_wide_ones_over_the_fanout() {
    for (targeted, attached, expect) in [
        (0, 0, Road::Direct),
        (16, 16, Road::Direct),
        (17, 17, Road::Fanout),
        (17, 84, Road::Fanout),
        (17, 85, Road::Direct),
        (2000, 10_000, Road::Direct),
        (2001, 10_000, Road::Fanout),
    ] {
        assert_eq!(road(targeted, attached), expect, "{targeted} of {attached}");
    }
}
