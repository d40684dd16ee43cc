//! Stories about choosing a master and noticing that it is gone.

use super::vitals::{STANDING_WITHIN, SUBSCRIBE_WITHIN, WINDOW_MAX};
use super::*;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::fanout::Beacon;
use saltern_wire::io::Address;
use saltern_wire::master::{Certificate, Endpoints, MasterRecord, MasterState, Role};
use saltern_wire::slot::{Slot, Ticket};
use saltern_wire::{ClusterId, LogicalTime, MasterId, MinionId};
use std::collections::BTreeMap;

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
    Candidates::new(MinionId::new(minion).expect("an id"), Home::default(), &addresses())
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
        level: saltern_wire::level::LEVEL,
    }
}

fn record(id: u64, host: &str, region: &str, zone: &str) -> MasterRecord {
    let identity = Identity::from_seed([u8::try_from(id).expect("small"); 32]);
    let (master, name, public_key) = (MasterId(id), host.to_owned(), identity.public_key());
    let cluster = ClusterId::from_bytes([7; 16]);
    let certificate = Certificate { cluster, master, name: name.clone(), public_key, generation: 1 };
    let at = |port| Address::new(host, port);
    MasterRecord {
        id: master,
        name,
        state: MasterState::Active,
        endpoints: Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) },
        region: region.into(),
        zone: zone.into(),
        weight: 100,
        certificate: Signed::new(&certificate, &identity),
        public_key,
        role: Role::Voter,
    }
}

/// A minion in zone `eu/a` of a cluster with masters 1 and 2 there, 3 in the next zone, and 4 and 5 overseas.
fn at_home(minion: &str) -> Candidates {
    let home = Home { region: "eu".into(), zone: "a".into() };
    let mut candidates = Candidates::new(MinionId::new(minion).expect("an id"), home, &[]);
    let masters = [("eu", "a"), ("eu", "a"), ("eu", "b"), ("us", "a"), ("us", "b")];
    let records: Vec<MasterRecord> =
        (1..).zip(masters).map(|(id, (region, zone))| record(id, &format!("m{id}"), region, zone)).collect();
    candidates.handle_directory(records.iter());
    candidates
}

fn standby(candidates: &Candidates, primary: u64, at: u64) -> Option<(u64, bool)> {
    candidates.standby(MasterId(primary), false, seconds(at)).map(|wanted| (wanted.master.0, wanted.preferred))
}

#[test]
fn the_nearest_master_comes_first_and_failures_lead_further_away() {
    let mut candidates = at_home("web-1");
    let mut tried = Vec::new();
    for _ in 0..5 {
        let choice = candidates.choose(seconds(1)).expect("five");
        candidates.handle_failure(&choice.address, Duration::ZERO, seconds(1), 0);
        tried.push(choice.address.host().to_owned());
    }
    let near: Vec<&str> = tried[..2].iter().map(String::as_str).collect();
    assert!(near == ["m1", "m2"] || near == ["m2", "m1"], "{tried:?}");
    assert_eq!(tried[2], "m3");
    assert!(tried[3..].iter().all(|host| host == "m4" || host == "m5"), "{tried:?}");
}

#[test]
fn a_standby_session_waits_in_another_failure_domain() {
    let candidates = at_home("web-1");
    let own = if candidates.choose(seconds(1)).expect("five").address.host() == "m1" { 1 } else { 2 };
    assert_eq!(standby(&candidates, own, 1), Some((3, false)), "the other zone of the region");
    assert_eq!(standby(&candidates, 3 - own, 1), Some((own, true)), "its own master in its zone is better");
    assert_eq!(standby(&candidates, 3, 1), Some((own, true)), "from the other zone back home");
    assert_eq!(standby(&candidates, 4, 1), Some((own, true)));
    let stays = candidates.standby(MasterId(4), true, seconds(1)).expect("another").master;
    assert_eq!(stays, MasterId(5), "sent there by an operator, it looks for no better one: another zone over there");
    assert_eq!(
        candidates.standby(MasterId(9), false, seconds(1)).map(|wanted| wanted.preferred),
        Some(true),
        "its own is leaving"
    );
}

#[test]
fn whoever_holds_no_standby_session_is_passed_over_for_a_while() {
    let mut candidates = at_home("web-1");
    let own = if candidates.choose(seconds(1)).expect("five").address.host() == "m1" { 1 } else { 2 };
    let third = Address::new("m3", 4506);
    candidates.handle_standby_failure(&third, Duration::ZERO, seconds(1), 0);
    let (next, _) = standby(&candidates, own, 1).expect("another");
    assert!(next == 4 || next == 5, "no other zone here: another region, not {next}");
    let again = candidates.standby_again(seconds(1)).expect("a time");
    assert!(again >= seconds(16) && again <= seconds(24), "{again:?}");
    assert_eq!(standby(&candidates, own, 30), Some((3, false)));
    candidates.handle_standby_failure(&third, seconds(100), seconds(30), 0);
    assert_ne!(standby(&candidates, own, 100), Some((3, false)), "it asked for it");
    assert_eq!(standby(&candidates, own, 130), Some((3, false)));
}

#[test]
fn where_labels_say_nothing_the_shortest_round_trip_does() {
    let mut candidates = Candidates::new(MinionId::new("web-1").expect("an id"), Home::default(), &[]);
    candidates.handle_directory([record(1, "m1", "", ""), record(2, "m2", "", ""), record(3, "m3", "", "")].iter());
    let measure = |candidates: &mut Candidates, master, ms| {
        (0..8).for_each(|_| candidates.handle_round_trip(MasterId(master), Duration::from_millis(ms)));
    };
    measure(&mut candidates, 1, 80);
    measure(&mut candidates, 2, 30);
    measure(&mut candidates, 3, 45);
    assert_eq!(candidates.choose(seconds(1)).map(|choice| choice.address.host().to_owned()), Some("m2".into()));
    assert_eq!(standby(&candidates, 1, 1), Some((2, true)));
    assert!(!standby(&candidates, 2, 1).expect("another").1, "nobody is better than the nearest");
    // What is 5 ms better is noise: this minion's own order decides, and the better one stays the better one.
    measure(&mut candidates, 3, 25);
    let (one, other) = (standby(&candidates, 2, 1), standby(&candidates, 3, 1));
    assert!(one.expect("another").1 != other.expect("another").1, "{one:?} {other:?}");
    // One slow answer is no distance.
    candidates.handle_round_trip(MasterId(2), Duration::from_millis(900));
    assert_eq!(standby(&candidates, 1, 1).map(|(_, preferred)| preferred), Some(true));
}

#[test]
fn nobody_is_sent_back_and_forth() {
    for number in 0..200 {
        let candidates = at_home(&format!("web-{number}"));
        let (mut primary, mut moves) = (1 + number % 5, 0);
        while let Some((next, true)) = standby(&candidates, primary, 1) {
            (primary, moves) = (next, moves + 1);
            assert!(moves <= 5, "web-{number} goes in circles");
        }
        let own = candidates.choose(seconds(1)).expect("five").address;
        assert_eq!(own.host(), format!("m{primary}"), "it ends with the one that it would choose");
    }
}

#[test]
fn a_master_that_others_call_dead_has_one_more_chance() {
    for (answers, slot, gone_by) in [(true, 0, None), (false, 0, Some(1_000)), (false, 3_000, Some(3_000))] {
        let mut vitals = vitals();
        vitals.handle_doubt(Duration::from_millis(slot), seconds(1));
        let Pulse::Ping(asked) = vitals.poll(seconds(1)) else { panic!("it is asked at once") };
        let gone = (0..80).map(|tenths| seconds(1) + Duration::from_millis(tenths * 100)).find(|now| {
            let pulse = vitals.poll(*now);
            if answers {
                vitals.handle_pong(asked, true, *now);
                if let Pulse::Ping(sequence) = pulse {
                    vitals.handle_pong(sequence, true, *now);
                }
            }
            matches!(pulse, Pulse::Gone(_))
        });
        assert_eq!(gone, gone_by.map(|ms| seconds(1) + Duration::from_millis(ms)), "answers: {answers}, slot {slot}");
    }
}

#[test]
fn an_answer_to_an_older_ping_does_not_clear_a_doubt() {
    let mut vitals = vitals();
    assert_eq!(vitals.poll(seconds(2)), Pulse::Ping(1));
    vitals.handle_doubt(Duration::ZERO, seconds(2));
    assert_eq!(vitals.poll(seconds(2)), Pulse::Ping(2));
    // On its way when the master froze.
    vitals.handle_pong(1, true, seconds(2));
    assert!(matches!(vitals.poll(seconds(3)), Pulse::Gone(_)));
}

#[test]
fn with_a_second_session_at_hand_silence_counts_sooner() {
    for (hasty, gone_after) in [(false, 8_000), (true, 6_000)] {
        let mut vitals = vitals();
        vitals.set_hasty(hasty);
        let tenths = (0..200).map(|tenths| Duration::from_millis(tenths * 100));
        let gone = tenths.into_iter().find(|now| matches!(vitals.poll(*now), Pulse::Gone(_)));
        assert_eq!(gone, Some(Duration::from_millis(gone_after)), "{hasty}");
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
    let mut candidates = Candidates::new(MinionId::new("m").expect("an id"), Home::default(), &addresses()[..1]);
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
    candidates.handle_directory([record(4, "d", "", "")].iter());
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
            Pulse::Ping(sequence) if sequence > 2 => drop(vitals.handle_pong(sequence - 2, true, seconds(at))),
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
            Pulse::Ping(sequence) => drop(vitals.handle_pong(sequence, false, seconds(at))),
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
