//! What becomes of a job that is over: its outcome goes to the disk, and leaves it once the truth has it.
//!
//! **Invariants.** An outcome that the disk does not take stays in memory and is tried again; what is settled is journalled
//! before its file goes, and both are tried again until they succeed. So a disk that was full or read-only for a while costs
//! nothing but the wait, and no restart. A job is reported as interrupted only when nothing of it lives any more.

use super::core::{Core, Running};
use crate::delivery::{Settled, Source};
use crate::ledger::{Entry, Known};
use crate::outbox::OutboxError;
use crate::rules::interrupted;
use saltern_wire::JobId;
use saltern_wire::fault_point;
use saltern_wire::job::{Outcome, Recorded};
use std::time::Duration;

/// Pause before a disk that refused to let go of committed outcomes is asked again.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// Outcomes that the truth has and the disk still holds.
#[derive(Default)]
pub(super) struct Settling {
    /// In the ledger already, not in the journal.
    entries: Vec<Entry>,
    /// Journalled or about to be; their files are still there.
    waiting: Vec<Settled>,
    again: Option<Duration>,
}

impl Settling {
    /// When to try again, if need be.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.again
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.again.is_some_and(|again| now >= again)
    }
}

impl Core {
    /// Writes an outcome that the agent made and sends it. On an error it waits in memory and is written later.
    pub(super) fn put(&mut self, jid: JobId, outcome: Outcome) {
        match self.outbox.put(jid, &outcome) {
            Ok(()) => {
                self.running.remove(&jid);
                self.delivery.add(jid, Source::Disk);
            }
            Err(error) => {
                self.complain("outbox_unwritable", &error);
                let running = Running { adopted: true, outcome: Some(Box::new(outcome)), ..Running::default() };
                self.running.insert(jid, running);
            }
        }
    }

    /// Looks whether a job that should be over has its outcome; one that runs nowhere and has none was interrupted.
    pub(super) fn look_after(&mut self, jid: JobId) {
        let Some(running) = self.running.get_mut(&jid) else { return };
        running.adopted = true;
        if let Some(outcome) = running.outcome.take() {
            self.put(jid, *outcome);
            return;
        }
        // A job with an outcome is over, whoever still holds its lock. One without is looked at in this order: living first,
        // outcome second, because a supervisor writes the outcome and dies, never the other way round.
        if self.notice(jid) {
            return;
        }
        match self.executor.is_living(jid) {
            Ok(true) => {}
            Ok(false) if self.notice(jid) => {}
            Ok(false) => self.interrupt(jid),
            Err(error) => self.complain("jobs_unreadable", &format!("cannot tell whether job {jid} runs: {error}")),
        }
    }

    /// Takes up the outcome that somebody wrote, if there is one. Whether there is nothing more to do now.
    fn notice(&mut self, jid: JobId) -> bool {
        match self.outbox.notice(jid) {
            Ok(false) => false,
            Ok(true) => {
                self.running.remove(&jid);
                self.delivery.add(jid, Source::Disk);
                true
            }
            Err(error) => {
                self.complain("outbox_unreadable", &error);
                true
            }
        }
    }

    /// Ends what a job without supervisor and without outcome left running, and then says that it was interrupted.
    fn interrupt(&mut self, jid: JobId) {
        match self.executor.end_remains(jid) {
            Ok(0) => {}
            // They are looked for again at the next poll.
            Ok(count) => {
                tracing::warn!(%jid, count, "killed processes of a job whose supervisor is gone");
                return;
            }
            Err(error) => {
                self.complain("remains_unreadable", &format!("cannot look for processes of job {jid}: {error}"));
                return;
            }
        }
        let function = match self.rules.ledger().get(jid) {
            Some(Known::Accepted { function, .. }) => function.clone(),
            Some(Known::Refused { .. } | Known::Settled { .. }) | None => "the function".into(),
        };
        tracing::warn!(%jid, function, "a job was interrupted by a crash");
        self.put(jid, interrupted(&function));
    }

    /// What the truth, or the masters' last word, did to outcomes.
    pub(super) fn settle(&mut self, settled: Vec<Settled>) {
        let jids: Vec<JobId> = settled.iter().map(jid_of).collect();
        self.to_accept.retain(|jid| !jids.contains(jid));
        self.settling.entries.extend(self.rules.handle_settled(&jids));
        self.settling.waiting.extend(settled);
        self.finish_settled(self.io.clock.monotonic());
    }

    /// Journals what is settled, and lets go of its files. What fails is tried again.
    pub(super) fn finish_settled(&mut self, now: Duration) {
        self.settling.again = None;
        if !self.settling.entries.is_empty() {
            if let Err(error) = self.journal.append(&self.settling.entries, self.rules.ledger()) {
                self.complain("journal_unwritable", &error);
                self.settling.again = Some(now + SETTLE_AGAIN);
                return;
            }
            self.settling.entries.clear();
        }
        for settled in std::mem::take(&mut self.settling.waiting) {
            if let Err(error) = self.let_go(&settled) {
                self.complain("outbox_unwritable", &error);
                self.settling.again = Some(now + SETTLE_AGAIN);
                self.settling.waiting.push(settled);
            }
        }
    }

    /// Removes a committed outcome and the marks of its job, or sets aside what the masters refuse for good.
    fn let_go(&mut self, settled: &Settled) -> Result<(), OutboxError> {
        match settled {
            Settled::Done(jid, source, verdict) => {
                if *source == Source::Disk {
                    fault_point!("outbox.remove.before");
                    self.outbox.remove(*jid)?;
                    fault_point!("outbox.remove.after");
                }
                note_verdict(*jid, *verdict);
            }
            Settled::Invalid(jid, source, reason) => {
                if *source == Source::Disk {
                    self.outbox.set_aside(*jid)?;
                }
                tracing::error!(%jid, reason, "the masters refuse an outcome; it is kept aside");
            }
        }
        let jid = jid_of(settled);
        // Only journalled jobs have marks; looking for those of a pure one would cost two syncs.
        if matches!(self.rules.ledger().get(jid), Some(Known::Settled { .. }))
            && let Err(error) = self.folder.forget_job(jid)
        {
            tracing::warn!(%jid, %error, "the marks of a job stay");
        }
        Ok(())
    }
}

fn jid_of(settled: &Settled) -> JobId {
    match settled {
        Settled::Done(jid, _, _) | Settled::Invalid(jid, _, _) => *jid,
    }
}

fn note_verdict(jid: JobId, verdict: Recorded) {
    match verdict {
        Recorded::Committed | Recorded::Duplicate | Recorded::Part => {
            tracing::debug!(%jid, ?verdict, "outcome committed")
        }
        Recorded::Conflict => tracing::error!(%jid, "another outcome of this job was committed before this one"),
        Recorded::Orphan | Recorded::Untargeted => {
            tracing::warn!(%jid, ?verdict, "the outcome was kept, but its job does not expect it");
        }
    }
}
