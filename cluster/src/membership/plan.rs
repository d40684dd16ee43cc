//! What a change of the masters would do, worked out before anything is done. Pure: the same answer is what an operator is
//! shown and what a master refuses by.

use super::{LAG_MAX, VOTERS_MAX, majority};
use saltern_wire::MasterId;
use saltern_wire::api::member::{MemberChange, MemberPlan};
use saltern_wire::master::{Directory, MasterRecord, MasterState, Role};
use std::collections::{BTreeMap, BTreeSet};

/// What stands now.
#[derive(Debug, Clone)]
pub struct Ground<'a> {
    /// What is wanted so far.
    pub directory: &'a Directory,
    /// Who votes.
    pub voters: BTreeSet<MasterId>,
    /// Who answered the last probe; the asking master included.
    pub reachable: BTreeSet<MasterId>,
    /// Entries that a member lacks, if known.
    pub lag: BTreeMap<MasterId, u64>,
    /// Who leads.
    pub leader: Option<MasterId>,
    /// Minions attached to a master, if it answers.
    pub minions: BTreeMap<MasterId, u64>,
}

/// A change, worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What people read.
    pub view: MemberPlan,
    /// The directory to put in place, not signed yet. `None`: nothing is to be done, or it is refused.
    pub next: Option<Directory>,
}

/// Why there is nothing to work out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no master {wanted:?}; there are {known}")]
pub struct NoSuchMaster {
    wanted: String,
    known: String,
}

impl Ground<'_> {
    /// The master of this name or number.
    pub fn find(&self, wanted: &str) -> Result<&MasterRecord, NoSuchMaster> {
        let named = self.directory.masters.iter().find(|master| master.name == wanted);
        let numbered = || self.directory.masters.iter().find(|master| master.id.to_string() == wanted);
        named.or_else(numbered).ok_or_else(|| NoSuchMaster {
            wanted: wanted.into(),
            known: self.names(self.directory.masters.iter().map(|master| master.id)).join(", "),
        })
    }

    /// Works `change` of `wanted` out.
    pub fn plan(&self, change: MemberChange, wanted: &str) -> Result<Plan, NoSuchMaster> {
        let subject = match self.find(wanted) {
            Ok(subject) => subject,
            Err(_) if change == MemberChange::Remove => return Ok(self.removed_before(wanted)),
            Err(error) => return Err(error),
        };
        let mut draft = Draft::of(self, change, subject);
        match change {
            MemberChange::Promote => draft.promote(),
            MemberChange::Demote => draft.demote(),
            MemberChange::Remove => draft.remove(),
            MemberChange::Drain => draft.drain(),
            MemberChange::Undrain => draft.undrain(),
        }
        Ok(draft.finish())
    }

    /// Voters as they will be once everything is done that the directory wants already.
    fn decided(&self) -> BTreeSet<MasterId> {
        let stays = |id: &&MasterId| self.directory.master(**id).is_some_and(|record| record.role == Role::Voter);
        self.voters.iter().filter(stays).copied().collect()
    }

    /// How many of `voters` may still die.
    fn tolerance(&self, voters: &BTreeSet<MasterId>) -> u32 {
        let answer = voters.intersection(&self.reachable).count();
        u32::try_from(answer.saturating_sub(majority(voters.len()))).unwrap_or(0)
    }

    fn names(&self, ids: impl IntoIterator<Item = MasterId>) -> Vec<String> {
        let name = |id| self.directory.master(id).map_or_else(|| format!("master {id}"), |record| record.name.clone());
        ids.into_iter().map(name).collect()
    }

    /// A removal that was done before: whoever repeats it has what he wants.
    fn removed_before(&self, wanted: &str) -> Plan {
        let voters = self.decided();
        let (names, tolerance) = (self.names(voters.iter().copied()), self.tolerance(&voters));
        let known = self.names(self.directory.masters.iter().map(|master| master.id)).join(", ");
        let view = MemberPlan {
            change: MemberChange::Remove,
            master: MasterId(0),
            name: wanted.into(),
            directory: (self.directory.generation, self.directory.version),
            steps: Vec::new(),
            warnings: vec![format!("the cluster has no master {wanted:?} (any more); there are {known}")],
            refused: None,
            voters: (names.clone(), names),
            tolerance: (tolerance, tolerance),
        };
        Plan { view, next: None }
    }
}

/// A plan in the making.
struct Draft<'a> {
    ground: &'a Ground<'a>,
    subject: &'a MasterRecord,
    change: MemberChange,
    after: BTreeSet<MasterId>,
    next: Option<Directory>,
    steps: Vec<String>,
    warnings: Vec<String>,
    refused: Option<String>,
}

impl<'a> Draft<'a> {
    fn of(ground: &'a Ground<'a>, change: MemberChange, subject: &'a MasterRecord) -> Self {
        let (after, steps, warnings) = (ground.decided(), Vec::new(), Vec::new());
        Self { ground, subject, change, after, next: None, steps, warnings, refused: None }
    }

    fn promote(&mut self) {
        let (subject, name) = (self.subject, &self.subject.name);
        let votes = self.ground.voters.contains(&subject.id);
        if subject.role == Role::Voter && votes {
            return;
        }
        let wanted = self.ground.directory.masters.iter().filter(|master| master.role == Role::Voter);
        let others = wanted.filter(|master| master.id != subject.id).count();
        if others >= VOTERS_MAX {
            let cause = format!(
                "{others} masters vote or are to, and {VOTERS_MAX} is all that may: more would make every write wait for \
                 more disks. Demote one first"
            );
            return self.refuse(cause);
        }
        if !self.ground.reachable.contains(&subject.id) {
            let before = self.tolerance_before();
            let cause = format!(
                "{name} does not answer, and a voter that does not answer makes the majority larger without helping to \
                 reach it ({} voters, {before} of them may die now). Start it, then ask again",
                self.after.len()
            );
            return self.refuse(cause);
        }
        self.after.insert(subject.id);
        match self.ground.lag.get(&subject.id) {
            Some(lag) if *lag <= LAG_MAX => {}
            Some(lag) => self.steps.push(format!("{name} catches up: it lacks {lag} entries")),
            None => self.steps.push(format!("{name} catches up; how far it is, is not known yet")),
        }
        self.steps.push(format!("{name} votes"));
        if self.after.len().is_multiple_of(2) {
            let (even, odd) = (self.after.len(), self.after.len() - 1);
            self.warnings
                .push(format!("{even} voters bear the loss of no more masters than {odd}; an odd number is better"));
        }
        // Whoever repeats it while the learner catches up changes nothing.
        if subject.role != Role::Voter {
            self.replace(|record| record.role = Role::Voter);
        }
    }

    fn demote(&mut self) {
        let (subject, name) = (self.subject, &self.subject.name);
        if subject.role == Role::Learner && !self.ground.voters.contains(&subject.id) {
            return;
        }
        self.after.remove(&subject.id);
        if !self.bears("demoted") {
            return;
        }
        self.hand_over();
        self.steps.push(format!(
            "{name} votes no more; it stays as a learner that publishes, takes sessions and serves reads"
        ));
        if subject.role != Role::Learner {
            self.replace(|record| record.role = Role::Learner);
        }
    }

    fn remove(&mut self) {
        let (subject, name) = (self.subject, &self.subject.name);
        self.after.remove(&subject.id);
        if self.ground.directory.masters.len() == 1 {
            return self.refuse(format!(
                "{name} is the only master: without it there is no cluster. Let another one join first"
            ));
        }
        if !self.bears("removed") {
            return;
        }
        self.hand_over();
        self.steps
            .push(format!("the directory that minions obey no longer names {name}: nobody takes its word any more"));
        if self.ground.voters.contains(&subject.id) {
            self.steps.push(format!("{name} leaves the voters"));
        }
        if self.ground.reachable.contains(&subject.id) {
            let minions = self.ground.minions.get(&subject.id).copied().unwrap_or(0);
            self.steps.push(format!("{name} ends by itself; its {minions} minions go to other masters"));
            if minions > 0 && subject.state != MasterState::Draining {
                self.warnings
                    .push(format!("{minions} minions are attached to {name}: drain it first to move them one by one"));
            }
        } else {
            self.steps.push(format!("{name} does not answer; when it comes back it is refused, and ends"));
        }
        self.steps.push("the remaining masters get a new state secret; join tokens that were not used yet end".into());
        let mut next = self.successor();
        next.retire(subject.id);
        self.next = Some(next);
    }

    fn drain(&mut self) {
        let (subject, name) = (self.subject, &self.subject.name);
        match subject.state {
            MasterState::Draining => return,
            MasterState::Joining => {
                return self
                    .refuse(format!("{name} is still joining: it has no minions to give away. Wait, or remove it"));
            }
            MasterState::Active => {}
        }
        let takes = |record: &&MasterRecord| {
            record.id != subject.id && record.state == MasterState::Active && self.ground.reachable.contains(&record.id)
        };
        if !self.ground.directory.masters.iter().any(|record| takes(&record)) {
            let cause = format!(
                "no other master is active and answers: the minions of {name} would have nowhere to go. Start another one, \
                 or undrain one"
            );
            return self.refuse(cause);
        }
        self.hand_over();
        let minions = self.ground.minions.get(&subject.id).copied().unwrap_or(0);
        self.steps.push(format!(
            "{name} asks its {minions} minions to move, one after the other; new ones prefer other masters"
        ));
        self.steps.push(format!("{name} stays a member: it can be stopped, or taken back with undrain"));
        self.replace(|record| record.state = MasterState::Draining);
    }

    fn undrain(&mut self) {
        let name = &self.subject.name;
        match self.subject.state {
            MasterState::Active | MasterState::Joining => {}
            MasterState::Draining => {
                self.steps.push(format!("{name} takes minions again"));
                self.replace(|record| record.state = MasterState::Active);
            }
        }
    }

    /// Whether the voters that remain reach a majority; refuses if not.
    fn bears(&mut self, what: &str) -> bool {
        let name = &self.subject.name;
        let (all, need) = (self.after.len(), majority(self.after.len()));
        let answer = self.after.intersection(&self.ground.reachable).count();
        if all == 0 {
            self.refuse(format!(
                "{name} is the only voter: without it nobody decides. Promote another master first, or let one join"
            ));
            return false;
        }
        if answer < need {
            let dead = self.after.difference(&self.ground.reachable).copied();
            let silent = self.ground.names(dead).join(", ");
            let remedy = if self.change == MemberChange::Remove { "remove" } else { "remove or demote" };
            self.refuse(format!(
                "with {name} {what}, {answer} of {all} voters answer and {need} are needed: writes would stop. Bring {silent} \
                 back first, or {remedy} {silent} instead"
            ));
            return false;
        }
        if self.tolerance_after() < self.tolerance_before() {
            let (before, after) = (self.tolerance_before(), self.tolerance_after());
            self.warnings.push(format!("the cluster bears the loss of {after} more voters instead of {before}"));
        }
        true
    }

    fn hand_over(&mut self) {
        if self.ground.leader == Some(self.subject.id) {
            self.steps.push(format!("{} leads now: it hands leadership over first", self.subject.name));
        }
    }

    fn successor(&self) -> Directory {
        let mut next = self.ground.directory.clone();
        next.version += 1;
        next
    }

    fn replace(&mut self, change: impl Fn(&mut MasterRecord)) {
        let mut next = self.successor();
        next.masters.iter_mut().filter(|record| record.id == self.subject.id).for_each(change);
        self.next = Some(next);
    }

    fn refuse(&mut self, cause: String) {
        self.refused = Some(cause);
    }

    fn tolerance_before(&self) -> u32 {
        self.ground.tolerance(&self.ground.decided())
    }

    fn tolerance_after(&self) -> u32 {
        self.ground.tolerance(&self.after)
    }

    fn finish(self) -> Plan {
        let before = self.ground.names(self.ground.decided());
        let tolerance = (self.tolerance_before(), self.tolerance_after());
        let (steps, next) = if self.refused.is_some() { (Vec::new(), None) } else { (self.steps, self.next) };
        let view = MemberPlan {
            change: self.change,
            master: self.subject.id,
            name: self.subject.name.clone(),
            directory: (self.ground.directory.generation, self.ground.directory.version),
            steps,
            warnings: self.warnings,
            refused: self.refused,
            voters: (before, self.ground.names(self.after)),
            tolerance,
        };
        Plan { view, next }
    }
}

#[cfg(test)]
mod tests;
