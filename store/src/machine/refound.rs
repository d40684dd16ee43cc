//! A master carries the truth on alone: after a restore from a backup, or after the others were lost for good.
//!
//! What the former masters signed is void from here on (minions enforce the generation), so nothing that only they could
//! carry on stays open: jobs are cancelled, tokens are dropped. What minions and operators rely on stays as it is.
//!
//! The work is bounded by what is open, not by what is held; it happens once in the life of a generation.

use super::{Stop, Tx, job, master as masters};
use crate::command::Refused;
use crate::error::StoreError;
use crate::table::master::{self, MasterRow};
use crate::table::meta::{self, CaRow};
use saltern_wire::crypto::Signed;
use saltern_wire::job::Progress;
use saltern_wire::master::Directory;
use saltern_wire::{ClusterId, JobId, MasterId, Ordinal};

/// Master ids that are passed over: the former masters may have given out some that this copy of the truth does not know.
/// More than a cluster ever has, times a lifetime of replacements; a multiple of the slots of jids.
const IDS_SKIPPED: u64 = 1000;

pub(super) fn apply(
    tx: &mut Tx<'_>,
    cluster: ClusterId,
    (certificate_pem, sealed): (&str, &[u8]),
    directory: &Signed<Directory>,
) -> Result<(), Stop> {
    let Some(ca) = tx.index.ca.clone() else {
        return Err(Refused::NotFound("there is no cluster yet; run `saltern-master init`".into()).into());
    };
    let held = masters::held(tx)?;
    let next = masters::read(directory, &ca.public_key, cluster)?;
    if next.generation <= held.generation {
        return Err(Refused::Conflict(format!(
            "the directory has generation {}, it must be above {}",
            next.generation, held.generation
        ))
        .into());
    }
    if cluster != ca.cluster && !next.succeeds.contains(&ca.cluster) {
        return Err(Refused::Invalid(format!("the directory does not say that it succeeds {}", ca.cluster)).into());
    }
    let [founder] = next.masters.as_slice() else {
        return Err(Refused::Invalid(format!("the directory has {} masters, not one", next.masters.len())).into());
    };
    cancel_jobs(tx)?;
    drop_tokens(tx)?;
    for (id, _) in master::all(&tx.over)? {
        master::delete(&mut tx.over, id);
    }
    let row = MasterRow { name: founder.name.clone(), public_key: founder.public_key, joined: tx.time, replaces: None };
    master::put(&mut tx.over, founder.id, &row);
    let next_id = tx.index.next_master.max(founder.id.0.saturating_add(1)).saturating_add(IDS_SKIPPED);
    masters::put_next_master(tx, next_id);
    let row = CaRow { cluster, certificate_pem: certificate_pem.to_owned(), sealed: sealed.to_vec(), ..ca };
    meta::put_ca(&mut tx.over, &row);
    tx.index.ca = Some(row);
    masters::put_directory(tx, directory);
    Ok(())
}

/// The id that the master of a restored cluster takes: one that no master of the former one has.
pub(crate) fn fresh_id(next_master: u64) -> MasterId {
    MasterId(next_master.saturating_add(IDS_SKIPPED))
}

/// Nobody will offer them any more. An answer that is on its way is recorded all the same when it comes.
fn cancel_jobs(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let open: Vec<JobId> = tx.index.open.keys().copied().collect();
    for jid in open {
        let owing =
            tx.index.open.get(&jid).map(|open| &(&open.waiting | &open.accepted) | &open.held).unwrap_or_default();
        for ordinal in &owing {
            job::settle(tx, jid, Ordinal(ordinal), Progress::Cancelled)?;
        }
        job::close_if_done(tx, jid)?;
    }
    Ok(())
}

fn drop_tokens(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    for (hash, expires) in master::all_tokens(&tx.over)? {
        masters::forget_token(tx, expires, &hash);
    }
    Ok(())
}
