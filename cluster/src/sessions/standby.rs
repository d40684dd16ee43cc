//! Sessions that wait: what they may take of a master's room, and who of them goes home when. Pure.
//!
//! ```text
//!   minion ── Attach(standby of m1) ──▶ m2     pinged, nothing else: no seat, no offers, no fan-out
//!          ── Role(primary) ──────────▶ m2     the minion works through it from now on
//! ```
//!
//! **Invariants.** A session that waits never takes the room of one that works: it is let in while a quarter of the connections
//! is free, and the first to go when they run short. It is in nobody's presence.

use crate::sessions::roster::{Counts, Mailbox};
use saltern_wire::MasterId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Shares of the connections, in hundredths: sessions wait up to here …
const FILL_PERCENT: u64 = 75;

/// … and go again above.
const CROWDED_PERCENT: u64 = 90;

/// How long a minion that was asked to come home is given before it is asked again: longer than it may take.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A session that waits.
#[derive(Clone)]
pub struct Standby {
    /// The master that the minion works through.
    pub primary: MasterId,
    /// Whether the minion would rather work through this one.
    pub preferred: bool,
    /// Since when it waits, monotonic.
    pub since: Duration,
    /// The way to its task.
    pub mailbox: Mailbox,
}

/// Whether one more session may wait beside those that there are, of `connections_max`.
pub fn fits(counts: Counts, connections_max: u64) -> bool {
    counts.attached.saturating_mul(100) < connections_max.saturating_mul(FILL_PERCENT)
}

/// How many of those that wait have to go for those that work.
pub fn excess(counts: Counts, connections_max: u64) -> u64 {
    let most = connections_max.saturating_mul(CROWDED_PERCENT) / 100;
    counts.attached.saturating_sub(most).min(counts.standby)
}

/// How long the minions of a dead master take their turns over, one after the other, and when each of them is due.
pub fn slot(place: usize, per_second: u64) -> Duration {
    let place = u64::try_from(place).unwrap_or(u64::MAX);
    Duration::from_millis(place.saturating_mul(1000) / per_second.max(1))
}

/// Who of those that wait comes home: whoever would rather be here and has waited for `after`, which is how long this master
/// has been well. One that was `asked` lately is left alone. At most `budget`, those who have waited longest first.
pub fn homecoming<K: Ord + Clone>(
    standbys: &[(K, Standby)],
    asked: &BTreeMap<K, Duration>,
    after: Duration,
    budget: usize,
    now: Duration,
) -> Vec<K> {
    let ripe = |(key, standby): &&(K, Standby)| {
        let lately = asked.get(key).is_some_and(|at| now.saturating_sub(*at) < ASK_AGAIN);
        standby.preferred && now.saturating_sub(standby.since) >= after && !lately
    };
    let mut ripe: Vec<&(K, Standby)> = standbys.iter().filter(ripe).collect();
    ripe.sort_by_key(|(_, standby)| standby.since);
    ripe.into_iter().take(budget).map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn counts(attached: u64, standby: u64) -> Counts {
        Counts { attached, accepted: attached - standby, standby }
    }

    #[test]
    fn sessions_that_wait_never_take_the_room_of_those_that_work() {
        for (attached, standby, lets_in, goes) in [
            (0, 0, true, 0),
            (74, 20, true, 0),
            (75, 20, false, 0),
            (90, 20, false, 0),
            (95, 20, false, 5),
            (99, 3, false, 3),
        ] {
            let counts = counts(attached, standby);
            assert_eq!((fits(counts, 100), excess(counts, 100)), (lets_in, goes), "{counts:?}");
        }
    }

    #[test]
    fn minions_of_a_dead_master_take_turns() {
        let slots: Vec<u128> = [0, 1, 500, 2000].map(|place| slot(place, 1000).as_millis()).into();
        assert_eq!(slots, [0, 1, 500, 2000]);
    }

    #[test]
    fn minions_come_home_after_a_time_a_few_at_once_and_only_those_who_want() {
        let second = Duration::from_secs(1);
        let standby = |since: u32, preferred| {
            let (mailbox, _) = Mailbox::new(CancellationToken::new());
            Standby { primary: MasterId(2), preferred, since: second * since, mailbox }
        };
        let standbys: Vec<(u32, Standby)> =
            vec![(1, standby(5, true)), (2, standby(0, true)), (3, standby(0, false)), (4, standby(90, true))];
        let mut asked = BTreeMap::new();
        let home = |asked: &BTreeMap<u32, Duration>, budget, now: u32| {
            homecoming(&standbys, asked, second * 120, budget, second * now)
        };
        assert_eq!(home(&asked, 9, 119), [0; 0]);
        assert_eq!(home(&asked, 9, 130), [2, 1], "the one that waited longest first; one does not want to");
        assert_eq!(home(&asked, 1, 130), [2], "no more than may go at once");
        asked.insert(2, second * 130);
        assert_eq!(home(&asked, 9, 131), [1], "asked a moment ago");
        assert_eq!(home(&asked, 9, 160), [2, 1], "and again if it did not come");
    }
}
