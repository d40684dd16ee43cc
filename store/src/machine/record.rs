//! Returns: an upsert on (jid, ordinal). The first complete answer wins, an identical one is a no-op, a different one is kept
//! beside it.
//!
//! A return that cannot be read, or whose pieces do not fit their digest, is settled as failed with the reason as its value:
//! refusing it would refuse the returns of other minions in the same entry, and dropping it would leave the job open.

use super::job::{self, Standing};
use super::{Stop, Tx, orphan};
use crate::command::{Effect, Reply};
use crate::error::StoreError;
use crate::kv::Table;
use crate::table::returns::{self, AssemblyRow, ReturnRow};
use saltern_wire::job::{Outcome, OutcomeKind, Progress, Recorded, ReturnPart, ReturnRecord};
use saltern_wire::limits::RETURN_PART_BYTES_MAX;
use saltern_wire::{JobId, Ordinal, Value};

/// Pieces of contradicting answers kept per minion and job: one answer of the largest size, or several small ones.
const CONFLICT_PIECES_MAX: usize = 64;
/// Most pieces of one return, whatever the setting `return_bytes_max` says: their numbers are held in one row.
const PARTS_MAX: u16 = 4096;

pub(super) fn record(tx: &mut Tx<'_>, parts: &[(Ordinal, ReturnPart)]) -> Result<Reply, Stop> {
    let mut verdicts = Vec::with_capacity(parts.len());
    for (ordinal, part) in parts {
        verdicts.push(record_part(tx, *ordinal, part)?);
    }
    Ok(Reply::Recorded(verdicts))
}

fn record_part(tx: &mut Tx<'_>, ordinal: Ordinal, part: &ReturnPart) -> Result<Recorded, StoreError> {
    match job::standing(tx, part.jid, ordinal)? {
        Standing::NoJob => return orphan::keep(tx, ordinal, part),
        Standing::Untargeted => return Ok(Recorded::Untargeted),
        Standing::Owing => {}
        Standing::Settled => {
            if let Some(held) = returns::get(&tx.over, part.jid, ordinal)? {
                return contradict(tx, ordinal, part, &held);
            }
        }
    }
    if let Some(reason) = malformed(tx, part) {
        return finish(tx, ordinal, part, Err(reason));
    }
    if part.parts == 1 {
        let outcome = read(&part.body, &part.digest);
        return finish(tx, ordinal, part, outcome);
    }
    assemble(tx, ordinal, part)
}

/// What is wrong with a piece by itself.
fn malformed(tx: &Tx<'_>, part: &ReturnPart) -> Option<String> {
    if part.parts == 0 || part.part >= part.parts || part.parts > PARTS_MAX {
        return Some(format!("part {} of {} is not a part", part.part, part.parts));
    }
    if part.body.len() > RETURN_PART_BYTES_MAX {
        return Some(format!("a part has {} bytes, the limit is {RETURN_PART_BYTES_MAX}", part.body.len()));
    }
    too_large(tx, part.body.len() as u64)
}

fn too_large(tx: &Tx<'_>, bytes: u64) -> Option<String> {
    let max = tx.index.settings.return_bytes_max;
    let reason = || format!("it has {bytes} bytes or more, the setting return_bytes_max allows {max}");
    (bytes > max).then(reason)
}

/// The outcome in `bytes`, if they are what `digest` says.
fn read(bytes: &[u8], digest: &[u8; 32]) -> Result<Outcome, String> {
    if blake3::hash(bytes).as_bytes() != digest {
        return Err("its bytes do not fit its digest".into());
    }
    saltern_wire::decode(bytes).map_err(|error| error.to_string())
}

/// Keeps one piece of a long answer. A piece of another answer makes the earlier, incomplete one go.
fn assemble(tx: &mut Tx<'_>, ordinal: Ordinal, part: &ReturnPart) -> Result<Recorded, StoreError> {
    let jid = part.jid;
    let held = if job::may_be_partial(tx, jid, ordinal) { returns::assembly(&tx.over, jid, ordinal)? } else { None };
    let mut row = match held {
        Some(row) if row.digest == part.digest && row.parts == part.parts => row,
        other => {
            if other.is_some() {
                returns::clear_parts(&mut tx.over, jid, ordinal);
            }
            AssemblyRow { digest: part.digest, parts: part.parts, have: Vec::new(), bytes: 0 }
        }
    };
    let Err(place) = row.have.binary_search(&part.part) else { return Ok(Recorded::Part) };
    row.have.insert(place, part.part);
    row.bytes += part.body.len() as u64;
    if let Some(reason) = too_large(tx, row.bytes) {
        returns::clear_parts(&mut tx.over, jid, ordinal);
        job::note_partial(tx, jid, ordinal, false);
        return finish(tx, ordinal, part, Err(reason));
    }
    returns::put_part(&mut tx.over, jid, ordinal, part.part, &part.body);
    if row.have.len() < usize::from(row.parts) {
        returns::put_assembly(&mut tx.over, jid, ordinal, &row);
        job::note_partial(tx, jid, ordinal, true);
        return Ok(Recorded::Part);
    }
    returns::delete_assembly(&mut tx.over, jid, ordinal);
    job::note_partial(tx, jid, ordinal, false);
    let whole = returns::join(&tx.over, jid, ordinal)?;
    let outcome = read(&whole, &part.digest);
    if outcome.is_err() {
        returns::clear_parts(&mut tx.over, jid, ordinal);
    }
    finish(tx, ordinal, part, outcome)
}

/// Records the first complete answer. `part` is its last piece, or its only one.
fn finish(
    tx: &mut Tx<'_>,
    ordinal: Ordinal,
    part: &ReturnPart,
    outcome: Result<Outcome, String>,
) -> Result<Recorded, StoreError> {
    let jid = part.jid;
    let (outcome, body) = match outcome {
        Ok(outcome) => (outcome, if part.parts == 1 { part.body.clone() } else { Vec::new() }),
        Err(reason) => {
            let outcome = unreadable(&reason);
            let body = saltern_wire::encode(&outcome);
            (outcome, body)
        }
    };
    if part.parts == 1 {
        // An incomplete answer that was begun before has lost.
        drop_assembly(tx, jid, ordinal)?;
    }
    let row = ReturnRow { digest: part.digest, parts: part.parts, body, via: tx.by, recorded: tx.time };
    returns::put(&mut tx.over, jid, ordinal, &row);
    job::put_result(tx, jid, ordinal, progress_of(&outcome))?;
    // Whoever is expected has a number, and a number has a name.
    if let Some(minion) = tx.name(ordinal) {
        let record = ReturnRecord { jid, minion, ordinal, outcome, via: tx.by, recorded: tx.time };
        tx.effects.push(Effect::Returned { record: Box::new(record) });
    }
    job::close_if_done(tx, jid)?;
    Ok(Recorded::Committed)
}

fn drop_assembly(tx: &mut Tx<'_>, jid: JobId, ordinal: Ordinal) -> Result<(), StoreError> {
    if job::may_be_partial(tx, jid, ordinal) && returns::assembly(&tx.over, jid, ordinal)?.is_some() {
        returns::clear_parts(&mut tx.over, jid, ordinal);
        job::note_partial(tx, jid, ordinal, false);
    }
    Ok(())
}

fn unreadable(reason: &str) -> Outcome {
    Outcome {
        kind: OutcomeKind::Finished,
        success: false,
        retcode: 1,
        value: Value::String(format!("the minion's return cannot be used: {reason}")),
        duration_ms: 0,
    }
}

fn progress_of(outcome: &Outcome) -> Progress {
    match (outcome.kind, outcome.success) {
        (OutcomeKind::Finished, true) => Progress::Returned,
        (OutcomeKind::Finished, false) | (OutcomeKind::Refused, _) => Progress::Failed,
        (OutcomeKind::Interrupted, _) => Progress::Interrupted,
    }
}

/// An answer is there already: the same again, or a different one, which is kept beside it.
fn contradict(tx: &mut Tx<'_>, ordinal: Ordinal, part: &ReturnPart, held: &ReturnRow) -> Result<Recorded, StoreError> {
    if held.digest == part.digest {
        return Ok(Recorded::Duplicate);
    }
    let subject = returns::piece_subject(part.jid, ordinal, &part.digest, part.part);
    let known = returns::has_piece(&tx.over, Table::Conflicts, &subject)?;
    let kept = returns::conflicts(&tx.over, part.jid, ordinal, CONFLICT_PIECES_MAX)?;
    if !known && kept < CONFLICT_PIECES_MAX {
        let row = ReturnRow {
            digest: part.digest,
            parts: part.parts,
            body: part.body.clone(),
            via: tx.by,
            recorded: tx.time,
        };
        returns::put_piece(&mut tx.over, Table::Conflicts, &subject, &row);
    }
    Ok(Recorded::Conflict)
}
