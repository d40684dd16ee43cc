//! What the leader does next so that the group becomes what the directory wants. Pure.

use super::{LAG_MAX, VOTERS_MAX, majority};
use crate::raft::LeaderState;
use saltern_wire::MasterId;
use saltern_wire::master::{Directory, MasterRecord, MasterState, Role};
use std::collections::BTreeSet;

/// One step. Each is harmless to take twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A change of the voters was left half done by a leader that died: finish it.
    Settle,
    /// This leader is not to lead any more: another voter is.
    HandOver {
        /// Who is to lead.
        heir: MasterId,
        /// Why this one is not.
        why: &'static str,
    },
    /// A member that the directory does not name leaves the group.
    Remove(MasterId),
    /// Exactly these vote; whoever voted before stays as a learner.
    Voters {
        /// Who votes from then on.
        voters: BTreeSet<MasterId>,
        /// What it is for, for people.
        why: String,
    },
    /// A master of the directory begins to receive the log.
    AddLearner(MasterId),
    /// A master that has caught up is active from now on.
    Activate(MasterId),
}

/// What the leader knows.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// This master, which leads.
    pub own: MasterId,
    /// What is wanted.
    pub directory: &'a Directory,
    /// What is.
    pub group: &'a LeaderState,
    /// Members that answered the last probe; this one included.
    pub reachable: &'a BTreeSet<MasterId>,
    /// Masters that are too far away to vote with the timing that the group has.
    pub far: &'a BTreeSet<MasterId>,
}

/// The next step, if there is one. An error says why a step that is due has to wait.
pub fn next(view: &View<'_>) -> Result<Option<Step>, String> {
    if view.group.joint {
        return Ok(Some(Step::Settle));
    }
    // Whoever leaves goes first: a voter that is gone for ever only makes the majority larger, so that the group never bears
    // less for its removal than before.
    if let Some(step) = view.let_go()? {
        return Ok(Some(step));
    }
    if let Some(step) = view.step_aside() {
        return Ok(Some(step));
    }
    if let Some(step) = view.settle_voters()? {
        return Ok(Some(step));
    }
    Ok(view.take_in())
}

/// The best voter to lead in the place of `own`: one that keeps up, answers, stays and has most of the log. `None` if there
/// is none.
pub fn heir(view: &View<'_>) -> Option<MasterId> {
    let fit = |id: &&MasterId| {
        **id != view.own
            && view.reachable.contains(id)
            && view.keeps_up(**id)
            && view.directory.master(**id).is_some_and(|record| stays(record))
    };
    view.group.voters.iter().filter(fit).max_by_key(|id| (view.matched(**id), std::cmp::Reverse(**id))).copied()
}

fn stays(record: &MasterRecord) -> bool {
    record.role == Role::Voter && record.state != MasterState::Draining
}

impl View<'_> {
    fn matched(&self, id: MasterId) -> Option<u64> {
        self.group.matched.get(&id).copied().flatten()
    }

    fn keeps_up(&self, id: MasterId) -> bool {
        self.matched(id).is_some_and(|index| index + LAG_MAX >= self.group.last_log)
    }

    /// Whether a majority of `voters` answers.
    fn bears(&self, voters: &BTreeSet<MasterId>) -> Result<(), String> {
        let (answer, need) = (voters.intersection(self.reachable).count(), majority(voters.len()));
        if !voters.is_empty() && answer >= need {
            return Ok(());
        }
        Err(format!("of {} voters that would remain {answer} answer and {need} are needed", voters.len()))
    }

    /// The first member that the directory does not name.
    fn let_go(&self) -> Result<Option<Step>, String> {
        let members = self.group.voters.iter().chain(&self.group.learners);
        let Some(gone) = members.copied().find(|id| self.directory.master(*id).is_none()) else { return Ok(None) };
        if gone == self.own {
            // Nobody who stays may lead: any other voter is better than one that has left.
            let any = self.group.voters.iter().find(|id| **id != gone && self.reachable.contains(id));
            let heir = heir(self).or(any.copied()).ok_or("nobody else votes and answers")?;
            return Ok(Some(Step::HandOver { heir, why: "it left the directory" }));
        }
        if self.group.voters.contains(&gone) {
            let mut after = self.group.voters.clone();
            after.remove(&gone);
            self.bears(&after).map_err(|cause| format!("master {gone} cannot leave the group yet: {cause}"))?;
        }
        Ok(Some(Step::Remove(gone)))
    }

    /// A leader that gives its minions away, or is to be a learner, hands over first.
    fn step_aside(&self) -> Option<Step> {
        let own = self.directory.master(self.own)?;
        let why = match (own.role, own.state) {
            (Role::Learner, _) => "it is to vote no more",
            (Role::Voter, MasterState::Draining) => "it is draining",
            (Role::Voter, MasterState::Joining | MasterState::Active) => return None,
        };
        heir(self).map(|heir| Step::HandOver { heir, why })
    }

    /// One voter less that is to be a learner, one more that has caught up, or one in the place of the other.
    fn settle_voters(&self) -> Result<Option<Step>, String> {
        let role = |id: &MasterId| self.directory.master(*id).map(|record| record.role);
        let demoted = self.group.voters.iter().copied().find(|id| *id != self.own && role(id) == Some(Role::Learner));
        let room = self.group.voters.len() - usize::from(demoted.is_some()) < VOTERS_MAX;
        let fit = |id: &MasterId| role(id) == Some(Role::Voter) && self.keeps_up(*id) && !self.far.contains(id);
        let promoted = self.group.learners.iter().copied().find(|id| room && fit(id));
        let (mut voters, name) = (self.group.voters.clone(), |id: MasterId| self.name(id));
        let why = match (demoted, promoted) {
            (None, None) => return Ok(None),
            (None, Some(new)) => format!("{} has caught up and votes from now on", name(new)),
            (Some(old), None) => format!("{} votes no more and stays as a learner", name(old)),
            (Some(old), Some(new)) => format!("{} votes in the place of {}", name(new), name(old)),
        };
        demoted.iter().for_each(|old| _ = voters.remove(old));
        voters.extend(promoted);
        self.bears(&voters).map_err(|cause| format!("the voters cannot be changed yet ({why}): {cause}"))?;
        Ok(Some(Step::Voters { voters, why }))
    }

    /// The first master of the directory that comes in.
    fn take_in(&self) -> Option<Step> {
        for master in &self.directory.masters {
            let votes = self.group.voters.contains(&master.id);
            if !votes && !self.group.learners.contains(&master.id) {
                return Some(Step::AddLearner(master.id));
            }
            if master.state == MasterState::Joining && (votes || self.keeps_up(master.id)) {
                return Some(Step::Activate(master.id));
            }
        }
        None
    }

    fn name(&self, id: MasterId) -> String {
        self.directory.master(id).map_or_else(|| format!("master {id}"), |record| record.name.clone())
    }
}

#[cfg(test)]
mod tests;
