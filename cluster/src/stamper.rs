//! Logical time, as a leader stamps it: pure.
//!
//! The estimate goes on from the newest applied entry by this machine's monotonic clock, slewed by at most one percent toward
//! the median wall clock of the masters that can be reached. After a downtime, and only then, it jumps forward to that
//! median. One wrong clock moves nothing; no two machines' clocks are ever compared to decide an order.

use saltern_wire::LogicalTime;
use std::time::Duration;

/// Part of the elapsed time by which an estimate may be slewed: one percent.
const SLEW_DIVISOR: u64 = 100;

/// A gap to the median above which a fresh process jumps instead of slewing, in microseconds.
const JUMP_MICROS: u64 = 1_000_000;

/// An estimate of logical time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamper {
    /// The estimate at `at`.
    time: LogicalTime,
    /// Monotonic time of the estimate.
    at: Duration,
    /// Whether a leader, this master included, has told the time since this process started.
    told: bool,
}

impl Stamper {
    /// Starts from the newest time on disk, at monotonic `now`.
    pub fn new(on_disk: LogicalTime, now: Duration) -> Self {
        Self { time: on_disk, at: now, told: false }
    }

    /// An entry of `time` was applied: the estimate is never behind the log.
    pub fn handle_applied(&mut self, time: LogicalTime, now: Duration) {
        if time > self.estimate(now) {
            self.time = time;
            self.at = now;
        }
    }

    /// A living leader says that it is `time`.
    pub fn handle_leader(&mut self, time: LogicalTime, now: Duration) {
        self.time = time;
        self.at = now;
        self.told = true;
    }

    /// The masters' clocks say `median`: slews toward it, or, if nobody has told the time yet, jumps forward to it.
    pub fn handle_median(&mut self, median: LogicalTime, now: Duration) {
        let estimate = self.estimate(now);
        let ahead = median.unix_micros().saturating_sub(estimate.unix_micros());
        let behind = estimate.unix_micros().saturating_sub(median.unix_micros());
        if !self.told && ahead > JUMP_MICROS {
            self.time = median;
        } else {
            let elapsed = now.saturating_sub(self.at);
            let most = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX) / SLEW_DIVISOR;
            let slewed = estimate.unix_micros() + ahead.min(most) - behind.min(most);
            self.time = LogicalTime::from_unix_micros(slewed);
        }
        self.at = now;
    }

    /// From here on the time is told: this master stamps entries.
    pub fn settle(&mut self) {
        self.told = true;
    }

    /// Whether the time was told.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// The time at monotonic `now`.
    pub fn estimate(&self, now: Duration) -> LogicalTime {
        self.time.plus(now.saturating_sub(self.at))
    }
}

/// The median of wall clocks; the lower of the two middle ones of an even number, so that a pair with one clock far ahead
/// follows the other.
pub fn median(mut clocks: Vec<u64>) -> Option<LogicalTime> {
    clocks.sort_unstable();
    let middle = clocks.len().checked_sub(1)? / 2;
    clocks.get(middle).copied().map(LogicalTime::from_unix_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> LogicalTime {
        LogicalTime::from_unix_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_fresh_process_jumps_to_the_median_and_a_told_one_slews() {
        let mut fresh = Stamper::new(at(1_000), Duration::ZERO);
        fresh.handle_median(at(5_000), SECOND);
        assert_eq!(fresh.estimate(SECOND), at(5_000));

        let mut told = Stamper::new(at(1_000), Duration::ZERO);
        told.handle_leader(at(1_000), Duration::ZERO);
        told.handle_median(at(5_000), SECOND);
        assert_eq!(told.estimate(SECOND), at(1_001).plus(Duration::from_millis(10)));
    }

    #[test]
    fn time_never_runs_backwards_while_it_is_slewed() {
        let mut stamper = Stamper::new(at(9_000), Duration::ZERO);
        stamper.handle_leader(at(9_000), Duration::ZERO);
        let mut last = at(0);
        for second in 1..100 {
            stamper.handle_median(at(10), SECOND * second);
            let now = stamper.estimate(SECOND * second);
            assert!(now > last, "{now} after {last}");
            last = now;
        }
    }

    #[test]
    fn one_wrong_clock_does_not_move_the_median() {
        assert_eq!(median(vec![100, 101, 9_999_999_999]), Some(LogicalTime::from_unix_micros(101)));
        assert_eq!(median(vec![0, 101]), Some(LogicalTime::from_unix_micros(0)));
        assert_eq!(median(vec![]), None);
    }
}
