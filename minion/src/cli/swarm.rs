//! `saltern-minion swarm`: many minions in a few processes.

use super::{EXIT_SOFTWARE, Failed, SettingsArgs, start_logging};
use crate::agent::StartError;
use crate::swarm::{Plan, crew, worker, workers_needed};
use clap::Args;
use saltern_pubsub::zmq::raise_descriptor_limit;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Threads of a worker that run its minions.
const WORKER_THREADS: usize = 2;

/// Threads of a worker that wait for its disk: so many minions are in one sync.
const WORKER_BLOCKING_THREADS_MAX: usize = 48;

/// A thread's stack, in bytes: functions of a swarm are small.
const STACK_BYTES: usize = 1024 * 1024;

const AFTER_HELP: &str = "\
Runs many minions on this machine, to see what masters bear: real keys, handshakes, sessions and subscriptions; functions run
inside the swarm and change nothing on the host (test.*, grains.*, status.*; cmd.* is refused).

Their keys wait for an operator: `saltern key accept --all`. All come from one address, so masters need
`connections_per_address_max` at twice the number of minions. Ids are PREFIX-1, PREFIX-2 and so on.

Standard output is one JSON object a line: {\"figures\":…} every --every seconds, {\"event\":…} with --events,
{\"done\":…} for each order. Orders are lines on standard input, or on the unix socket --control:
  stop [HOW-MANY] · start · restart [HOW-MANY] · cut [HOW-MANY] · freeze [HOW-MANY] · thaw · mark NAME · figures · quit
HOW-MANY is a number, a share such as 30%, or all. SIGTERM ends everything.

Example:
  saltern-minion swarm --count 1000 --master 10.0.0.1,10.0.0.2 --ca-fingerprint SHA256 --folder /var/tmp/swarm";

/// The flags of a swarm.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct SwarmArgs {
    /// How many minions
    #[arg(long)]
    count: usize,
    /// Processes that run them [default: as many as the limit of open files asks for]
    #[arg(long)]
    workers: Option<usize>,
    /// Where their keys, journals and outboxes are kept
    #[arg(long)]
    folder: PathBuf,
    /// How their ids begin
    #[arg(long, default_value = "web")]
    prefix: String,
    /// How many are started a second
    #[arg(long, default_value_t = 500)]
    per_second: usize,
    /// Seconds between two lines of figures
    #[arg(long, default_value_t = 1.0)]
    every: f64,
    /// Tells of each minion that begins or ceases to work
    #[arg(long)]
    events: bool,
    /// A unix socket for orders
    #[arg(long)]
    control: Option<PathBuf>,
    /// A minion's configuration file, whose settings all of them have; without one there are only these flags
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// Masters, comma separated, HOST or HOST:PORT
    #[arg(long, visible_alias = "masters", value_delimiter = ',')]
    master: Vec<String>,
    /// SHA-256 of the cluster CA's key
    #[arg(long)]
    ca_fingerprint: Option<String>,
    /// error, warn, info, debug or trace, or a filter of tracing: of all minions together
    #[arg(short, long, default_value = "error")]
    log_level: String,
    /// The number of the worker that this process is. The swarm starts them; people do not.
    #[arg(long, hide = true)]
    worker: Option<usize>,
}

impl SwarmArgs {
    fn plan(&self, limit: u64) -> Result<Plan, Failed> {
        let settings = SettingsArgs {
            // No file is read that was not named: the host's own minion is none of the swarm.
            config: Some(self.config.clone().unwrap_or_else(|| "/dev/null".into())),
            id: Some(self.prefix.clone()),
            master: self.master.clone(),
            ca_fingerprint: self.ca_fingerprint.clone(),
            data_dir: Some(self.folder.display().to_string()),
            log_level: Some(self.log_level.clone()),
        };
        let config = settings.load()?;
        if config.masters.is_empty() {
            return Err(Failed::config(StartError::NoMaster));
        }
        if config.ca_fingerprint.is_none() {
            return Err(Failed::config(StartError::NoPin));
        }
        if !(0.05..=3600.0).contains(&self.every) {
            return Err(Failed::config(format!("--every {}: give 0.05 to 3600 seconds", self.every)));
        }
        let workers = self.workers.unwrap_or_else(|| workers_needed(self.count, limit));
        let plan = Plan {
            count: self.count,
            workers,
            folder: self.folder.clone(),
            prefix: self.prefix.clone(),
            per_second: self.per_second,
            every: Duration::from_secs_f64(self.every),
            events: self.events,
            config,
        };
        plan.check(limit).map_err(Failed::config)?;
        Ok(plan)
    }
}

/// A worker of which one minion's loop has panicked would count a minion that is none: it ends, and the swarm with it.
fn die_of_panics() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::exit(i32::from(EXIT_SOFTWARE));
    }));
}

/// Runs the swarm, or one worker of it.
pub(super) fn run(arguments: SwarmArgs) -> Result<ExitCode, Failed> {
    start_logging(&arguments.log_level)?;
    let limit = raise_descriptor_limit().map_err(Failed::other)?;
    let plan = arguments.plan(limit)?;
    let broken = |error: &dyn std::fmt::Display| Failed { line: error.to_string(), code: EXIT_SOFTWARE };
    match arguments.worker {
        Some(number) => {
            die_of_panics();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(WORKER_THREADS)
                .max_blocking_threads(WORKER_BLOCKING_THREADS_MAX)
                .thread_stack_size(STACK_BYTES)
                .enable_all()
                .build()
                .map_err(Failed::other)?;
            let result = runtime.block_on(runtime.spawn(worker::run(plan, number)));
            runtime.shutdown_background();
            result.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
        }
        None => {
            let runtime = super::runtime()?;
            let words: Vec<_> = std::env::args_os().skip(1).collect();
            let result = runtime.block_on(crew::run(plan, "/proc/self/exe".as_ref(), &words, arguments.control));
            // Standard input may never end.
            runtime.shutdown_background();
            result.map_err(|error| broken(&error))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
