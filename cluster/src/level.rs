//! Raises the cluster's feature level once every voter runs a build that knows the next one.
//!
//! Masters tell the newest level that they know with every answer to a probe; one that does not say so is of the first
//! version. The leader proposes the highest level that every voter, and every learner that answers, knows.
//!
//! **Invariants.** A voter that does not answer holds the level back: nobody knows what it runs. The level never falls, so a
//! master that is put back to an older version afterwards refuses to start, and says so.

use crate::truth::{Lane, RaftMember, Truth};
use saltern_store::command::Command;
use std::time::Duration;

/// Pause between two looks. An upgrade takes minutes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The duty. Ends with whoever drops it.
pub async fn raise_all(truth: Truth) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let status = truth.status();
        if !status.quorum.fresh || status.quorum.leader != Some(truth.id()) || truth.state().cluster().is_none() {
            continue;
        }
        let (stands, common) = (truth.state().level(), common(&status.members));
        let Some(level) = common.filter(|level| *level > stands) else { continue };
        match truth.propose(Lane::Control, Command::Level { level }, None).await {
            Ok(_) => tracing::info!(from = stands, to = level, "every voter knows it: the feature level has risen"),
            Err(error) => tracing::debug!(%error, level, "the feature level has not risen yet; trying again"),
        }
    }
}

/// The highest level that every voter knows, and every learner that answers; `None` while a voter does not say.
fn common(members: &[RaftMember]) -> Option<u32> {
    let voters = members.iter().filter(|member| member.voter).map(|member| member.level);
    let learners = members.iter().filter(|member| !member.voter && member.level.is_some()).map(|member| member.level);
    voters.chain(learners).collect::<Option<Vec<u32>>>()?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::MasterId;

    fn member(id: u64, voter: bool, level: Option<u32>) -> RaftMember {
        RaftMember {
            id: MasterId(id),
            voter,
            last_log: None,
            reachable: level.is_some(),
            round_trip_us: None,
            sessions: None,
            version: None,
            level,
        }
    }

    #[test]
    fn a_level_that_one_voter_may_not_know_is_no_level() {
        let group = |voters: &[Option<u32>], learner: Option<u32>| {
            let mut members: Vec<_> = (1..).zip(voters).map(|(id, level)| member(id, true, *level)).collect();
            members.push(member(9, false, learner));
            common(&members)
        };
        assert_eq!(group(&[Some(2), Some(2), Some(2)], Some(2)), Some(2));
        assert_eq!(group(&[Some(2), Some(1), Some(3)], Some(2)), Some(1), "one is not upgraded yet");
        assert_eq!(
            group(&[Some(2), None, Some(2)], Some(2)),
            None,
            "one is away: it may come back with the old version"
        );
        assert_eq!(group(&[Some(3), Some(3), Some(3)], Some(2)), Some(2), "a learner would stop");
        assert_eq!(group(&[Some(3), Some(3), Some(3)], None), Some(3), "a learner that is gone holds nobody up");
        assert_eq!(common(&[]), None);
    }
}
