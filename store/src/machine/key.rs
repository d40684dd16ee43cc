//! Minion keys: submit, accept, reject, delete.
//!
//! ```text
//!             ┌──────── delete ◀──── any state
//!   submit ─▶ pending ─ accept ─▶ accepted ─ reject ─▶ rejected ─ accept ─▶ accepted (same ordinal)
//!      └────▶ denied (the id belongs to another key) ─ accept ─▶ accepted, and the other key becomes denied
//! ```
//!
//! **Invariants.** An id has at most one key that is not denied. Ordinals are dense from 1 and never given twice. A minion
//! that loses its acceptance while it owes answers is unreachable for those jobs from that entry on.

use super::{Stop, Tx, job};
use crate::command::{Effect, KeyCommand, Refused, Reply};
use crate::error::StoreError;
use crate::table::minion::MinionRow;
use crate::table::timeline::{self, Due};
use crate::table::{facts, key, meta, mine, minion};
use saltern_wire::crypto::{Fingerprint, PublicKey};
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::limits::DENIED_KEYS_PER_ID_MAX;
use saltern_wire::{MinionId, Ordinal};

/// Who decided when the setting `auto_accept` did.
const AUTO_ACCEPT: &str = "auto_accept";

pub(super) fn apply(tx: &mut Tx<'_>, command: &KeyCommand) -> Result<Reply, Stop> {
    let mut changed = Vec::new();
    match command {
        KeyCommand::Submit { minion, public_key } => changed.extend(submit(tx, minion, *public_key)?),
        KeyCommand::Accept { keys, by } => {
            for (minion, fingerprint) in keys {
                changed.extend(accept(tx, minion, fingerprint, by)?);
            }
        }
        KeyCommand::Reject { keys, by } => {
            for (minion, fingerprint) in keys {
                changed.extend(reject(tx, minion, fingerprint, by)?);
            }
        }
        KeyCommand::Delete { keys, by: _ } => {
            for (minion, fingerprint) in keys {
                changed.extend(delete(tx, minion, fingerprint)?);
            }
        }
    }
    Ok(Reply::Keys(changed))
}

fn submit(tx: &mut Tx<'_>, minion: &MinionId, public_key: PublicKey) -> Result<Option<KeyRecord>, Stop> {
    let mut record = KeyRecord {
        minion: minion.clone(),
        public_key,
        state: KeyState::Pending,
        ordinal: None,
        submitted: tx.time,
        decided: None,
        decided_by: None,
    };
    match tx.index.keys.get(minion) {
        Some(held) if held.public_key == public_key => return Ok(None),
        Some(_) => return deny(tx, record),
        None => {}
    }
    if tx.index.settings.auto_accept {
        take_denied(tx, minion, &record.fingerprint())?;
        decide(tx, &mut record, KeyState::Accepted, AUTO_ACCEPT)?;
        return Ok(Some(record));
    }
    let max = tx.index.settings.pending_keys_max;
    if tx.index.pending >= max {
        return Err(Refused::Limit(format!(
            "{max} keys are pending, which is the setting pending_keys_max; accept, reject or delete some"
        ))
        .into());
    }
    take_denied(tx, minion, &record.fingerprint())?;
    put(tx, &record);
    tx.effects.push(Effect::Key { record: record.clone(), deleted: false });
    Ok(Some(record))
}

/// Remembers a key for an id that belongs to another one.
fn deny(tx: &mut Tx<'_>, mut record: KeyRecord) -> Result<Option<KeyRecord>, Stop> {
    let held = key::denied_of(&tx.over, &record.minion)?;
    if held.iter().any(|denied| denied.public_key == record.public_key) {
        return Ok(None);
    }
    if held.len() >= DENIED_KEYS_PER_ID_MAX {
        return Err(Refused::Limit(format!(
            "{} keys are denied for {} already; delete some of them",
            held.len(),
            record.minion
        ))
        .into());
    }
    record.state = KeyState::Denied;
    put_denied(tx, &record);
    tx.effects.push(Effect::Key { record: record.clone(), deleted: false });
    Ok(Some(record))
}

fn accept(
    tx: &mut Tx<'_>,
    minion: &MinionId,
    fingerprint: &Fingerprint,
    by: &str,
) -> Result<Option<KeyRecord>, StoreError> {
    let held = tx.index.keys.get(minion).cloned();
    if let Some(mut record) = held.clone().filter(|held| held.fingerprint() == *fingerprint) {
        if record.state == KeyState::Accepted {
            return Ok(None);
        }
        decide(tx, &mut record, KeyState::Accepted, by)?;
        return Ok(Some(record));
    }
    let Some(mut record) = take_denied(tx, minion, fingerprint)? else { return Ok(None) };
    if let Some(mut other) = held {
        remove(tx, &other);
        let ordinal = other.ordinal.take();
        other.state = KeyState::Denied;
        (other.decided, other.decided_by) = (Some(tx.time), Some(by.into()));
        put_denied(tx, &other);
        tx.effects.push(Effect::Key { record: other.clone(), deleted: false });
        forget_minion(tx, ordinal)?;
    }
    decide(tx, &mut record, KeyState::Accepted, by)?;
    Ok(Some(record))
}

fn reject(
    tx: &mut Tx<'_>,
    minion: &MinionId,
    fingerprint: &Fingerprint,
    by: &str,
) -> Result<Option<KeyRecord>, StoreError> {
    let held = tx.index.keys.get(minion).filter(|held| held.fingerprint() == *fingerprint);
    let Some(mut record) = held.filter(|held| held.state != KeyState::Rejected).cloned() else { return Ok(None) };
    decide(tx, &mut record, KeyState::Rejected, by)?;
    if let Some(ordinal) = record.ordinal {
        job::lose(tx, ordinal)?;
    }
    Ok(Some(record))
}

fn delete(tx: &mut Tx<'_>, minion: &MinionId, fingerprint: &Fingerprint) -> Result<Option<KeyRecord>, StoreError> {
    let held = tx.index.keys.get(minion).filter(|held| held.fingerprint() == *fingerprint).cloned();
    let record = match held {
        Some(record) => {
            remove(tx, &record);
            record
        }
        None => match take_denied(tx, minion, fingerprint)? {
            Some(record) => record,
            None => return Ok(None),
        },
    };
    tx.effects.push(Effect::Key { record: record.clone(), deleted: true });
    forget_minion(tx, record.ordinal)?;
    Ok(Some(record))
}

/// Removes a pending key whose time has passed. Used by ticks.
pub(super) fn expire_pending(tx: &mut Tx<'_>, subject: &[u8]) {
    let minion = String::from_utf8_lossy(subject).parse::<MinionId>().ok();
    let held = minion.and_then(|minion| tx.index.keys.get(&minion).cloned());
    let Some(record) = held.filter(|held| held.state == KeyState::Pending) else { return };
    remove(tx, &record);
    tx.effects.push(Effect::Key { record, deleted: true });
}

/// Removes a denied key whose time has passed. Used by ticks.
pub(super) fn expire_denied(tx: &mut Tx<'_>, subject: &[u8]) -> Result<(), StoreError> {
    let Some(record) = key::denied_at(&tx.over, subject)? else { return Ok(()) };
    take_denied(tx, &record.minion, &record.fingerprint())?;
    tx.effects.push(Effect::Key { record, deleted: true });
    Ok(())
}

/// Puts a decision on a key, giving it an ordinal if it is accepted for the first time.
fn decide(tx: &mut Tx<'_>, record: &mut KeyRecord, state: KeyState, by: &str) -> Result<(), StoreError> {
    if state == KeyState::Accepted && record.ordinal.is_none() {
        record.ordinal = Some(number(tx, &record.minion)?);
    }
    if record.state == KeyState::Pending {
        timeline::delete(&mut tx.over, Due::PendingKey, record.submitted, record.minion.as_str().as_bytes());
    }
    record.state = state;
    record.decided = Some(tx.time);
    record.decided_by = Some(by.into());
    put(tx, record);
    tx.effects.push(Effect::Key { record: record.clone(), deleted: false });
    Ok(())
}

/// The next ordinal, for ever `minion`'s.
fn number(tx: &mut Tx<'_>, minion: &MinionId) -> Result<Ordinal, StoreError> {
    let ordinal = Ordinal(tx.index.next_ordinal);
    // Four thousand million acceptances: not reached, but never wrapped around either.
    let next = tx.index.next_ordinal.checked_add(1);
    tx.index.next_ordinal = next.ok_or_else(|| StoreError::corrupt("the counter next_ordinal", "it is used up"))?;
    meta::put_number(&mut tx.over, meta::NEXT_ORDINAL, u64::from(tx.index.next_ordinal));
    minion::put(&mut tx.over, ordinal, &MinionRow { minion: minion.clone(), numbered: tx.time });
    tx.index.names.insert(ordinal, minion.clone());
    Ok(ordinal)
}

fn put(tx: &mut Tx<'_>, record: &KeyRecord) {
    key::put(&mut tx.over, record);
    if record.state == KeyState::Pending {
        timeline::put(&mut tx.over, Due::PendingKey, record.submitted, record.minion.as_str().as_bytes());
    }
    tx.index.put_key(record.clone());
}

fn remove(tx: &mut Tx<'_>, record: &KeyRecord) {
    key::delete(&mut tx.over, &record.minion);
    if record.state == KeyState::Pending {
        timeline::delete(&mut tx.over, Due::PendingKey, record.submitted, record.minion.as_str().as_bytes());
    }
    tx.index.remove_key(&record.minion);
}

fn put_denied(tx: &mut Tx<'_>, record: &KeyRecord) {
    key::put_denied(&mut tx.over, record);
    let subject = key::denied_subject(&record.minion, &record.fingerprint());
    timeline::put(&mut tx.over, Due::DeniedKey, record.submitted, &subject);
}

fn take_denied(tx: &mut Tx<'_>, minion: &MinionId, fingerprint: &Fingerprint) -> Result<Option<KeyRecord>, StoreError> {
    let Some(record) = key::denied(&tx.over, minion, fingerprint)? else { return Ok(None) };
    key::delete_denied(&mut tx.over, minion, fingerprint);
    let subject = key::denied_subject(minion, fingerprint);
    timeline::delete(&mut tx.over, Due::DeniedKey, record.submitted, &subject);
    Ok(Some(record))
}

/// What a minion whose number is gone leaves behind: no grains, no mine, and nobody waits for it.
fn forget_minion(tx: &mut Tx<'_>, ordinal: Option<Ordinal>) -> Result<(), StoreError> {
    let Some(ordinal) = ordinal else { return Ok(()) };
    facts::delete(&mut tx.over, ordinal);
    mine::delete(&mut tx.over, ordinal);
    job::lose(tx, ordinal)
}
