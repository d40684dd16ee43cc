//! Three hundred minions change masters and nobody notices: every job of a burst is answered by all of them, once, although the
//! master with the most of them is killed in the middle.
//!
//! The minions are a swarm (`saltern-minion swarm`): real sessions, keys and journals in one process. It counts by itself how often
//! each job began on each minion. At last all masters die and start again at once.

use anyhow::{Context, ensure};
use saltern_jepsen::real::{SETTLE, Wish, World};
use saltern_ops::edge::SystemClock;
use saltern_ops::fleet::jobs;
use saltern_ops::fleet::swarm::{Swarm, Wanted};
use saltern_wire::api::JobView;
use saltern_wire::io::Clock;
use std::time::Duration;

/// Minions: enough for storms, few enough for two cores that build at the same time.
const MINIONS: usize = 300;

/// Journalled jobs of the burst. Each runs for a while, so that some run while the master dies.
const JOBS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_minions_change_masters_and_nothing_is_lost_or_doubled() -> anyhow::Result<()> {
    let mut world = World::masters_of(Wish { masters: 3, ..Wish::default() }).await?;
    let clock = SystemClock::new();
    let mut swarm = attach(&mut world).await?;
    println!("{MINIONS} minions work after {:.1} s", clock.monotonic().as_secs_f64());
    ping(&world, &clock).await?;

    let figures = swarm.figures().await?;
    let (name, orphans) = figures.masters.iter().max_by_key(|(_, count)| **count).context("attached somewhere")?;
    let number = world.cluster.fleet.masters.iter().position(|master| master.name == *name).context("one of ours")?;
    let survivors: Vec<usize> = (0..3).filter(|other| *other != number).collect();
    let mut client = world.cluster.client_of(&survivors);
    let mut jids = Vec::new();
    let mut killed = None;
    swarm.events();
    for job in 0..JOBS {
        if job == JOBS / 2 {
            killed = Some(clock.wall_unix_micros());
            world.kill_master(number)?;
        }
        let sleep = jobs::for_all("test.sleep", &[serde_json::json!(0.3)]);
        jids.push(jobs::submit(&mut client, &sleep).await?.jid);
    }
    let killed = killed.context("it was killed")?;
    let moved =
        |figures: &saltern_wire::swarm::Figures| figures.ready == MINIONS && !figures.masters.contains_key(name);
    swarm.wait("every minion to work through a survivor", SETTLE, moved).await?;
    let last = swarm.events().into_iter().filter(|event| event.master.is_some()).map(|event| event.at_us).max();
    let gap_ms = last.unwrap_or(killed).saturating_sub(killed) / 1000;
    println!("{name} killed with {orphans} minions: the last works again after {gap_ms} ms");

    for jid in &jids {
        let mut views = Vec::new();
        for survivor in &survivors {
            views.push(jobs::wait(&mut world.cluster.client(*survivor), *jid, SETTLE).await?);
        }
        ensure!(views.iter().all(is_whole), "{jid}: {:?}", views[0].missing.iter().take(3).collect::<Vec<_>>());
        ensure!(views[0].returns == views[1].returns, "{jid}: two masters hold different returns");
    }
    let figures = swarm.figures().await?;
    ensure!(figures.doubled == 0, "{} jobs began twice on a minion", figures.doubled);
    ensure!(figures.jobs == (JOBS * MINIONS) as u64, "{} starts of {JOBS} jobs on {MINIONS} minions", figures.jobs);
    swarm.wait("every outcome to be committed", SETTLE, |figures| figures.waiting == 0).await?;
    world.start_master(number)?;
    world.cluster.wait_for_serving(number, SETTLE).await?;
    restart_all(&mut world, &mut swarm, &clock).await?;
    let figures = swarm.figures().await?;
    ensure!(figures.jobs == ((JOBS + 1) * MINIONS) as u64 && figures.doubled == 0, "{figures:?}");
    swarm.quit().await?;
    Ok(())
}

/// All masters die while a job runs on everybody, and start again at once.
async fn restart_all(world: &mut World, swarm: &mut Swarm, clock: &SystemClock) -> anyhow::Result<()> {
    let sleep = jobs::for_all("test.sleep", &[serde_json::json!(0.5)]);
    let jid = jobs::submit(&mut world.cluster.client(0), &sleep).await?.jid;
    swarm.wait("everybody to have begun it", SETTLE, |figures| figures.jobs == ((JOBS + 1) * MINIONS) as u64).await?;
    let (began, lost) = (clock.monotonic(), swarm.figures().await?.lost);
    for number in 0..3 {
        world.kill_master(number)?;
    }
    for number in 0..3 {
        world.start_master(number)?;
    }
    let all = MINIONS as u64;
    swarm.wait("everybody to have noticed", SETTLE, |figures| figures.lost >= lost + all).await?;
    swarm.wait("everybody to be back", SETTLE, |figures| figures.ready == MINIONS).await?;
    let took = clock.monotonic().saturating_sub(began);
    println!("all masters killed and started: {MINIONS} minions are back after {:.1} s", took.as_secs_f64());
    let view = jobs::wait(&mut world.cluster.client(0), jid, SETTLE).await?;
    ensure!(is_whole(&view), "{jid}: {:?}", view.missing.iter().take(3).collect::<Vec<_>>());
    Ok(())
}

fn is_whole(view: &JobView) -> bool {
    view.returns.len() == MINIONS && view.missing.is_empty() && view.returns.values().all(|returned| returned.success)
}

/// Starts the swarm and accepts its keys.
async fn attach(world: &mut World) -> anyhow::Result<Swarm> {
    let fleet = &world.cluster.fleet;
    let session = fleet.ports().session;
    let mut swarm = Swarm::start(&Wanted {
        program: fleet.binaries().minion.clone(),
        count: MINIONS,
        workers: None,
        folder: world.folder.path().join("swarm"),
        masters: fleet.masters.iter().map(|master| format!("{}:{session}", master.address)).collect(),
        ca_fingerprint: world.cluster.ca_fingerprint.clone(),
        extra: String::new(),
        per_second: MINIONS,
    })?;
    swarm.wait("every key to be pending", SETTLE, |figures| figures.pending == MINIONS).await?;
    let accepted = world.cluster.accept_all(0).await?;
    ensure!(accepted.changed.len() == MINIONS, "{} keys were accepted", accepted.changed.len());
    swarm.wait("every minion to work", SETTLE, |figures| figures.ready == MINIONS).await?;
    Ok(swarm)
}

/// Everybody answers a ping.
async fn ping(world: &World, clock: &SystemClock) -> anyhow::Result<()> {
    let began = clock.monotonic();
    let view = jobs::run(&mut world.cluster.client(0), &jobs::for_all("test.ping", &[]), SETTLE).await?;
    let took = clock.monotonic().saturating_sub(began);
    ensure!(is_whole(&view), "missing: {:?}", view.missing.iter().take(3).collect::<Vec<_>>());
    println!("test.ping to {MINIONS}: {:.3} s until all of it is committed", took.as_secs_f64());
    ensure!(took < SETTLE / 2, "{} s", took.as_secs());
    Ok(())
}

/// A swarm does what it is told, and keeps its keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_storms_on_command() -> anyhow::Result<()> {
    const FEW: usize = 24;
    let world = World::masters_of(Wish { masters: 1, ..Wish::default() }).await?;
    let fleet = &world.cluster.fleet;
    let wanted = Wanted {
        program: fleet.binaries().minion.clone(),
        count: FEW,
        workers: Some(2),
        folder: world.folder.path().join("swarm"),
        masters: vec![format!("{}:{}", fleet.masters[0].address, fleet.ports().session)],
        ca_fingerprint: world.cluster.ca_fingerprint.clone(),
        extra: String::new(),
        per_second: FEW,
    };
    let mut swarm = Swarm::start(&wanted)?;
    swarm.wait("every key to be pending", SETTLE, |figures| figures.pending == FEW).await?;
    world.cluster.accept_all(0).await?;
    swarm.wait("every minion to work", SETTLE, |figures| figures.ready == FEW).await?;

    ensure!(swarm.order("stop 50%").await?.minions == FEW / 2);
    swarm
        .wait("half of them to be away", SETTLE, |figures| figures.ready == FEW / 2 && figures.away == FEW / 2)
        .await?;
    swarm.order("start").await?;
    swarm.wait("them to be back", SETTLE, |figures| figures.ready == FEW && figures.away == 0).await?;
    ensure!(swarm.figures().await?.lost == 0, "who was told to go was not lost");

    ensure!(swarm.order("cut 4").await?.minions == 4);
    swarm.wait("four sessions to be lost", SETTLE, |figures| figures.lost == 4).await?;
    swarm.wait("them to be back", SETTLE, |figures| figures.ready == FEW).await?;

    ensure!(swarm.order("freeze 3").await?.minions == 3);
    let mut client = world.cluster.client(0);
    let marked = jobs::submit(&mut client, &jobs::for_all("test.echo", &[serde_json::json!("mark:frozen")])).await?;
    let mark = |done: saltern_wire::swarm::Done| done.mark.map_or(0, |mark| mark.count);
    let ran = async {
        while mark(swarm.order("mark frozen").await?) < FEW as u64 - 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SETTLE, ran).await??;
    let view = jobs::look_up(&mut client, marked.jid).await?;
    ensure!(view.returns.len() <= FEW - 3, "who stands still does not answer");
    ensure!(swarm.order("thaw").await?.minions == 3);
    let view = jobs::wait(&mut client, marked.jid, SETTLE).await?;
    ensure!(view.returns.len() == FEW && view.missing.is_empty(), "{:?}", view.missing);

    let error = swarm.order("melt").await.expect_err("there is no such order").to_string();
    ensure!(error.contains("is no order"), "{error}");
    swarm.quit().await?;
    // The same folder, the same keys: nobody has to be accepted again.
    let mut swarm = Swarm::start(&wanted)?;
    let figures = swarm.wait("every minion to work again", SETTLE, |figures| figures.ready == FEW).await?;
    ensure!(figures.pending == 0);
    swarm.quit().await?;
    Ok(())
}
