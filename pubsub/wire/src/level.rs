//! The feature level: what every master of a cluster is known to understand.
//!
//! ```text
//!   a build has a level ([`LEVEL`]) ─▶ masters tell theirs to each other ─▶ every voter has it ─▶ the leader raises the cluster's
//! ```
//!
//! **Invariants.** The cluster's level is part of the truth and never falls. A command, a field or a setting that came with
//! level N is written only while the cluster stands at N or above, so that a master of an older build never meets what it
//! does not know while it may vote. A build below the cluster's level refuses to start and to join, in words that name both.
//!
//! Levels: 1 what the first version wrote, without a level of its own · 2 levels, the state's chain hash, membership and
//! recovery by command, and the settings that go with them · 3 jobs that go to so many minions at a time, and may be paused and
//! ended; what a fleet on the move needs.

use serde::{Deserialize, Serialize};

/// The level of builds and clusters that do not know of levels.
pub const LEVEL_FIRST: u32 = 1;

/// The level with which masters have a role, and the state secret is changed when one of them leaves.
pub const LEVEL_MEMBERSHIP: u32 = 2;

/// The level with which a job goes to so many minions at a time ([`crate::rolling`]), is paused, resumed and ended.
pub const LEVEL_FLEET: u32 = 3;

/// The newest level that this build understands. It rises by one with the first change after a release that an older build
/// could not read or would not apply alike.
pub const LEVEL: u32 = LEVEL_FLEET;

/// For fields that older builds do not write.
pub fn first() -> u32 {
    LEVEL_FIRST
}

/// For fields that are not written while they say nothing new.
pub fn is_first(level: &u32) -> bool {
    *level == LEVEL_FIRST
}

/// Something that came from a newer build than this one. Nothing is wrong with it, and nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "{what} is of a newer version of Saltern: it needs {needs}, and this program ({program}) knows up to {known}. Nothing is \
     damaged: install a version on this machine that knows {needs}, and start it again"
)]
pub struct Newer {
    /// What was met, with its place.
    pub what: String,
    /// What it needs, e.g. `feature level 3` or `format version 2`.
    pub needs: String,
    /// The newest of that sort that this build knows.
    pub known: String,
    /// This build's version.
    pub program: String,
}

impl Newer {
    /// Of a feature level.
    pub fn level(what: impl Into<String>, needs: u32) -> Self {
        Self::of(what, format!("feature level {needs}"), format!("level {LEVEL}"))
    }

    /// Of a format of bytes.
    pub fn format(what: impl Into<String>, needs: u8, known: u8) -> Self {
        Self::of(what, format!("format version {needs}"), format!("version {known}"))
    }

    /// Of whatever has no number: `needs` says what it is.
    pub fn of(what: impl Into<String>, needs: impl Into<String>, known: impl Into<String>) -> Self {
        let program = env!("CARGO_PKG_VERSION").into();
        Self { what: what.into(), needs: needs.into(), known: known.into(), program }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_is_named_with_both_versions_and_the_remedy() {
        let text = Newer::level("the state", LEVEL + 1).to_string();
        let (needs, knows) = (format!("feature level {}", LEVEL + 1), format!("level {LEVEL}"));
        for part in ["the state", &needs, &knows, env!("CARGO_PKG_VERSION"), "Nothing is damaged", "install a version"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
