//! Whether this master's copy may be called fresh: a pure judgement, and the task that feeds it.
//!
//! ```text
//!   heard ──gap── heard again ── asks a majority how far the truth is ── applied that far: confirmed
//!   fresh          stale            stale                                  fresh
//! ```
//!
//! **Invariants.** Contact within the lease makes a follower fresh only if no gap lies between it and a confirmation that was
//! asked for after the last gap: the first words after a gap may have lain in a queue for as long as the gap was. A leader
//! needs none of this, because what it counts is acknowledgements of what it sent itself.

use super::{LEADER_POLL, Truth};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What is known about this master's contact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contact {
    /// When the newest confirmation was asked for; zero if never.
    confirmed: Duration,
    /// Until when the copy was current at least.
    current: Duration,
}

impl Contact {
    /// A master that starts at `now` and has heard of nobody.
    pub(super) fn new(now: Duration) -> Self {
        Self { confirmed: Duration::ZERO, current: now }
    }

    /// Everything acknowledged anywhere before `asked` is applied here.
    pub(super) fn handle_confirmed(&mut self, asked: Duration) {
        self.confirmed = self.confirmed.max(asked);
        self.current = self.current.max(asked);
    }

    /// Whether what was heard without a gap `since` then needs no other confirmation.
    pub(super) fn is_confirmed(&self, since: Duration) -> bool {
        since.is_zero() || self.confirmed >= since
    }

    /// How old the copy may be at `now`, if the last contact is `age` old, and a follower has heard its leader without a gap
    /// since `heard_since`. Below `lease` it is fresh.
    pub(super) fn age(
        &mut self,
        now: Duration,
        age: Duration,
        lease: Duration,
        heard_since: Option<Duration>,
    ) -> Duration {
        if heard_since.is_none_or(|since| self.is_confirmed(since)) {
            if age < lease {
                self.current = self.current.max(now.saturating_sub(age));
            }
            return age;
        }
        // Not below the lease, however short the gap was: it is not known what it hid.
        now.saturating_sub(self.current).max(lease)
    }
}

impl Truth {
    /// Each time a leader is heard again after a gap, asks a majority for how far the truth has come and waits until that is
    /// applied here. Until then nothing here is fresh. Runs until `stop`.
    pub(crate) async fn follow_contact(self, stop: CancellationToken) {
        let mut heard = self.0.group.heard();
        let follow = async {
            while let Ok(regained) =
                heard.wait_for(|heard| !self.contact().is_confirmed(heard.since)).await.map(|now| *now)
            {
                let asked = self.0.clock.monotonic();
                match self.confirm(self.patience()).await {
                    Ok(_) => self.contact().handle_confirmed(asked.max(regained.since)),
                    // The leader is gone again, or this master is far behind: what was heard is believed no more than before.
                    Err(error) => {
                        tracing::debug!(%error, "contact to a majority is not confirmed yet");
                        tokio::time::sleep(LEADER_POLL).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    pub(super) fn contact(&self) -> MutexGuard<'_, Contact> {
        self.0.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(500);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_heard_after_a_gap_counts_once_a_majority_was_asked() {
        let mut contact = Contact::new(at(0));
        contact.handle_confirmed(at(100));
        let age =
            |contact: &mut Contact, now, last, since| contact.age(at(now), at(now - last), LEASE, Some(at(since)));
        assert_eq!(age(&mut contact, 1_000, 990, 90), at(10), "no gap since it was confirmed");
        // Frozen for eight seconds; then it reads what the leader sent before.
        assert_eq!(age(&mut contact, 9_001, 9_000, 9_000), at(9_001 - 990), "as old as its last sound contact");
        contact.handle_confirmed(at(9_005));
        assert_eq!(age(&mut contact, 9_010, 9_009, 9_000), at(1));
    }

    #[test]
    fn a_short_gap_is_not_fresh_either() {
        let mut contact = Contact::new(at(0));
        contact.handle_confirmed(at(10));
        assert_eq!(contact.age(at(100), at(0), LEASE, Some(at(100))), LEASE);
    }

    #[test]
    fn a_leader_counts_its_own_acknowledgements() {
        let mut contact = Contact::new(at(0));
        assert_eq!(contact.age(at(9_000), at(20), LEASE, None), at(20));
        assert_eq!(contact.age(at(9_100), at(0), LEASE, Some(at(9_100))), LEASE, "it stepped down and heard a new one");
        assert_eq!(contact.age(at(10_000), at(0), LEASE, Some(at(9_100))), at(10_000 - 8_980));
    }
}
