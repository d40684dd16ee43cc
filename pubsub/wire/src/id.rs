//! Names: validated when they are made, so that whoever holds one need not look again.

use crate::limits::MINION_ID_BYTES_MAX;
use crate::time::LogicalTime;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The minion id is empty, too long or holds a character outside `a-z 0-9 . _ -`.
    #[error("{0:?} is not a minion id: use 1 to 253 characters of a-z, 0-9, '.', '_' and '-'")]
    Minion(String),
    /// The job id is not 20 decimal digits.
    #[error("{0:?} is not a job id: a jid is 20 digits, YYYYMMDDhhmmssffffff")]
    Job(String),
    /// The cluster id is not 32 hexadecimal digits.
    #[error("{0:?} is not a cluster id: it is 32 hexadecimal digits")]
    Cluster(String),
    /// The request id is not 32 hexadecimal digits.
    #[error("{0:?} is not a request id: it is 32 hexadecimal digits")]
    Request(String),
}

/// The name of a minion, `[a-z0-9._-]{1,253}`, neither `.` nor `..`. Never used as a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct MinionId(String);

impl MinionId {
    /// Checks `text`. Upper case is refused rather than folded: two spellings of one name would be two identities.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let sized = (1..=MINION_ID_BYTES_MAX).contains(&text.len());
        if !sized || !text.bytes().all(allowed) || text == "." || text == ".." {
            let shown = text.chars().take(80).collect();
            return Err(IdError::Minion(shown));
        }
        Ok(Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MinionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MinionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MinionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for MinionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A job id: 20 digits, `YYYYMMDDhhmmssffffff` in UTC, sortable as text. The last two digits are the slot of the master
/// that minted it, so that two masters never mint the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u128);

/// Largest jid: 20 digits.
const JOB_ID_END: u128 = 100_000_000_000_000_000_000;

/// Masters that can mint in the same microsecond range without meeting: two digits.
pub const JOB_SLOTS: u64 = 100;

impl JobId {
    /// The jid of a job opened at `time` by the master whose slot is `slot` (its id modulo 100). The resolution of the
    /// time part is 100 µs; a master never mints two from the same `time / 100 µs`.
    pub fn mint(time: LogicalTime, slot: u64) -> Self {
        let digits = u128::from(time.civil_micros_digits());
        let day = u128::from(time.civil_day_digits());
        let stamp = day * 1_000_000_000_000 + digits;
        Self(stamp - stamp % u128::from(JOB_SLOTS) + u128::from(slot % JOB_SLOTS))
    }

    /// Big-endian bytes: their order is the order of the jids.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`JobId::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, IdError> {
        let number = u128::from_be_bytes(bytes);
        if number >= JOB_ID_END { Err(IdError::Job(number.to_string())) } else { Ok(Self(number)) }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

impl FromStr for JobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 20 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(IdError::Job(text.chars().take(40).collect()));
        }
        text.parse().map(Self).map_err(|_| IdError::Job(text.into()))
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Declares a 16-byte random name written as 32 hexadecimal digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes, which the caller drew from its entropy.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdError::$error(text.chars().take(40).collect()))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// The name of a cluster, drawn once by `saltern-master init`.
    ClusterId, Cluster
}

hex_id! {
    /// The name of one write, drawn by whoever asks for it. A retry under the same id finds the first answer.
    RequestId, Request
}

/// Declares a numeric name.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_id! {
    /// A master's Raft node id, given by the truth at join and never reused. Starts at 1.
    MasterId, u64
}

number_id! {
    /// A minion's dense number, given at acceptance and never reused; sets of minions are bitmaps of ordinals.
    Ordinal, u32
}

number_id! {
    /// A log index of the replicated truth: what a reply has seen. Handed back by a client, it reads its own writes.
    Revision, u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minion_ids_are_checked_at_the_door() {
        for good in ["a", "web-1.example.org", "0", "a_b", &"x".repeat(253)] {
            assert!(MinionId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "Web", "a/b", "a b", "ä", "a\0", "a\n", &"x".repeat(254)] {
            assert!(MinionId::new(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<MinionId>(serde_json::json!(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn job_ids_read_as_their_time_and_carry_their_slot() {
        let time = LogicalTime::from_unix_micros(1_795_392_390_290_128);
        let jid = JobId::mint(time, 7);
        assert_eq!(jid.to_string(), "20261123000630290107");
        assert_eq!("20261123000630290107".parse(), Ok(jid));
        assert_eq!(JobId::from_bytes(jid.to_bytes()), Ok(jid));
        assert!(JobId::mint(LogicalTime::from_unix_micros(1_795_392_390_290_228), 0) > jid);
        for bad in ["", "2026", "2026112300063029010x", "202611230006302901070", "+0261123000630290107"] {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_names_round_trip_as_hexadecimal() {
        let id = ClusterId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<ClusterId>().is_err());
        assert!("zz".repeat(16).parse::<RequestId>().is_err());
    }
}
