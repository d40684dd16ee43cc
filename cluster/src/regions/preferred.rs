//! When a leader hands over to the region that is to lead. Pure: what is seen and the time come in, an heir comes out.
//!
//! **Hysteresis.** A master of the region has to be fit without a break for the set time. A handover that did not last
//! doubles the wait, up to [`PATIENCE_MAX`]; leadership that stayed in the region for as long makes it short again. So a
//! master that is well for half a minute and then is not costs an election ever more seldom.

use saltern_wire::MasterId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait between two handovers to a region that does not keep the leadership.
pub const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// Doublings of the wait; 30 s doubled seven times are over an hour.
const DOUBLINGS_MAX: u32 = 7;

/// A voter of the region that is to lead, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voter {
    /// Who.
    pub id: MasterId,
    /// Whether it would lead as well as the leader does: it answers, has caught up, reaches a majority of the voters itself,
    /// has room on its disk, runs with the cluster's timing and is neither draining nor joining.
    pub fit: bool,
    /// How long its commits would take, as far as it is known: of several, the fastest goes first.
    pub commit_us: Option<u64>,
}

/// What is remembered between two looks. Every master keeps one; only a leader acts on it.
#[derive(Debug, Clone, Default)]
pub struct Preference {
    /// Since when each voter is fit, monotonic.
    fit_since: BTreeMap<MasterId, Duration>,
    /// The last handover.
    handed_over: Option<Duration>,
    /// How often one did not last.
    failed: u32,
}

impl Preference {
    /// A leader outside of the region takes a look at `now`: `voters` are those of the region. Gives the voter that is to
    /// lead, if its time has come.
    pub fn handle_look(&mut self, voters: &[Voter], stable: Duration, now: Duration) -> Option<MasterId> {
        self.fit_since.retain(|id, _| voters.iter().any(|voter| voter.id == *id && voter.fit));
        for voter in voters.iter().filter(|voter| voter.fit) {
            self.fit_since.entry(voter.id).or_insert(now);
        }
        let wait = (stable * 2u32.pow(self.failed.min(DOUBLINGS_MAX))).min(PATIENCE_MAX.max(stable));
        if self.handed_over.is_some_and(|at| now.saturating_sub(at) < wait) {
            return None;
        }
        let lasting =
            |voter: &&Voter| self.fit_since.get(&voter.id).is_some_and(|since| now.saturating_sub(*since) >= stable);
        let fastest =
            voters.iter().filter(lasting).min_by_key(|voter| (voter.commit_us.unwrap_or(u64::MAX), voter.id))?;
        // Leadership is here again, so the handover before this one did not last.
        self.failed = if self.handed_over.is_some() { self.failed.saturating_add(1) } else { 0 };
        self.handed_over = Some(now);
        Some(fastest.id)
    }

    /// Another master leads, or this one may: nothing is waited for. After a while of that the last handover has lasted.
    pub fn handle_rest(&mut self, stable: Duration, now: Duration) {
        self.fit_since.clear();
        let lasted = PATIENCE_MAX.min(stable * 2u32.pow(self.failed.min(DOUBLINGS_MAX)) * 2);
        if self.handed_over.is_some_and(|at| now.saturating_sub(at) >= lasted) {
            self.handed_over = None;
            self.failed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn voter(id: u64, fit: bool, commit_ms: u64) -> Voter {
        Voter { id: MasterId(id), fit, commit_us: Some(commit_ms * 1_000) }
    }

    #[test]
    fn the_fastest_voter_that_was_well_for_long_enough_is_to_lead() {
        let mut preference = Preference::default();
        let voters = [voter(1, true, 220), voter(2, true, 80), voter(3, false, 1)];
        assert_eq!(preference.handle_look(&voters, STABLE, at(100)), None);
        assert_eq!(preference.handle_look(&voters, STABLE, at(129)), None);
        assert_eq!(preference.handle_look(&voters, STABLE, at(130)), Some(MasterId(2)));
        assert_eq!(preference.handle_look(&voters, STABLE, at(131)), None, "it was asked a moment ago");
    }

    #[test]
    fn a_break_begins_the_wait_anew() {
        let mut preference = Preference::default();
        for second in 0..300 {
            // Well for 29 seconds, then not for one.
            let fit = second % 30 != 29;
            assert_eq!(preference.handle_look(&[voter(1, fit, 1)], STABLE, at(second)), None, "second {second}");
        }
    }

    #[test]
    fn handovers_that_do_not_last_become_rare() {
        let mut preference = Preference::default();
        let mut handovers = Vec::new();
        for second in 0..20_000 {
            // It is always well while it does not lead, and never keeps the leadership.
            if preference.handle_look(&[voter(1, true, 1)], STABLE, at(second)).is_some() {
                handovers.push(second);
            }
        }
        let waits: Vec<u64> = handovers.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(waits[..4], [30, 60, 120, 240]);
        assert!(waits.iter().all(|wait| *wait <= PATIENCE_MAX.as_secs()), "{waits:?}");
        assert!(handovers.len() < 14, "{handovers:?}");
    }

    #[test]
    fn a_handover_that_lasted_is_forgotten() {
        let mut preference = Preference::default();
        preference.handle_look(&[voter(1, true, 1)], STABLE, at(0));
        assert!(preference.handle_look(&[voter(1, true, 1)], STABLE, at(30)).is_some());
        assert!(preference.handle_look(&[voter(1, true, 1)], STABLE, at(60)).is_some());
        (61..400).for_each(|second| preference.handle_rest(STABLE, at(second)));
        preference.handle_look(&[voter(1, true, 1)], STABLE, at(500));
        assert!(preference.handle_look(&[voter(1, true, 1)], STABLE, at(530)).is_some(), "the first wait again");
    }
}
