//! kill -9 of a minion, of a supervisor or of both, at every step of a job, with masters within reach and without: the job
//! runs once at most, and every master holds exactly one outcome of it, the same.
//!
//! Each way to die has a minion of its own, and all die at the same time; a round repeats everything with other jobs. How
//! often a job ran is counted on the disk.

use anyhow::{Context, ensure};
use saltern_jepsen::real::faults::seen;
use saltern_jepsen::real::{SETTLE, Wish, World};
use saltern_minion::executor::Work;
use saltern_ops::fleet::jobs;
use saltern_ops::fleet::process::kill_all_of;
use saltern_wire::api::{JobState, Submitted};
use saltern_wire::job::Progress;
use saltern_wire::job::Progress::{Failed, Interrupted, Returned};
use saltern_wire::target::TargetKind;
use saltern_wire::{JobId, decode};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who dies, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The agent, at a fault point.
    Agent(&'static str),
    /// The supervisor, at a fault point.
    Supervisor(&'static str),
    /// The agent, by its pid, while the job runs.
    AgentByPid,
    /// The supervisor, by its pid, while the job runs.
    SupervisorByPid,
    /// Both, and what they started.
    BothByPid,
}

/// A way to die, what may become of its job, and how often it may have run.
struct Death {
    way: Way,
    outcomes: &'static [Progress],
    runs: &'static [usize],
}

const fn death(way: Way, outcomes: &'static [Progress], runs: &'static [usize]) -> Death {
    Death { way, outcomes, runs }
}

const DEATHS: [Death; 13] = [
    // Between journal and start.
    death(Way::Agent("journal.append.after"), &[Interrupted], &[0]),
    death(Way::Agent("job.start.before"), &[Interrupted], &[0]),
    // Between start and result. The supervisor may have had its work from the dying agent, or not.
    death(Way::Agent("job.start.after"), &[Returned, Interrupted], &[0, 1]),
    death(Way::Agent("job.accept.after"), &[Returned], &[1]),
    death(Way::Supervisor("job.run.before"), &[Interrupted], &[0]),
    death(Way::AgentByPid, &[Returned], &[1]),
    death(Way::SupervisorByPid, &[Interrupted], &[1]),
    death(Way::BothByPid, &[Interrupted], &[1]),
    // Between result and outbox.
    death(Way::Supervisor("job.run.after"), &[Interrupted], &[1]),
    death(Way::Supervisor("outbox.rename.before"), &[Interrupted], &[1]),
    death(Way::Supervisor("outbox.rename.after"), &[Returned], &[1]),
    // Between outbox and commit, and after it.
    death(Way::Agent("outbox.send.before"), &[Returned], &[1]),
    death(Way::Agent("outbox.remove.before"), &[Returned], &[1]),
];

/// How long a job runs that is killed by pid, in seconds: longer than the round takes, should nobody end it.
const LONG_SECONDS: u32 = 4;

/// A round: whether the masters are within reach while the minions are down.
const ROUNDS: [bool; 3] = [true, false, true];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_at_whichever_step_a_job_runs_once_at_most_and_has_one_outcome_everywhere() -> anyhow::Result<()> {
    let mut world = World::of(Wish { masters: 3, minions: DEATHS.len(), ..Wish::default() }).await?;
    for (round, reachable) in ROUNDS.into_iter().enumerate() {
        let marks = world.folder.path().join(format!("round-{round}"));
        std::fs::create_dir(&marks)?;
        let jobs = submit_all(&world, &marks).await?;
        for (number, death) in DEATHS.iter().enumerate() {
            die(&mut world, number, death.way, jobs[number].jid, &marks)
                .await
                .with_context(|| format!("round {round}, {:?}", death.way))?;
        }
        if !reachable {
            world
                .cluster
                .fleet
                .masters
                .iter()
                .for_each(|master| master.process.iter().for_each(|process| process.freeze()));
        }
        for number in 0..DEATHS.len() {
            if world.cluster.fleet.minions[number].process.is_none() {
                world.cluster.fleet.start_minion(number)?;
            }
        }
        if !reachable {
            // Long enough for every minion to look at its data folder and to dial in vain.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            world
                .cluster
                .fleet
                .masters
                .iter()
                .for_each(|master| master.process.iter().for_each(|process| process.thaw()));
        }
        check(&world, &jobs, &marks, &format!("round {round}, masters reachable: {reachable}")).await?;
    }
    for minion in &world.cluster.fleet.minions {
        let log = std::fs::read_to_string(minion.folder.join("log"))?;
        ensure!(!log.contains("another outcome of this job was committed"), "{} sent two outcomes:\n{log}", minion.id);
    }
    Ok(())
}

/// Arms every minion and gives each its job.
async fn submit_all(world: &World, marks: &Path) -> anyhow::Result<Vec<Submitted>> {
    let mut submitted = Vec::new();
    let mut client = world.cluster.client_of(&[0, 1, 2]);
    for (number, death) in DEATHS.iter().enumerate() {
        let seconds = match death.way {
            Way::Agent(point) | Way::Supervisor(point) => {
                world.faults_of_minion(number).arm(&format!("{point}=abort"))?;
                0
            }
            Way::AgentByPid | Way::SupervisorByPid | Way::BothByPid => LONG_SECONDS,
        };
        let mark = mark_of(marks, number);
        let script = format!("echo run >> {}; sleep {seconds}; echo done", mark.display());
        let id = &world.cluster.fleet.minions[number].id;
        let job = jobs::job(TargetKind::List, id, "cmd.run", &[script.into()]);
        submitted.push(jobs::submit(&mut client, &job).await?);
    }
    Ok(submitted)
}

fn mark_of(marks: &Path, number: usize) -> PathBuf {
    marks.join(format!("minion-{number}"))
}

/// Waits until whoever is to die has died, or kills it. A minion that is down afterwards has no process.
async fn die(world: &mut World, number: usize, way: Way, jid: JobId, marks: &Path) -> anyhow::Result<()> {
    let minion = &mut world.cluster.fleet.minions[number];
    match way {
        Way::Agent(_) => {
            let process = &mut minion.process;
            until(|| process.as_mut().and_then(|process| process.ended())).await.context("the agent did not die")?;
            *process = None;
        }
        Way::Supervisor(point) => {
            let log = minion.folder.join("log");
            let times = |text: String| seen(&text, point);
            let before = marks.join("..").join(format!("seen-{number}"));
            let known = std::fs::read_to_string(&before).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            let died = until(|| std::fs::read_to_string(&log).ok().map(times).filter(|seen| *seen > known)).await;
            std::fs::write(&before, died.context("the supervisor did not die")?.to_string())?;
        }
        Way::AgentByPid | Way::SupervisorByPid | Way::BothByPid => {
            let mark = mark_of(marks, number);
            until(|| mark.exists().then_some(())).await.context("the job did not start")?;
            let started = minion.data().join("jobs").join(format!("{jid}.started"));
            match way {
                Way::SupervisorByPid => {
                    let work: Work = decode(&std::fs::read(started)?)?;
                    let pid = i32::try_from(work.pid).ok().and_then(rustix::process::Pid::from_raw);
                    rustix::process::kill_process(pid.context("a pid")?, rustix::process::Signal::KILL)?;
                }
                Way::BothByPid => {
                    minion.process = None;
                    ensure!(kill_all_of(&minion.folder) > 0, "the supervisor and its job ran");
                }
                Way::AgentByPid | Way::Agent(_) | Way::Supervisor(_) => {
                    minion.process.take().context("it runs")?.kill();
                }
            }
        }
    }
    Ok(())
}

async fn until<T>(mut wanted: impl FnMut() -> Option<T>) -> Option<T> {
    let look = async {
        loop {
            if let Some(found) = wanted() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SETTLE, look).await.ok()
}

/// Every job is settled on every master, with the same one outcome, and ran as often as it may have.
async fn check(world: &World, submitted: &[Submitted], marks: &Path, context: &str) -> anyhow::Result<()> {
    for ((number, death), job) in DEATHS.iter().enumerate().zip(submitted) {
        let context = format!("{context}, {:?}", death.way);
        let mut first = None;
        for asked in 0..3 {
            let mut client = world.cluster.client(asked);
            let view = jobs::wait(&mut client, job.jid, SETTLE).await?;
            ensure!(view.summary.state == JobState::Done, "{context}: still open: {:?}", view.missing);
            ensure!(view.returns.len() == 1, "{context}: {} outcomes, missing {:?}", view.returns.len(), view.missing);
            let returns = first.get_or_insert_with(|| view.returns.clone());
            ensure!(*returns == view.returns, "{context}: masters differ: {returns:?} and {:?}", view.returns);
            let outcome = view.returns.values().next().context("one")?;
            ensure!(death.outcomes.contains(&outcome.state), "{context}: {outcome:?}");
            ensure!(outcome.state != Failed && !outcome.value.is_null(), "{context}: without a reason: {outcome:?}");
        }
        let runs = std::fs::read_to_string(mark_of(marks, number)).unwrap_or_default().lines().count();
        ensure!(death.runs.contains(&runs), "{context}: ran {runs} times");
    }
    Ok(())
}
