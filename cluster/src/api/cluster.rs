//! The cluster itself: its members, and how further masters come in.

use super::{Answered, Api, master_name};
use crate::founding::grant;
use crate::http::{Fresh, JsonBody, Operator, Refusal, RequestName};
use crate::truth::{RaftMember, RaftStatus};
use axum::Extension;
use axum::extract::State as Shared;
use saltern_wire::MasterId;
use saltern_wire::api::{
    ClusterStatus, FailureCode, JoinGrant, JoinRequest, JoinTokenRequest, JoinTokenView, MemberStatus,
};
use saltern_wire::master::{MasterRecord, MasterState};
use std::sync::Arc;
use std::time::Duration;

/// How long a refused join keeps its place: guessing tokens fills neither log nor disk faster than this.
const REFUSED_JOIN_PAUSE: Duration = Duration::from_secs(1);

/// `GET /v1/cluster/status`
pub async fn status(Shared(api): Shared<Arc<Api>>, _: Fresh) -> Answered<ClusterStatus> {
    api.read(|api, state| {
        let Some(directory) = api.directory() else {
            let message = "this master has not caught up with its cluster yet: try again, or ask another one";
            return Err(Refusal::new(FailureCode::NoQuorum, message));
        };
        let raft = api.truth.status();
        let newest = raft.members.iter().filter_map(|member| member.last_log).chain([raft.last_log]).max();
        let members = directory.masters.iter().map(|record| member(api, &raft, newest, record)).collect();
        let counts = state.counts();
        Ok(ClusterStatus {
            cluster: directory.cluster,
            ca_fingerprint: api.credentials.ca_fingerprint(),
            quorum: raft.quorum.fresh,
            failure_tolerance: failure_tolerance(&raft),
            leader: raft.quorum.leader.map(|leader| master_name(Some(&directory), leader)),
            term: raft.quorum.term,
            members,
            minions_accepted: counts.accepted,
            minions_connected: api.presence.all().len() as u64,
            jobs_open: counts.open_jobs,
            timing: Some(crate::regions::duty::status(&api.truth, &directory)),
            directory: (directory.generation, directory.version),
            level: state.level(),
            backup: api.schedule.as_ref().map(|schedule| schedule.status(directory.cluster)),
        })
    })
    .await
}

/// `POST /v1/cluster/join-token`
pub async fn join_token(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
    JsonBody(request): JsonBody<JoinTokenRequest>,
) -> Answered<JoinTokenView> {
    let (view, _) = grant::create_token(&api.truth, &api.credentials, &request, name).await?;
    tracing::info!(uses = request.uses, expires = %view.expires, operator = operator.0, "made a join token");
    Ok(api.answer(view))
}

/// `POST /v1/cluster/join`. Open to everybody: the join token inside is what proves the right to join.
pub async fn join(
    Shared(api): Shared<Arc<Api>>,
    RequestName(name): RequestName,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Answered<JoinGrant> {
    let Ok(_place) = api.joins.try_acquire() else {
        return Err(Refusal::new(FailureCode::Busy, "other machines are joining through this master: try again"));
    };
    match grant::issue_join(&api.truth, &api.credentials, &request, name).await {
        Ok((granted, _)) => Ok(api.answer(granted)),
        Err(refusal) => {
            tracing::warn!(name = request.name, reason = refusal.0.message, "refused a master that wants to join");
            tokio::time::sleep(REFUSED_JOIN_PAUSE).await;
            Err(refusal)
        }
    }
}

/// How many more voters may die before writes stop.
fn failure_tolerance(raft: &RaftStatus) -> u32 {
    let voters = raft.members.iter().filter(|member| member.voter);
    let (all, reachable) = (voters.clone().count(), voters.filter(|member| member.reachable).count());
    let majority = all / 2 + 1;
    u32::try_from(reachable.saturating_sub(majority)).unwrap_or(0)
}

fn member(api: &Api, raft: &RaftStatus, newest: Option<u64>, record: &MasterRecord) -> MemberStatus {
    let held = raft.members.iter().find(|member| member.id == record.id);
    let last_log = held.and_then(|member| member.last_log);
    let reachable = held.is_some_and(|member| member.reachable);
    let quarantined = api.truth.quarantines().cause(record.id).filter(|_| !reachable);
    MemberStatus {
        id: record.id,
        name: record.name.clone(),
        role: if quarantined.is_some() { "quarantined" } else { role(held, raft.quorum.leader, record) }.into(),
        state: record.state,
        endpoints: record.endpoints.clone(),
        region: record.region.clone(),
        zone: record.zone.clone(),
        reachable,
        quarantined,
        last_log,
        lag: newest.zip(last_log).map(|(newest, last)| newest.saturating_sub(last)),
        round_trip_us: held.and_then(|member| member.round_trip_us),
        round_trip: api.truth.ways().to(record.id),
        minions: held.filter(|member| member.reachable).and_then(|_| api.presence.sessions_of(record.id)),
        version: held.and_then(|member| member.version.clone()),
        level: held.and_then(|member| member.level),
    }
}

fn role(held: Option<&RaftMember>, leader: Option<MasterId>, record: &MasterRecord) -> &'static str {
    match held {
        Some(_) if leader == Some(record.id) => "leader",
        Some(member) if member.voter => "follower",
        Some(_) if record.state != MasterState::Joining => "learner",
        Some(_) | None => "joining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::Quorum;

    fn raft(voters: &[bool]) -> RaftStatus {
        let member = |(id, reachable): (usize, &bool)| RaftMember {
            id: MasterId(id as u64 + 1),
            voter: true,
            last_log: None,
            reachable: *reachable,
            round_trip_us: None,
            sessions: None,
            version: None,
            level: None,
        };
        let quorum = Quorum { fresh: true, contact: true, stale_ms: None, leader: None, term: 1 };
        RaftStatus { quorum, members: voters.iter().enumerate().map(member).collect(), last_log: 0, applied: 0 }
    }

    #[test]
    fn tolerance_counts_the_voters_that_answer() {
        for (voters, expect) in [
            (&[true][..], 0),
            (&[true, true], 0),
            (&[true, true, true], 1),
            (&[true, true, false], 0),
            (&[true, false, false], 0),
            (&[true, true, true, true, true], 2),
            (&[true, true, true, true, false], 1),
        ] {
            assert_eq!(failure_tolerance(&raft(voters)), expect, "{voters:?}");
        }
    }
}
