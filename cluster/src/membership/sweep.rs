//! The leader's sweep over the members: one look, one step, and again.
//!
//! A step that fails, or is taken by a leader that was deposed meanwhile, is taken again by the next sweep.

use super::absence::{Absences, replacement};
use super::reconcile::{self, Step, View};
use super::{LAG_MAX, secrets};
use crate::duties::leads;
use crate::pki::{Authority, Credentials};
use crate::raft::LeaderState;
use crate::regions::duty::may_vote;
use crate::space::{Level, Room};
use crate::truth::{Lane, Truth};
use saltern_store::command::{Command, MasterCommand};
use saltern_wire::MasterId;
use saltern_wire::master::{Directory, MasterState};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two looks at the membership.
const MEMBERS_EVERY: Duration = Duration::from_millis(250);

/// How long a leader may take to apply everything that is committed before it takes a member out.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after handing leadership over: the other one needs a moment to lead.
const HANDED_OVER: Duration = Duration::from_secs(1);

/// Sweeps for ever; acts while this master leads.
pub(crate) async fn run(truth: Truth, credentials: Arc<Credentials>) {
    let mut absences = Absences::default();
    loop {
        tokio::time::sleep(MEMBERS_EVERY).await;
        if !leads(&truth) {
            absences.forget();
            continue;
        }
        relieve(&truth).await;
        if let Err(cause) = sweep(&truth, &credentials, &mut absences).await {
            tracing::info!(cause, "a change of the masters has to wait; trying again");
            tokio::time::sleep(MEMBERS_EVERY * 2).await;
        }
    }
}

/// What the leader looks at.
struct Look {
    directory: Directory,
    group: LeaderState,
    reachable: BTreeSet<MasterId>,
    far: BTreeSet<MasterId>,
}

impl Look {
    /// `None` before the cluster was founded.
    fn at(truth: &Truth) -> Result<Option<Self>, String> {
        let Some(signed) = truth.state().directory() else { return Ok(None) };
        let directory = signed.peek().map_err(|error| error.to_string())?;
        let members = truth.status().members.into_iter().filter(|member| member.reachable);
        let reachable = members.map(|member| member.id).collect();
        let group = truth.group().leader_state();
        let far = group.learners.iter().copied().filter(|id| !may_vote(truth, *id)).collect();
        Ok(Some(Self { directory, group, reachable, far }))
    }

    fn view(&self, own: MasterId) -> View<'_> {
        View { own, directory: &self.directory, group: &self.group, reachable: &self.reachable, far: &self.far }
    }
}

async fn sweep(truth: &Truth, credentials: &Credentials, absences: &mut Absences) -> Result<(), String> {
    let Some(look) = Look::at(truth)? else { return Ok(()) };
    let now = truth.clock().monotonic();
    absences.handle_look(&look.group.voters, &look.reachable, now);
    if let Some(step) = reconcile::next(&look.view(truth.id()))? {
        return take(truth, credentials, step).await;
    }
    if let Some((next, told)) = replacement(&look.view(truth.id()), &truth.state().settings(), absences, now) {
        tracing::warn!("{told}");
        return put(truth, credentials, &next).await;
    }
    secrets::rotate_if_wanted(truth, credentials).await
}

/// Takes a step. What takes something from a master is decided anew upon everything that is committed: a new leader that has
/// not yet applied what it holds would throw out a master that has just come in.
async fn take(truth: &Truth, credentials: &Credentials, step: Step) -> Result<(), String> {
    let group = truth.group();
    let told = |error: crate::raft::GroupError| error.to_string();
    match &step {
        Step::Settle | Step::AddLearner(_) | Step::Activate(_) => {}
        Step::HandOver { .. } | Step::Remove(_) | Step::Voters { .. } => {
            truth.confirm(CONFIRM_TIMEOUT).await.map_err(|error| error.to_string())?;
            let Some(look) = Look::at(truth)? else { return Ok(()) };
            if reconcile::next(&look.view(truth.id()))?.as_ref() != Some(&step) {
                return Ok(());
            }
        }
    }
    match step {
        Step::Settle => {
            tracing::info!("finishing a change of the voters that was left half done");
            group.settle_voters().await.map_err(told)
        }
        Step::HandOver { heir, why } => {
            tracing::info!(%heir, why, "this master hands leadership over");
            group.transfer(heir).await.map_err(told)?;
            tokio::time::sleep(HANDED_OVER).await;
            Ok(())
        }
        Step::Remove(gone) => {
            tracing::info!(master = %gone, "a master that left the directory leaves the group");
            group.remove(gone).await.map_err(told)
        }
        Step::Voters { voters, why } => {
            tracing::info!(why, "the voters change");
            group.set_voters(voters).await.map_err(told)
        }
        Step::AddLearner(new) => {
            let Some(look) = Look::at(truth)? else { return Ok(()) };
            let Some(record) = look.directory.master(new) else { return Ok(()) };
            tracing::info!(master = %new, name = record.name, "a master joins as a learner");
            group.add_learner(new, &record.endpoints.mesh).await.map_err(told)
        }
        Step::Activate(master) => {
            let Some(Look { mut directory, .. }) = Look::at(truth)? else { return Ok(()) };
            for record in directory.masters.iter_mut().filter(|record| record.id == master) {
                record.state = MasterState::Active;
            }
            directory.version += 1;
            put(truth, credentials, &directory).await
        }
    }
}

/// Puts a directory in place.
async fn put(truth: &Truth, credentials: &Credentials, directory: &Directory) -> Result<(), String> {
    let ca = truth.state().ca().ok_or("the cluster has no CA yet")?;
    let authority = Authority::open(credentials, &ca).map_err(|error| error.to_string())?;
    let command = Command::Master(MasterCommand::Directory { directory: authority.sign_directory(directory) });
    let committed = truth.propose(Lane::Control, command, None).await.map_err(|error| error.to_string())?;
    committed.applied.map(drop).map_err(|refused| refused.to_string())
}

/// A leader whose disk runs out of room hands its duty to the voter with the most, once per look at the disks.
async fn relieve(truth: &Truth) {
    let own = truth.space().room();
    if own.level() == Level::Roomy {
        return;
    }
    let group = truth.group().leader_state();
    let keeps_up =
        |id: &MasterId| group.matched.get(id).copied().flatten().is_some_and(|index| index + LAG_MAX >= group.last_log);
    let rooms = group.voters.iter().filter(|id| keeps_up(id)).filter_map(|id| truth.room_of(*id));
    let Some(heir) = rooms.filter(|room| room.level() < own.level()).min_by_key(Room::level) else { return };
    tracing::warn!(heir = heir.name, reason = %own, "handing leadership over");
    if let Err(error) = truth.group().transfer(heir.master).await {
        tracing::warn!(%error, "leadership was not handed over; trying again");
    }
    tokio::time::sleep(HANDED_OVER).await;
}
