//! Replicated settings.

use super::{Stop, Tx};
use crate::command::{Effect, Refused, Reply, SettingsCommand};
use crate::table::meta;

pub(super) fn apply(tx: &mut Tx<'_>, command: &SettingsCommand) -> Result<Reply, Stop> {
    let SettingsCommand::Set { name, value } = command;
    let changed = tx.index.settings.with(name, value).map_err(|error| Refused::Invalid(error.to_string()))?;
    if changed != tx.index.settings {
        meta::put_settings(&mut tx.over, &changed);
        tx.index.settings = changed.clone();
        tx.effects.push(Effect::Settings { settings: changed });
    }
    Ok(Reply::Done)
}
