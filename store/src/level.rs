//! The cluster's feature level in the truth: where it stands, and which level each command came with.
//!
//! **Invariants.** The level never falls. A command above it is refused by every replica alike, and by the leader before that:
//! a master of an older build that still votes never meets one. A state above this build's level is not opened.

use crate::command::{
    Command, JobCommand, KeyCommand, MasterCommand, MineCommand, MinionCommand, Refused, SecretCommand, SettingsCommand,
};
use crate::error::StoreError;
use crate::kv::Kv;
use crate::table::meta;
use saltern_wire::level::{LEVEL, LEVEL_FIRST, LEVEL_FLEET, LEVEL_MEMBERSHIP, Newer};
use saltern_wire::settings::Settings;
use std::sync::Arc;

/// The level at which a state stands; an error if this build does not know it.
pub(crate) fn read(kv: &Arc<dyn Kv>) -> Result<u32, StoreError> {
    let number = meta::number(kv, meta::LEVEL)?.unwrap_or(LEVEL_FIRST.into());
    let level = u32::try_from(number).map_err(|error| StoreError::corrupt("the feature level", error))?;
    require_known("the state of this master", level)?;
    Ok(level)
}

/// Refuses a level above this build's.
pub(crate) fn require_known(what: &str, level: u32) -> Result<(), StoreError> {
    if level > LEVEL { Err(Newer::level(what, level).into()) } else { Ok(()) }
}

impl Command {
    /// The level that it came with: it is written only while the cluster stands there or above.
    pub fn level(&self) -> u32 {
        match self {
            Self::Tick
            | Self::Key(KeyCommand::Submit { .. } | KeyCommand::Accept { .. })
            | Self::Key(KeyCommand::Reject { .. } | KeyCommand::Delete { .. })
            | Self::Minion(MinionCommand::Facts { .. })
            | Self::Job(JobCommand::Open { .. } | JobCommand::Accept { .. } | JobCommand::Record { .. })
            | Self::Mine(MineCommand::Report { .. } | MineCommand::Affirm { .. })
            | Self::Master(MasterCommand::Found { .. } | MasterCommand::Token { .. } | MasterCommand::Join { .. })
            | Self::Master(MasterCommand::Directory { .. } | MasterCommand::Rejoin { .. }) => LEVEL_FIRST,
            // Its writer is the only voter from there on, and says which level it brings.
            Self::Master(MasterCommand::Refound { .. }) => LEVEL_FIRST,
            Self::Job(JobCommand::Deliver { .. }) => LEVEL_FLEET,
            Self::Settings(SettingsCommand::Set { name, .. }) => Settings::level_of(name),
            // Proposed once every voter knows it: it is what says so.
            Self::Level { .. } => LEVEL_FIRST,
            Self::Job(JobCommand::Roll { .. } | JobCommand::Pause { .. } | JobCommand::End { .. }) => LEVEL_FLEET,
            Self::Secret(SecretCommand::Want { .. } | SecretCommand::Rotate { .. }) => LEVEL_MEMBERSHIP,
        }
    }

    /// Refuses a command that came with a level above `level`, at which the cluster stands.
    pub fn require_level(&self, level: u32) -> Result<(), Refused> {
        let needs = self.level();
        if needs <= level {
            return Ok(());
        }
        Err(Refused::Conflict(format!(
            "this needs feature level {needs} and the cluster stands at {level}: it rises by itself once every voting \
             master runs a version that knows {needs} (`saltern cluster status` shows which ones do)"
        )))
    }
}
