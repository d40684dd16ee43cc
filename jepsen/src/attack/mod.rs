//! The attack list: everything that somebody with a socket can do to a running cluster, while its fleet works.
//!
//! ```text
//!   strangers   4505 and 4506, without any secret        rogues      with keys of their own, or as a minion gone bad
//!   operators   4510 and 4511                            fleet       the jobs, sessions and memory that must not notice
//! ```
//!
//! Each attack goes on from its own tasks for the whole run, from some ten thousand addresses, against every master.
//! **It holds** if no process ends, no master grows by more than 64 MiB, every job completes, every session of the fleet
//! stands from beginning to end, every attack struck, and whatever the masters have to end they ended in time.

pub mod fleet;
pub mod ground;
pub mod operators;
pub mod report;
pub mod rogues;
pub mod strangers;

use crate::real::World;
use anyhow::Context;
use fleet::Memory;
use ground::{Dice, Ground};
use operators::{OPERATORS, Speaker};
use report::Report;
use rogues::{ROGUES, Rogue, Rogues};
use saltern_wire::api::KeyView;
use saltern_wire::key::KeyState;
use std::sync::Arc;
use std::time::Duration;
use strangers::{STRANGERS, Stranger};
use tokio::task::JoinSet;

/// Tasks of each attack that waits for the master; those that strike quickly have fewer.
const WORKERS: u64 = 12;

/// Pause of a task between two strikes: some hundred a second of all kinds together, which leaves the fleet its share of a
/// small machine. What is refused at the door by rate has tests of its own.
const PAUSE: Duration = Duration::from_millis(100);

/// Pause between two looks at the masters' memory.
const MEMORY_PAUSE: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides the strikes' bytes and addresses.
    pub seed: u64,
    /// How long the attack takes.
    pub time: Duration,
    /// Minions of the fleet.
    pub minions: usize,
}

/// Brings a cluster of three masters up, attacks it, and tells what came of it.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    saltern_pubsub::zmq::raise_descriptor_limit()?;
    let mut world = World::up(3, options.minions).await?;
    let ca = world.cluster.ca_fingerprint.parse().context("the CA's fingerprint")?;
    let ground = Arc::new(Ground::new(&world.cluster.fleet, ca));
    let rogues = Arc::new(enrolled(&mut world, &ground, options.seed).await?);
    let speaker = Arc::new(Speaker::new(&ground)?);

    let clients = (0..3).map(|number| world.cluster.client(number)).collect();
    let working = tokio::spawn(fleet::work(clients, options.minions, ground.over.clone()));
    // The first jobs warm every path up; what they take is no growth.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = fleet::sessions(&world).await?;
    anyhow::ensure!(before.len() == options.minions, "{} of {} minions are connected", before.len(), options.minions);
    let memory_before = fleet::memory(&world);
    let mut memory: Vec<_> = memory_before.iter().map(|kib| Memory { before: *kib, most: *kib, after: 0 }).collect();

    let mut attackers = JoinSet::new();
    spawn(&mut attackers, &ground, &rogues, &speaker, options.seed);
    let attack = async {
        loop {
            tokio::time::sleep(MEMORY_PAUSE).await;
            for (memory, now) in memory.iter_mut().zip(fleet::memory(&world)) {
                memory.most = memory.most.max(now);
            }
        }
    };
    // It goes on until the time is over.
    let _ = tokio::time::timeout(options.time, attack).await;
    ground.over.cancel();
    while let Some(attacker) = attackers.join_next().await {
        attacker.context("an attacker")?;
    }
    let jobs = working.await.context("the fleet's jobs")?;
    let after = fleet::sessions(&world).await?;
    for (memory, now) in memory.iter_mut().zip(fleet::memory(&world)) {
        memory.after = now;
        memory.most = memory.most.max(now);
    }
    let strangers = STRANGERS.iter().map(|(_, name)| *name);
    let kinds = strangers.chain(ROGUES.iter().map(|(_, name)| *name)).chain(OPERATORS.iter().map(|(_, name)| *name));
    Ok(Report {
        seconds: options.time.as_secs(),
        strikes: ground.strikes(),
        kinds: kinds.collect(),
        jobs,
        memory,
        sessions: (before, after),
        dead: world.cluster.fleet.first_dead(),
    })
}

/// Rogues whose keys an operator has accepted.
async fn enrolled(world: &mut World, ground: &Ground, seed: u64) -> anyhow::Result<Rogues> {
    let rogues = Rogues::new(ground, &mut Dice::new(seed, 0))?;
    rogues.enrol(ground).await?;
    world
        .cluster
        .wait(0, "the rogues' keys", "/v1/keys", |keys: &Vec<KeyView>| {
            keys.iter().filter(|key| key.state == KeyState::Pending).count() == rogues::ACCEPTED
        })
        .await?;
    world.cluster.accept_all(0).await?;
    Ok(rogues)
}

/// Starts every attacker. They end when the run is over.
fn spawn(attackers: &mut JoinSet<()>, ground: &Arc<Ground>, rogues: &Arc<Rogues>, speaker: &Arc<Speaker>, seed: u64) {
    let mut number = 1;
    let mut next = move || {
        number += 1;
        Dice::new(seed, number)
    };
    for (stranger, name) in STRANGERS {
        let quick = matches!(stranger, Stranger::Flood | Stranger::Resets);
        for _ in 0..if quick { 1 } else { WORKERS } {
            let (ground, mut dice) = (Arc::clone(ground), next());
            attackers.spawn(async move {
                while ground.pause(PAUSE).await {
                    ground.note(name, strangers::attack(stranger, &ground, &mut dice).await);
                }
            });
        }
    }
    for (rogue, name) in ROGUES {
        // The accepted ones take turns anyway.
        let workers = if matches!(rogue, Rogue::UnknownKey | Rogue::RubbishAfter | Rogue::Replay) { 2 } else { 1 };
        for _ in 0..workers {
            let (ground, rogues, mut dice) = (Arc::clone(ground), Arc::clone(rogues), next());
            attackers.spawn(async move {
                while ground.pause(PAUSE).await {
                    ground.note(name, rogues.attack(rogue, &ground, &mut dice).await);
                }
            });
        }
    }
    for (operator, name) in OPERATORS {
        for _ in 0..WORKERS {
            let (ground, speaker, mut dice) = (Arc::clone(ground), Arc::clone(speaker), next());
            attackers.spawn(async move {
                while ground.pause(PAUSE).await {
                    ground.note(name, speaker.attack(operator, &ground, &mut dice).await);
                }
            });
        }
    }
}
