//! Never more than the rate, in order, nobody starves, and whoever cheats gains nothing.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn secret(number: u64) -> [u8; 16] {
    let mut secret = [9; 16];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    secret
}

fn millis(slot: Slot) -> Duration {
    Duration::from_millis(slot.wait_ms.into())
}

/// A fleet that does as it is told: arrives at these times, comes back at its slots. Gives when each entered, in the order of
/// arrival, with how often it came.
fn live(slots: &mut Slots, arrivals: &[Duration]) -> Vec<(Duration, u32)> {
    let mut due: BTreeSet<(Duration, usize)> = arrivals.iter().copied().zip(0..).collect();
    let mut tickets = vec![None; arrivals.len()];
    let mut entered = vec![(Duration::MAX, 0); arrivals.len()];
    let mut steps = 0;
    while let Some((now, who)) = due.pop_first() {
        steps += 1;
        assert!(steps < arrivals.len() * 50 + 1000, "nobody gets anywhere");
        entered[who].1 += 1;
        match slots.arrive(&format!("10.0.{}.{}", who / 250, who % 250), tickets[who], secret(steps as u64), now) {
            Verdict::Enter => entered[who].0 = now,
            Verdict::Wait(slot) | Verdict::Refuse(slot) => {
                tickets[who] = slot.ticket;
                due.insert((now + millis(slot).max(Duration::from_millis(1)), who));
            }
        }
    }
    entered
}

/// No window of time holds more than the burst and what the rate gives.
fn within_the_rate(entered: &[(Duration, u32)], rate: f64, burst: f64) {
    let mut times: Vec<Duration> = entered.iter().map(|(at, _)| *at).collect();
    times.sort();
    for (from, begin) in times.iter().enumerate() {
        for (to, end) in times.iter().enumerate().skip(from) {
            let allowed = burst + rate * end.saturating_sub(*begin).as_secs_f64() + 1e-6;
            let found = to - from + 1;
            assert!(found as f64 <= allowed, "{found} within {:?}, {allowed} are allowed", *end - *begin);
        }
    }
}

#[test]
fn two_thousand_in_the_same_second_get_slots_and_enter_in_their_order() {
    let mut slots = Slots::new(1000.0, 200.0, Duration::ZERO);
    let arrivals: Vec<_> = (0..2000).map(|at| Duration::from_micros(at * 500)).collect();
    let entered = live(&mut slots, &arrivals);
    within_the_rate(&entered, 1000.0, 200.0);
    assert!(entered.iter().all(|(_, came)| *came <= 2), "once to ask, once to enter");
    assert!(entered.windows(2).all(|pair| pair[0].0 <= pair[1].0 + EARLY), "in the order in which they came");
    let last = entered.iter().map(|(at, _)| *at).max().expect("some");
    assert!(last <= Duration::from_millis(1_810), "{last:?}: no time is lost");
    let counts = slots.counts();
    assert_eq!((counts.entered + counts.taken, counts.expired, counts.refused), (2000, 0, 0));
    assert_eq!(counts.given, counts.taken);
}

#[test]
fn a_small_fleet_meets_no_queue() {
    let mut slots = Slots::new(1000.0, 200.0, Duration::ZERO);
    let entered = live(&mut slots, &vec![SECOND; 200]);
    assert!(entered.iter().all(|entered| *entered == (SECOND, 1)));
    assert_eq!(slots.waiting(), 0);
}

#[test]
fn who_comes_at_its_slot_goes_before_all_newcomers() {
    let mut slots = Slots::new(10.0, 1.0, Duration::ZERO);
    assert_eq!(slots.arrive("a", None, secret(1), Duration::ZERO), Verdict::Enter);
    let Verdict::Wait(slot) = slots.arrive("a", None, secret(2), Duration::ZERO) else { panic!("a slot") };
    assert_eq!(slot.wait_ms, 100);
    // Newcomers try all the time, just before it and just when it is due.
    for at in [10, 50, 99, 100, 100] {
        let verdict = slots.arrive("b", None, secret(at), Duration::from_millis(at));
        assert!(matches!(verdict, Verdict::Wait(_)), "{at}: {verdict:?}");
    }
    let late = Duration::from_millis(130);
    assert_eq!(slots.arrive("a", slot.ticket, secret(3), late), Verdict::Enter);
    assert!(matches!(slots.arrive("a", slot.ticket, secret(4), late), Verdict::Wait(_)), "a ticket is good once");
}

#[test]
fn who_comes_too_early_is_sent_back_to_the_same_slot() {
    let mut slots = Slots::new(1.0, 1.0, Duration::ZERO);
    assert_eq!(slots.arrive("a", None, secret(1), Duration::ZERO), Verdict::Enter);
    let Verdict::Wait(first) = slots.arrive("a", None, secret(2), Duration::ZERO) else { panic!("a slot") };
    let Verdict::Wait(again) = slots.arrive("a", first.ticket, secret(3), Duration::from_millis(400)) else {
        panic!("too early")
    };
    assert_eq!((again.wait_ms, again.ticket), (600, first.ticket));
    assert_eq!(slots.waiting(), 1, "and holds one place");
}

#[test]
fn a_guessed_or_stolen_ticket_gains_nothing() {
    let mut slots = Slots::new(10.0, 1.0, Duration::ZERO);
    assert_eq!(slots.arrive("a", None, secret(1), Duration::ZERO), Verdict::Enter);
    let Verdict::Wait(slot) = slots.arrive("a", None, secret(2), Duration::ZERO) else { panic!("a slot") };
    let held = slot.ticket.expect("a ticket");
    let due = Duration::from_millis(100);
    for guess in [
        Ticket { secret: [0; 16], ..held },
        Ticket { number: held.number + 1, ..held },
        Ticket { number: u64::MAX, ..held },
    ] {
        let verdict = slots.arrive("thief", Some(guess), secret(3), due);
        let Verdict::Wait(slot) = verdict else { panic!("{verdict:?}") };
        assert!(slot.wait_ms >= 100, "behind everybody: {slot:?}");
    }
    assert_eq!(slots.arrive("a", Some(held), secret(4), due), Verdict::Enter);
    // One who saw it on the wire and comes first opens one handshake, and so the owner is a newcomer: no more enter than otherwise.
    assert_eq!(slots.counts().taken, 1);
}

#[test]
fn places_that_nobody_takes_are_given_free() {
    let mut slots = Slots::new(100.0, 10.0, Duration::ZERO);
    for number in 0..200 {
        slots.arrive("gone", None, secret(number), Duration::ZERO);
    }
    assert_eq!(slots.waiting(), 190);
    slots.poll(Duration::from_millis(1_900) + GRACE * 2);
    assert_eq!((slots.waiting(), slots.counts().expired), (0, 190));
    let now = SECOND * 20;
    let entered = (0..20).filter(|_| slots.arrive("new", None, secret(0), now) == Verdict::Enter).count();
    assert_eq!(entered, 10, "the burst, not what was never used");
}

#[test]
fn who_collects_slots_for_nothing_does_not_keep_others_waiting() {
    let mut slots = Slots::new(1000.0, 500.0, Duration::ZERO);
    let mut now = Duration::ZERO;
    let mut worst = Duration::ZERO;
    // Two thousand a second from one address, which never come back and say nothing once inside; one of the fleet every tenth of a second.
    for step in 0..60_000_u64 {
        now = Duration::from_millis(step);
        for _ in 0..2 {
            if slots.arrive("192.0.2.66", None, secret(step), now) == Verdict::Enter {
                slots.handle_over("192.0.2.66", false);
            }
        }
        if step > 1_000
            && step.is_multiple_of(100)
            && let Verdict::Wait(slot) = slots.arrive(&format!("10.1.0.{}", step % 250), None, secret(step), now)
        {
            worst = worst.max(millis(slot));
        }
    }
    assert!(worst <= Duration::from_millis(50), "the fleet waits {worst:?}");
    assert_eq!(slots.arrive("10.0.0.1", None, secret(1), now), Verdict::Enter);
    assert!(slots.sources.len() < 1000);
}

#[test]
fn one_source_leaves_places_to_others() {
    let mut slots = Slots::new(1000.0, 1.0, Duration::ZERO);
    let given = (0..30_000).filter(|number| {
        matches!(
            slots.arrive("one", None, secret(*number), Duration::ZERO),
            Verdict::Wait(Slot { ticket: Some(_), .. })
        )
    });
    assert_eq!(given.count(), PLACES_MAX / 2);
    let other = slots.arrive("other", None, secret(0), Duration::ZERO);
    assert!(matches!(other, Verdict::Wait(Slot { ticket: Some(_), .. })), "{other:?}");
}

#[test]
fn a_queue_that_is_too_long_is_joined_later() {
    let mut slots = Slots::new(10.0, 1.0, Duration::ZERO);
    let mut verdicts = (0..1000).map(|number| slots.arrive("a", None, secret(number), Duration::ZERO));
    assert!(verdicts.any(|verdict| verdict == Verdict::Wait(Slot { wait_ms: 20_000, ticket: None })));
    assert!(slots.waiting() <= 451, "{}: 45 s at 10 a second", slots.waiting());
}

#[test]
fn a_rate_that_falls_makes_nobody_begin_anew() {
    let mut slots = Slots::new(1000.0, 1.0, Duration::ZERO);
    let tickets: Vec<_> = (0..1000)
        .filter_map(|number| match slots.arrive("a", None, secret(number), Duration::ZERO) {
            Verdict::Wait(slot) => slot.ticket.map(|ticket| (millis(slot), ticket)),
            Verdict::Enter | Verdict::Refuse(_) => None,
        })
        .collect();
    slots.set_rate(100.0, 1.0, Duration::ZERO);
    let mut due: BTreeSet<(Duration, usize)> = tickets.iter().map(|(at, _)| *at).zip(0..).collect();
    let mut came = 0;
    while let Some((now, who)) = due.pop_first() {
        came += 1;
        match slots.arrive("a", Some(tickets[who].1), secret(0), now) {
            Verdict::Enter => {}
            Verdict::Wait(slot) => {
                assert_eq!(slot.ticket, Some(tickets[who].1), "it keeps its place");
                due.insert((now + millis(slot), who));
            }
            Verdict::Refuse(slot) => panic!("{slot:?}"),
        }
    }
    assert!(came <= tickets.len() * 4, "{came} connections for {}", tickets.len());
    assert_eq!(slots.counts().taken, tickets.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_the_rate_and_nobody_starves(
        arrivals in proptest::collection::vec(0_u64..5_000, 1..400),
        rate in 5_u32..2_000,
        burst in 1_u32..100,
    ) {
        let (rate, burst) = (f64::from(rate), f64::from(burst));
        let mut slots = Slots::new(rate, burst, Duration::ZERO);
        let mut arrivals: Vec<_> = arrivals.into_iter().map(Duration::from_millis).collect();
        arrivals.sort();
        let entered = live(&mut slots, &arrivals);
        within_the_rate(&entered, rate, burst);
        let last = entered.iter().map(|(at, _)| *at).max().unwrap_or_default();
        prop_assert!(last < Duration::MAX, "everybody entered");
        let needed = Duration::from_secs_f64(arrivals.len() as f64 / rate);
        // Rounded to milliseconds, and with a moment for those whom a full queue sent away.
        prop_assert!(last <= Duration::from_secs(5) + needed + FULL_WAIT * 3, "{last:?} for {needed:?} of work");
        prop_assert_eq!(slots.waiting(), 0);
    }
}
