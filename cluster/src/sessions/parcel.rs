//! What waits in a session's queue, and what is said of it when it leaves.
//!
//! **Invariant.** A message says how things are when it leaves, not when it was queued: between the two its minion may have
//! read slowly, or this process may have been frozen. An offer whose time ran out meanwhile does not leave at all.

use saltern_wire::codec::encode;
use saltern_wire::fanout::Offer;
use saltern_wire::session::{Answer, ToMinion};
use std::sync::Arc;
use std::time::Duration;

/// An offer that waited for less than this goes as it is: a copy of its own costs more than it says.
const WAIT_MIN: Duration = Duration::from_millis(20);

/// Bytes that a message without a body of its own counts for.
const MESSAGE_BYTES: usize = 128;

/// A queued message.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// What is said. Often shared between sessions.
    pub message: Arc<ToMinion>,
    /// For what runs out: when it was queued, by the monotonic clock.
    pub since: Option<Duration>,
}

impl Parcel {
    /// What it counts for in a queue, in bytes: exact for none, and of the right size for those that can be large.
    pub fn weight(&self) -> usize {
        let body = match &*self.message {
            ToMinion::Offer(offer) => offer.job.encoded_len(),
            ToMinion::Directory(directory) => directory.encoded_len(),
            ToMinion::Reply { result: Ok(Answer::Mine(_)), .. } => encode(&*self.message).len(),
            ToMinion::Reply { result: Ok(Answer::Recorded(recorded)), .. } => recorded.len() * 16,
            ToMinion::Reply { .. }
            | ToMinion::Standing(_)
            | ToMinion::Grant(_)
            | ToMinion::Rekey(_)
            | ToMinion::Pong { .. }
            | ToMinion::Credit { .. }
            | ToMinion::Promote { .. }
            | ToMinion::Move { .. }
            | ToMinion::Bye { .. } => 0,
        };
        MESSAGE_BYTES + body
    }

    /// The message as it leaves at `now`; `quorum` says whether this master is in contact with a majority.
    pub fn open(self, now: Duration, quorum: impl FnOnce() -> bool) -> Option<Arc<ToMinion>> {
        let waited = self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        match &*self.message {
            ToMinion::Pong { sequence, quorum: true } if !quorum() => {
                Some(Arc::new(ToMinion::Pong { sequence: *sequence, quorum: false }))
            }
            ToMinion::Offer(offer) if waited >= WAIT_MIN => {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                let remaining_ms = offer.remaining_ms.saturating_sub(waited_ms);
                let offer = || ToMinion::Offer(Offer { job: offer.job.clone(), remaining_ms });
                (remaining_ms > 0).then(|| Arc::new(offer()))
            }
            _ => Some(self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::crypto::{Identity, Signed};
    use saltern_wire::job::Job;
    use saltern_wire::target::Target;
    use saltern_wire::{ClusterId, JobId, LogicalTime, Map, MasterId};

    const SECOND: Duration = Duration::from_secs(1);

    fn offer() -> Arc<ToMinion> {
        let job = Job {
            cluster: ClusterId::from_bytes([7; 16]),
            generation: 1,
            jid: JobId::mint(LogicalTime::ZERO, 1),
            master: MasterId(1),
            function: "test.ping".into(),
            arguments: Vec::new(),
            keywords: Map::new(),
            target: Target::glob("*"),
            targets: roaring::RoaringBitmap::from_iter([1]),
            user: "root".into(),
            opened: LogicalTime::ZERO,
            ttl_ms: 5_000,
        };
        let job = Signed::new(&job, &Identity::from_seed([1; 32]));
        Arc::new(ToMinion::Offer(Offer { job, remaining_ms: 5_000 }))
    }

    fn remaining(message: Option<Arc<ToMinion>>) -> Option<u64> {
        message.map(|message| if let ToMinion::Offer(offer) = &*message { offer.remaining_ms } else { u64::MAX })
    }

    #[test]
    fn an_offer_that_waited_has_less_time_left_and_one_whose_time_is_over_does_not_leave() {
        let parcel = Parcel { message: offer(), since: Some(10 * SECOND) };
        let open = |now| remaining(parcel.clone().open(now, || true));
        assert_eq!(open(10 * SECOND), Some(5_000));
        assert_eq!(open(12 * SECOND), Some(3_000));
        assert_eq!(open(15 * SECOND), None);
        assert_eq!(open(Duration::from_secs(10_000)), None, "this master was frozen");
    }

    #[test]
    fn a_pong_tells_of_the_quorum_that_is_there_when_it_leaves() {
        let pong = |quorum| Arc::new(ToMinion::Pong { sequence: 3, quorum });
        for (queued, leaving, told) in [(true, true, true), (true, false, false), (false, true, false)] {
            let parcel = Parcel { message: pong(queued), since: None };
            assert_eq!(parcel.open(SECOND, || leaving).as_deref(), Some(&*pong(told)), "{queued} {leaving}");
        }
    }
}
