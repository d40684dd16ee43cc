//! What this minion refused, and why: counted by reason, told in its log at a bounded rate, shown by `status.refusals`.
//!
//! **Invariants.** Every refusal is counted; of each reason at most one line a [`QUIET`] goes to the log, and the next one
//! says how many were left out. A stranger who sends a million forged jobs writes six lines a minute. Time comes in.

use crate::rules::Ignored;
use crate::trust::{DirectoryError, JobRefusal};
use saltern_pubsub::subscriber::RefusedFrames;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long after a line of one reason the next one of it waits.
pub const QUIET: Duration = Duration::from_secs(10);

/// Counts by reason, and when each was last told.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    rows: BTreeMap<&'static str, Row>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    count: u64,
    untold: u64,
    told: Option<Duration>,
}

impl Refusals {
    /// Counts one of `reason`. If it may be told now: how many of it were left out since the last time.
    pub fn count(&mut self, reason: &'static str, now: Duration) -> Option<u64> {
        let row = self.rows.entry(reason).or_default();
        row.count += 1;
        if row.told.is_some_and(|told| now.saturating_sub(told) < QUIET) {
            row.untold += 1;
            return None;
        }
        row.told = Some(now);
        Some(std::mem::take(&mut row.untold))
    }

    /// How often each reason was there, those that never were left out.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.rows.iter().map(|(reason, row)| (*reason, row.count))
    }

    /// How often `reason` was there.
    pub fn of(&self, reason: &str) -> u64 {
        self.rows.get(reason).map_or(0, |row| row.count)
    }
}

/// The reason under which an ignored job is counted; none for one that is ignored in the ordinary course of things.
pub fn reason_of_job(ignored: &Ignored) -> Option<&'static str> {
    match ignored {
        Ignored::Refused(refusal) => Some(match refusal {
            JobRefusal::NoDirectory => "job_without_directory",
            JobRefusal::Malformed(_) => "job_malformed",
            JobRefusal::Signer(_) => "job_of_unknown_master",
            JobRefusal::Forged(_) => "job_signature",
            JobRefusal::Cluster(_) => "job_of_other_cluster",
            JobRefusal::Generation { .. } => "job_of_old_generation",
        }),
        Ignored::NotAccepted => Some("job_before_acceptance"),
        Ignored::TooOld => Some("job_too_old_to_know"),
        Ignored::JournalLost => Some("job_while_journal_lost"),
        Ignored::Expired => Some("job_expired"),
        Ignored::Busy(_) => Some("job_while_busy"),
        Ignored::ForOthers | Ignored::Known => None,
    }
}

/// The reason under which a refused directory is counted.
pub fn reason_of_directory(error: &DirectoryError) -> &'static str {
    match error {
        DirectoryError::Ca { .. } => "directory_of_other_ca",
        DirectoryError::Signature(_) => "directory_signature",
        DirectoryError::Cluster { .. } => "directory_of_other_cluster",
    }
}

/// Frames of the fan-out that were refused: those of ended subscriptions, and of the one that stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Frames {
    ended: RefusedFrames,
    current: RefusedFrames,
}

impl Frames {
    /// What the standing subscription has refused so far.
    pub fn handle_current(&mut self, refused: RefusedFrames) {
        self.current = refused;
    }

    /// The subscription ended.
    pub fn handle_ended(&mut self) {
        let RefusedFrames { malformed, wrong_master, forged, unknown_epoch, replayed } =
            std::mem::take(&mut self.current);
        self.ended.malformed += malformed;
        self.ended.wrong_master += wrong_master;
        self.ended.forged += forged;
        self.ended.unknown_epoch += unknown_epoch;
        self.ended.replayed += replayed;
    }

    /// How often each reason was there, those that never were left out.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let (ended, current) = (self.ended, self.current);
        let rows = [
            ("frame_malformed", ended.malformed + current.malformed),
            ("frame_of_other_master", ended.wrong_master + current.wrong_master),
            ("frame_forged", ended.forged + current.forged),
            ("frame_of_unknown_epoch", ended.unknown_epoch + current.unknown_epoch),
            ("frame_replayed", ended.replayed + current.replayed),
        ];
        rows.into_iter().filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_little_is_told() {
        let mut refusals = Refusals::default();
        let mut told = Vec::new();
        for millis in 0..25_000 {
            told.extend(refusals.count("job_signature", Duration::from_millis(millis)));
        }
        assert_eq!(told, [0, 9_999, 9_999], "three lines, which say what they stand for");
        assert_eq!(refusals.count("job_malformed", Duration::from_secs(25)), Some(0), "each reason for itself");
        assert_eq!(refusals.counts().collect::<Vec<_>>(), [("job_malformed", 1), ("job_signature", 25_000)]);
    }
}
