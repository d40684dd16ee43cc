//! The feature level rises. It never falls, and a replica that does not know the new one stops before it applies anything else.

use super::{Stop, Tx};
use crate::command::Reply;
use crate::error::StoreError;
use crate::level::require_known;
use crate::table::meta;

pub(super) fn apply(tx: &mut Tx<'_>, level: u32) -> Result<Reply, Stop> {
    raise(tx, level)?;
    Ok(Reply::Done)
}

/// Raises the level to `level`, if it is not there yet. Used by the founding command, too.
pub(super) fn raise(tx: &mut Tx<'_>, level: u32) -> Result<(), StoreError> {
    require_known(&format!("log entry {}", tx.entry), level)?;
    if level > tx.index.level {
        tx.index.level = level;
        meta::put_number(&mut tx.over, meta::LEVEL, level.into());
    }
    Ok(())
}
