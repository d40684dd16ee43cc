//! What becomes of a minion's jobs and mine data when it, or its master, dies.

use saltern_jepsen::real::{SETTLE, Wish, World, assert_exact};
use saltern_ops::fleet::jobs;
use saltern_ops::fleet::process::kill_all_of;
use saltern_wire::Value;
use saltern_wire::job::Progress;
use saltern_wire::mine::MineEntry;
use saltern_wire::target::TargetKind;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlives_the_death_of_its_minion() -> anyhow::Result<()> {
    let mut world = World::up(3, 2).await?;
    let mut burst = world.burst("agent", 1.5)?;
    let mut client = world.cluster.client(0);
    for _ in 0..3 {
        burst.submit(&mut client).await?;
    }
    wait_for_starts(&burst, 6).await?;
    let process = world.cluster.fleet.minions[0].process.take();
    process.ok_or_else(|| anyhow::anyhow!("minion-1 runs"))?.kill();
    world.cluster.fleet.start_minion(0)?;
    let tally = world.settle(&burst, &[0, 1, 2]).await?;
    assert_exact(&tally, 6, "the agent died, its jobs went on");
    assert_eq!(tally.interrupted, 0, "nothing was interrupted: the supervisors lived");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_died_with_its_minion_is_interrupted_once_and_not_run_again() -> anyhow::Result<()> {
    let mut world = World::up(3, 2).await?;
    let mut burst = world.burst("machine", 20.0)?;
    let mut client = world.cluster.client(0);
    for _ in 0..3 {
        burst.submit(&mut client).await?;
    }
    wait_for_starts(&burst, 6).await?;
    for number in 0..2 {
        let folder = world.cluster.fleet.minions[number].folder.clone();
        assert!(kill_all_of(&folder) > 1, "the minion and its jobs were running");
        world.cluster.fleet.minions[number].process = None;
        world.cluster.fleet.start_minion(number)?;
    }
    let tally = world.settle(&burst, &[0, 1, 2]).await?;
    assert_exact(&tally, 6, "minions and jobs died");
    assert_eq!(tally.interrupted, 6, "every outcome says the truth");
    let states = tally.views.iter().flat_map(|view| view.returns.values().map(|returned| returned.state));
    assert!(states.into_iter().all(|state| state == Progress::Interrupted));
    Ok(())
}

async fn wait_for_starts(burst: &saltern_ops::fleet::burst::Burst, count: usize) -> anyhow::Result<()> {
    let started = async {
        while burst.starts().len() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SETTLE, started).await.map_err(|_| anyhow::anyhow!("only {:?} started", burst.starts()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mine_data_sent_through_one_master_is_read_through_another_before_and_after_a_failover() -> anyhow::Result<()> {
    let wish = Wish { masters: 3, minions: 3, ..Wish::default() };
    let mut world = World::of(wish).await?;
    let fact = world.folder.path().join("fact");
    for round in 0..4 {
        let value = format!("value {round}");
        std::fs::write(&fact, &value)?;
        let alive: Vec<usize> =
            (0..3).filter(|number| world.cluster.fleet.masters[*number].process.is_some()).collect();
        let mut send = jobs::job(TargetKind::Glob, "minion-1", "mine.send", &["fact".into()]);
        send.arguments.push(format!("cat {}", fact.display()).into());
        send.keywords.insert("mine_function".into(), "cmd.run".into());
        let mut client = world.cluster.client_of(&alive);
        let view = jobs::run(&mut client, &send, Duration::from_secs(30)).await?;
        let sent = view.returns.values().next().map(|returned| returned.success);
        assert_eq!(sent, Some(true), "mine.send: {view:?}");
        for asked in &alive {
            let mut client = world.cluster.client(*asked);
            let path = "/v1/mine?kind=glob&target=minion-1&function=fact";
            // The revision of the return is handed back: this master reads at least that far.
            let revision = format!("revision={}", newest_revision(&world, alive[0]).await?);
            let entries = client.get::<Vec<MineEntry>>(path, &revision).await?.value;
            let values: Vec<&Value> = entries.iter().map(|entry| &entry.value).collect();
            assert_eq!(values, [&Value::String(value.clone())], "round {round}, read at master {}", asked + 1);
        }
        if round == 1 {
            let number = world.master_of(alive[0], "minion-1").await?;
            world.kill_master(number)?;
            let left = (0..3).find(|other| *other != number).unwrap_or(0);
            world.cluster.wait_for_connected(left, 3).await?;
        }
    }
    Ok(())
}

async fn newest_revision(world: &World, asked: usize) -> anyhow::Result<u64> {
    let answer = world.cluster.client(asked).get::<Value>("/v1/config", "").await?;
    Ok(answer.revision.0)
}
