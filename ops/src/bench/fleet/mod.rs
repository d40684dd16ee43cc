//! `ops/bench fleet`: what three masters and thousands of minions do on this machine: real processes, real sessions, real files.
//!
//! ```text
//!   ground ── three masters and a swarm         namespace ── where packets get lost
//!   work   ── pings, publishes, jobs, returns   gaps ── masters killed, frozen, cut off, drained
//!   small  ── real minions, by command line     salt ── the same work on a peer, with --peers
//! ```
//!
//! The minions are a swarm (`saltern-minion swarm`): the agents of production, some thousands in a few processes. Everything runs
//! on this one machine, so the figures are a lower bound of what masters do that have a machine each.
//!
//! **Invariants.** A figure is what was measured in this run, or it is not printed. Times of minions are those of the minions'
//! own events, held against the same wall clock. Whatever was started ends with the run, and its folder goes.

mod gaps;
mod ground;
mod namespace;
mod salt;
mod small;
mod work;

use super::Output;
use super::figure::Figure;
use gaps::Fault;
use ground::Ground;
use salt::Salt;
use std::path::PathBuf;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The whole fleet attaches at once
    Attach,
    /// test.ping to all, until everything is committed
    Ping,
    /// From a submission until the last minion runs it
    Publish,
    /// Jobs per second, to one minion and to all
    Jobs,
    /// A master is killed
    Kill,
    /// A master is frozen (SIGSTOP)
    Stop,
    /// A master's packets get lost
    Blackhole,
    /// A master is drained
    Drain,
    /// All masters are killed and start again at once
    Restart,
    /// Real minions: start, memory, the command line
    Small,
}

/// All parts, in the order in which they are measured.
const ALL: [Part; 10] = [
    Part::Attach,
    Part::Ping,
    Part::Publish,
    Part::Jobs,
    Part::Kill,
    Part::Stop,
    Part::Blackhole,
    Part::Drain,
    Part::Restart,
    Part::Small,
];

/// What the benchmark may be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// How figures are written
    #[arg(short, long, value_enum, default_value_t = Output::Json)]
    pub output: Output,
    /// Minions of the swarm [default: 6000, with --quick 300]
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=20_000))]
    pub minions: Option<u64>,
    /// Processes of the swarm [default: as many as the limit of open files asks for]
    #[arg(long)]
    pub workers: Option<usize>,
    /// Only these parts, with commas between them
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// A short form: fewer minions, fewer rounds
    #[arg(long)]
    pub quick: bool,
    /// Rounds of each fault [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: Option<u32>,
    /// The same small work on stock Salt, installed from PyPI into a folder of its own
    #[arg(long)]
    pub peers: bool,
    /// Where everybody's folders are made: the disk that is measured
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Lines for every master's configuration
    #[arg(long, default_value = "")]
    pub extra: String,
    /// Lines for every minion's configuration
    #[arg(long, default_value = "")]
    pub minion_extra: String,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        if self.only.is_empty() { ALL.contains(&part) } else { self.only.contains(&part) }
    }

    fn minions(&self) -> usize {
        let default = if self.quick { 300 } else { 6_000 };
        self.minions.and_then(|minions| usize::try_from(minions).ok()).unwrap_or(default)
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// Rounds of what disturbs nobody.
    fn repeats(&self) -> u32 {
        if self.quick { 10 } else { 30 }
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn put(&self, name: impl Into<String>, value: f64, unit: &'static str, minions: usize) {
        Figure::new(name, value, unit).with_minions(minions).print(self.output);
    }
}

/// Measures what was asked for, writing each figure as it is known.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_inside = namespace::is_inside();
    if !is_inside && arguments.peers {
        // Packages come from outside of the namespace.
        Salt::install().unwrap_or_else(|error| eprintln!("… no peer: {error:#}"));
    }
    if !is_inside && arguments.wants(Part::Blackhole) {
        if namespace::can_be_made() {
            let status = tokio::task::spawn_blocking(namespace::run_inside).await??;
            anyhow::ensure!(status.success(), "in a network namespace: {status}");
            return Ok(());
        }
        eprintln!("… no network namespace can be made here: no black hole is measured");
    }
    if is_inside {
        namespace::bring_up()?;
    }
    let folder = tempfile::Builder::new().prefix("saltern-bench-").tempdir_in(arguments.folder())?;
    if ALL.iter().any(|part| *part != Part::Small && arguments.wants(*part)) {
        let mut ground = Ground::lay(arguments, &folder.path().join("fleet")).await?;
        large(arguments, &mut ground, is_inside).await?;
        ground.swarm.quit().await?;
    }
    if arguments.wants(Part::Small) {
        let ours = small::measure(arguments, &folder.path().join("small")).await?;
        if arguments.peers && Salt::is_installed() {
            salt::compare(arguments, &folder.path().join("salt"), &ours).await?;
        }
    }
    Ok(())
}

/// Everything with the swarm.
async fn large(arguments: &Arguments, ground: &mut Ground, is_inside: bool) -> anyhow::Result<()> {
    work::memory(arguments, ground).await?;
    if arguments.wants(Part::Attach) {
        work::attach(arguments, ground).await?;
    }
    if arguments.wants(Part::Ping) {
        work::ping(arguments, ground).await?;
    }
    if arguments.wants(Part::Publish) {
        work::publish(arguments, ground).await?;
    }
    if arguments.wants(Part::Jobs) {
        work::jobs_to_one(arguments, ground).await?;
        work::jobs_to_all(arguments, ground).await?;
    }
    for (part, fault) in [
        (Part::Kill, Fault::Kill),
        (Part::Stop, Fault::Stop),
        (Part::Blackhole, Fault::Blackhole),
        (Part::Drain, Fault::Drain),
    ] {
        let is_possible = is_inside || part != Part::Blackhole;
        if arguments.wants(part) && is_possible {
            gaps::measure(arguments, ground, fault).await?;
        }
    }
    if arguments.wants(Part::Restart) {
        gaps::restart_all(arguments, ground).await?;
    }
    Ok(())
}
