//! What a master that has joined says in its log until it has caught up: how far it is, and about how long it will take.

use super::LAG_MAX;
use crate::truth::Truth;
use saltern_wire::master::Role;
use std::time::Duration;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks between two lines in the log.
const LOOKS_PER_LINE: u32 = 4;

/// How far a master is on its way to the newest entry. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where it began, entry and monotonic time.
    from: (u64, Duration),
    /// Where it is, entry and monotonic time.
    at: (u64, Duration),
}

impl Progress {
    /// Begins at `applied`.
    pub fn new(applied: u64, now: Duration) -> Self {
        Self { from: (applied, now), at: (applied, now) }
    }

    /// Now it is at `applied`.
    pub fn handle(&mut self, applied: u64, now: Duration) {
        self.at = (applied, now);
    }

    /// Until it will have reached `target`, at the pace so far; `None` while there is no pace.
    pub fn left(&self, target: u64) -> Option<Duration> {
        let (done, took) = (self.at.0.saturating_sub(self.from.0), self.at.1.saturating_sub(self.from.1));
        if done == 0 {
            return None;
        }
        let missing = u128::from(target.saturating_sub(self.at.0));
        let nanos = took.as_nanos().saturating_mul(missing) / u128::from(done);
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// Tells until this master votes, or has caught up as a learner that is to stay one.
pub(crate) async fn tell(truth: Truth) {
    let mut progress: Option<Progress> = None;
    let (mut looks, mut told) = (0_u32, false);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (group, now) = (truth.group().leader_state(), truth.clock().monotonic());
        if group.voters.contains(&truth.id()) {
            if progress.is_some() {
                tracing::info!(applied = group.applied, "this master votes from now on");
            }
            return;
        }
        let Some(target) = truth.newest_probed() else { continue };
        let progress = progress.get_or_insert_with(|| Progress::new(group.applied, now));
        progress.handle(group.applied, now);
        let missing = target.saturating_sub(group.applied);
        if missing > LAG_MAX && looks.is_multiple_of(LOOKS_PER_LINE) {
            let percent = group.applied.saturating_mul(100) / target.max(1);
            let left_s = progress.left(target).map(|left| left.as_secs());
            tracing::info!(applied = group.applied, of = target, percent, left_s, "catching up");
        }
        if missing <= LAG_MAX && group.learners.contains(&truth.id()) && !std::mem::replace(&mut told, true) {
            tracing::info!(applied = group.applied, of = target, "caught up; the leader gives a vote if there is room");
        }
        if told && truth.wanted_role() == Some(Role::Learner) {
            return;
        }
        looks = looks.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_the_pace_so_far_says() {
        let second = Duration::from_secs(1);
        let mut progress = Progress::new(100, second);
        assert_eq!(progress.left(500), None, "nothing was done yet");
        progress.handle(200, second * 3);
        assert_eq!(progress.left(500), Some(second * 6));
        assert_eq!(progress.left(150), Some(Duration::ZERO), "it is past that");
    }
}
