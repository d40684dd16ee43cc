//! Who may send how many bytes of returns, and whose turn it is: the pure half of giving credit.
//!
//! **Invariants.** What is given and not yet answered stays below [`Credits::new`]'s bound, as long as minions keep to what
//! they are given. Wishes are met in the order in which they came, a [`QUANTUM_BYTES`] at a time, and whoever wants more asks
//! again behind everybody else. What was given and not used within [`UNUSED_MAX`], or by a session that is over, is free again.

use crate::sessions::roster::SessionId;
use saltern_wire::limits::SESSION_MESSAGE_BYTES_MAX;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What is given at once: what one call carries, and more than the largest part of a return.
const QUANTUM_BYTES: u64 = SESSION_MESSAGE_BYTES_MAX as u64;

/// How long what was given may stay unused before it is given to others: the time that a slow link takes for a quantum. Who
/// uses it later finds the inbox's own bound.
const UNUSED_MAX: Duration = Duration::from_secs(5);

/// What one session was given.
#[derive(Debug, Default)]
struct Account {
    /// Given and not used yet.
    unused: u64,
    /// When that was given.
    given: Duration,
    /// Used, and not answered yet.
    under_way: u64,
    /// What it waits for.
    wanted: u64,
    /// Whether it stands in the queue.
    queued: bool,
}

/// The credit that a master gives.
#[derive(Debug)]
pub struct Credits {
    bytes_max: u64,
    /// The sum over all accounts of what is unused and under way.
    held: u64,
    accounts: BTreeMap<SessionId, Account>,
    queue: VecDeque<SessionId>,
    /// Accounts with something unused, in the order in which it was given. Some are settled by now.
    unused: VecDeque<(Duration, SessionId)>,
}

impl Credits {
    /// Nobody has been given anything, of so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, held: 0, accounts: BTreeMap::new(), queue: VecDeque::new(), unused: VecDeque::new() }
    }

    /// The session wants to send so many bytes: what it was given before and has not used is free again.
    pub fn want(&mut self, session: SessionId, bytes: u64) {
        let account = self.accounts.entry(session).or_default();
        self.held -= std::mem::take(&mut account.unused);
        account.wanted = bytes;
        if bytes > 0 && !std::mem::replace(&mut account.queued, true) {
            self.queue.push_back(session);
        }
        self.close_if_idle(session);
    }

    /// Returns of so many bytes came, beyond the window of their session.
    pub fn spend(&mut self, session: SessionId, bytes: u64) {
        let account = self.accounts.entry(session).or_default();
        let unused = account.unused.min(bytes);
        account.unused -= unused;
        account.under_way += bytes;
        self.held += bytes - unused;
    }

    /// Returns of so many bytes were answered.
    pub fn settle(&mut self, session: SessionId, bytes: u64) {
        let Some(account) = self.accounts.get_mut(&session) else { return };
        let settled = account.under_way.min(bytes);
        account.under_way -= settled;
        self.held -= settled;
        self.close_if_idle(session);
    }

    /// The session is over.
    pub fn end(&mut self, session: SessionId) {
        if let Some(account) = self.accounts.remove(&session) {
            self.held -= account.unused + account.under_way;
            if account.queued {
                self.queue.retain(|queued| *queued != session);
            }
        }
    }

    /// Whom to give how much now, if the inbox has room for `room` bytes.
    pub fn poll(&mut self, now: Duration, room: u64) -> Vec<(SessionId, u64)> {
        self.take_back(now);
        let mut given = Vec::new();
        let mut left = self.bytes_max.saturating_sub(self.held).min(room);
        while let Some(session) = self.queue.front().copied() {
            let Some(account) = self.accounts.get_mut(&session) else {
                self.queue.pop_front();
                continue;
            };
            let bytes = account.wanted.min(QUANTUM_BYTES);
            if bytes > left {
                break;
            }
            self.queue.pop_front();
            account.queued = false;
            if bytes == 0 {
                // It wants nothing any more.
                self.close_if_idle(session);
                continue;
            }
            (account.wanted, account.unused, account.given) = (0, bytes, now);
            self.unused.push_back((now, session));
            (self.held, left) = (self.held + bytes, left - bytes);
            given.push((session, bytes));
        }
        given
    }

    /// How many bytes are given and not answered.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// How many sessions wait for their turn.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn take_back(&mut self, now: Duration) {
        while let Some((given, session)) =
            self.unused.pop_front_if(|(given, _)| now.saturating_sub(*given) >= UNUSED_MAX)
        {
            // It may have been given more since.
            let Some(account) = self.accounts.get_mut(&session).filter(|account| account.given == given) else {
                continue;
            };
            self.held -= std::mem::take(&mut account.unused);
            self.close_if_idle(session);
        }
    }

    fn close_if_idle(&mut self, session: SessionId) {
        let is_idle = |account: &Account| !account.queued && account.unused + account.under_way == 0;
        if self.accounts.get(&session).is_some_and(is_idle) {
            self.accounts.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const SECOND: Duration = Duration::from_secs(1);

    fn s(number: u64) -> SessionId {
        SessionId(number)
    }

    #[test]
    fn wishes_are_met_in_turn_within_the_bound() {
        let mut credits = Credits::new(3 * MIB);
        for session in 1..=4 {
            credits.want(s(session), 10 * MIB);
        }
        let given = credits.poll(SECOND, u64::MAX);
        assert_eq!(given, [(s(1), MIB), (s(2), MIB), (s(3), MIB)]);
        assert_eq!(credits.poll(SECOND, u64::MAX), []);
        // The first one sends, asks again, and is answered: it comes behind the fourth.
        credits.spend(s(1), MIB);
        credits.want(s(1), 9 * MIB);
        assert_eq!(credits.poll(SECOND, u64::MAX), [], "it is under way");
        credits.settle(s(1), MIB);
        assert_eq!(credits.poll(SECOND, u64::MAX), [(s(4), MIB)]);
        credits.end(s(2));
        assert_eq!(credits.poll(SECOND, u64::MAX), [(s(1), MIB)]);
        assert_eq!((credits.held(), credits.waiting()), (3 * MIB, 0));
    }

    #[test]
    fn what_is_not_used_is_free_again() {
        let mut credits = Credits::new(MIB);
        credits.want(s(1), MIB);
        credits.want(s(2), 300);
        assert_eq!(credits.poll(SECOND, u64::MAX), [(s(1), MIB)]);
        assert_eq!(credits.poll(5 * SECOND, u64::MAX), []);
        assert_eq!(credits.poll(6 * SECOND, u64::MAX), [(s(2), 300)]);
        // It comes late all the same, and is counted for as long as it is under way.
        credits.spend(s(1), MIB);
        assert_eq!(credits.held(), MIB + 300);
        credits.settle(s(1), MIB);
        credits.want(s(2), 100);
        assert_eq!(credits.poll(6 * SECOND, u64::MAX), [(s(2), 100)], "its unused 300 bytes are replaced");
        assert_eq!(credits.held(), 100);
        credits.spend(s(2), 100);
        credits.settle(s(2), 100);
        credits.poll(99 * SECOND, u64::MAX);
        assert!(credits.held() == 0 && credits.accounts.is_empty() && credits.unused.is_empty());
    }

    #[test]
    fn whoever_changes_its_mind_without_end_has_one_place_in_the_queue() {
        let mut credits = Credits::new(MIB);
        for wish in 0..1_000 {
            credits.want(s(1), wish % 2);
            credits.want(s(2), 7);
        }
        assert_eq!(credits.waiting(), 2);
        credits.want(s(1), 0);
        assert_eq!(credits.poll(SECOND, u64::MAX), [(s(2), 7)]);
        credits.end(s(2));
        assert!(credits.held() == 0 && credits.accounts.is_empty() && credits.queue.is_empty());
    }

    #[test]
    fn a_full_inbox_gives_nothing_until_it_has_room() {
        let mut credits = Credits::new(8 * MIB);
        credits.want(s(1), 2 * MIB);
        assert_eq!(credits.poll(SECOND, MIB - 1), []);
        assert_eq!(credits.waiting(), 1);
        assert_eq!(credits.poll(SECOND, MIB), [(s(1), MIB)]);
    }

    #[test]
    fn whatever_sessions_do_the_sum_is_that_of_their_accounts() {
        let mut credits = Credits::new(5 * MIB);
        let mut state = 7_u64;
        let mut draw = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for step in 0..20_000_u64 {
            let (session, bytes) = (s(draw(9)), draw(2 * MIB));
            match draw(5) {
                0 => credits.want(session, bytes),
                1 => credits.spend(session, bytes),
                2 => credits.settle(session, bytes),
                3 if draw(20) == 0 => credits.end(session),
                _ => {
                    let before = credits.held();
                    let given: u64 =
                        credits.poll(Duration::from_millis(step), u64::MAX).iter().map(|(_, given)| given).sum();
                    assert!(given == 0 || credits.held() <= 5 * MIB, "{before} before, {given} more");
                }
            }
            let sum: u64 = credits.accounts.values().map(|account| account.unused + account.under_way).sum();
            assert_eq!(credits.held(), sum);
        }
    }
}
