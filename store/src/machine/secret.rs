//! The state secret: that a new one is wanted, and that one is in force.
//!
//! The truth holds numbers and what is sealed, never a secret. `wanted` is above `epoch` while a rotation is due or under way.
//! A master that leaves raises `wanted` by one, whatever it is: a secret that was handed out before, and may have reached
//! the one that left, is followed by another one.

use super::{Stop, Tx};
use crate::command::{Refused, Reply, SecretCommand};
use crate::table::{master, meta};

/// Longest sealed CA key: 32 bytes, a nonce, a tag, and room for a format that follows.
const SEALED_BYTES_MAX: usize = 1024;

pub(super) fn apply(tx: &mut Tx<'_>, command: &SecretCommand) -> Result<Reply, Stop> {
    let held = meta::secrets(&tx.over)?;
    match command {
        SecretCommand::Want { epoch } => {
            if *epoch == held.epoch && held.wanted <= held.epoch {
                meta::put_secrets(&mut tx.over, meta::SecretsRow { wanted: held.epoch + 1, ..held });
            }
            Ok(Reply::Done)
        }
        SecretCommand::Rotate { epoch, ca_sealed } => {
            if *epoch != held.epoch + 1 {
                let cause = format!("the state secret {} is in force, {epoch} does not follow it", held.epoch);
                return Err(Refused::Conflict(cause).into());
            }
            if ca_sealed.is_empty() || ca_sealed.len() > SEALED_BYTES_MAX {
                let cause = format!("a sealed CA key has 1 to {SEALED_BYTES_MAX} bytes, this one {}", ca_sealed.len());
                return Err(Refused::Invalid(cause).into());
            }
            let Some(mut ca) = tx.index.ca.clone() else {
                return Err(Refused::NotFound("there is no cluster yet; run `saltern-master init`".into()).into());
            };
            ca.sealed.clone_from(ca_sealed);
            meta::put_ca(&mut tx.over, &ca);
            tx.index.ca = Some(ca);
            meta::put_secrets(&mut tx.over, meta::SecretsRow { epoch: *epoch, wanted: held.wanted.max(*epoch) });
            end_tokens(tx)?;
            Ok(Reply::Done)
        }
    }
}

/// A master has left: the secret that it knows is to go.
pub(super) fn want_anew(tx: &mut Tx<'_>) -> Result<(), Stop> {
    let held = meta::secrets(&tx.over)?;
    meta::put_secrets(&mut tx.over, meta::SecretsRow { wanted: held.wanted.max(held.epoch) + 1, ..held });
    Ok(())
}

/// The secrets of join tokens are derived from the state secret: whoever left could work out those that are still good.
fn end_tokens(tx: &mut Tx<'_>) -> Result<(), Stop> {
    for (secret_hash, expires) in master::all_tokens(&tx.over)? {
        super::master::forget_token(tx, expires, &secret_hash);
    }
    Ok(())
}
