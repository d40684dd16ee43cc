//! How many minions a second this master takes on: from what a handshake costs it, and from whether it keeps up. Pure.
//!
//! ```text
//!   rate = a share of all cores ÷ what a handshake's cryptography takes × ease
//!   ease   falls by a fifth whenever the sessions' runtime runs late while minions attach, and comes back in steps of a tenth
//! ```
//!
//! What is measured is wall time: on a machine that does something else as well, a handshake takes longer, and fewer are taken on.
//!
//! **Invariants.** The rate never leaves what [`Pace::rate`] is given as its highest, and never falls below [`RATE_MIN`]. Peers
//! that say nothing have no influence on it: only this side's own work is measured.

use crate::presence::AttachRoom;
use std::time::Duration;

/// Part of all cores that goes into the cryptography of handshakes, in thousandths. The rest of what attaching costs (the gate,
/// the session, its seat, its subscription) is about twice as much again, and the group has to live beside it.
const SHARE_THOUSANDTHS: u64 = 250;

/// Least rate, a second: what the slowest machine does.
const RATE_MIN: f64 = 50.0;

/// Highest rate, a second: beyond it, other things than cryptography decide.
const RATE_MAX: f64 = 5_000.0;

/// Part of a second's rate that may enter at once: whatever attaches within that time keeps nobody waiting.
const BURST: f64 = 0.5;

/// Least burst: a small fleet never meets a queue.
const BURST_MIN: f64 = 128.0;

/// Lateness that means that there is too much to do: a twentieth of the time that a handshake has. Heartbeats run elsewhere.
const LATE: Duration = Duration::from_millis(250);

/// What is left of the rate at the least, however late it is: the cost of a handshake is measured in wall time and grows, too.
const EASE_MIN: f64 = 0.25;

/// Longest reconnect window: behind it, slots do the rest.
const WINDOW_MAX: Duration = Duration::from_secs(30);

/// Weight of the newest measurement, as a part of 1/16.
const NEWEST_SIXTEENTHS: u32 = 1;

/// The rate and what it comes from.
#[derive(Debug, Clone)]
pub struct Pace {
    cores: u64,
    /// What a handshake takes, on average.
    cost: Duration,
    /// What is left of the rate that follows from it, [`EASE_MIN`] to 1.
    ease: f64,
    /// Handshakes since the last look at the lateness.
    worked: u32,
}

impl Pace {
    /// `cost` is what a handshake took when it was tried at the start, and `cores` how many there are.
    pub fn new(cost: Duration, cores: usize) -> Self {
        let cores = u64::try_from(cores.max(1)).unwrap_or(1);
        Self { cores, cost, ease: 1.0, worked: 0 }
    }

    /// A handshake's cryptography took so long.
    pub fn handle_worked(&mut self, took: Duration) {
        self.worked = self.worked.saturating_add(1);
        self.cost = (self.cost * (16 - NEWEST_SIXTEENTHS) + took * NEWEST_SIXTEENTHS) / 16;
    }

    /// A timer of the sessions' runtime rang so late.
    pub fn handle_lateness(&mut self, late: Duration) {
        let worked = std::mem::take(&mut self.worked);
        if late < LATE {
            self.ease = (self.ease * 1.1).min(1.0);
        } else if worked > 0 {
            self.ease = (self.ease * 0.8).max(EASE_MIN);
        }
    }

    /// What a handshake takes at present.
    pub fn cost(&self) -> Duration {
        self.cost
    }

    /// How many a second, and how many at once. `highest` is what an operator allows, 0 for as many as go.
    pub fn rate(&self, highest: u32) -> (f64, f64) {
        let share = Duration::from_millis(SHARE_THOUSANDTHS * self.cores);
        let measured = share.as_secs_f64() / self.cost.as_secs_f64().max(1e-6);
        let rate = (measured.min(RATE_MAX) * self.ease).max(RATE_MIN);
        if highest == 0 {
            return (rate, (rate * BURST).max(BURST_MIN));
        }
        let rate = rate.min(f64::from(highest));
        (rate, (rate * BURST).max(BURST_MIN.min(f64::from(highest))))
    }
}

/// Over how long `minions` that lost their master spread their first attempts at others, which have so much `room` together.
/// Nothing for those that may come at once.
pub fn reconnect_window(minions: u64, room: AttachRoom) -> Duration {
    let behind = minions.saturating_sub(room.burst.into());
    let window = Duration::from_millis(behind.saturating_mul(1000) / u64::from(room.rate.max(1)));
    window.min(WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Duration = Duration::from_micros(250);

    fn rate(pace: &Pace) -> u64 {
        pace.rate(0).0 as u64
    }

    #[test]
    fn the_rate_follows_from_what_a_handshake_costs() {
        let mut pace = Pace::new(COST, 2);
        assert_eq!(rate(&pace), 2000, "half a second of a core, at a quarter of a millisecond each");
        (0..200).for_each(|_| pace.handle_worked(COST * 4));
        assert!((495..=510).contains(&rate(&pace)), "{}: four times as dear", rate(&pace));
        (0..200).for_each(|_| pace.handle_worked(Duration::from_secs(1)));
        assert_eq!(rate(&pace), 50, "never nothing");
        assert_eq!(rate(&Pace::new(Duration::ZERO, 64)), 5000, "never everything");
    }

    #[test]
    fn a_master_that_runs_late_takes_on_fewer_until_it_keeps_up() {
        let mut pace = Pace::new(COST, 2);
        for _ in 0..3 {
            pace.handle_worked(COST);
            pace.handle_lateness(LATE);
        }
        assert_eq!(rate(&pace), 1024);
        pace.handle_lateness(LATE);
        assert_eq!(rate(&pace), 1024, "nobody attached: it is late for another reason");
        (0..20).for_each(|_| pace.handle_lateness(Duration::ZERO));
        assert_eq!(rate(&pace), 2000);
        for _ in 0..100 {
            pace.handle_worked(COST);
            pace.handle_lateness(LATE);
        }
        assert_eq!(rate(&pace), 500, "a quarter at the least");
    }

    #[test]
    fn minions_spread_over_as_long_as_the_others_take_for_them() {
        let room = AttachRoom { rate: 1000, burst: 500 };
        let window = |minions| reconnect_window(minions, room).as_millis();
        assert_eq!([0, 300, 500, 2_000, 6_000].map(window), [0, 0, 0, 1_500, 5_500], "nothing for a small fleet");
        assert_eq!(window(10_000_000), 30_000);
        assert_eq!(reconnect_window(100, AttachRoom::default()), WINDOW_MAX, "nobody who could take them is known");
    }

    #[test]
    fn an_operator_may_set_a_limit() {
        let pace = Pace::new(COST, 2);
        assert_eq!(pace.rate(0), (2000.0, 1000.0));
        assert_eq!(pace.rate(300), (300.0, 150.0));
        assert_eq!(pace.rate(20), (20.0, 20.0));
        assert_eq!(pace.rate(9999), (2000.0, 1000.0));
    }
}
