//! Jobs reach every minion through every master, and survive the death of any of them.

use saltern_jepsen::real::{World, assert_exact};
use saltern_ops::fleet::jobs;
use std::collections::BTreeSet;
use std::time::Duration;

/// Minions of the fleet that is spread over all masters.
const MINIONS: usize = 12;

/// Jobs of a burst: times eight minions, more than a hundred returns.
const JOBS: usize = 14;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_taken_by_any_master_reaches_minions_of_each_and_is_the_same_at_all_three() -> anyhow::Result<()> {
    let world = spread_over_all_masters().await?;
    for taker in 0..3 {
        let mut client = world.cluster.client(taker);
        let view = jobs::run(&mut client, &jobs::for_all("test.ping", &[]), Duration::from_secs(20)).await?;
        assert_eq!(view.returns.len(), MINIONS, "through master {}: {:?}", taker + 1, view.missing);
        assert!(view.returns.values().all(|returned| returned.value == serde_json::Value::Bool(true)));
        for asked in 0..3 {
            let mut client = world.cluster.client(asked);
            let same = jobs::wait(&mut client, view.summary.jid, Duration::from_secs(20)).await?;
            assert_eq!(same, view, "job show at master {}", asked + 1);
        }
    }
    Ok(())
}

/// A fleet with a minion on each master. Minions choose by a hash of their name and the master's address, which differs from
/// run to run; with so many of them one try in forty leaves a master without.
async fn spread_over_all_masters() -> anyhow::Result<World> {
    let mut attached = BTreeSet::new();
    for _ in 0..5 {
        let world = World::up(3, MINIONS).await?;
        attached.clear();
        for minion in &world.cluster.fleet.minions {
            attached.insert(world.master_of(0, &minion.id).await?);
        }
        if attached.len() == 3 {
            return Ok(world);
        }
    }
    anyhow::bail!("minions are attached to {attached:?} only")
}

/// Which master dies in the middle of a burst.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Leader,
    Follower,
    /// The one that takes the jobs.
    Taker,
    /// The one that minion-1 is attached to.
    MasterOfAMinion,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_master_dies_in_the_middle_no_return_is_lost_or_doubled() -> anyhow::Result<()> {
    let mut world = World::up(3, 8).await?;
    for victim in [Victim::Leader, Victim::Follower, Victim::Taker, Victim::MasterOfAMinion] {
        let leader = world.leader(0).await?;
        let number = match victim {
            Victim::Leader => leader,
            Victim::Follower | Victim::Taker => (leader + 1) % 3,
            Victim::MasterOfAMinion => world.master_of(0, "minion-1").await?,
        };
        let survivors: Vec<usize> = (0..3).filter(|other| *other != number).collect();
        let takers = match victim {
            // The one that dies takes jobs as long as it lives; the client goes on to another by itself.
            Victim::Taker => vec![number, survivors[0], survivors[1]],
            Victim::Leader | Victim::Follower | Victim::MasterOfAMinion => survivors.clone(),
        };
        let mut burst = world.burst(&format!("{victim:?}"), 0.2)?;
        let mut client = world.cluster.client_of(&takers);
        for job in 0..JOBS {
            if job == JOBS / 2 {
                world.kill_master(number)?;
            }
            burst.submit(&mut client).await?;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let tally = world.settle(&burst, &survivors).await?;
        assert_exact(&tally, JOBS * 8, &format!("{victim:?} died"));
        world.start_master(number)?;
        world.cluster.wait_for_voters(3).await?;
        let tally = world.settle(&burst, &[number]).await?;
        assert_exact(&tally, JOBS * 8, &format!("the {victim:?} that died, started again"));
        world.cluster.wait_for_connected(0, 8).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_all_masters_died_nothing_acknowledged_is_missing_and_the_jobs_complete() -> anyhow::Result<()> {
    let mut world = World::up(3, 8).await?;
    let mut burst = world.burst("power", 0.5)?;
    let mut client = world.cluster.client_of(&[0, 1, 2]);
    for _ in 0..JOBS {
        burst.submit(&mut client).await?;
    }
    for number in 0..3 {
        world.kill_master(number)?;
    }
    for number in 0..3 {
        world.start_master(number)?;
    }
    world.cluster.wait_for_voters(3).await?;
    let tally = world.settle(&burst, &[0, 1, 2]).await?;
    assert_exact(&tally, JOBS * 8, "all masters died");
    Ok(())
}
