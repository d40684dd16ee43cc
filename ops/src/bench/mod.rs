//! `ops/bench`: figures of this machine, measured on a cluster of real processes that it starts itself.
//!
//! ```text
//!   figure ── name, value, unit, load        one JSON object a line with -o json
//!   run    ── brings a cluster up, measures one thing after the other, one figure a measurement
//!   raft   ── `ops/bench raft`: the replicated core alone
//!   fleet  ── `ops/bench fleet`: three masters and thousands of minions
//! ```
//!
//! **Invariants.** A figure is what was measured in this run; the load average of the machine stands beside it. Nothing here is
//! a test: a slow machine gives large numbers, not failures.

pub mod figure;
pub mod fleet;
pub mod gaps;
pub mod raft;
pub mod work;

use crate::fleet::Plan;
use crate::fleet::bring_up::Cluster;
use figure::Figure;
use saltern_pubsub::clock::SystemClock;
use saltern_wire::io::Clock;

/// What the benchmark may be told.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "saltern-bench", version, about = "Prints the figures of this machine")]
pub struct Arguments {
    /// Without one: a whole cluster with minions
    #[command(subcommand)]
    pub what: Option<What>,
    /// How figures are written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Rounds of each gap measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
}

/// What is measured instead of a whole cluster.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum What {
    /// The replicated core: three members, real files, real syncs
    Raft(raft::Arguments),
    /// Thousands of minions on three masters: storms, bursts, and masters that die
    Fleet(fleet::Arguments),
}

/// How figures are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns
    Table,
    /// One JSON object a line
    Json,
}

/// Minions of the measured cluster.
pub const MINIONS: usize = 8;

/// Measures everything, writing each figure as it is known.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        Some(What::Raft(arguments)) => return raft::run(arguments).await,
        Some(What::Fleet(arguments)) => return fleet::run(arguments).await,
        None => {}
    }
    let folder = tempfile::Builder::new().prefix("saltern-bench-").tempdir()?;
    let clock = SystemClock::new();
    let put = |figure: Figure| figure.print(arguments.output);
    let plan = Plan { masters: 3, minions: MINIONS, folder: folder.path().to_path_buf(), ..Plan::default() };
    let started = clock.monotonic();
    let mut cluster = Cluster::bring_up(plan, &mut |what| eprintln!("… {what}")).await?;
    put(Figure::seconds("cluster_up_s", clock.monotonic().saturating_sub(started)));
    for figure in work::memory(&cluster) {
        put(figure);
    }
    for figure in work::ping_by_cli(&cluster, &clock).await? {
        put(figure);
    }
    put(work::returns_per_second(&cluster, &clock).await?);
    for figure in gaps::leader_killed(&mut cluster, &clock, arguments.rounds).await? {
        put(figure);
    }
    for figure in gaps::minion_moved(&mut cluster, &clock, gaps::Fault::Kill, arguments.rounds).await? {
        put(figure);
    }
    for figure in gaps::minion_moved(&mut cluster, &clock, gaps::Fault::Freeze, arguments.rounds).await? {
        put(figure);
    }
    Ok(())
}
