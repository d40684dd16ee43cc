//! How long minions are away when their master is killed, frozen, cut off or drained, minion by minion.
//!
//! A gap is the time from the fault to the minion's working through another master, as the minion itself tells it. A drained
//! master still serves: there a gap is what lies between the end of the old subscription and the new one's standing, which is
//! nothing where the new one stands first.
//!
//! Jobs that change something run on the whole fleet all the while. A round counts only if every one of them came back from
//! every minion, once.

use super::Arguments;
use super::ground::{Ground, MASTERS, Moved, PATIENCE};
use super::namespace;
use crate::demo::report::percentile;
use crate::fleet::jobs;
use anyhow::{Context, ensure};
use saltern_wire::JobId;
use saltern_wire::api::member::{MemberAnswer, MemberChange, MemberRequest};
use saltern_wire::io::Clock;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the fleet may take to be in order again.
const BACK: Duration = Duration::from_secs(120);

/// Pause between two looks at a drain.
const LOOK: Duration = Duration::from_millis(200);

/// What happens to a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9
    Kill,
    /// SIGSTOP
    Stop,
    /// Its packets get lost in both directions
    Blackhole,
    /// It is asked to give its minions away
    Drain,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Blackhole => "blackhole",
            Self::Drain => "drain",
        }
    }
}

/// Rounds of one fault at the master with the most minions.
pub async fn measure(arguments: &Arguments, ground: &mut Ground, fault: Fault) -> anyhow::Result<()> {
    let (mut gaps, mut lasts, mut drains) = (Vec::new(), Vec::new(), Vec::new());
    let mut orphans = 0;
    let mut redialled = 0.0_f64;
    for round in 1..=arguments.rounds() {
        ground.spread().await?;
        let figures = ground.swarm.figures().await?;
        let (name, _) = figures.masters.iter().max_by_key(|(_, count)| **count).context("attached somewhere")?;
        let number = ground.number_of(name)?;
        let own = ground.minions_of(name);
        orphans = own.len();
        eprintln!("… {} of {name} with {orphans} minions, round {round}", fault.name());
        let before = figures.dials;
        let job = submit(ground, Some(number)).await?;
        let struck_us = ground.wall_us();
        let drained = strike(ground, fault, number).await?;
        let moved = until_moved(ground, name, &own).await?;
        let found = gaps_of(&moved, name, &own, struck_us, fault);
        ensure!(found.len() == own.len(), "{} of {} minions came back", found.len(), own.len());
        lasts.push(percentile(found.clone(), 100));
        gaps.extend(found);
        drains.extend(drained);
        let after = ground.swarm.figures().await?;
        redialled = redialled.max((after.dials - before) as f64 / orphans.max(1) as f64);
        let later = submit(ground, Some(number)).await?;
        for jid in [job, later] {
            settled(ground, jid, number).await?;
        }
        ensure!(after.doubled == 0, "{} jobs began twice on a minion", after.doubled);
        mend(ground, fault, number).await?;
    }
    let name = fault.name();
    for (suffix, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
        arguments.put(format!("gap_{name}_s_{suffix}"), percentile(gaps.clone(), percent), "s", orphans);
    }
    arguments.put(format!("gap_{name}_dials_per_minion"), redialled, "dials", orphans);
    if fault == Fault::Kill {
        arguments.put("reattach_third_s", percentile(lasts, 50), "s", orphans);
    }
    if !drains.is_empty() {
        arguments.put("drain_s", percentile(drains, 50), "s", orphans);
    }
    Ok(())
}

/// A job for everybody that counts as changing something, through a master other than `not`.
async fn submit(ground: &Ground, not: Option<usize>) -> anyhow::Result<JobId> {
    let others: Vec<usize> = (0..MASTERS).filter(|number| Some(*number) != not).collect();
    let job = jobs::for_all("test.sleep", &[serde_json::json!(0.1)]);
    Ok(jobs::submit(&mut ground.cluster.client_of(&others), &job).await?.jid)
}

/// Every minion returned it.
async fn settled(ground: &Ground, jid: JobId, not: usize) -> anyhow::Result<()> {
    let others: Vec<usize> = (0..MASTERS).filter(|number| *number != not).collect();
    let view = jobs::wait(&mut ground.cluster.client_of(&others), jid, PATIENCE).await?;
    let lost: Vec<_> = view.missing.iter().take(3).collect();
    ensure!(view.returns.len() == ground.minions, "{jid}: {} returned, lost {lost:?} …", view.returns.len());
    Ok(())
}

/// Does it. For a drain: how many seconds it took.
async fn strike(ground: &mut Ground, fault: Fault, number: usize) -> anyhow::Result<Option<f64>> {
    match fault {
        Fault::Kill => ground.cluster.fleet.masters[number].process.take().context("it runs")?.kill(),
        Fault::Stop => ground.cluster.fleet.masters[number].process.as_ref().context("it runs")?.freeze(),
        Fault::Blackhole => namespace::cut(ground.cluster.fleet.masters[number].address)?,
        Fault::Drain => {
            let began = ground.clock.monotonic();
            change(ground, MemberChange::Drain, number).await?;
            return Ok(Some(ground.clock.monotonic().saturating_sub(began).as_secs_f64()));
        }
    }
    Ok(None)
}

/// Asks for a change and waits until the group has followed.
async fn change(ground: &Ground, change: MemberChange, number: usize) -> anyhow::Result<()> {
    let master = ground.cluster.fleet.masters[number].name.clone();
    let request = |dry_run| MemberRequest { change, master: master.clone(), directory: None, dry_run };
    let mut client = ground.client();
    let mut answer = client.post::<_, MemberAnswer>("/v1/cluster/members", &request(false)).await?.value;
    let waited = async {
        while !answer.complete {
            tokio::time::sleep(LOOK).await;
            answer = client.post::<_, MemberAnswer>("/v1/cluster/members", &request(true)).await?.value;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, waited).await.with_context(|| format!("{change} {master} takes too long"))?
}

/// Everything back as it was before.
async fn mend(ground: &mut Ground, fault: Fault, number: usize) -> anyhow::Result<()> {
    match fault {
        Fault::Kill => ground.cluster.fleet.start_master(number)?,
        Fault::Stop => ground.cluster.fleet.masters[number].process.as_ref().context("it was frozen")?.thaw(),
        Fault::Blackhole => namespace::heal()?,
        Fault::Drain => change(ground, MemberChange::Undrain, number).await?,
    }
    ground.cluster.wait_for_serving(number, BACK).await?;
    ground.cluster.wait_for_voters(MASTERS).await?;
    ground.wait_for_all("the fleet to be whole again").await?;
    Ok(())
}

/// Waits until all of `own` work through another master than `name`, and gives what happened meanwhile.
async fn until_moved(ground: &mut Ground, name: &str, own: &[String]) -> anyhow::Result<Vec<Moved>> {
    let (mut all, began) = (Vec::new(), ground.clock.monotonic());
    loop {
        all.extend(ground.moved());
        let mut now: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for moved in &all {
            now.insert(&moved.minion, moved.master.as_deref());
        }
        let away =
            |minion: &&String| now.get(minion.as_str()).is_none_or(|master| master.is_none_or(|master| master == name));
        let missing = own.iter().filter(away).count();
        if missing == 0 {
            return Ok(all);
        }
        let waited = ground.clock.monotonic().saturating_sub(began);
        ensure!(waited < BACK, "{missing} of {} minions of {name} are away after {} s", own.len(), waited.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The gap of each of `own`, in seconds.
fn gaps_of(moved: &[Moved], name: &str, own: &[String], struck_us: u64, fault: Fault) -> Vec<f64> {
    // A drained minion that goes straight from one master to the other is never without one.
    let mut without: BTreeMap<&str, u64> = BTreeMap::new();
    let mut found: BTreeMap<&str, f64> = BTreeMap::new();
    for moved in moved.iter().filter(|moved| moved.at_us >= struck_us) {
        let minion = moved.minion.as_str();
        match moved.master.as_deref() {
            None => drop(without.insert(minion, moved.at_us)),
            Some(master) if master == name => {}
            Some(_) => {
                let since = match fault {
                    Fault::Drain => without.get(minion).copied().unwrap_or(moved.at_us),
                    Fault::Kill | Fault::Stop | Fault::Blackhole => struck_us,
                };
                let gap = moved.at_us.saturating_sub(since) as f64 / 1e6;
                found.entry(minion).or_insert(gap);
            }
        }
    }
    own.iter().filter_map(|minion| found.get(minion.as_str()).copied()).collect()
}

/// All masters die and start again at once: how long until everybody works.
pub async fn restart_all(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    eprintln!("… all masters are killed and start again");
    ground.moved();
    for master in &mut ground.cluster.fleet.masters {
        master.process.take().context("it runs")?.kill();
    }
    let struck_us = ground.wall_us();
    for number in 0..MASTERS {
        ground.cluster.fleet.start_master(number)?;
    }
    // Those that have not noticed yet still say that they work.
    let mut back: BTreeMap<String, Option<u64>> = BTreeMap::new();
    let began = ground.clock.monotonic();
    while back.values().flatten().count() < ground.minions {
        for moved in ground.moved() {
            let at = moved.master.is_some().then_some(moved.at_us);
            if at.is_none() || back.contains_key(&moved.minion) {
                back.insert(moved.minion, at);
            }
        }
        let waited = ground.clock.monotonic().saturating_sub(began);
        ensure!(waited < PATIENCE, "{} of {} are back", back.values().flatten().count(), ground.minions);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last = back.values().flatten().max().copied().unwrap_or(struck_us);
    arguments.put("restart_all_s", last.saturating_sub(struck_us) as f64 / 1e6, "s", ground.minions);
    ground.cluster.wait_for_voters(MASTERS).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_from_the_fault_or_from_the_moment_without_a_master() {
        let moved = |minion: &str, master: Option<&str>, at_us| Moved {
            minion: minion.into(),
            master: master.map(str::to_owned),
            at_us,
        };
        let events = [
            moved("web-1", Some("b"), 500_000),
            moved("web-1", None, 1_500_000),
            moved("web-2", Some("c"), 2_000_000),
            moved("web-1", Some("a"), 1_600_000),
            moved("web-1", None, 1_700_000),
            moved("web-1", Some("b"), 3_000_000),
            moved("web-3", Some("b"), 9_000_000),
        ];
        let own = ["web-1".to_owned(), "web-2".to_owned()];
        assert_eq!(gaps_of(&events, "a", &own, 1_000_000, Fault::Kill), [2.0, 1.0]);
        assert_eq!(gaps_of(&events, "a", &own, 1_000_000, Fault::Drain), [1.3, 0.0]);
    }
}
