//! Time as the cluster agrees on it. Durations on the wire are whole milliseconds, named `…_ms`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Logical time of the truth: microseconds since 1970-01-01 UTC, stamped by the leader and strictly rising from one log
/// entry to the next. It follows the masters' wall clocks slowly; nothing compares clocks of two machines.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogicalTime(u64);

/// One past the last microsecond that four-digit years can name: 9999-12-31T23:59:59.999999Z is the last.
const MICROS_END: u64 = 253_402_300_800_000_000;

impl LogicalTime {
    /// Before every entry.
    pub const ZERO: Self = Self(0);

    /// From microseconds since the epoch; later than the year 9999 is held at its last microsecond.
    pub fn from_unix_micros(micros: u64) -> Self {
        Self(micros.min(MICROS_END - 1))
    }

    /// Microseconds since the epoch.
    pub fn unix_micros(self) -> u64 {
        self.0
    }

    /// This time moved forward by `duration`.
    pub fn plus(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self::from_unix_micros(self.0.saturating_add(micros))
    }

    /// What has passed since `earlier`, zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// `YYYYMMDD` in UTC as a number.
    pub(crate) fn civil_day_digits(self) -> u64 {
        let (year, month, day) = civil_from_days(self.0 / 86_400_000_000);
        year * 10_000 + month * 100 + day
    }

    /// `hhmmssffffff` in UTC as a number.
    pub(crate) fn civil_micros_digits(self) -> u64 {
        let micros_of_day = self.0 % 86_400_000_000;
        let seconds = micros_of_day / 1_000_000;
        let clock = (seconds / 3600) * 10_000 + (seconds / 60 % 60) * 100 + seconds % 60;
        clock * 1_000_000 + micros_of_day % 1_000_000
    }
}

/// Year, month and day of a day number since the epoch. Howard Hinnant, "chrono-compatible low-level date algorithms",
/// `civil_from_days`, restricted to days since 1970.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

impl fmt::Display for LogicalTime {
    /// RFC 3339 in UTC with microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / 86_400_000_000);
        let seconds = self.0 % 86_400_000_000 / 1_000_000;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let micros = self.0 % 1_000_000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl fmt::Debug for LogicalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_utc() {
        for (micros, expect) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_795_392_390_290_128, "2026-11-23T00:06:30.290128Z"),
            (u64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(LogicalTime::from_unix_micros(micros).to_string(), expect);
        }
    }

    #[test]
    fn differences_never_go_below_zero() {
        let early = LogicalTime::from_unix_micros(5);
        let late = early.plus(Duration::from_millis(2));
        assert_eq!(late.since(early), Duration::from_millis(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
