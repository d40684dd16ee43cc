//! `saltern-jepsen`: `sim` runs the simulation, `crash` the crash loop and `attack` the attack list over real processes.
//!
//! Exit codes: 0 everything held · 1 something did not, or nobody knows · 69 this machine cannot do what was asked for.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use saltern_jepsen::attack;
use saltern_jepsen::crash::{self, power};
use saltern_jepsen::sim::plan::FAULTS_DEFAULT;
use saltern_jepsen::sim::{Options, history, run};
use std::process::ExitCode;
use std::time::Duration;

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
    /// Three masters and eight minions as processes, killed at every fault point and at random while jobs run
    Crash(CrashLoop),
    /// Three masters and their minions as processes, attacked on every port while jobs run
    Attack(AttackList),
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

#[derive(Args)]
struct AttackList {
    /// Decides the bytes and the addresses of the strikes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the attack takes, in seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Minions of the fleet that works meanwhile
    #[arg(long, default_value_t = 8)]
    minions: usize,
}

#[derive(Args)]
struct CrashLoop {
    /// Decides who dies when, and what the clients do
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many deaths have to be seen
    #[arg(long, default_value_t = 30)]
    kills: u32,
    /// When the faults end at the latest, in minutes [default: enough for the kills]
    #[arg(long)]
    minutes: Option<u64>,
    /// Disks lose their power as well: data folders on loop devices, in a mount namespace of this run
    #[arg(long)]
    power: bool,
    /// Makes only strikes whose description contains this, e.g. `kill master-1` or `snapshot.install`
    #[arg(long)]
    only: Option<String>,
    /// Where the history is written, as JSON lines
    #[arg(long)]
    history: Option<std::path::PathBuf>,
}

/// sysexits.h: this machine cannot do what was asked for.
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SALTERN_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match Arguments::parse().command {
        Command::Sim(simulation) => simulate(&simulation).map(|()| ExitCode::SUCCESS),
        Command::Crash(wanted) => crash_loop(&wanted),
        Command::Attack(wanted) => attack_list(&wanted),
    }
}

fn simulate(simulation: &Simulation) -> anyhow::Result<()> {
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

fn attack_list(wanted: &AttackList) -> anyhow::Result<ExitCode> {
    let time = Duration::from_secs(wanted.seconds);
    let options = attack::Options { seed: wanted.seed, time, minions: wanted.minions };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(attack::run(options))?;
    println!("{report}");
    Ok(if report.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn crash_loop(wanted: &CrashLoop) -> anyhow::Result<ExitCode> {
    if wanted.power {
        match power::in_own_namespace() {
            Ok(None) => {}
            Ok(Some(ended)) => {
                let code = ended.code().and_then(|code| u8::try_from(code).ok());
                return Ok(ExitCode::from(code.unwrap_or(1)));
            }
            Err(error) => return Ok(unavailable(&error)),
        }
    }
    let within = wanted.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let options = crash::Options {
        seed: wanted.seed,
        kills: wanted.kills,
        within: within.unwrap_or_else(|| crash::time_for(wanted.kills)),
        power: wanted.power,
        only: wanted.only.clone(),
    };
    println!("seed {}: {} kills", wanted.seed, wanted.kills);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = match runtime.block_on(crash::run(options)) {
        Ok(done) => done,
        Err(error) => match error.downcast_ref::<power::PowerError>() {
            Some(absent @ power::PowerError::Absent(_)) => return Ok(unavailable(absent)),
            Some(power::PowerError::Disk { .. }) | None => return Err(error),
        },
    };
    if let Some(path) = &wanted.history {
        let bytes = crash::history::to_bytes(&done.history)?;
        std::fs::write(path, bytes).with_context(|| path.display().to_string())?;
    }
    println!("{}", done.report);
    let passed = done.report.verdict() == crash::check::Verdict::Pass;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unavailable(error: &power::PowerError) -> ExitCode {
    eprintln!("saltern-jepsen: {error}");
    ExitCode::from(EXIT_UNAVAILABLE)
}
