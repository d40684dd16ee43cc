//! The command line of `saltern-minion`.
//!
//! Exit codes: 0 well · 1 a function failed · 64 the command line is wrong · 70 a fault of the minion itself ·
//! 78 the configuration or the data folder is wrong.
//! Every complaint is one line on standard error.

mod nested;
mod swarm;

use crate::agent::Agent;
use crate::config::file::{Layer, OneOrMany};
use crate::config::{Config, Flags, load};
use crate::folder::{Folder, lock};
use crate::grains;
use crate::modules::{self, Context, Invocation};
use crate::supervisor::{Supervised, supervise};
use clap::{Args, Parser, Subcommand, ValueEnum};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_wire::io::Io;
use saltern_wire::{Map, Value};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// sysexits.h: the command line is wrong.
const EXIT_USAGE: u8 = 64;

/// sysexits.h: a fault of the program itself.
const EXIT_SOFTWARE: u8 = 70;

/// sysexits.h: something is configured wrong.
const EXIT_CONFIG: u8 = 78;

/// Threads for functions that block. They live while they are needed only; a minion at rest has none.
const BLOCKING_THREADS_MAX: usize = 8;

/// The minion of Saltern: takes jobs from any master of its cluster.
#[derive(Debug, Parser)]
#[command(name = "saltern-minion", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attaches to a master and takes jobs until it is stopped. The default.
    Run {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Runs one function here and now, without a master.
    Call {
        #[command(flatten)]
        settings: SettingsArgs,
        /// How to print the result.
        #[arg(short, long, value_enum, default_value_t = Output::Nested)]
        output: Output,
        /// module.function, e.g. grains.items
        function: String,
        /// Arguments; NAME=VALUE for keywords. Values are read as YAML.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Prints the fingerprint of this minion's key, to compare with what `saltern key list` shows.
    Fingerprint {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Runs many minions on this machine, to see what masters bear.
    Swarm(swarm::SwarmArgs),
    /// Runs one job, which comes on standard input. The minion starts it; people do not.
    #[command(hide = true)]
    Supervise {
        /// The data folder.
        #[arg(long)]
        folder: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Nested,
    Json,
}

#[derive(Debug, Clone, Default, Args)]
struct SettingsArgs {
    /// The configuration file [default: /etc/saltern/minion.yaml, if it exists]
    #[arg(short, long, env = "SALTERN_MINION_CONFIG")]
    config: Option<PathBuf>,
    /// The minion's id [default: the host's name]
    #[arg(long)]
    id: Option<String>,
    /// Masters, comma separated, HOST or HOST:PORT
    #[arg(long, value_delimiter = ',')]
    master: Vec<String>,
    /// SHA-256 of the cluster CA's key
    #[arg(long)]
    ca_fingerprint: Option<String>,
    /// Where key, journal and outbox are kept
    #[arg(long)]
    data_dir: Option<String>,
    /// error, warn, info, debug or trace, or a filter of tracing
    #[arg(short, long)]
    log_level: Option<String>,
}

impl SettingsArgs {
    fn load(self) -> Result<Config, Failed> {
        let layer = Layer {
            id: self.id,
            master: (!self.master.is_empty()).then_some(OneOrMany::Many(self.master)),
            ca_fingerprint: self.ca_fingerprint,
            data_dir: self.data_dir,
            log_level: self.log_level,
            ..Layer::default()
        };
        // A name that is no UTF-8 is none of ours.
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let environment = environment.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
        load(Flags { config: self.config, layer }, environment, &grains::hostname()).map_err(Failed::config)
    }
}

/// Why the program ends with another code than 0: one line, and the code.
struct Failed {
    line: String,
    code: u8,
}

impl Failed {
    fn config(error: impl Display) -> Self {
        Self { line: error.to_string(), code: EXIT_CONFIG }
    }

    fn other(error: impl Display) -> Self {
        Self { line: error.to_string(), code: 1 }
    }
}

/// The whole program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command.unwrap_or(Command::Run { settings: cli.settings }) {
        Command::Run { settings } => settings.load().and_then(run),
        Command::Call { settings, output, function, arguments } => {
            settings.load().and_then(|config| call(&config, output, function, &arguments))
        }
        Command::Fingerprint { settings } => settings.load().and_then(|config| fingerprint(&config)),
        Command::Swarm(arguments) => swarm::run(arguments),
        Command::Supervise { folder } => supervise_here(folder),
    };
    match result {
        Ok(code) => code,
        Err(failed) => {
            // A supervisor's standard error may be a pipe that nobody reads any more.
            let _ = writeln!(std::io::stderr(), "saltern-minion: {}", failed.line);
            ExitCode::from(failed.code)
        }
    }
}

/// One thread runs the whole minion: a handful of tasks that wait.
fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).thread_keep_alive(Duration::from_secs(2));
    builder.build().map_err(Failed::other)
}

fn start_logging(level: &str) -> Result<(), Failed> {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failed::config(format!("log_level {level:?} is no level and no filter: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    subscriber.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    Ok(())
}

fn run(config: Config) -> Result<ExitCode, Failed> {
    start_logging(&config.log_level)?;
    if config.masters.is_empty() {
        return Err(Failed::config(crate::agent::StartError::NoMaster));
    }
    if config.ca_fingerprint.is_none() {
        return Err(Failed::config(crate::agent::StartError::NoPin));
    }
    let _lock = lock(&config.data_dir).map_err(Failed::config)?;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(config));
    // A function that hangs in the kernel must not hold up the end; nothing that has to be kept is in such a thread.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config) -> Result<ExitCode, Failed> {
    let mut term = signal(SignalKind::terminate()).map_err(Failed::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failed::other)?;
    let io = Io {
        transport: Arc::new(ZmqTransport::new(GateLimits::default()).map_err(Failed::other)?),
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        disk: Arc::new(SystemDisk),
    };
    let folder = Folder::open(io.disk.clone(), &config.data_dir).map_err(Failed::config)?;
    let executor = Arc::new(Supervised::new("/proc/self/exe", folder));
    let (id, masters) = (config.id.clone(), config.masters.clone());
    let agent = Agent::start(config, io, executor).map_err(Failed::config)?;
    tracing::info!(%id, fingerprint = %agent.status().fingerprint, ?masters, "saltern-minion {}", env!("CARGO_PKG_VERSION"));
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd was not told");
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        // A process without its loop would look alive and take no job; whoever started it starts it again.
        () = agent.ended() => {
            return Err(Failed { line: "the agent's loop has ended by a fault of its own".into(), code: EXIT_SOFTWARE });
        }
    }
    agent.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn call(config: &Config, output: Output, function: String, arguments: &[String]) -> Result<ExitCode, Failed> {
    let (arguments, keywords) = read_arguments(arguments);
    let folder = Folder::at(Arc::new(SystemDisk), &config.data_dir);
    // Whoever may not read the data folder sees the grains without those set by hand.
    let set = folder.grains().unwrap_or_default();
    let grains = grains::merged(&config.id, &grains::host_facts(), &config.grains, &set);
    let context = Context {
        id: config.id.clone(),
        grains: Arc::new(grains),
        clock: Arc::new(SystemClock::new()),
        output_bytes_max: config.output_bytes_max,
    };
    let call = Invocation { function, arguments, keywords };
    let outcome = runtime()?.block_on(modules::run(context, call));
    match output {
        Output::Nested => println!("local:\n{}", nested::render(&outcome.value, 4)),
        Output::Json => println!("{:#}", serde_json::json!({ "local": outcome.value })),
    }
    Ok(if outcome.success { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Splits words as Salt does: `name=value` is a keyword, everything else a position, and values are YAML.
fn read_arguments(words: &[String]) -> (Vec<Value>, Map) {
    let (mut positional, mut keywords) = (Vec::new(), Map::new());
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if is_name(name) => drop(keywords.insert(name.to_owned(), read_value(value))),
            Some(_) | None => positional.push(read_value(word)),
        }
    }
    (positional, keywords)
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A value as YAML reads it; a text that is no YAML, or that YAML would take for a mapping or cut at a comment, is itself.
fn read_value(text: &str) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true };
    let read = serde_saphyr::from_str_with_options::<Value>(text, options);
    let is_meant = |value: &Value| !value.is_object() || text.trim_start().starts_with('{');
    match read {
        Ok(value) if is_meant(&value) && !text.contains('#') => value,
        Ok(_) | Err(_) => Value::String(text.to_owned()),
    }
}

fn fingerprint(config: &Config) -> Result<ExitCode, Failed> {
    let folder = Folder::at(Arc::new(SystemDisk), &config.data_dir);
    let known = folder.has_identity().map_err(Failed::config)?;
    // The key is made here if need be, but not while a minion may be making it.
    let _lock = if known { None } else { Some(lock(&config.data_dir).map_err(Failed::config)?) };
    let identity = folder.identity(&SystemEntropy).map_err(Failed::config)?;
    println!("{}", identity.public_key().fingerprint());
    Ok(ExitCode::SUCCESS)
}

fn supervise_here(root: PathBuf) -> Result<ExitCode, Failed> {
    let folder = Folder::at(Arc::new(SystemDisk), root);
    let clock = Arc::new(SystemClock::new());
    runtime()?.block_on(supervise(folder, clock)).map_err(Failed::other)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn words_become_values() {
        let words: Vec<String> =
            ["ls -l", "5", "true", "a=b", "timeout=1.5", "env={A: b}", "echo $((1+1)) # x", "a: b", "--flag=x"]
                .map(str::to_owned)
                .into();
        let (positional, keywords) = read_arguments(&words);
        let expect =
            [json!("ls -l"), json!(5), json!(true), json!("echo $((1+1)) # x"), json!("a: b"), json!("--flag=x")];
        assert_eq!(positional, expect);
        assert_eq!(Value::Object(keywords), json!({"a": "b", "timeout": 1.5, "env": {"A": "b"}}));
    }
}
