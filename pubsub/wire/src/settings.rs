//! Settings that the truth depends on. They are replicated; YAML only seeds them at `saltern-master init`.

use crate::level::{LEVEL_FIRST, LEVEL_FLEET};
use crate::profile::{Profile, ProfileChoice};
use serde::{Deserialize, Serialize};

/// All replicated settings with their defaults. `saltern config set NAME VALUE` changes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long results are kept after their job ended, in seconds of logical time.
    pub keep_jobs_seconds: u64,
    /// How long a job may be accepted when `--ttl` is not given, in milliseconds.
    pub job_ttl_ms: u64,
    /// Most pending keys.
    pub pending_keys_max: u32,
    /// How long a pending key is remembered, in seconds.
    pub pending_keys_seconds: u64,
    /// Most jobs open at one time.
    pub open_jobs_max: u32,
    /// Largest return over all parts, in bytes.
    pub return_bytes_max: u64,
    /// Milliseconds between two beacons of a master.
    pub beacon_interval_ms: u64,
    /// How long a master without quorum contact still lets minions attach, in seconds.
    pub auth_max_stale_seconds: u64,
    /// Whether new keys are accepted without an operator. For test beds.
    pub auto_accept: bool,
    /// How fast a master sends a snapshot to another one at most, in MiB per second; 0 for as fast as it goes.
    pub snapshot_mib_per_second: u64,
    /// How far apart the masters are: `auto`, `lan`, `metro` or `geo`.
    pub profile: ProfileChoice,
    /// What the profile came to. It follows `profile` and is not set by hand.
    pub timing: Profile,
    /// The region whose masters are to lead; empty for none.
    pub preferred_region: String,
    /// How long a master of that region has to be well before it is given the leadership, in seconds.
    pub preferred_region_seconds: u64,
    /// Whether a voter that is gone for `auto_replace_seconds` gives its vote to a learner of its region that has caught up.
    pub auto_replace: bool,
    /// How long a voter must have been out of reach before it is replaced, in seconds of the leader's own clock.
    pub auto_replace_seconds: u64,
    /// Voters that must answer after a replacement: with fewer, nobody is replaced without an operator.
    pub min_voters: u32,
    /// How long a draining master takes to ask its minions to move, one after the other, in milliseconds.
    pub drain_spread_ms: u64,
    /// How long a minion may leave a job unaccepted before it is offered to it again for the first time, in milliseconds. The
    /// time doubles with every further offer, three times.
    pub offer_again_ms: u64,
    /// How many minions a second each master lets attach at most; 0 for as many as it has measured that it can.
    pub attach_per_second: u32,
    /// How long a master has to be well before minions that would rather be there come back to it, in seconds.
    pub failback_seconds: u64,
    /// How many minions come back to one master a second, at most.
    pub failback_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_jobs_seconds: 24 * 3600,
            job_ttl_ms: 60_000,
            pending_keys_max: crate::limits::PENDING_KEYS_MAX,
            pending_keys_seconds: 7 * 24 * 3600,
            open_jobs_max: crate::limits::OPEN_JOBS_MAX,
            return_bytes_max: crate::limits::RETURN_BYTES_MAX as u64,
            beacon_interval_ms: 5_000,
            auth_max_stale_seconds: 24 * 3600,
            auto_accept: false,
            // Half of what a gigabit network carries: the rest belongs to entries, jobs and heartbeats.
            snapshot_mib_per_second: 64,
            profile: ProfileChoice::Auto,
            timing: Profile::Lan,
            preferred_region: String::new(),
            preferred_region_seconds: 30,
            auto_replace: false,
            auto_replace_seconds: 600,
            min_voters: 3,
            drain_spread_ms: 30_000,
            // Well above the round trip and the fsync of a busy minion.
            offer_again_ms: 2_000,
            attach_per_second: 0,
            failback_seconds: 120,
            failback_per_second: 200,
        }
    }
}

/// Every setting in the order in which it is written, with the level that it came with. Append only: a setting that came with
/// a later level is written only once it has another value than its default, which it cannot get before that level.
const SINCE: &[(&str, u32)] = &[
    ("keep_jobs_seconds", LEVEL_FIRST),
    ("job_ttl_ms", LEVEL_FIRST),
    ("pending_keys_max", LEVEL_FIRST),
    ("pending_keys_seconds", LEVEL_FIRST),
    ("open_jobs_max", LEVEL_FIRST),
    ("return_bytes_max", LEVEL_FIRST),
    ("beacon_interval_ms", LEVEL_FIRST),
    ("auth_max_stale_seconds", LEVEL_FIRST),
    ("auto_accept", LEVEL_FIRST),
    ("snapshot_mib_per_second", 2),
    ("profile", 2),
    ("timing", 2),
    ("preferred_region", 2),
    ("preferred_region_seconds", 2),
    ("auto_replace", 2),
    ("auto_replace_seconds", 2),
    ("min_voters", 2),
    ("drain_spread_ms", 2),
    ("offer_again_ms", 3),
    ("attach_per_second", LEVEL_FLEET),
    ("failback_seconds", LEVEL_FLEET),
    ("failback_per_second", LEVEL_FLEET),
];

/// Why a setting was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("there is no setting {name:?}; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is, comma separated.
        known: String,
    },
    /// The value does not fit.
    #[error("{value} does not fit the setting {name}: {cause}")]
    Value {
        /// Which setting.
        name: String,
        /// The value as JSON.
        value: String,
        /// Why.
        cause: String,
    },
}

impl Settings {
    /// The level that the setting `name` came with; the first for a name that there is not.
    pub fn level_of(name: &str) -> u32 {
        SINCE.iter().find(|(found, _)| *found == name).map_or(LEVEL_FIRST, |(_, since)| *since)
    }

    /// What is written of these settings, in order: an older build meets no name that it does not know.
    pub fn written(&self) -> Result<Vec<(&'static str, crate::Value)>, serde_json::Error> {
        let (all, defaults) = (serde_json::to_value(self)?, serde_json::to_value(Self::default())?);
        let written = SINCE.iter().filter(|(name, since)| *since == LEVEL_FIRST || all[*name] != defaults[*name]);
        Ok(written.map(|(name, _)| (*name, all[*name].clone())).collect())
    }

    /// A copy with `name` set to `value`.
    pub fn with(&self, name: &str, value: &crate::Value) -> Result<Self, SettingError> {
        let refuse = |cause: &dyn std::fmt::Display| SettingError::Value {
            name: name.into(),
            value: value.to_string(),
            cause: cause.to_string(),
        };
        let mut all = serde_json::to_value(self).map_err(|error| refuse(&error))?;
        let known = all.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default();
        let Some(slot) = all.get_mut(name) else { return Err(SettingError::Unknown { name: name.into(), known }) };
        *slot = value.clone();
        let mut changed: Self = serde_json::from_value(all).map_err(|error| refuse(&error))?;
        // A profile that was chosen is in force; one that is left to measuring stays what it came to so far.
        if name == "profile" {
            changed.timing = changed.profile.fixed().unwrap_or(changed.timing);
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_setting_changes_and_the_rest_stay() {
        let changed = Settings::default().with("job_ttl_ms", &json!(5)).expect("fits");
        assert_eq!(changed, Settings { job_ttl_ms: 5, ..Settings::default() });
        let unknown = Settings::default().with("jobttl", &json!(5)).expect_err("no such setting").to_string();
        assert!(unknown.contains("job_ttl_ms"), "{unknown}");
        let geo = Settings::default().with("profile", &json!("geo")).expect("fits");
        assert_eq!((geo.profile, geo.timing), (ProfileChoice::Geo, Profile::Geo), "a chosen profile is in force");
        let auto = geo.with("profile", &json!("auto")).expect("fits");
        assert_eq!((auto.profile, auto.timing), (ProfileChoice::Auto, Profile::Geo), "until something is measured");
        let wrong = Settings::default().with("job_ttl_ms", &json!("soon")).expect_err("no number").to_string();
        assert!(wrong.contains("soon"), "{wrong}");
    }

    #[test]
    fn every_setting_says_with_which_level_it_came() {
        let all = serde_json::to_value(Settings::default()).expect("JSON");
        let mut known: Vec<_> = SINCE.iter().map(|(name, _)| *name).collect();
        for name in all.as_object().expect("an object").keys() {
            let place = known.iter().position(|known| known == name);
            known.remove(place.unwrap_or_else(|| panic!("{name} is missing in SINCE")));
        }
        assert!(known.is_empty(), "{known:?} are no settings");
    }

    #[test]
    fn what_came_later_is_written_only_when_it_was_changed() {
        for (name, since) in SINCE.iter().copied() {
            let written = Settings::default().written().expect("JSON");
            assert_eq!(written.iter().any(|(found, _)| *found == name), since == LEVEL_FIRST, "{name}");
        }
    }
}
