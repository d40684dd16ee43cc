//! How long voters have been out of reach, and who votes in the place of one that is gone. Pure: time comes in.
//!
//! Off unless the setting `auto_replace` says otherwise: a machine that comes back after an hour is no news to an operator who
//! meant to restart it.

use super::reconcile::View;
use super::{LAG_MAX, majority};
use saltern_wire::MasterId;
use saltern_wire::master::{Directory, MasterRecord, MasterState, Role};
use saltern_wire::settings::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A leader that did not look for so long stood still itself: what it remembers of others says nothing any more.
const OWN_GAP_MAX: Duration = Duration::from_secs(5);

/// Since when members have been out of reach, in the leader's monotonic time.
#[derive(Debug, Clone, Default)]
pub struct Absences {
    since: BTreeMap<MasterId, Duration>,
    looked: Option<Duration>,
}

impl Absences {
    /// Takes a look at `now`: of `members`, those in `reachable` answered their last probe.
    pub fn handle_look(&mut self, members: &BTreeSet<MasterId>, reachable: &BTreeSet<MasterId>, now: Duration) {
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) > OWN_GAP_MAX) {
            self.since.clear();
        }
        self.looked = Some(now);
        self.since.retain(|id, _| members.contains(id) && !reachable.contains(id));
        for id in members.difference(reachable) {
            self.since.entry(*id).or_insert(now);
        }
    }

    /// Forgets everything: this master does not lead any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// For how long the member has been out of reach.
    pub fn lasting(&self, id: MasterId, now: Duration) -> Option<Duration> {
        self.since.get(&id).map(|since| now.saturating_sub(*since))
    }
}

/// The directory in which a learner votes in the place of a voter that has been gone for too long, and what people are told.
/// `None` if nobody is to be replaced, or nobody can be.
pub fn replacement(
    view: &View<'_>,
    settings: &Settings,
    absences: &Absences,
    now: Duration,
) -> Option<(Directory, String)> {
    if !settings.auto_replace {
        return None;
    }
    let patience = Duration::from_secs(settings.auto_replace_seconds);
    let is_gone = |record: &&MasterRecord| {
        record.role == Role::Voter
            && view.group.voters.contains(&record.id)
            && absences.lasting(record.id, now).is_some_and(|lasting| lasting >= patience)
    };
    let gone = view.directory.masters.iter().find(is_gone)?;
    let keeps_up = |record: &MasterRecord| {
        let matched = view.group.matched.get(&record.id).copied().flatten();
        matched.is_some_and(|index| index + LAG_MAX >= view.group.last_log)
    };
    let fits = |record: &&MasterRecord| {
        view.group.learners.contains(&record.id)
            && view.reachable.contains(&record.id)
            && !view.far.contains(&record.id)
            && record.region == gone.region
            && record.state == MasterState::Active
            && keeps_up(record)
    };
    // One that was to vote all along, and found no place, goes before one that an operator keeps as a learner.
    let heir =
        view.directory.masters.iter().filter(fits).min_by_key(|record| (record.role == Role::Learner, record.id))?;
    let mut after = view.group.voters.clone();
    after.remove(&gone.id);
    after.insert(heir.id);
    let answer = after.intersection(view.reachable).count();
    if answer < majority(after.len()) || answer < usize::try_from(settings.min_voters).unwrap_or(usize::MAX) {
        return None;
    }
    let mut next = view.directory.clone();
    next.version += 1;
    for record in &mut next.masters {
        if record.id == gone.id {
            record.role = Role::Learner;
        } else if record.id == heir.id {
            record.role = Role::Voter;
        }
    }
    let told = format!(
        "{} has been out of reach for {} s: {} votes in its place (both in region {})",
        gone.name, settings.auto_replace_seconds, heir.name, gone.region
    );
    Some((next, told))
}

#[cfg(test)]
mod tests;
