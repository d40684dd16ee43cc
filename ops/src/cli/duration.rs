//! Spans of time as people write them: `90`, `90s`, `5m`, `12h`, `7d`, `2w`, `250ms`.

use std::time::Duration;

/// Longest span: longer than any queue needs, short enough that nothing overflows when it is added to a date.
const DAYS_MAX: u64 = 366;

/// Why a text is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No number and unit.
    #[error("{0:?} is no span of time: write a number and ms, s, m, h, d or w, for example 90s or 7d")]
    Form(String),
    /// Too long.
    #[error("{0:?} is longer than {DAYS_MAX} days")]
    Long(String),
}

/// Reads a span; seconds if no unit is given.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err(DurationError::Form(text.into())),
    };
    if number.is_empty() {
        return Err(DurationError::Form(text.into()));
    }
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match milliseconds {
        Some(milliseconds) if milliseconds <= DAYS_MAX * 86_400_000 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(DurationError::Long(text.into())),
    }
}

/// A span in whole milliseconds, as the wire wants it.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_written() {
        for (text, ms) in [
            ("0", 0),
            ("90", 90_000),
            ("90s", 90_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "-5s", "5x", "1.5h", "5 m", "ten"] {
            assert_eq!(parse(bad), Err(DurationError::Form(bad.into())));
        }
        for long in ["367d", "99999999999999999999", "18446744073709551615w"] {
            assert_eq!(parse(long), Err(DurationError::Long(long.into())));
        }
    }
}
