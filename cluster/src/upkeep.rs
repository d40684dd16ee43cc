//! What a master does for its own disk: forgotten jobs and purged entries give back what they took, the log stays short by its
//! bytes, and snapshots do not keep what the state has long forgotten.
//!
//! Every step is a sweep: it looks at what is and does what is due. Nothing of it is in the truth, and no two masters need to do
//! it at the same time.

use crate::truth::Truth;
use saltern_store::StoreError;
use std::time::Duration;

/// Pause between two looks at the log: at the log's measured peak 30 MiB are written meanwhile.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Pause between two looks at what was forgotten: writing tables anew costs the disk more than it gives back if it is done for
/// every few jobs.
const RECLAIM_EVERY: Duration = Duration::from_secs(30);

/// Snapshots may take so many times as many bytes as the state …
const SNAPSHOT_TIMES_MAX: u64 = 2;

/// … and so many more, before new ones take their place: making one costs as much as reading the state.
const SNAPSHOT_BYTES_SPARE: u64 = 64 * 1024 * 1024;

/// Keeps the log short, while the master runs.
pub async fn compact_all(truth: Truth) {
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        if let Err(error) = truth.group().compact().await {
            tracing::debug!(%error, "the log was not made shorter; trying again");
        }
    }
}

/// Gives the disk back what is not needed, while the master runs.
pub async fn reclaim_all(truth: Truth) {
    loop {
        tokio::time::sleep(RECLAIM_EVERY).await;
        if let Err(error) = reclaim(&truth).await {
            tracing::warn!(%error, "the disk was not given back what is not needed any more; trying again");
        }
    }
}

async fn reclaim(truth: &Truth) -> Result<(), StoreError> {
    let machine = truth.group().machine();
    let state = std::sync::Arc::clone(machine.state());
    let reclaimed = machine.disk_work().run(move || state.reclaim()).await.unwrap_or(Ok(false))?;
    if reclaimed {
        tracing::debug!("what forgotten jobs took was given back to the disk");
    }
    truth.group().reclaim_log().await?;
    let held = machine.snapshots().bytes();
    if held > machine.state().disk_bytes()?.saturating_mul(SNAPSHOT_TIMES_MAX).saturating_add(SNAPSHOT_BYTES_SPARE) {
        // Two are kept, so that this is done twice; a state that has not moved gives the same one.
        if let Err(error) = truth.group().snapshot().await {
            tracing::debug!(%error, "no snapshot takes the place of larger ones yet; trying again");
        }
    }
    Ok(())
}
