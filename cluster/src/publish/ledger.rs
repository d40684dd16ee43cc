//! Which open jobs still wait to be accepted by whom: the pure half of publishing.
//!
//! ```text
//!   open ─▶ agenda, by time ── poll_overdue ─▶ offered again to whoever is attached and has not accepted, less and less often
//!   seat ─▶ who is new here ── poll_seated ──▶ every open job that they have not accepted, oldest first, so many at a time
//! ```
//!
//! A copy of what the tables say, kept in step by effects and rebuilt from the tables when effects were missed, so that the
//! sweep costs bitmaps and not table scans. Jobs that are over are not in it: what a round costs does not grow with them.
//!
//! **Invariants.** A minion that has accepted or answered a job is never offered it again from here. A job whose time to
//! live is over is not offered; it is forgotten only when the truth has settled it, because this master's estimate of the
//! time may be wrong for a moment. A round looks at [`Round::jobs_max`] jobs and makes [`Round::offers_max`] offers at most;
//! what is left over is due first in the next one.

use roaring::RoaringBitmap;
use saltern_wire::{JobId, LogicalTime, Ordinal};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// How often the patience doubles at most: a minion that takes no offer is asked every sixteen seconds by default.
const DOUBLINGS_MAX: u32 = 3;

/// Jobs offered to a minion at once when it comes: they fit its session's queue, and the rest follow in the next rounds.
const JOBS_AT_ONCE_MAX: usize = 128;

/// An open job.
#[derive(Debug, Clone)]
struct Open {
    waiting: RoaringBitmap,
    opened: LogicalTime,
    expires: LogicalTime,
    /// When it is looked at again, monotonic: its place in the agenda.
    due: Duration,
    /// How often it has been offered again to all who were there.
    rounds: u32,
    /// The first number that the present round has not come to.
    from: u32,
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

/// What one round may do, and what it goes by.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// The truth's time.
    pub time: LogicalTime,
    /// This master's monotonic clock.
    pub now: Duration,
    /// How long a job may stay unaccepted before it is offered again for the first time.
    pub patience: Duration,
    /// Most offers.
    pub offers_max: u64,
    /// Most jobs that are looked at.
    pub jobs_max: usize,
    /// Spreads the next looks, so that masters and jobs do not keep in step.
    pub random: u64,
}

impl Round {
    /// How long until a job is looked at again after so many rounds: twice as long each time, and up to a quarter more.
    fn wait(&self, jid: JobId, rounds: u32) -> Duration {
        let base = self.patience.saturating_mul(1 << rounds.min(DOUBLINGS_MAX));
        let [.., low] = jid.to_bytes();
        let mixed = (self.random ^ u64::from(low)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let share = u32::try_from(mixed >> 56).unwrap_or(0);
        base + base.saturating_mul(share) / 1024
    }
}

/// The open jobs.
#[derive(Debug, Default)]
pub struct Ledger {
    jobs: BTreeMap<JobId, Open>,
    agenda: BTreeSet<(Duration, JobId)>,
    /// Who came lately, by the last job that was offered to them.
    seated: BTreeMap<Option<JobId>, RoaringBitmap>,
}

impl Ledger {
    /// A job was opened. Everyone who is attached is offered it now, or at `due`, monotonic, if nobody was.
    pub fn open(
        &mut self,
        jid: JobId,
        waiting: RoaringBitmap,
        opened: LogicalTime,
        expires: LogicalTime,
        due: Duration,
    ) {
        self.close(jid);
        if !waiting.is_empty() {
            self.jobs.insert(jid, Open { waiting, opened, expires, due, rounds: 0, from: 0 });
            self.agenda.insert((due, jid));
        }
    }

    /// Minions whose turn in the job has come are offered it now; from now on they are among those who wait.
    pub fn release(
        &mut self,
        jid: JobId,
        whom: &RoaringBitmap,
        opened: LogicalTime,
        expires: LogicalTime,
        due: Duration,
    ) {
        let Some(open) = self.jobs.get_mut(&jid) else { return self.open(jid, whom.clone(), opened, expires, due) };
        open.waiting |= whom;
        self.agenda.remove(&(open.due, jid));
        (open.due, open.rounds) = (open.due.min(due), 0);
        self.agenda.insert((open.due, jid));
    }

    /// The minion has accepted the job, or owes nothing any more.
    pub fn settle(&mut self, jid: JobId, ordinal: Ordinal) {
        let Some(open) = self.jobs.get_mut(&jid) else { return };
        open.waiting.remove(ordinal.0);
        if open.waiting.is_empty() {
            self.close(jid);
        }
    }

    /// Nobody owes an answer any more.
    pub fn close(&mut self, jid: JobId) {
        if let Some(open) = self.jobs.remove(&jid) {
            self.agenda.remove(&(open.due, jid));
        }
    }

    /// Jobs that some of `attached` have left unaccepted for too long, the longest due first, with whom.
    pub fn poll_overdue(&mut self, attached: &RoaringBitmap, round: &Round) -> Vec<Due> {
        let mut due = Vec::new();
        let mut left = round.offers_max;
        for _ in 0..round.jobs_max {
            let Some((at, jid)) = self.agenda.first().copied().filter(|(at, _)| *at <= round.now && left > 0) else {
                break;
            };
            self.agenda.pop_first();
            let Some(open) = self.jobs.get_mut(&jid) else { continue };
            let mut whom = RoaringBitmap::new();
            if open.expires > round.time {
                whom = &open.waiting & attached;
                whom.remove_range(..open.from);
            }
            if whom.len() > left {
                // The others stay due, and before everybody else.
                let taken: RoaringBitmap = whom.iter().take(usize::try_from(left).unwrap_or(usize::MAX)).collect();
                open.from = taken.max().map_or(0, |last| last.saturating_add(1));
                open.due = at;
                whom = taken;
            } else {
                (open.from, open.due) = (0, round.now + round.wait(jid, open.rounds));
                open.rounds = open.rounds.saturating_add(1);
            }
            self.agenda.insert((open.due, jid));
            left -= whom.len();
            if !whom.is_empty() {
                due.push(Due { jid, opened: open.opened, whom });
            }
        }
        due
    }

    /// The minion has just come: it is to be offered whatever it has not accepted.
    pub fn seat(&mut self, ordinal: Ordinal) {
        for group in self.seated.values_mut() {
            group.remove(ordinal.0);
        }
        self.seated.entry(None).or_default().insert(ordinal.0);
    }

    /// Jobs for those who came lately and are among `attached`, oldest first. Those who are nearly through go first.
    pub fn poll_seated(&mut self, attached: &RoaringBitmap, round: &Round) -> Vec<Due> {
        let mut due = Vec::new();
        let mut behind: BTreeMap<Option<JobId>, RoaringBitmap> = BTreeMap::new();
        let (mut offers, mut jobs) = (round.offers_max, round.jobs_max);
        while let Some((from, group)) = self.seated.pop_last() {
            let group = group & attached;
            if group.is_empty() {
                continue;
            }
            let (mut place, mut given, mut through) = (from, 0, true);
            let after = from.map_or(Bound::Unbounded, Bound::Excluded);
            for (jid, open) in self.jobs.range((after, Bound::Unbounded)) {
                if offers == 0 || jobs == 0 || given == JOBS_AT_ONCE_MAX {
                    through = false;
                    break;
                }
                (place, jobs) = (Some(*jid), jobs - 1);
                let whom = if open.expires > round.time { &open.waiting & &group } else { RoaringBitmap::new() };
                if !whom.is_empty() {
                    (offers, given) = (offers.saturating_sub(whom.len()), given + 1);
                    due.push(Due { jid: *jid, opened: open.opened, whom });
                }
            }
            if !through {
                *behind.entry(place).or_default() |= group;
            }
        }
        self.seated = behind;
        due
    }

    /// Takes over who came lately from a ledger that this one replaces.
    pub fn succeed(&mut self, before: Self) {
        let all = before.seated.into_values().reduce(|all, group| all | group).unwrap_or_default();
        if !all.is_empty() {
            *self.seated.entry(None).or_default() |= all;
        }
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
mod tests;
