//! What a submission says about batches and subsets.
//!
//! **Invariant.** A subset is drawn by the request's name, which whoever asks has drawn at random: a retry of the request at
//! another master means the same minions.

use roaring::RoaringBitmap;
use saltern_wire::RequestId;
use saltern_wire::api::{Failure, FailureCode, Submit};
use saltern_wire::rolling::{Batch, Rolling, WAIT_MS_MAX};

/// Refuses what is out of bounds.
pub(super) fn check(submit: &Submit) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(FailureCode::Invalid, message));
    if submit.subset == Some(0) {
        return refuse("a subset of 0 minions is nobody: give at least 1".into());
    }
    match submit.batch {
        Some(batch) if !batch.size.is_valid() => refuse(format!("{:?} is no size of a batch", batch.size)),
        Some(batch) if batch.wait_ms > WAIT_MS_MAX => refuse(format!(
            "a rest of {} ms between turns is too long, the limit is {WAIT_MS_MAX} (a day)",
            batch.wait_ms
        )),
        Some(_) | None => Ok(()),
    }
}

/// How the job goes round: a minion has `ttl_ms` from its turn on.
pub(super) fn rolling(batch: Batch, ttl_ms: u64) -> Rolling {
    Rolling { size: batch.size, wait_ms: batch.wait_ms, failhard: batch.failhard, turn_ms: ttl_ms }
}

/// So many of `targets`, as `request` draws them; all of them if they are no more.
pub(super) fn subset(targets: &RoaringBitmap, number: u32, request: RequestId) -> RoaringBitmap {
    let lot =
        |ordinal: u32| *blake3::hash(&[request.as_bytes().as_slice(), &ordinal.to_be_bytes()].concat()).as_bytes();
    let mut lots: Vec<_> = targets.iter().map(|ordinal| (lot(ordinal), ordinal)).collect();
    lots.sort_unstable();
    lots.into_iter().take(usize::try_from(number).unwrap_or(usize::MAX)).map(|(_, ordinal)| ordinal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subset_is_drawn_by_the_request_and_from_the_targets() {
        let targets: RoaringBitmap = (100..400).collect();
        let drawn = |byte, number| subset(&targets, number, RequestId::from_bytes([byte; 16]));
        let one = drawn(1, 30);
        assert_eq!((one.len(), one.is_subset(&targets)), (30, true));
        assert_eq!(drawn(1, 30), one, "a retry means the same");
        assert_ne!(drawn(2, 30), one, "another request draws others");
        assert!((0..50).map(|byte| drawn(byte, 30)).fold(RoaringBitmap::new(), |all, some| all | some).len() > 280);
        assert_eq!(drawn(3, 1000), targets, "there are no more");
    }
}
