//! Which open jobs still wait to be accepted by whom: the pure half of publishing.
//!
//! A copy of what the tables say, kept in step by effects and rebuilt from the tables when effects were missed, so that the
//! sweep costs bitmaps and not table scans.
//!
//! **Invariants.** A minion that has accepted or answered a job is never offered it again from here. A job whose time to
//! live is over is not offered; it is forgotten only when the truth has settled it, because this master's estimate of the
//! time may be wrong for a moment.

use roaring::RoaringBitmap;
use saltern_wire::{JobId, LogicalTime, Ordinal};
use std::collections::BTreeMap;
use std::time::Duration;

/// An open job.
#[derive(Debug, Clone)]
struct Open {
    waiting: RoaringBitmap,
    opened: LogicalTime,
    expires: LogicalTime,
    /// When it was last offered to all who wait, monotonic.
    offered: Duration,
}

/// A job to be offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// Which.
    pub jid: JobId,
    /// When the truth opened it.
    pub opened: LogicalTime,
    /// Who has not accepted it.
    pub whom: RoaringBitmap,
}

/// The open jobs.
#[derive(Debug, Default)]
pub struct Ledger {
    jobs: BTreeMap<JobId, Open>,
}

impl Ledger {
    /// A job was opened and is offered now to everyone who is attached.
    pub fn open(
        &mut self,
        jid: JobId,
        waiting: RoaringBitmap,
        opened: LogicalTime,
        expires: LogicalTime,
        now: Duration,
    ) {
        if !waiting.is_empty() {
            self.jobs.insert(jid, Open { waiting, opened, expires, offered: now });
        }
    }

    /// The minion has accepted the job, or owes nothing any more.
    pub fn settle(&mut self, jid: JobId, ordinal: Ordinal) {
        if let Some(open) = self.jobs.get_mut(&jid) {
            open.waiting.remove(ordinal.0);
            if open.waiting.is_empty() {
                self.jobs.remove(&jid);
            }
        }
    }

    /// Nobody owes an answer any more.
    pub fn close(&mut self, jid: JobId) {
        self.jobs.remove(&jid);
    }

    /// Jobs that some of `attached` have left unaccepted for longer than `patience`, oldest first, with whom. They count as
    /// offered now.
    pub fn poll_overdue(
        &mut self,
        attached: &RoaringBitmap,
        time: LogicalTime,
        now: Duration,
        patience: Duration,
    ) -> Vec<Due> {
        let overdue = |open: &Open| open.expires > time && now.saturating_sub(open.offered) >= patience;
        let overdue = self.jobs.iter_mut().filter(|(_, open)| overdue(open));
        let mut due = Vec::new();
        for (jid, open) in overdue {
            let whom = &open.waiting & attached;
            if !whom.is_empty() {
                open.offered = now;
                due.push(Due { jid: *jid, opened: open.opened, whom });
            }
        }
        due
    }

    /// Jobs that `ordinal` has not accepted, oldest first, at most `limit`.
    pub fn owed_by(&self, ordinal: Ordinal, time: LogicalTime, limit: usize) -> Vec<Due> {
        let owed = self.jobs.iter().filter(|(_, open)| open.expires > time && open.waiting.contains(ordinal.0));
        let whom = RoaringBitmap::from_iter([ordinal.0]);
        owed.map(|(jid, open)| Due { jid: *jid, opened: open.opened, whom: whom.clone() }).take(limit).collect()
    }

    /// How many jobs somebody has yet to accept.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether everybody has accepted everything.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

/// How a job reaches the minions that are attached here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// In one sealed frame to all.
    Fanout,
    /// Down each targeted session.
    Direct,
}

/// Targeted minions below which one frame to all is never worth it.
const FANOUT_MIN: u64 = 16;

/// One in so many attached minions has to be targeted for a frame to all: measured, sessions are cheaper below.
const FANOUT_SHARE: u64 = 5;

/// Chooses the road for a job that targets `targeted` of the `attached` accepted minions here.
pub fn road(targeted: u64, attached: u64) -> Road {
    if targeted > FANOUT_MIN && targeted.saturating_mul(FANOUT_SHARE) > attached { Road::Fanout } else { Road::Direct }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> LogicalTime {
        LogicalTime::from_unix_micros(micros)
    }

    fn jid(micros: u64) -> JobId {
        JobId::mint(at(micros * 100), 0)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_job_is_offered_again_until_it_is_accepted_or_over() {
        let mut ledger = Ledger::default();
        ledger.open(jid(1), RoaringBitmap::from_iter([1, 2, 3]), at(1), at(1000), Duration::ZERO);
        let attached = RoaringBitmap::from_iter([2, 3, 9]);
        assert_eq!(ledger.poll_overdue(&attached, at(1), SECOND, 2 * SECOND), []);
        let due = |whom: &[u32]| Due { jid: jid(1), opened: at(1), whom: whom.iter().collect() };
        assert_eq!(ledger.poll_overdue(&attached, at(1), 2 * SECOND, 2 * SECOND), [due(&[2, 3])]);
        assert_eq!(ledger.poll_overdue(&attached, at(1), 3 * SECOND, 2 * SECOND), [], "just offered");
        ledger.settle(jid(1), Ordinal(2));
        assert_eq!(ledger.owed_by(Ordinal(2), at(1), 9), []);
        assert_eq!(ledger.owed_by(Ordinal(3), at(1), 9), [due(&[3])]);
        assert_eq!(ledger.poll_overdue(&attached, at(1), 4 * SECOND, 2 * SECOND), [due(&[3])]);
        assert_eq!(ledger.owed_by(Ordinal(3), at(1000), 9), [], "its time is over");
        assert_eq!(ledger.poll_overdue(&attached, at(1000), 9 * SECOND, 2 * SECOND), []);
        assert_eq!(
            ledger.poll_overdue(&attached, at(9), 9 * SECOND, 2 * SECOND),
            [due(&[3])],
            "the estimate was wrong"
        );
        ledger.close(jid(1));
        assert!(ledger.is_empty());
    }

    #[test]
    fn narrow_jobs_go_down_sessions_and_wide_ones_over_the_fanout() {
        for (targeted, attached, expect) in [
            (0, 0, Road::Direct),
            (16, 16, Road::Direct),
            (17, 17, Road::Fanout),
            (17, 84, Road::Fanout),
            (17, 85, Road::Direct),
            (2000, 10_000, Road::Direct),
            (2001, 10_000, Road::Fanout),
        ] {
            assert_eq!(road(targeted, attached), expect, "{targeted} of {attached}");
        }
    }
}
