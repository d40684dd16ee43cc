//! Returns for jobs that the truth does not hold (any more): kept under their jid for as long as results are kept, and no more
//! than [`ORPHANS_MAX`] of them, the oldest going first. A minion may forget what it was told is an orphan.

use super::Tx;
use crate::error::StoreError;
use crate::kv::Table;
use crate::table::meta;
use crate::table::returns::{self, ReturnRow};
use crate::table::timeline::{self, Due};
use saltern_wire::Ordinal;
use saltern_wire::job::{Recorded, ReturnPart};

/// Most pieces kept. Orphans come from outboxes that were away for longer than results are kept: rare, but a minion can
/// make them up, and 10,000 of the largest pieces are 2.5 GiB.
const ORPHANS_MAX: u64 = 10_000;

pub(super) fn keep(tx: &mut Tx<'_>, ordinal: Ordinal, part: &ReturnPart) -> Result<Recorded, StoreError> {
    if tx.name(ordinal).is_none() {
        return Ok(Recorded::Untargeted);
    }
    let subject = returns::piece_subject(part.jid, ordinal, &part.digest, part.part);
    if returns::has_piece(&tx.over, Table::Orphans, &subject)? {
        return Ok(Recorded::Orphan);
    }
    if tx.index.orphans >= ORPHANS_MAX {
        for (time, oldest) in timeline::first(&tx.over, Due::Orphan, 1)? {
            forget(tx, time, &oldest);
        }
    }
    let row =
        ReturnRow { digest: part.digest, parts: part.parts, body: part.body.clone(), via: tx.by, recorded: tx.time };
    returns::put_piece(&mut tx.over, Table::Orphans, &subject, &row);
    timeline::put(&mut tx.over, Due::Orphan, tx.time, &subject);
    tx.index.orphans += 1;
    meta::put_number(&mut tx.over, meta::ORPHANS, tx.index.orphans);
    Ok(Recorded::Orphan)
}

/// Removes one piece. Used by ticks, too.
pub(super) fn forget(tx: &mut Tx<'_>, recorded: saltern_wire::LogicalTime, subject: &[u8]) {
    returns::delete_piece(&mut tx.over, Table::Orphans, subject);
    timeline::delete(&mut tx.over, Due::Orphan, recorded, subject);
    tx.index.orphans = tx.index.orphans.saturating_sub(1);
    meta::put_number(&mut tx.over, meta::ORPHANS, tx.index.orphans);
}
