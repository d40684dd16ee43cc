//! How far apart masters may be: Raft's timing by profile, and which one fits a measured round trip.
//!
//! The interval of heartbeats is also the limit of an append and of a heartbeat's answer, of which three quarters can be used:
//! it has to be twice the round trip that is not exceeded in ninety-nine of a hundred cases.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Raft's timing, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between two heartbeats of a leader; also the hard limit of one append.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a follower stands for election.
    pub election_ms_min: u64,
    /// Longest such silence.
    pub election_ms_max: u64,
}

/// How far apart the masters are, from near to far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// One site: round trips up to 25 ms, and next to none in practice.
    #[default]
    Lan,
    /// Neighbouring sites: round trips up to 50 ms.
    Metro,
    /// Regions: round trips up to 250 ms.
    Geo,
}

/// What an operator sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileChoice {
    /// The fastest that fits what is measured; it becomes slower by itself when a master is far, and never faster.
    #[default]
    Auto,
    /// This one.
    Lan,
    /// This one.
    Metro,
    /// This one.
    Geo,
}

impl Profile {
    /// Every profile, from near to far.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Metro, Self::Geo];

    /// Its timing. The write gap after a leader's death is about the longest silence, a share of another one, and some round
    /// trips: [why geo is what it is](../../../ops/adr/0016-profiles-by-setting-and-restart.md).
    pub fn timing(self) -> Timing {
        let (heartbeat_ms, election_ms_min, election_ms_max) = match self {
            Self::Lan => (50, 200, 250),
            Self::Metro => (100, 400, 600),
            Self::Geo => (500, 1500, 1900),
        };
        Timing { heartbeat_ms, election_ms_min, election_ms_max }
    }

    /// The profile with this timing, if it is one's.
    pub fn of(timing: Timing) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.timing() == timing)
    }

    /// Longest round trip that it bears, in microseconds: half of its heartbeat's interval.
    pub fn round_trip_us_max(self) -> u64 {
        self.timing().heartbeat_ms * 1_000 / 2
    }

    /// The fastest profile that bears `round_trip_us`; `None` if none does.
    pub fn fastest_for(round_trip_us: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| round_trip_us <= profile.round_trip_us_max())
    }
}

impl ProfileChoice {
    /// The profile, if one was set rather than left to measuring.
    pub fn fixed(self) -> Option<Profile> {
        match self {
            Self::Auto => None,
            Self::Lan => Some(Profile::Lan),
            Self::Metro => Some(Profile::Metro),
            Self::Geo => Some(Profile::Geo),
        }
    }
}

impl From<Profile> for ProfileChoice {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Lan => Self::Lan,
            Profile::Metro => Self::Metro,
            Profile::Geo => Self::Geo,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::Metro => "metro",
            Self::Geo => "geo",
        })
    }
}

impl fmt::Display for ProfileChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fixed() {
            Some(profile) => profile.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_profile_that_bears_a_round_trip() {
        for (round_trip_us, expect) in [
            (0, Some(Profile::Lan)),
            (25_000, Some(Profile::Lan)),
            (25_001, Some(Profile::Metro)),
            (50_000, Some(Profile::Metro)),
            (100_000, Some(Profile::Geo)),
            (250_000, Some(Profile::Geo)),
            (250_001, None),
        ] {
            assert_eq!(Profile::fastest_for(round_trip_us), expect, "{round_trip_us} µs");
        }
    }

    #[test]
    fn names_are_what_is_written_in_configurations() {
        for profile in Profile::ALL {
            assert_eq!(serde_json::json!(profile), profile.to_string());
            assert_eq!(Profile::of(profile.timing()), Some(profile));
            assert_eq!(ProfileChoice::from(profile).fixed(), Some(profile));
        }
        assert_eq!(serde_json::json!(ProfileChoice::Auto), "auto");
    }
}
