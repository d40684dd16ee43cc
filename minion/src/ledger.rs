//! What a minion knows about the jobs it took: the journal's contents, without its file.
//!
//! **Invariants.** A jid that was taken is in [`Ledger::jobs`] until the truth's time says that nobody can offer it any
//! more; from then on [`Ledger::floor`] refuses it. So `known or below the floor` is the whole question of "may this
//! start?", and no order of offers, restarts and compactions starts a job twice.

use saltern_wire::{JobId, LogicalTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long after its expiry a jid is remembered, in the truth's time: a master cut off from the others goes on
/// offering what it knows for `auth_max_stale` (24 h), and its idea of the time may lag by as much.
pub const REMEMBER_AFTER_EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// Most jids remembered: about 10 MiB of memory. Beyond it the ones that expire first are forgotten and the floor rises
/// over them, so that they are refused rather than run again.
pub const JOBS_MAX: usize = 100_000;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The job was taken; it starts after this is on disk.
    Accepted {
        /// Which job.
        jid: JobId,
        /// When the cluster took it.
        opened: LogicalTime,
        /// When it can no longer be accepted.
        expires: LogicalTime,
        /// What it runs, for people.
        function: String,
    },
    /// The job was refused and never starts.
    Refused {
        /// Which job.
        jid: JobId,
        /// When it can no longer be accepted.
        expires: LogicalTime,
        /// What the operator is told.
        reason: String,
    },
    /// The job's outcome is committed.
    Settled {
        /// Which job.
        jid: JobId,
    },
    /// Records are missing: nothing may start before a later `Floor` says from when on the journal is whole again.
    Lost,
    /// Jobs that expire at or before `expires`, or were opened at or before `opened`, and are not in the journal are
    /// too old to know whether they ran.
    Floor {
        /// Refuses what expires no later.
        expires: LogicalTime,
        /// Refuses what was opened no later.
        opened: LogicalTime,
    },
}

/// Where a job stands on this minion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Taken; its outcome is in the outbox, or still to come, or lost with a crash.
    Accepted {
        /// When the cluster took it.
        opened: LogicalTime,
        /// When it can no longer be accepted.
        expires: LogicalTime,
        /// What it runs.
        function: String,
    },
    /// Refused.
    Refused {
        /// When it can no longer be accepted.
        expires: LogicalTime,
        /// Why.
        reason: String,
    },
    /// Over.
    Settled {
        /// When it could no longer be accepted.
        expires: LogicalTime,
    },
}

impl Known {
    fn expires(&self) -> LogicalTime {
        match self {
            Self::Accepted { expires, .. } | Self::Refused { expires, .. } | Self::Settled { expires } => *expires,
        }
    }
}

/// The journal's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    jobs: BTreeMap<JobId, Known>,
    floor_expires: LogicalTime,
    floor_opened: LogicalTime,
    lost: bool,
}

impl Ledger {
    /// Takes in one line of the journal.
    pub fn apply(&mut self, entry: &Entry) {
        match entry.clone() {
            Entry::Accepted { jid, opened, expires, function } => {
                self.jobs.insert(jid, Known::Accepted { opened, expires, function });
            }
            Entry::Refused { jid, expires, reason } => {
                self.jobs.insert(jid, Known::Refused { expires, reason });
            }
            Entry::Settled { jid } => {
                if let Some(known) = self.jobs.get_mut(&jid) {
                    *known = Known::Settled { expires: known.expires() };
                }
            }
            Entry::Floor { expires, opened } => {
                self.floor_expires = self.floor_expires.max(expires);
                self.floor_opened = self.floor_opened.max(opened);
                self.lost = false;
            }
            Entry::Lost => self.lost = true,
        }
    }

    /// What is known about `jid`.
    pub fn get(&self, jid: JobId) -> Option<&Known> {
        self.jobs.get(&jid)
    }

    /// Whether records are missing, and from when on the journal is whole again is not known yet.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a job that is not known is too old to tell whether it ran.
    pub fn is_below_floor(&self, opened: LogicalTime, expires: LogicalTime) -> bool {
        expires <= self.floor_expires || opened <= self.floor_opened
    }

    /// Takes back an entry that did not reach the disk.
    pub fn retract(&mut self, jid: JobId) {
        self.jobs.remove(&jid);
    }

    /// Jobs that were taken and are not settled, oldest first, with when the cluster took them.
    pub fn open_jobs(&self) -> impl Iterator<Item = (JobId, LogicalTime, &str)> {
        self.jobs.iter().filter_map(|(jid, known)| match known {
            Known::Accepted { opened, function, .. } => Some((*jid, *opened, function.as_str())),
            Known::Refused { .. } | Known::Settled { .. } => None,
        })
    }

    /// How many jids are remembered.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Forgets settled and refused jobs that nobody can offer any more at the truth's `time`, and the ones that expire
    /// first beyond [`JOBS_MAX`]; raises the floor over them. How many went.
    pub fn forget(&mut self, time: LogicalTime) -> usize {
        let before = self.jobs.len();
        let mut floor = self.floor_expires;
        self.jobs.retain(|_, known| {
            let open = matches!(known, Known::Accepted { .. });
            let gone = !open && known.expires().plus(REMEMBER_AFTER_EXPIRY) < time;
            if gone {
                floor = floor.max(known.expires());
            }
            !gone
        });
        if self.jobs.len() > JOBS_MAX {
            let mut closed: Vec<(LogicalTime, JobId)> = self
                .jobs
                .iter()
                .filter(|(_, known)| !matches!(known, Known::Accepted { .. }))
                .map(|(jid, known)| (known.expires(), *jid))
                .collect();
            closed.sort();
            // A tenth more than necessary, so that this does not happen with every job.
            for (expires, jid) in closed.into_iter().take(self.jobs.len() - JOBS_MAX + JOBS_MAX / 10) {
                floor = floor.max(expires);
                self.jobs.remove(&jid);
            }
        }
        self.floor_expires = floor;
        before - self.jobs.len()
    }

    /// The shortest journal with these contents.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::Floor { expires: self.floor_expires, opened: self.floor_opened }];
        if self.lost {
            entries.push(Entry::Lost);
        }
        for (jid, known) in &self.jobs {
            let jid = *jid;
            match known.clone() {
                Known::Accepted { opened, expires, function } => {
                    entries.push(Entry::Accepted { jid, opened, expires, function });
                }
                Known::Refused { expires, reason } => entries.push(Entry::Refused { jid, expires, reason }),
                Known::Settled { expires } => {
                    let (opened, function) = (LogicalTime::ZERO, String::new());
                    entries.push(Entry::Accepted { jid, opened, expires, function });
                    entries.push(Entry::Settled { jid });
                }
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> LogicalTime {
        LogicalTime::from_unix_micros(1_795_392_390_000_000).plus(HOUR * hours)
    }

    fn accepted(hours: u32) -> Entry {
        let (opened, expires) = (at(hours), at(hours).plus(HOUR));
        Entry::Accepted { jid: JobId::mint(opened, 1), opened, expires, function: "cmd.run".into() }
    }

    #[test]
    fn what_is_forgotten_is_refused_and_not_run_again() {
        let mut ledger = Ledger::default();
        for hours in [0, 1, 2] {
            ledger.apply(&accepted(hours));
        }
        for hours in [0, 1] {
            ledger.apply(&Entry::Settled { jid: JobId::mint(at(hours), 1) });
        }
        assert_eq!(ledger.forget(at(25)), 0, "it may still be offered");
        assert_eq!(ledger.forget(at(26)), 1);
        assert!(ledger.get(JobId::mint(at(0), 1)).is_none());
        assert!(ledger.is_below_floor(at(0), at(1)), "the forgotten job is below the floor");
        assert!(!ledger.is_below_floor(at(1), at(2)));
        assert_eq!(ledger.forget(at(1000)), 1, "an open job is never forgotten");
        assert_eq!(ledger.open_jobs().count(), 1);
    }

    #[test]
    fn the_shortest_journal_has_the_same_contents() {
        let mut ledger = Ledger::default();
        ledger.apply(&Entry::Floor { expires: at(0), opened: at(0) });
        ledger.apply(&accepted(1));
        ledger.apply(&accepted(2));
        ledger.apply(&Entry::Settled { jid: JobId::mint(at(2), 1) });
        ledger.apply(&Entry::Refused { jid: JobId::mint(at(3), 1), expires: at(4), reason: "full".into() });
        let mut again = Ledger::default();
        ledger.entries().iter().for_each(|entry| again.apply(entry));
        assert_eq!(again, ledger);
    }
}
