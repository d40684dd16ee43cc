//! Carries out strikes on a fleet and brings back what died, writing down what was seen.
//!
//! ```text
//!   Strike ─▶ arm or kill ─▶ was it seen? ─▶ down for a while ─▶ start ─▶ serving again, caught up ─▶ next
//! ```
//!
//! **Invariants.** A strike counts only when it was seen: the process ended, or its log has the line of the fault point. A fault
//! that was not seen is disarmed before the next strike. Whoever is started must come up: a master answers a consistent read, a
//! minion returns a ping; otherwise the history says how it ended and what it said last.

use super::history::Deed;
use super::plan::{Action, MASTERS, MINIONS, Member, Seen, Strike, Way, What};
use super::power::Disks;
use super::report::Tally;
use super::site::Site;
use crate::real::faults::{self, Control};
use anyhow::Context;
use saltern_ops::fleet::bring_up::Cluster;
use saltern_ops::fleet::process::{Ending, Process, kill_all_of};
use saltern_ops::fleet::{Environment, jobs};
use saltern_wire::api::{ClusterStatus, JobState};
use saltern_wire::fault::{POINTS, Point, Program};
use saltern_wire::target::TargetKind;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// How long a point is waited for. A busy process passes each of them several times in this time.
const HAPPEN_TIMEOUT: Duration = Duration::from_secs(4);

/// The same for points that are passed when a snapshot is made or installed, or at an election.
const RARE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a process may take to stop: none of its threads waits for the kernel longer than a write to its disk takes.
const FREEZE_WITHIN: Duration = Duration::from_secs(5);

/// How long a minion's own end may take after it was said: unwinding with a backtrace, on a busy machine.
const OWN_END: Duration = Duration::from_secs(2);

/// How long a process may take to end of an abort or a panic.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a process that was told of an error is watched: whether it ends of it is its own decision.
const ERROR_WATCH: Duration = Duration::from_millis(400);

/// How long a master may take from its start to a consistent read, and a minion to a returned ping, on a busy machine.
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(15);

/// A fault whose line was seen.
#[derive(Debug, Default)]
struct Happened {
    /// How the process ended, if it did.
    ending: Option<Ending>,
}

/// The one who strikes.
pub struct Nemesis<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// Where it is written down.
    pub site: &'a Site,
    /// Disks that can lose their power.
    pub disks: Option<&'a Disks>,
    /// What was seen of each point.
    pub seen: Seen,
    /// Counts for the report.
    pub tally: Tally,
    /// Entries that a master has to miss before only a snapshot brings it back.
    pub purged_after: u64,
}

impl Nemesis<'_> {
    /// Carries out one strike and waits until everybody works again.
    pub async fn strike(&mut self, strike: &Strike) -> anyhow::Result<()> {
        tokio::time::sleep(strike.after).await;
        let begun = self.site.now();
        let mut dead = BTreeSet::new();
        let mut hurt = BTreeSet::new();
        let mut happened = true;
        let mut point = None;
        match &strike.what {
            What::Kill(members) => dead.extend(self.kill_all(members)),
            What::Machine(minion) => {
                let folder = self.cluster.fleet.minions[*minion].folder.clone();
                dead.extend(self.kill_all(&[Member::Minion(*minion)]));
                kill_all_of(&folder);
            }
            What::Power(members) => {
                // A machine without power says nothing more. A process that outlives its file system by a moment could: ext4
                // calls a sync done that was under way when it was shut down and whose journal was dropped.
                self.freeze_all(members).await?;
                let disks = self.disks.context("this run has no disks of its own")?;
                for member in members {
                    disks.cut(*member)?;
                }
                dead.extend(self.kill_all(members));
                for member in members {
                    if let Member::Minion(_) = member {
                        kill_all_of(&self.folder(*member));
                    }
                    disks.mount_again(*member)?;
                    self.tally.power_losses += 1;
                }
            }
            What::Point { place, action, hit, way, pick } => {
                point = Some(POINTS[*place].name);
                happened = self.point(*place, *action, *hit, *way, *pick, &mut dead, &mut hurt).await?;
                if happened {
                    self.seen.happened[*place] += 1;
                    self.seen.missed[*place] = 0;
                } else {
                    self.seen.missed[*place] += 1;
                }
            }
        }
        hurt.extend(dead.iter().copied());
        let victims = hurt.iter().map(ToString::to_string).collect();
        let deed = Deed::Strike { strike: strike.to_string(), point: point.map(str::to_owned), victims };
        self.site.record("nemesis", deed, outcome(happened), begun);
        tokio::time::sleep(strike.down).await;
        self.bring_back(&dead, strike.again).await?;
        self.notice_the_dead().await
    }

    fn folder(&self, member: Member) -> PathBuf {
        match member {
            Member::Master(number) => self.cluster.fleet.masters[number].folder.clone(),
            Member::Minion(number) => self.cluster.fleet.minions[number].folder.clone(),
        }
    }

    fn process(&mut self, member: Member) -> &mut Option<Process> {
        match member {
            Member::Master(number) => &mut self.cluster.fleet.masters[number].process,
            Member::Minion(number) => &mut self.cluster.fleet.minions[number].process,
        }
    }

    fn environment(&mut self, member: Member) -> &mut Environment {
        match member {
            Member::Master(number) => &mut self.cluster.fleet.masters[number].environment,
            Member::Minion(number) => &mut self.cluster.fleet.minions[number].environment,
        }
    }

    /// Stops those that run, and waits until no code of theirs runs any more.
    async fn freeze_all(&mut self, members: &[Member]) -> anyhow::Result<()> {
        for member in members {
            if let Some(process) = self.process(*member).as_ref() {
                anyhow::ensure!(
                    process.freeze_whole(FREEZE_WITHIN).await,
                    "{member} did not stop within {FREEZE_WITHIN:?}"
                );
            }
        }
        Ok(())
    }

    /// Kills with -9. Gives those that were running: their deaths are seen, because they are waited for.
    fn kill_all(&mut self, members: &[Member]) -> Vec<Member> {
        let mut dead = Vec::new();
        for member in members {
            if let Some(process) = self.process(*member).take() {
                process.kill();
                self.tally.killed += 1;
                dead.push(*member);
            }
        }
        dead
    }

    fn start(&mut self, member: Member) -> anyhow::Result<()> {
        match member {
            Member::Master(number) => self.cluster.fleet.start_master(number)?,
            Member::Minion(number) => self.cluster.fleet.start_minion(number)?,
        }
        Ok(())
    }

    /// Brings one fault about. Gives whether it was seen.
    #[expect(clippy::too_many_arguments, reason = "one point of a plan, and what came of it")]
    async fn point(
        &mut self,
        place: usize,
        action: Action,
        hit: u64,
        way: Way,
        pick: usize,
        dead: &mut BTreeSet<Member>,
        hurt: &mut BTreeSet<Member>,
    ) -> anyhow::Result<bool> {
        let point = &POINTS[place];
        let spec = format!("{}={}@{hit}", point.name, action.word());
        let victim = self.victim(point, way, pick).await?;
        let before = self.said(victim, point);
        match way {
            Way::Running => Control::of(&self.folder(victim)).arm(&spec)?,
            Way::AtElection => {
                Control::of(&self.folder(victim)).arm(&spec)?;
                let leader = self.leader().await.filter(|leader| Member::Master(*leader) != victim);
                let leader = leader.unwrap_or((pick + 1) % MASTERS);
                dead.extend(self.kill_all(&[Member::Master(leader)]));
            }
            Way::AtStart | Way::Behind => {
                self.kill_all(&[victim]);
                if way == Way::Behind {
                    self.fall_behind().await;
                }
                self.environment(victim).insert(faults::FAULTS.into(), spec);
                let started = self.start(victim);
                self.environment(victim).remove(faults::FAULTS);
                started?;
            }
        }
        let before = if matches!(way, Way::AtStart | Way::Behind) { 0 } else { before };
        let rare = way != Way::Running || point.name.starts_with("snapshot");
        let happened = self.watch(victim, point, before, if rare { RARE_TIMEOUT } else { HAPPEN_TIMEOUT }).await;
        let happened = match happened {
            Some(happened) => Some(happened),
            None => self.disarm(victim, point, before, dead).await,
        };
        let Some(happened) = happened else { return Ok(false) };
        self.judge(victim, place, action, happened, dead, hurt).await;
        Ok(true)
    }

    /// Takes back a fault that was not seen: it must not happen later, when nobody looks. What happened while it was taken back
    /// did happen. A process that is gone has nothing armed; one that does not take it back in time is killed.
    async fn disarm(
        &mut self,
        victim: Member,
        point: &Point,
        before: usize,
        dead: &mut BTreeSet<Member>,
    ) -> Option<Happened> {
        let end = self.site.now() + END_TIMEOUT;
        while Control::of(&self.folder(victim)).clear().is_err() {
            let ended = self.process(victim).as_mut().is_none_or(|process| process.ending().is_some());
            if ended {
                break;
            }
            if self.site.now() > end {
                dead.extend(self.kill_all(&[victim]));
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
        self.watch(victim, point, before, Duration::ZERO).await
    }

    /// What becomes of a process at whose fault point something happened.
    async fn judge(
        &mut self,
        victim: Member,
        place: usize,
        action: Action,
        happened: Happened,
        dead: &mut BTreeSet<Member>,
        hurt: &mut BTreeSet<Member>,
    ) {
        let point = &POINTS[place];
        hurt.insert(victim);
        self.tally.happened(place, action);
        if point.program == Program::Supervisor {
            // Minions write to their outbox themselves when they report that a job was interrupted. One that panicked has said
            // so before it is gone.
            let own = match (&happened.ending, self.process(victim).as_mut()) {
                (None, Some(own)) if action.is_deadly() => own.wait(OWN_END).await,
                _ => None,
            };
            let died = happened.ending.is_some() || own.is_some();
            if died {
                *self.process(victim) = None;
                self.tally.killed += 1;
                dead.insert(victim);
            } else {
                self.tally.supervisors += u32::from(action.is_deadly());
            }
            return;
        }
        let patience = match action {
            Action::Abort | Action::Panic => END_TIMEOUT,
            Action::Error => ERROR_WATCH,
            Action::Sleep(pause) => {
                hurt.remove(&victim);
                return tokio::time::sleep(pause).await;
            }
        };
        let ending = match happened.ending {
            Some(ending) => Some(ending),
            None => match self.process(victim).as_mut() {
                Some(process) => process.wait(patience).await,
                None => None,
            },
        };
        if ending.is_some() {
            *self.process(victim) = None;
            self.tally.killed += 1;
            dead.insert(victim);
        } else if action.is_deadly() {
            let cause = format!("it went on after a {} at {}", action.word(), point.name);
            self.not_up(victim, cause);
            dead.extend(self.kill_all(&[victim]));
        }
    }

    /// Who is struck: among those that pass the point, if anybody does, the one that was drawn.
    async fn victim(&self, point: &Point, way: Way, pick: usize) -> anyhow::Result<Member> {
        let all: Vec<Member> = match point.program {
            Program::Master => (0..MASTERS).map(Member::Master).collect(),
            Program::Minion | Program::Supervisor => (0..MINIONS).map(Member::Minion).collect(),
        };
        let passes = |member: &Member| {
            let hits = Control::of(&self.folder(*member)).hits().unwrap_or_default();
            hits.get(point.name).is_some_and(|hits| *hits > 0)
        };
        let mut candidates: Vec<Member> = match way {
            Way::Running if point.program != Program::Supervisor => all.iter().copied().filter(passes).collect(),
            Way::AtElection => {
                let leader = self.leader().await.map(Member::Master);
                all.iter().copied().filter(|member| Some(*member) != leader).collect()
            }
            Way::Running | Way::AtStart | Way::Behind => Vec::new(),
        };
        if candidates.is_empty() {
            candidates = all;
        }
        Ok(candidates[pick % candidates.len()])
    }

    /// How often the point has said that something happened, in the victim's present life.
    fn said(&mut self, victim: Member, point: &Point) -> usize {
        let log = self.process(victim).as_ref().map(Process::said).unwrap_or_default();
        faults::seen(&log, point.name)
    }

    /// Waits until the point's line is there, or the process has ended with it.
    async fn watch(&mut self, victim: Member, point: &Point, before: usize, within: Duration) -> Option<Happened> {
        let end = self.site.now() + within;
        loop {
            // The ending is asked for first: what was said before it is then all there is.
            let ending = self.process(victim).as_mut().and_then(Process::ending);
            if self.said(victim, point) > before {
                return Some(Happened { ending });
            }
            if ending.is_some() || self.site.now() > end {
                // A process that ended of something else is found by `notice_the_dead`.
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the log has gone on so far that the masters have purged what one that is away lacks.
    async fn fall_behind(&self) {
        let Some(from) = self.last_log().await else { return };
        let end = self.site.now() + RARE_TIMEOUT;
        while self.site.now() < end && self.last_log().await.is_none_or(|last| last < from + self.purged_after) {
            tokio::time::sleep(POLL * 4).await;
        }
    }

    async fn last_log(&self) -> Option<u64> {
        let status = self.status().await?;
        status.members.iter().filter_map(|member| member.last_log).max()
    }

    async fn status(&self) -> Option<ClusterStatus> {
        for number in 0..MASTERS {
            let mut client = self.site.client_of(number);
            let ask = client.get::<ClusterStatus>("/v1/cluster/status", "");
            if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), ask).await
                && answer.value.leader.is_some()
            {
                return Some(answer.value);
            }
        }
        None
    }

    async fn leader(&self) -> Option<usize> {
        let leader = self.status().await?.leader?;
        self.cluster.fleet.masters.iter().position(|master| master.name == leader)
    }

    /// Starts everybody who is dead and waits until all of them work. The first is killed once more `again` after its start.
    async fn bring_back(&mut self, dead: &BTreeSet<Member>, again: Option<Duration>) -> anyhow::Result<()> {
        for (place, member) in dead.iter().enumerate() {
            self.start(*member)?;
            if let Some(again) = again.filter(|_| place == 0) {
                tokio::time::sleep(again).await;
                let begun = self.site.now();
                let killed = self.kill_all(&[*member]);
                self.tally.again += 1;
                let strike = format!("kill {member} while it recovers");
                let victims = killed.iter().map(ToString::to_string).collect();
                self.site.record("nemesis", Deed::Strike { strike, point: None, victims }, outcome(true), begun);
                self.start(*member)?;
            }
        }
        for member in dead {
            self.wait_until_up(*member).await?;
        }
        Ok(())
    }

    /// Waits until a member that was started works again.
    async fn wait_until_up(&mut self, member: Member) -> anyhow::Result<()> {
        let begun = self.site.now();
        let cause = match member {
            Member::Master(number) => {
                self.cluster.wait_for_serving(number, UP_TIMEOUT).await.err().map(|error| error.to_string())
            }
            Member::Minion(number) => self.ping(number).await.err(),
        };
        match cause {
            None => {
                self.tally.recovered(member, self.site.now().saturating_sub(begun));
                let deed = Deed::Restart { member: member.to_string(), cause: None };
                self.site.record("nemesis", deed, outcome(true), begun);
            }
            Some(cause) => {
                self.not_up(member, cause);
                // The run goes on, for what else it may find.
                self.kill_all(&[member]);
                self.start(member)?;
            }
        }
        Ok(())
    }

    fn not_up(&self, member: Member, cause: String) {
        let deed = Deed::Restart { member: member.to_string(), cause: Some(cause) };
        self.site.record("nemesis", deed, outcome(false), self.site.now());
    }

    /// Waits until a minion answers a ping through whichever master.
    async fn ping(&mut self, number: usize) -> Result<(), String> {
        let id = self.cluster.fleet.minions[number].id.clone();
        let job = jobs::job(TargetKind::List, &id, "test.ping", &[]);
        let end = self.site.now() + UP_TIMEOUT;
        let mut last = String::from("nothing");
        while self.site.now() < end {
            let process = self.cluster.fleet.minions[number].process.as_mut();
            if let Some(ended) = process.and_then(Process::ended) {
                return Err(ended);
            }
            let mut client =
                self.cluster.client_of(&[number % MASTERS, (number + 1) % MASTERS, (number + 2) % MASTERS]);
            let left = end.saturating_sub(self.site.now()).min(Duration::from_secs(10));
            match jobs::run(&mut client, &job, left).await {
                Ok(view) if view.summary.state == JobState::Done && view.returns.len() == 1 => return Ok(()),
                Ok(view) => last = format!("{:?}", view.missing),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("{id} did not answer a ping within {} s; last seen: {last}", UP_TIMEOUT.as_secs()))
    }

    /// A process that ended without having been struck is a finding; it is started again.
    pub async fn notice_the_dead(&mut self) -> anyhow::Result<()> {
        let all = (0..MASTERS).map(Member::Master).chain((0..MINIONS).map(Member::Minion));
        let mut dead = BTreeSet::new();
        for member in all {
            if let Some(ended) = self.process(member).as_mut().and_then(Process::ended) {
                self.not_up(member, format!("it ended by itself: {ended}"));
                *self.process(member) = None;
                dead.insert(member);
            }
        }
        self.bring_back(&dead, None).await
    }

    /// Disarms everything and waits until all members work: the end of the faults.
    pub async fn heal(&mut self) -> anyhow::Result<()> {
        self.notice_the_dead().await?;
        for number in 0..MASTERS {
            self.wait_until_up(Member::Master(number)).await?;
        }
        for number in 0..MINIONS {
            self.wait_until_up(Member::Minion(number)).await?;
        }
        Ok(())
    }
}

fn outcome(ok: bool) -> super::site::Outcome {
    if ok { super::site::Outcome::Done(0) } else { super::site::Outcome::Refused }
}
