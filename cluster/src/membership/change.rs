//! Carries what an operator asks for into the truth, at whichever master was asked, and waits for the group to follow.
//!
//! ```text
//!   confirm (ReadIndex) ─▶ plan ─▶ nothing to do: so it is · refused: why · else Directory + 1, compare and set ─▶ wait
//! ```
//!
//! **Invariants.** The plan is made upon everything that is committed. A change that has been made already is answered as done,
//! whoever made it. Somebody else's change in between is a conflict that names both versions, and nothing is written.

use super::plan::{Ground, Plan};
use crate::http::Refusal;
use crate::mesh::message::{Channel, Request, Response};
use crate::pki::{Authority, Credentials};
use crate::presence::Presence;
use crate::truth::{Lane, Truth};
use saltern_store::command::{Command, MasterCommand, Refused};
use saltern_wire::api::FailureCode;
use saltern_wire::api::member::{MemberAnswer, MemberChange, MemberRequest, TransferAnswer, TransferRequest};
use saltern_wire::level::LEVEL_MEMBERSHIP;
use saltern_wire::master::{Directory, Role};
use saltern_wire::{MasterId, RequestId};
use std::time::Duration;

/// How long a majority may take to say what is committed.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// How long the group is waited for: a client waits twelve seconds for the first byte of an answer, and asks again.
const FOLLOW_WITHIN: Duration = Duration::from_secs(7);

/// Pause between two looks at the group.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How long another master may take to lead.
const LEAD_WITHIN: Duration = Duration::from_secs(5);

/// Who is asked, and what it knows.
pub(crate) struct Office<'a> {
    pub(crate) truth: &'a Truth,
    pub(crate) credentials: &'a Credentials,
    pub(crate) presence: &'a Presence,
}

impl Office<'_> {
    /// Works a change out, and makes it unless only the plan was asked for.
    pub(crate) async fn change(&self, request: &MemberRequest, name: RequestId) -> Result<MemberAnswer, Refusal> {
        self.truth.confirm(CONFIRM_WITHIN).await?;
        let directory = self.directory()?;
        let plan = self.plan(&directory, request)?;
        if request.dry_run {
            let waits_for = self.waits_for(&plan, &directory);
            return Ok(MemberAnswer { complete: waits_for.is_none(), waits_for, plan: plan.view });
        }
        if let Some(cause) = &plan.view.refused {
            return Err(Refusal::new(FailureCode::Conflict, cause.clone()));
        }
        let Some(next) = &plan.next else { return self.follow(plan).await };
        if let Some((generation, version)) = request.directory.filter(|planned| *planned != plan.view.directory) {
            let (now_generation, now_version) = plan.view.directory;
            let message = format!(
                "the masters changed while you decided: your plan was made upon generation {generation}, version {version} of \
                 the directory, now it is {now_generation}, {now_version}. Nothing was changed; look at `saltern cluster \
                 status` and ask again"
            );
            return Err(Refusal::new(FailureCode::Conflict, message));
        }
        self.require_roles(next)?;
        self.put(next, name).await?;
        self.follow(plan).await
    }

    /// Who is to lead, and how it went.
    pub(crate) async fn transfer(&self, request: &TransferRequest) -> Result<TransferAnswer, Refusal> {
        self.truth.confirm(CONFIRM_WITHIN).await?;
        let directory = self.directory()?;
        let began = self.truth.clock().monotonic();
        let from = self.truth.quorum().leader.ok_or_else(|| no_leader("nobody leads at the moment"))?;
        let to = match &request.to {
            Some(wanted) => Some(self.fit_to_lead(&directory, wanted)?),
            None => None,
        };
        let name = |id: MasterId| crate::api::master_name(Some(&directory), id);
        if to == Some(from) || request.dry_run {
            let to = to.map_or_else(|| "a voter that keeps up".into(), name);
            return Ok(TransferAnswer { from: name(from), to, changed: false, took_ms: 0 });
        }
        let heir = if from == self.truth.id() {
            hand_over_here(self.truth, to).await.map_err(|cause| no_leader(&cause))?
        } else {
            match self.truth.mesh().ask(from, Channel::Work, &Request::HandOver { to }, LEAD_WITHIN).await {
                Ok(Response::HandingOver(Ok(heir))) => heir,
                Ok(Response::HandingOver(Err(cause)) | Response::Failed(cause)) => return Err(no_leader(&cause)),
                Ok(_) => {
                    return Err(no_leader("the leader answered with something else; do all masters run one version?"));
                }
                Err(error) => return Err(no_leader(&error.to_string())),
            }
        };
        let led = async {
            while self.truth.quorum().leader.is_none_or(|leader| leader == from) {
                self.truth.group().changed(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(LEAD_WITHIN, led).await.is_err() {
            let message =
                format!("{} was asked to lead and does not yet: look at `saltern cluster status`", name(heir));
            return Err(Refusal::new(FailureCode::Unknown, message));
        }
        let leader = self.truth.quorum().leader.unwrap_or(heir);
        let took = self.truth.clock().monotonic().saturating_sub(began);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Ok(TransferAnswer { from: name(from), to: name(leader), changed: leader != from, took_ms })
    }

    fn fit_to_lead(&self, directory: &Directory, wanted: &str) -> Result<MasterId, Refusal> {
        let record = self.ground(directory).find(wanted).cloned();
        let record = record.map_err(|error| Refusal::new(FailureCode::NotFound, error.to_string()))?;
        let refuse =
            |cause: &str| Err(Refusal::new(FailureCode::Conflict, format!("{} cannot lead: {cause}", record.name)));
        if !self.truth.group().leader_state().voters.contains(&record.id) {
            return refuse("it does not vote. Promote it first, or choose another one");
        }
        if !self.truth.reachable().contains(&record.id) {
            return refuse("it does not answer. Start it, or choose another one");
        }
        if record.state == saltern_wire::master::MasterState::Draining {
            return refuse("it is draining. Undrain it first, or choose another one");
        }
        Ok(record.id)
    }

    fn plan(&self, directory: &Directory, request: &MemberRequest) -> Result<Plan, Refusal> {
        let planned = self.ground(directory).plan(request.change, &request.master);
        planned.map_err(|error| Refusal::new(FailureCode::NotFound, error.to_string()))
    }

    fn ground<'a>(&self, directory: &'a Directory) -> Ground<'a> {
        let (status, group) = (self.truth.status(), self.truth.group().leader_state());
        let newest = status.members.iter().filter_map(|member| member.last_log).chain([status.last_log]).max();
        let lag = |member: &crate::truth::RaftMember| {
            Some((member.id, newest.zip(member.last_log).map(|(newest, last)| newest.saturating_sub(last))?))
        };
        let minions =
            directory.masters.iter().filter_map(|master| Some((master.id, self.presence.sessions_of(master.id)?)));
        Ground {
            directory,
            voters: group.voters,
            reachable: self.truth.reachable(),
            lag: status.members.iter().filter_map(lag).collect(),
            leader: status.quorum.leader,
            minions: minions.collect(),
        }
    }

    fn directory(&self) -> Result<Directory, Refusal> {
        let signed = self.truth.state().directory();
        let message = "this master has not caught up with its cluster yet: try again, or ask another one";
        let signed = signed.ok_or_else(|| Refusal::new(FailureCode::NoQuorum, message))?;
        signed.peek().map_err(|error| Refusal::new(FailureCode::Internal, format!("the directory: {error}")))
    }

    /// A master of an older version would promote a learner again, were it to lead.
    fn require_roles(&self, next: &Directory) -> Result<(), Refusal> {
        let level = self.truth.state().level();
        if level >= LEVEL_MEMBERSHIP || next.masters.iter().all(|master| master.role == Role::Voter) {
            return Ok(());
        }
        let message = format!(
            "a learner by choice needs feature level {LEVEL_MEMBERSHIP} and the cluster stands at {level}: it rises by itself \
             once every voting master runs a version that knows it"
        );
        Err(Refusal::new(FailureCode::Conflict, message))
    }

    /// Puts the planned directory in place, or says who was quicker.
    async fn put(&self, next: &Directory, name: RequestId) -> Result<(), Refusal> {
        let ca = self.truth.state().ca().ok_or_else(|| no_leader("the cluster has no CA yet"))?;
        let authority = Authority::open(self.credentials, &ca)
            .map_err(|error| Refusal::new(FailureCode::Busy, format!("{error}: try again, or ask another master")))?;
        let command = Command::Master(MasterCommand::Directory { directory: authority.sign_directory(next) });
        let committed = self.truth.propose(Lane::Control, command, Some(name)).await?;
        match committed.applied {
            Ok(_) => Ok(()),
            Err(Refused::Conflict(cause)) => {
                let message = format!(
                    "another change of the masters was made at the same moment and won; nothing of yours was done ({cause}). \
                     Look at `saltern cluster status` and ask again"
                );
                Err(Refusal::new(FailureCode::Conflict, message))
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Waits, for a while, until the group is what the change wants.
    async fn follow(&self, plan: Plan) -> Result<MemberAnswer, Refusal> {
        let deadline = self.truth.clock().monotonic() + FOLLOW_WITHIN;
        loop {
            let waits_for = self.waits_for(&plan, &self.directory()?);
            let complete = waits_for.is_none();
            if complete || self.truth.clock().monotonic() >= deadline {
                return Ok(MemberAnswer { plan: plan.view, complete, waits_for });
            }
            self.truth.group().changed(LOOK_EVERY).await;
        }
    }

    /// What is still under way of a change that the directory names; `None` if nothing.
    fn waits_for(&self, plan: &Plan, directory: &Directory) -> Option<String> {
        let (view, group) = (&plan.view, self.truth.group().leader_state());
        let (id, name) = (view.master, &view.name);
        let votes = group.voters.contains(&id);
        let role = directory.master(id).map(|record| record.role);
        match view.change {
            MemberChange::Promote if votes && role == Some(Role::Voter) => None,
            MemberChange::Promote => {
                let lag = self.ground(directory).lag.get(&id).copied();
                Some(match lag {
                    Some(lag) if lag > super::LAG_MAX => format!("{name} lacks {lag} entries"),
                    Some(_) | None => format!("{name} does not vote yet"),
                })
            }
            MemberChange::Demote if !votes && !group.joint && role == Some(Role::Learner) => None,
            MemberChange::Demote if self.truth.quorum().leader == Some(id) => Some(format!("{name} still leads")),
            MemberChange::Demote => Some(format!("{name} still votes")),
            MemberChange::Remove if directory.master(id).is_some() => Some(format!("the directory still names {name}")),
            MemberChange::Remove if votes || group.learners.contains(&id) || group.joint => {
                Some(format!("{name} is still a member of the group"))
            }
            MemberChange::Remove => self.waits_for_secret(),
            MemberChange::Drain if self.truth.quorum().leader == Some(id) && group.voters.len() > 1 => {
                Some(format!("{name} still leads"))
            }
            MemberChange::Drain => match self.presence.sessions_of(id).unwrap_or(0) {
                0 => None,
                minions => Some(format!("{name} still has {minions} minions")),
            },
            MemberChange::Undrain => None,
        }
    }

    fn waits_for_secret(&self) -> Option<String> {
        let secrets = self.truth.state().secrets().ok()?;
        (secrets.wanted > secrets.epoch)
            .then(|| format!("the state secret {} is not in force yet, {} is", secrets.wanted, secrets.epoch))
    }
}

/// Hands leadership over at the leader. Gives who is going to lead.
pub(crate) async fn hand_over_here(truth: &Truth, to: Option<MasterId>) -> Result<MasterId, String> {
    if !truth.group().leader_state().is_self {
        return Err("this master does not lead (any more): try again".into());
    }
    let nobody = "no other voter keeps up, answers and stays: look at `saltern cluster status`";
    let heir = to.or_else(|| super::drain::choose_heir(truth)).ok_or(nobody)?;
    tracing::info!(%heir, "handing leadership over, as an operator asked");
    truth.group().transfer(heir).await.map_err(|error| error.to_string())?;
    Ok(heir)
}

fn no_leader(cause: &str) -> Refusal {
    Refusal::new(FailureCode::Conflict, format!("leadership was not handed over: {cause}"))
}
