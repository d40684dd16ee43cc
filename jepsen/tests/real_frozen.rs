//! Masters that stop without dying: frozen, silently cut off in one direction or both, or replaced by somebody who accepts
//! connections and never speaks. Their minions work through another master within 20 s, nothing is lost or doubled, and a
//! master that wakes up calls nothing fresh that is not.
//!
//! The whole fleet lives in a network namespace of its own, which this program enters by starting itself again under
//! `unshare`. Packets are dropped there by address and port, on arrival, so that nobody is told anything.

mod frozen;

use anyhow::{Context, ensure};
use frozen::listeners::{Manner, Mute};
use frozen::namespace::{self, Direction};
use frozen::stale::Watcher;
use saltern_jepsen::real::{SETTLE, Wish, World, assert_exact};
use saltern_ops::edge::SystemClock;
use saltern_ops::fleet::burst::Burst;
use saltern_ops::fleet::jobs;
use saltern_wire::api::{KeyChanges, KeyDecision, KeySelection, MinionList, Presence};
use saltern_wire::io::Clock;
use saltern_wire::key::KeyState;
use std::collections::BTreeMap;
use std::time::Duration;

/// Minions that are watched; one more is revoked while its master is frozen.
const MINIONS: usize = 9;

/// Within so long every minion works through another master.
const BOUND: Duration = Duration::from_secs(20);

/// The minions that are watched.
const WATCHED: &str = "minion-[1-9]";

/// What happens to a master besides being frozen.
#[derive(Debug, Clone, Copy)]
enum Fault {
    CutOff(Direction),
    Replaced(Manner),
}

const FAULTS: [Fault; 5] = [
    Fault::CutOff(Direction::Both),
    Fault::CutOff(Direction::ToMinions),
    Fault::CutOff(Direction::FromMinions),
    Fault::Replaced(Manner::Silent),
    Fault::Replaced(Manner::Greets),
];

const TEST: &str = "minions_of_a_master_that_stands_still_work_through_another_and_nothing_stale_is_fresh";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minions_of_a_master_that_stands_still_work_through_another_and_nothing_stale_is_fresh() -> anyhow::Result<()> {
    if !namespace::is_inside() {
        return namespace::run_inside(TEST);
    }
    namespace::bring_up()?;
    let mut world = World::of(Wish { masters: 3, minions: MINIONS + 1, ..Wish::default() }).await?;
    let mut asked = 0;
    for fault in FAULTS {
        let number = busiest(&world, asked).await?;
        // The one that was hit may take its lost sessions for standing ones for a while.
        asked = others_of(number)[0];
        suffer(&mut world, fault, number).await.with_context(|| format!("{fault:?}, master {}", number + 1))?;
    }
    // Last, because a minion's key is rejected in it.
    freeze_and_wake(&mut world, asked).await.context("frozen")
}

/// The master with the most minions, as master `asked` sees it.
async fn busiest(world: &World, asked: usize) -> anyhow::Result<usize> {
    let mut counts = [0; 3];
    for minion in &world.cluster.fleet.minions[..MINIONS] {
        counts[world.master_of(asked, &minion.id).await?] += 1;
    }
    (0..3).max_by_key(|number| counts[*number]).context("three masters")
}

fn others_of(number: usize) -> [usize; 2] {
    [(number + 1) % 3, (number + 2) % 3]
}

/// One fault at one master, from the first job before it to the last check after it.
async fn suffer(world: &mut World, fault: Fault, number: usize) -> anyhow::Result<()> {
    let others = others_of(number);
    let (mut burst, attached) = begin(world, &format!("{fault:?}"), number).await?;
    let began = SystemClock::new();
    let (address, ports) = (world.cluster.fleet.masters[number].address, world.cluster.fleet.ports());
    let mut mute = None;
    match fault {
        Fault::CutOff(direction) => namespace::cut(address, ports, direction)?,
        Fault::Replaced(manner) => {
            world.kill_master(number)?;
            mute = Some(Mute::listen(address, ports, manner).await?);
            // Minions that lose their master know better for a while; those that start now try this one first again.
            for minion in 0..MINIONS {
                world.cluster.fleet.minions[minion].process.take().context("it runs")?.kill();
                world.cluster.fleet.start_minion(minion)?;
            }
        }
    }
    let times = works_through_others(world, &mut burst, number, &began).await?;
    report(&format!("{fault:?}"), &times, &attached);
    match fault {
        Fault::CutOff(_) => {
            ensure!(namespace::dropped()? > 0, "no packet was dropped: the fault was not there");
            namespace::heal()?;
        }
        Fault::Replaced(_) => {
            let accepted = mute.as_ref().map_or(0, Mute::accepted);
            ensure!(accepted > 0, "nobody dialled the listener that never speaks: the fault was not there");
            drop(mute);
            world.start_master(number)?;
        }
    }
    world.cluster.wait_for_serving(number, SETTLE).await?;
    settle(world, &burst, [others[0], others[1], number], &format!("{fault:?}")).await
}

/// A master is frozen, a key is rejected meanwhile and jobs are run; then it wakes up.
async fn freeze_and_wake(world: &mut World, asked: usize) -> anyhow::Result<()> {
    let victim = world.cluster.fleet.minions[MINIONS].id.clone();
    let number = world.master_of(asked, &victim).await?;
    let others = others_of(number);
    let (mut burst, attached) = begin(world, "frozen", number).await?;
    let began = SystemClock::new();
    freeze(world, number, true);
    // A minion that is frozen with its master keeps its session there.
    let stopped = world.cluster.fleet.minions[MINIONS].process.take().context("it runs")?;
    stopped.freeze();
    let times = works_through_others(world, &mut burst, number, &began).await?;
    report("Frozen", &times, &attached);
    reject(world, &others, &victim).await?;
    let newest = burst.submitted.last().context("submitted")?.jid;
    let watcher = Watcher::begin(world, number, &victim, newest);
    // Their first requests lie in its queues by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    freeze(world, number, false);
    stopped.thaw();
    let seen = watcher.end().await?;
    println!("after SIGCONT: {} fresh answers, {} stale, {} refused", seen.fresh, seen.stale, seen.refused);
    ensure!(seen.wrong.is_empty(), "answers that called themselves fresh lacked what was committed: {seen:#?}");
    told(&world.cluster.fleet.minions[MINIONS].folder.join("log"), "is rejected").await?;
    world.cluster.wait_for_serving(number, SETTLE).await?;
    for asked in 0..3 {
        let gone = |list: &MinionList| list.minions.iter().all(|view| view.id.as_str() != victim);
        world.cluster.wait(asked, "the rejected minion to be gone", "/v1/minions", gone).await?;
    }
    drop(stopped);
    settle(world, &burst, [others[0], others[1], number], "frozen").await
}

/// Starts a job that runs while its master goes, and whose result has to find another way. Also gives who is attached there.
async fn begin(world: &World, name: &str, number: usize) -> anyhow::Result<(Burst, Vec<String>)> {
    let mut burst = world.burst(&name.replace(['(', ')'], "-"), 1.0)?;
    burst.submit_for(&mut world.cluster.client_of(&[0, 1, 2]), WATCHED).await?;
    started(&burst).await?;
    let attached = attached_to(world, number).await?;
    Ok((burst, attached))
}

/// Nothing was lost, doubled or interrupted, and all masters hold the same.
async fn settle(world: &World, burst: &Burst, masters: [usize; 3], context: &str) -> anyhow::Result<()> {
    let tally = world.settle(burst, &masters).await?;
    assert_exact(&tally, burst.submitted.len() * MINIONS, context);
    ensure!(tally.interrupted == 0, "{context}: {} jobs were interrupted", tally.interrupted);
    Ok(())
}

fn freeze(world: &World, number: usize, frozen: bool) {
    if let Some(process) = &world.cluster.fleet.masters[number].process {
        if frozen { process.freeze() } else { process.thaw() }
    }
}

/// Waits until a log says so.
async fn told(log: &std::path::Path, words: &str) -> anyhow::Result<()> {
    let look = async {
        while !std::fs::read_to_string(log).unwrap_or_default().contains(words) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(BOUND, look).await.with_context(|| format!("{} never said {words:?}", log.display()))
}

/// Waits until the last job of a burst runs on every minion.
async fn started(burst: &Burst) -> anyhow::Result<()> {
    let last = burst.submitted.len() - 1;
    let wanted = burst.submitted[last].targeted.len();
    let look = async {
        while burst.starts().keys().filter(|(number, _)| *number == last).count() < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SETTLE, look).await.context("the job did not start everywhere")
}

/// The minions that a master has, as the others see it; one that was started just now hears of them with the next summary.
async fn attached_to(world: &World, number: usize) -> anyhow::Result<Vec<String>> {
    let name = &world.cluster.fleet.masters[number].name;
    let look = async {
        loop {
            for asked in others_of(number) {
                let list = world.cluster.client(asked).get::<MinionList>("/v1/minions", "").await?.value;
                let here = list.minions.into_iter().filter(|view| view.presence == Presence::Connected);
                let here = here.filter(|view| view.master.as_ref() == Some(name));
                let here: Vec<String> = here.map(|view| view.id.to_string()).collect();
                if !here.is_empty() {
                    return Ok(here);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SETTLE, look).await.context("nobody is attached")?
}

/// Gives every minion a job through the other masters, and waits until each has returned it through one of them: how long
/// that took for each, counted from `began`.
async fn works_through_others(
    world: &World,
    burst: &mut Burst,
    gone: usize,
    began: &SystemClock,
) -> anyhow::Result<BTreeMap<String, Duration>> {
    let mut client = world.cluster.client_of(&others_of(gone));
    while let Err(error) = burst.submit_for(&mut client, WATCHED).await {
        ensure!(began.monotonic() < BOUND, "no job is taken: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let submitted = burst.submitted.last().context("just submitted")?.clone();
    let name = &world.cluster.fleet.masters[gone].name;
    let mut times = BTreeMap::new();
    while times.len() < submitted.targeted.len() {
        let view = jobs::look_up(&mut client, submitted.jid).await?;
        for (minion, returned) in &view.returns {
            if !times.contains_key(minion.as_str()) {
                ensure!(returned.success, "{minion}: {returned:?}");
                ensure!(returned.master != *name, "{minion} returned through {name}, which is not there");
                times.insert(minion.to_string(), began.monotonic());
            }
        }
        ensure!(
            began.monotonic() < BOUND,
            "after {BOUND:?} only {} of {} minions work through another master; the others: {:?}",
            times.len(),
            submitted.targeted.len(),
            view.missing
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(times)
}

/// Says how long minions took: those of the master that was hit, and all.
fn report(fault: &str, times: &BTreeMap<String, Duration>, attached: &[String]) {
    let line = |mut times: Vec<Duration>| {
        times.sort();
        let at = |part: usize| times.get((times.len().max(1) - 1) * part / 100).map_or(0.0, Duration::as_secs_f64);
        format!("{} minions: p50 {:.1} s, p90 {:.1} s, last {:.1} s", times.len(), at(50), at(90), at(100))
    };
    let own = times.iter().filter(|(minion, _)| attached.contains(minion)).map(|(_, time)| *time).collect();
    println!("{fault}: of the master that was hit {}; of all {}", line(own), line(times.values().copied().collect()));
}

/// Rejects the key of one minion through these masters.
async fn reject(world: &World, through: &[usize], minion: &str) -> anyhow::Result<()> {
    let decision = KeyDecision { select: KeySelection::Glob(minion.into()), include_decided: true };
    let answer = world.cluster.client_of(through).post::<_, KeyChanges>("/v1/keys/reject", &decision).await?;
    ensure!(answer.value.changed.iter().all(|key| key.state == KeyState::Rejected), "{:?}", answer.value);
    ensure!(answer.value.changed.len() == 1, "{:?}", answer.value);
    Ok(())
}
