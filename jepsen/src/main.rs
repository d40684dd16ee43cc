//! `saltern-jepsen sim`: runs the simulation for one seed, or for several after one another.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use saltern_jepsen::sim::plan::FAULTS_DEFAULT;
use saltern_jepsen::sim::{Options, history, run};

#[derive(Parser)]
#[command(name = "saltern-jepsen", version, about = "Breaks Saltern on purpose and judges what came of it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Three masters and four minions in one thread, killed and cut off from each other while jobs run
    Sim(Simulation),
}

#[derive(Args)]
struct Simulation {
    /// Decides everything: the same seed gives the same history
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from --seed on
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// How many faults are made in each run
    #[arg(long, default_value_t = FAULTS_DEFAULT)]
    steps: usize,
    /// Runs every seed twice, and fails if the two histories are not the same bytes
    #[arg(long)]
    twice: bool,
    /// Where the history of the last run is written, as JSON lines
    #[arg(long)]
    history: Option<std::path::PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SALTERN_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let Command::Sim(simulation) = Arguments::parse().command;
    let mut broken = 0;
    for seed in simulation.seed..simulation.seed + simulation.count {
        let options = Options { seed, faults: simulation.steps };
        let done = run(options)?;
        if simulation.twice {
            let again = run(options)?;
            anyhow::ensure!(again.history == done.history, "seed {seed}: the second history is not the first");
        }
        if let Some(path) = &simulation.history {
            std::fs::write(path, history::to_bytes(&done.history)).with_context(|| path.display().to_string())?;
        }
        println!("seed {seed}: {done}");
        broken += done.violations.len();
    }
    anyhow::ensure!(broken == 0, "{broken} violations");
    Ok(())
}
