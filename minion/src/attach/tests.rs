//! Stories about choosing a master and noticing that it is gone.

use super::*;
use saltern_wire::{ClusterId, LogicalTime};

const PATIENCE: Patience = Patience {
    ping_interval: Duration::from_secs(2),
    ping_timeout: Duration::from_secs(6),
    beacon_silence_max: Duration::from_secs(12),
    no_quorum: Duration::from_secs(7),
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn addresses() -> Vec<Address> {
    ["a", "b", "c"].map(|host| Address::new(host, 4506)).into()
}

fn candidates(minion: &str) -> Candidates {
    Candidates::new(MinionId::new(minion).expect("an id"), &addresses())
}

fn beacon(next_ms: u64, quorum: bool) -> Beacon {
    Beacon {
        cluster: ClusterId::from_bytes([7; 16]),
        sequence: 1,
        newest_job: None,
        time: LogicalTime::ZERO,
        directory: (0, 0),
        quorum,
        reconnect_window_ms: 0,
        next_ms,
    }
}

#[test]
fn minions_spread_over_masters() {
    let mut first = BTreeMap::new();
    for number in 0..300 {
        let choice = candidates(&format!("web-{number}")).choose(seconds(1)).expect("three");
        *first.entry(choice.address).or_insert(0) += 1;
    }
    assert!(first.len() == 3 && first.values().all(|count| *count > 60), "{first:?}");
}

#[test]
fn the_first_failure_costs_no_waiting() {
    let mut candidates = candidates("web-1");
    let now = seconds(100);
    let mut tried = Vec::new();
    for _ in 0..3 {
        let choice = candidates.choose(now).expect("three");
        assert_eq!(choice.at, now, "at once");
        assert!(!tried.contains(&choice.address), "another one each time");
        candidates.handle_failure(&choice.address, Duration::ZERO, now, u64::MAX);
        tried.push(choice.address);
    }
    for _ in 0..30 {
        let choice = candidates.choose(now).expect("three");
        candidates.handle_failure(&choice.address, Duration::ZERO, now, u64::MAX);
    }
    let choice = candidates.choose(now).expect("three");
    assert!(choice.at > now && choice.at <= now + BACKOFF_MAX, "{:?}", choice.at);
}

#[test]
fn a_long_session_wipes_out_old_failures() {
    let mut candidates = Candidates::new(MinionId::new("m").expect("an id"), &addresses()[..1]);
    for _ in 0..10 {
        candidates.handle_failure(&addresses()[0], Duration::ZERO, seconds(1), u64::MAX);
    }
    candidates.handle_failure(&addresses()[0], seconds(60), seconds(100), u64::MAX);
    assert_eq!(candidates.choose(seconds(100)).expect("one").at, seconds(100));
}

#[test]
fn a_master_that_asked_for_it_is_left_alone() {
    let mut candidates = candidates("web-1");
    let first = candidates.choose(seconds(1)).expect("three").address;
    candidates.handle_bye(&first, seconds(30), seconds(60), seconds(1), 0);
    assert_ne!(candidates.choose(seconds(2)).expect("three").address, first);
    candidates.handle_stable(&first);
    assert_eq!(candidates.choose(seconds(32)).expect("three").address, first);
}

#[test]
fn the_directory_adds_and_removes_but_the_configured_stay() {
    let mut candidates = candidates("web-1");
    let new = Address::new("d", 4506);
    candidates.handle_directory([new.clone()].iter());
    assert_eq!(candidates.len(), 4);
    assert_eq!(candidates.choose(seconds(1)).expect("four").address, new, "listed ones come first");
    candidates.handle_directory([].iter());
    assert_eq!(candidates.len(), 3);
}

/// An attached master that owes nothing any more.
fn vitals() -> Vitals {
    let mut vitals = Vitals::new(PATIENCE, seconds(0));
    vitals.handle_standing(false, seconds(0));
    vitals
}

/// When the master counts as gone, if it answers every ping and says nothing else.
fn gone_at(mut vitals: Vitals) -> Option<Duration> {
    (0..300).map(|tenths| Duration::from_millis(tenths * 100)).find(|now| {
        let pulse = vitals.poll(*now);
        if let Pulse::Ping(sequence) = pulse {
            vitals.handle_pong(sequence, true, *now);
        }
        matches!(pulse, Pulse::Gone(_))
    })
}

#[test]
fn a_master_that_answers_pings_and_gives_nothing_else_is_left() {
    assert_eq!(gone_at(Vitals::new(PATIENCE, seconds(0))), Some(STANDING_WITHIN), "it says nothing of our key");
    let mut accepted = Vitals::new(PATIENCE, seconds(0));
    accepted.handle_standing(true, seconds(1));
    assert_eq!(gone_at(accepted), Some(seconds(1) + SUBSCRIBE_WITHIN), "it does not let us listen");
    assert_eq!(gone_at(vitals()), None, "a key that waits for an operator is owed nothing");
}

#[test]
fn a_silent_session_is_noticed() {
    let mut vitals = vitals();
    assert_eq!(vitals.poll(seconds(1)), Pulse::Fine);
    assert_eq!(vitals.poll(seconds(2)), Pulse::Ping(1));
    vitals.handle_pong(1, true, seconds(3));
    assert_eq!(vitals.poll(seconds(4)), Pulse::Ping(2));
    let mut now = seconds(4);
    loop {
        now = vitals.deadline().max(now);
        match vitals.poll(now) {
            Pulse::Gone(_) => break,
            Pulse::Fine | Pulse::Ping(_) | Pulse::NoQuorum(_) => assert!(now < seconds(20)),
        }
        vitals.poll_stable(now);
    }
    assert_eq!(now, seconds(10), "six seconds after the first ping without an answer");
}

#[test]
fn a_slow_road_is_not_a_dead_one() {
    let mut vitals = vitals();
    for at in 1..60 {
        match vitals.poll(seconds(at)) {
            Pulse::Gone(reason) => panic!("{reason} at {at}"),
            Pulse::Ping(sequence) if sequence > 2 => vitals.handle_pong(sequence - 2, true, seconds(at)),
            Pulse::Ping(_) | Pulse::Fine | Pulse::NoQuorum(_) => {}
        }
    }
}

#[test]
fn a_minion_that_slept_does_not_blame_its_master() {
    let mut vitals = vitals();
    vitals.handle_subscribed(seconds(0));
    assert_eq!(vitals.poll(seconds(2)), Pulse::Ping(1));
    // Frozen for a minute; pong and beacons wait in its queues.
    assert!(!matches!(vitals.poll(seconds(62)), Pulse::Gone(_)));
    vitals.handle_pong(1, true, seconds(62));
    assert!(!matches!(vitals.poll(seconds(63)), Pulse::Gone(_)));
    // A master that is gone as well is noticed soon after.
    let gone = (630..900)
        .map(|tenths| Duration::from_millis(tenths * 100))
        .find(|now| matches!(vitals.poll(*now), Pulse::Gone(_)));
    assert!(gone.is_some_and(|gone| gone <= seconds(75)), "{gone:?}");
}

#[test]
fn a_silent_fanout_is_noticed_after_three_of_its_intervals() {
    for (next_ms, gone_after) in [(2_000, 6), (100, 1), (60_000, 12)] {
        let mut vitals = vitals();
        vitals.handle_subscribed(seconds(0));
        vitals.handle_beacon(&beacon(next_ms, true), seconds(0));
        let gone = (0..200).map(|tenths| Duration::from_millis(tenths * 100)).find(|now| {
            let pulse = vitals.poll(*now);
            if let Pulse::Ping(sequence) = pulse {
                vitals.handle_pong(sequence, true, *now);
            }
            matches!(pulse, Pulse::Gone(_))
        });
        assert_eq!(gone, Some(seconds(gone_after)), "{next_ms}");
    }
}

#[test]
fn a_master_without_quorum_is_left_for_one_that_may_have_it() {
    let mut vitals = vitals();
    vitals.handle_subscribed(seconds(0));
    let mut asked = None;
    for at in 0..30 {
        vitals.handle_beacon(&beacon(5_000, false), seconds(at));
        match vitals.poll(seconds(at)) {
            Pulse::Ping(sequence) => vitals.handle_pong(sequence, false, seconds(at)),
            Pulse::NoQuorum(_) => asked = asked.or(Some(at)),
            Pulse::Fine => {}
            Pulse::Gone(reason) => panic!("{reason}"),
        }
    }
    assert!(asked.is_some_and(|at| (7..10).contains(&at)), "{asked:?}");
    let mut candidates = candidates("web-1");
    let all = addresses();
    assert!(candidates.handle_useless(&all[0], seconds(1)));
    assert!(candidates.handle_useless(&all[1], seconds(2)));
    assert!(!candidates.handle_useless(&all[2], seconds(3)), "none is known to be better: stay");
    assert!(candidates.handle_useless(&all[2], seconds(70)), "what is known grows old");
}

#[test]
fn a_slot_is_waited_for_and_held_against_nobody() {
    let mut candidates = candidates("web-1");
    let at = Duration::from_millis;
    let first = candidates.choose(at(0)).expect("one").address;
    let ticket = Ticket { number: 7, secret: [1; 16] };
    candidates.handle_slot(&first, Slot { wait_ms: 1_500, ticket: Some(ticket) }, at(0), 0);
    assert_eq!(
        candidates.choose(at(10)),
        Some(Choice { address: first.clone(), at: at(1_500) }),
        "nobody else is asked"
    );
    assert_eq!(candidates.take_ticket(&first), Some(ticket));
    assert_eq!(candidates.take_ticket(&first), None, "it is good once");
    candidates.handle_slot(&first, Slot { wait_ms: 20_000, ticket: Some(ticket) }, at(1_600), 0);
    let other = candidates.choose(at(1_600)).expect("another");
    assert!(other.address != first && other.at == at(1_600), "that is too long: {other:?}");
    for address in addresses().iter().filter(|address| **address != first) {
        candidates.handle_slot(address, Slot { wait_ms: 20_000, ticket: None }, at(1_700), u64::MAX);
    }
    assert_eq!(candidates.choose(at(1_700)), Some(Choice { address: first.clone(), at: at(21_600) }), "it expects us");
    // A slot is no failure: the first one after it costs no waiting.
    candidates.take_ticket(&first);
    candidates.handle_failure(&first, Duration::ZERO, at(21_700), u64::MAX);
    assert!(candidates.choose(at(30_000)).is_some_and(|choice| choice.at == at(30_000)));
}

#[test]
fn a_master_says_while_it_lives_how_its_minions_spread_when_it_dies() {
    let mut vitals = Vitals::new(PATIENCE, seconds(0));
    assert_eq!(vitals.window(), Duration::ZERO, "nothing unless it says so");
    vitals.handle_beacon(&Beacon { reconnect_window_ms: 1_500, ..beacon(5_000, true) }, seconds(1));
    assert_eq!(vitals.window(), Duration::from_millis(1_500));
    vitals.handle_beacon(&Beacon { reconnect_window_ms: u64::MAX, ..beacon(5_000, true) }, seconds(2));
    assert_eq!(vitals.window(), WINDOW_MAX, "a mistake costs no more");
    vitals.handle_beacon(&beacon(5_000, true), seconds(3));
    assert_eq!(vitals.window(), Duration::ZERO, "the newest word counts");
}
