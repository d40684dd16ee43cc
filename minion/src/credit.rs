//! How many bytes of returns may go to the master now. Pure.
//!
//! ```text
//!   window   always there: RETURN_WINDOW_BYTES unanswered at a time         small returns go at once
//!   credit   given on demand: want ─▶ … ─▶ credit                           a full outbox waits for its turn
//! ```
//!
//! A fleet that comes back with full outboxes would otherwise send a thousand times what its masters can take, to be told to
//! come back later. So what does not fit the window is asked for, and the master gives in turn.
//!
//! A master that gives credit says so before it grants its fan-out. Until then nobody knows, and the window is all there is: a
//! minion that comes back sends its outbox to no master that has not asked for it.
//!
//! **Invariants.** A master that gives no credit is sent everything. At most one wish is open. What was charged to the
//! window is given back when its call is over, whatever became of it; credit is spent once.

use saltern_wire::limits::RETURN_WINDOW_BYTES;

/// What a call was charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// So many bytes of the window, until it is over.
    Window(usize),
    /// Credit, which is spent, or nothing.
    Spent,
}

/// Whether a master gives credit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Giving {
    /// It has not said yet.
    #[default]
    Unknown,
    /// It does.
    Yes,
    /// It is an older one, which does not.
    No,
}

/// What one session allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credit {
    giving: Giving,
    /// Bytes of the window that are in use.
    used: usize,
    /// Bytes beyond the window.
    given: usize,
    /// A wish is open.
    asked: bool,
}

impl Credit {
    /// Most bytes that the next call may carry.
    pub fn room(&self) -> usize {
        if self.giving == Giving::No { usize::MAX } else { self.window().max(self.given) }
    }

    fn window(&self) -> usize {
        RETURN_WINDOW_BYTES.saturating_sub(self.used)
    }

    /// A call of so many bytes goes: from the window if they fit.
    pub fn charge(&mut self, bytes: usize) -> Charge {
        if self.giving == Giving::No {
            return Charge::Spent;
        }
        if bytes <= self.window() {
            self.used += bytes;
            return Charge::Window(bytes);
        }
        self.given = self.given.saturating_sub(bytes);
        Charge::Spent
    }

    /// A call is over: answered, refused or given up.
    pub fn handle_over(&mut self, charge: Charge) {
        if let Charge::Window(bytes) = charge {
            self.used = self.used.saturating_sub(bytes);
        }
    }

    /// The master gives credit, in place of what was left.
    pub fn handle_credit(&mut self, bytes: u64) {
        self.asked &= self.giving != Giving::Yes;
        self.giving = Giving::Yes;
        self.given = usize::try_from(bytes).unwrap_or(usize::MAX);
    }

    /// The master has granted its fan-out. One that gives credit has said so before.
    pub fn handle_grant(&mut self) {
        if self.giving == Giving::Unknown {
            self.giving = Giving::No;
        }
    }

    /// So many bytes wait that may not go: what to ask for, if nothing is asked for already.
    pub fn want(&mut self, waiting: u64) -> Option<u64> {
        if self.giving != Giving::Yes || self.asked || waiting == 0 {
            return None;
        }
        self.asked = true;
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_gives_no_credit_holds_nothing_back() {
        let mut credit = Credit::default();
        credit.handle_grant();
        assert_eq!(credit.room(), usize::MAX);
        assert_eq!(credit.charge(1 << 20), Charge::Spent);
        assert_eq!((credit.room(), credit.want(1)), (usize::MAX, None));
    }

    #[test]
    fn a_master_that_has_not_said_yet_is_sent_no_more_than_the_window() {
        let mut credit = Credit::default();
        assert_eq!((credit.room(), credit.want(1 << 20)), (RETURN_WINDOW_BYTES, None));
        let early = credit.charge(1_000);
        credit.handle_credit(0);
        credit.handle_grant();
        assert_eq!((credit.room(), credit.want(1 << 20)), (RETURN_WINDOW_BYTES - 1_000, Some(1 << 20)));
        credit.handle_over(early);
        assert_eq!(credit.room(), RETURN_WINDOW_BYTES);
    }

    #[test]
    fn small_returns_have_the_window_and_get_it_back() {
        let mut credit = Credit::default();
        credit.handle_credit(0);
        assert_eq!(credit.room(), RETURN_WINDOW_BYTES);
        let charge = credit.charge(10_000);
        assert_eq!(credit.room(), RETURN_WINDOW_BYTES - 10_000);
        credit.handle_over(charge);
        assert_eq!(credit.room(), RETURN_WINDOW_BYTES);
    }

    #[test]
    fn a_large_return_is_asked_for_once_and_leaves_the_window_to_small_ones() {
        let mut credit = Credit::default();
        credit.handle_credit(0);
        assert_eq!(credit.want(5_000_000), Some(5_000_000));
        assert_eq!(credit.want(6_000_000), None, "one wish at a time");
        credit.handle_credit(1_000_000);
        assert_eq!(credit.room(), 1_000_000);
        let large = credit.charge(900_000);
        assert_eq!(credit.room(), 100_000, "what was given is spent once");
        credit.handle_over(large);
        assert_eq!(credit.room(), 100_000);
        let small = credit.charge(500);
        assert_eq!((small, credit.room()), (Charge::Window(500), 100_000));
        assert_eq!(credit.want(4_100_000), Some(4_100_000));
        credit.handle_credit(700_000);
        assert_eq!(credit.room(), 700_000, "a new credit takes the place of the old one");
    }
}
