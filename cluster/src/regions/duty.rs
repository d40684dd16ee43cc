//! What a leader does for masters that are far from each other: it chooses the timing that fits, if that is left to it, and
//! hands leadership over to the region that is to lead. And what every master asks before it starts anew.

use super::preferred::{Preference, Voter};
use super::turn::{Seen, Turn, turn};
use super::{forecast, timing};
use crate::membership::VOTERS_MAX;
use crate::space::Level;
use crate::truth::{Lane, Truth};
use saltern_store::command::{Command, SettingsCommand};
use saltern_wire::MasterId;
use saltern_wire::api::{RoundTrip, TimingStatus};
use saltern_wire::master::{Directory, MasterState, Role};
use saltern_wire::profile::{Profile, ProfileChoice};
use saltern_wire::settings::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Pause between two looks of a leader.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Entries that a master may lack that leadership is handed to.
const LAG_MAX: u64 = 500;

/// Pause after a handover that was tried, before anything else is: an election takes that long at most.
const HANDED_OVER_REST: Duration = Duration::from_secs(5);

/// Looks at which a master's turn has to have come before it takes it: longer than a probe is old.
const LOOKS_BEFORE_TURN: u32 = 3;

/// The duty of a leader. Ends with whoever drops it.
pub async fn lead_all(truth: Truth) {
    let mut preference = Preference::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let settings = truth.state().settings();
        let Some(directory) = directory(&truth) else { continue };
        let quorum = truth.quorum();
        if !quorum.fresh || quorum.leader != Some(truth.id()) {
            preference.handle_rest(stable(&settings), truth.clock().monotonic());
            continue;
        }
        choose_timing(&truth, &settings, &directory).await;
        prefer(&truth, &settings, &directory, &mut preference).await;
    }
}

fn directory(truth: &Truth) -> Option<Directory> {
    truth.state().directory()?.peek().ok()
}

/// How long a master of the preferred region has to be well.
fn stable(settings: &Settings) -> Duration {
    Duration::from_secs(settings.preferred_region_seconds).min(super::preferred::PATIENCE_MAX)
}

/// Slows the timing down if it was left to measuring and a voter, or one that would be, is too far for it. Never speeds it
/// up: what was far once may be far again, and an operator who brought masters together can say so.
async fn choose_timing(truth: &Truth, settings: &Settings, directory: &Directory) {
    if settings.profile != ProfileChoice::Auto {
        return;
    }
    let measured = timing::measured(&truth.ways().pairs(truth.id()), &electorate(truth, directory));
    let Some(slower) = measured.filter(|measured| *measured > settings.timing) else { return };
    let command = SettingsCommand::Set { name: "timing".into(), value: serde_json::json!(slower) };
    match truth.propose(Lane::Control, Command::Settings(command), None).await {
        Ok(committed) => match committed.applied {
            Ok(_) => {
                tracing::info!(from = %settings.timing, to = %slower, "masters are far apart: the profile is slower now")
            }
            Err(refused) => tracing::debug!(%refused, "the profile was not changed yet; trying again"),
        },
        Err(error) => tracing::debug!(%error, "the profile was not changed yet; trying again"),
    }
}

/// Voters, and those that would be if they were near enough.
fn electorate(truth: &Truth, directory: &Directory) -> BTreeSet<MasterId> {
    let group = truth.group().leader_state();
    let mut all = group.voters;
    if all.len() < VOTERS_MAX {
        let joining = directory
            .masters
            .iter()
            .filter(|master| master.state != MasterState::Draining && master.role == Role::Voter);
        all.extend(joining.map(|master| master.id));
    }
    all
}

/// Whether a learner that has caught up is near enough to vote. Asked by the leader before it promotes one.
pub fn may_vote(truth: &Truth, id: MasterId) -> bool {
    let (pairs, voters) = (truth.ways().pairs(truth.id()), truth.group().leader_state().voters);
    timing::near_enough(truth.timing(), &pairs, truth.id(), id, &voters)
}

/// Hands leadership over to a voter of the preferred region whose time has come.
async fn prefer(truth: &Truth, settings: &Settings, directory: &Directory, preference: &mut Preference) {
    let now = truth.clock().monotonic();
    let region = |id: MasterId| directory.master(id).map(|record| record.region.as_str());
    let wanted = settings.preferred_region.as_str();
    if wanted.is_empty() || region(truth.id()) == Some(wanted) {
        return preference.handle_rest(stable(settings), now);
    }
    let group = truth.group().leader_state();
    let of_region = group.voters.iter().filter(|id| region(**id) == Some(wanted));
    let voters: Vec<Voter> = of_region.map(|id| voter(truth, settings, directory, *id, &group.voters)).collect();
    let Some(heir) = preference.handle_look(&voters, stable(settings), now) else { return };
    tracing::info!(%heir, region = wanted, "handing leadership over to the region that is to lead");
    if let Err(error) = truth.group().transfer(heir).await {
        tracing::warn!(%error, "leadership was not handed over; trying again later");
    }
    tokio::time::sleep(HANDED_OVER_REST).await;
}

/// What speaks for a voter, and against it.
fn voter(
    truth: &Truth,
    settings: &Settings,
    directory: &Directory,
    id: MasterId,
    voters: &BTreeSet<MasterId>,
) -> Voter {
    let group = truth.group().leader_state();
    let caught_up = group.matched.get(&id).copied().flatten().is_some_and(|index| index + LAG_MAX >= group.last_log);
    let roomy = truth.room_of(id).is_some_and(|room| room.level() == Level::Roomy);
    let active = directory.master(id).is_some_and(|record| record.state == MasterState::Active);
    let ways = truth.ways();
    let own_row = ways.of(id);
    let heard = own_row.iter().filter(|way| way.reachable && voters.contains(&way.to)).count();
    let majority = 1 + heard > voters.len() / 2;
    let in_time = ways.runs(id).is_none_or(|runs| runs == settings.timing);
    let mut trips: Vec<u64> =
        own_row.iter().filter(|way| voters.contains(&way.to)).map(|way| way.round_trip.p50_us).collect();
    trips.sort_unstable();
    let needed = voters.len() / 2;
    let commit_us = if needed == 0 { Some(0) } else { trips.get(needed - 1).copied() };
    let reachable = ways.to(id).is_some() && truth.room_of(id).is_some();
    Voter { id, fit: reachable && caught_up && roomy && active && majority && in_time, commit_us }
}

/// Ends when this master is to start anew, with the profile that it is to run with then. A leader hands over first.
pub async fn turn_to_start(truth: &Truth) -> Profile {
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match own_turn(truth) {
            Turn::Wait => looks = 0,
            // Looked at again: what one probe said may be the state of a second ago.
            Turn::Start | Turn::HandOver(_) if looks < LOOKS_BEFORE_TURN => looks += 1,
            Turn::Start => return truth.state().settings().timing,
            Turn::HandOver(heir) => {
                looks = 0;
                tracing::info!(%heir, "handing leadership over before starting anew with another profile");
                if let Err(error) = truth.group().transfer(heir).await {
                    tracing::warn!(%error, "leadership was not handed over; trying again");
                }
                tokio::time::sleep(HANDED_OVER_REST).await;
            }
        }
    }
}

/// What a master whose timing is not the cluster's is to do now.
fn own_turn(truth: &Truth) -> Turn {
    let settings = truth.state().settings();
    let Some(runs) = truth.profile().filter(|_| truth.state().cluster().is_some()) else { return Turn::Wait };
    let status = truth.status();
    if !status.quorum.fresh {
        return Turn::Wait;
    }
    let ways = truth.ways();
    let seen = |member: &crate::truth::RaftMember| Seen {
        id: member.id,
        votes: member.voter,
        reachable: member.reachable,
        runs: if member.id == truth.id() { Some(runs) } else { ways.runs(member.id) },
    };
    let members: Vec<Seen> = status.members.iter().map(seen).collect();
    turn(truth.id(), runs, settings.timing, status.quorum.leader, &members)
}

/// The group's timing, as this master knows it.
pub fn status(truth: &Truth, directory: &Directory) -> TimingStatus {
    let settings = truth.state().settings();
    let name = |id: MasterId| crate::api::master_name(Some(directory), id);
    let ways = truth.ways();
    let runs = |id: MasterId| if id == truth.id() { truth.profile() } else { ways.runs(id) };
    // One that never answered does not say what it runs with.
    let known = |id: MasterId| id == truth.id() || ways.to(id).is_some();
    let ids = directory.masters.iter().map(|master| master.id);
    let other = ids.filter(|id| known(*id) && runs(*id) != Some(settings.timing)).map(name).collect();
    let pairs = ways.pairs(truth.id());
    let voters = truth.group().leader_state().voters;
    let unfit = timing::fits(settings.timing, &pairs, &voters, name).err().map(|unfit| unfit.to_string());
    TimingStatus {
        profile: settings.profile,
        timing: settings.timing,
        other,
        unfit,
        preferred_region: settings.preferred_region,
    }
}

/// Refuses a profile that does not fit what is measured between the masters of `directory`, or is faster and not known to.
pub fn check_profile(truth: &Truth, directory: &Directory, profile: Profile) -> Result<(), timing::Unfit> {
    let name = |id: MasterId| crate::api::master_name(Some(directory), id);
    let (pairs, current) = (truth.ways().pairs(truth.id()), truth.state().settings().timing);
    timing::may_follow(profile, current, &pairs, &electorate(truth, directory), name)
}

/// The fastest profile that fits, for an operator who leaves it to measuring.
pub fn measured_profile(truth: &Truth, directory: &Directory) -> Option<Profile> {
    let measured = timing::measured(&truth.ways().pairs(truth.id()), &electorate(truth, directory))?;
    check_profile(truth, directory, measured).is_ok().then_some(measured)
}

/// The cluster as a forecast sees it.
pub fn members(truth: &Truth, directory: &Directory, minions: impl Fn(MasterId) -> u64) -> Vec<forecast::Member> {
    let status = truth.status();
    let held = |id: MasterId| status.members.iter().find(|member| member.id == id);
    let member = |record: &saltern_wire::master::MasterRecord| forecast::Member {
        id: record.id,
        name: record.name.clone(),
        region: record.region.clone(),
        zone: record.zone.clone(),
        votes: held(record.id).is_some_and(|member| member.voter),
        reachable: held(record.id).is_some_and(|member| member.reachable),
        minions: minions(record.id),
    };
    directory.masters.iter().map(member).collect()
}

/// Every known way, by pair.
pub fn pairs(truth: &Truth) -> BTreeMap<(MasterId, MasterId), RoundTrip> {
    truth.ways().pairs(truth.id())
}
