//! A job that goes to so many minions at a time.
//!
//! What the operator wrote is part of the job's record, not of the job that the minions see: a minion is offered the job when
//! its turn has come, and to it the job is like any other. Whose turn it is stands in the truth, so that no master, and no
//! operator's terminal, has to live until the end.
//!
//! ```text
//!   held ──(a place is free)──▶ waiting ──▶ accepted ──▶ returned …      the turn ends, and `wait` later its place is free
//!     │                            └──(not accepted within the turn)──▶ expired
//!     ├──(failhard, somebody failed)──▶ skipped
//!     └──(job kill)──▶ killed
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Longest pause behind a turn, in milliseconds: a day.
pub const WAIT_MS_MAX: u64 = 24 * 3600 * 1000;

/// How long a rolling job may take from its first turn to its last, in milliseconds: a week, as long as any job may wait for a
/// minion. Who was not offered it by then is expired.
pub const WHOLE_MS: u64 = 7 * 24 * 3600 * 1000;

/// All of something, in hundredths of a percent.
const WHOLE: u32 = 100 * 100;

/// How many minions may have the job at one time: a number, or a part of all that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchSize {
    /// So many, at least 1.
    Minions(u32),
    /// A part, in hundredths of a percent: 1 to 10,000.
    Share(u32),
}

impl BatchSize {
    /// How many that are of `all`: rounded down, so that it is never more than was allowed, but at least 1.
    pub fn of(self, all: u64) -> u64 {
        match self {
            Self::Minions(number) => u64::from(number).max(1),
            Self::Share(share) => (all.saturating_mul(share.into()) / u64::from(WHOLE)).max(1),
        }
    }

    /// Whether it lies within its bounds.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Minions(number) => number > 0,
            Self::Share(share) => (1..=WHOLE).contains(&share),
        }
    }
}

/// Why a text is no batch size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size of a batch: write a number of minions, or a part of them such as 10% (up to 100%)")]
pub struct BatchSizeError(String);

impl FromStr for BatchSize {
    type Err = BatchSizeError;

    fn from_str(text: &str) -> Result<Self, BatchSizeError> {
        let wrong = || BatchSizeError(text.chars().take(40).collect());
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let size = match text.strip_suffix('%') {
            None if digits(text) => Self::Minions(text.parse().map_err(|_| wrong())?),
            None => return Err(wrong()),
            Some(percent) => {
                let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
                if !digits(whole) || !digits(part) || part.len() > 2 {
                    return Err(wrong());
                }
                let hundredths: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
                let whole: u32 = whole.parse().map_err(|_| wrong())?;
                Self::Share(whole.checked_mul(100).and_then(|whole| whole.checked_add(hundredths)).ok_or_else(wrong)?)
            }
        };
        if size.is_valid() { Ok(size) } else { Err(wrong()) }
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minions(number) => write!(f, "{number}"),
            Self::Share(share) if share % 100 == 0 => write!(f, "{}%", share / 100),
            Self::Share(share) => {
                let text = format!("{}.{:02}", share / 100, share % 100);
                write!(f, "{}%", text.trim_end_matches('0'))
            }
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a submission asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// How many minions may have the job at one time.
    pub size: BatchSize,
    /// How long a place stays empty behind a minion that is settled, in milliseconds; at most [`WAIT_MS_MAX`].
    #[serde(default)]
    pub wait_ms: u64,
    /// Whether the job ends at the first minion that fails.
    #[serde(default)]
    pub failhard: bool,
}

/// How a job goes round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolling {
    /// How many minions may have it at one time.
    pub size: BatchSize,
    /// How long a place stays empty behind a turn, in milliseconds; at most [`WAIT_MS_MAX`].
    #[serde(default)]
    pub wait_ms: u64,
    /// Whether it ends at the first minion that fails.
    #[serde(default)]
    pub failhard: bool,
    /// How long a minion whose turn has come may take to accept it, in milliseconds, at least 1.
    pub turn_ms: u64,
}

/// Why a job goes to nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A minion failed, and the job was to end there.
    Failhard,
    /// An operator ended it.
    Killed,
}

/// What an operator or the job's own rule has decided since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stand {
    /// Nobody's turn comes while this holds.
    #[serde(default)]
    pub paused: bool,
    /// Nobody's turn comes any more.
    #[serde(default)]
    pub ending: Option<Ending>,
}

/// Where a rolling job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchView {
    /// What was asked for.
    #[serde(flatten)]
    pub rolling: Rolling,
    /// How many minions may have it at one time: `size` of those that it is for.
    pub width: u32,
    /// Whose turn has not come.
    pub held: u32,
    /// Whose turn it is: offered, accepted or running.
    pub running: u32,
    /// Places that stay empty for a while, as `wait_ms` says.
    pub resting: u32,
    /// What was decided since.
    #[serde(flatten)]
    pub stand: Stand,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_salts() {
        for (text, size) in [
            ("1", BatchSize::Minions(1)),
            ("250", BatchSize::Minions(250)),
            ("10%", BatchSize::Share(1000)),
            ("0.5%", BatchSize::Share(50)),
            ("12.25%", BatchSize::Share(1225)),
            ("100%", BatchSize::Share(10_000)),
        ] {
            assert_eq!(text.parse(), Ok(size));
            assert_eq!(size.to_string(), text);
            let json = serde_json::to_value(size).expect("JSON");
            assert_eq!(serde_json::from_value::<BatchSize>(json).expect("the same"), size);
        }
        for text in ["", "0", "0%", "-1", "+1", "1.5", "101%", "%", "1.%", ".5%", "1.234%", "ten", "99999999999"] {
            let refused = text.parse::<BatchSize>().expect_err(text).to_string();
            assert!(refused.contains(&format!("{text:?}")) && refused.contains("10%"), "{refused}");
        }
    }

    #[test]
    fn a_part_is_never_more_than_it_says_and_never_nobody() {
        for (text, all, expect) in
            [("10%", 300, 30), ("10%", 309, 30), ("10%", 9, 1), ("100%", 7, 7), ("0.01%", 6000, 1), ("25", 3, 25)]
        {
            assert_eq!(text.parse::<BatchSize>().expect("a size").of(all), expect, "{text} of {all}");
        }
    }
}
