//! The command line: global options, the nouns, and how every command ends.
//!
//! ```text
//!   saltern [global options] NOUN VERB …
//!     key · run · job · mine · minion · cluster · snapshot · config · event · demo · completion
//! ```
//!
//! A noun's file holds its arguments and its verbs; each verb asks through [`Session::client`] and shows through
//! [`Session::screen`]. What is parsed, decided or laid out is in functions without I/O beside it.
//!
//! **Invariant.** The exit code comes from [`CliError::exit_code`] or from the verb, never from clap (whose 2 would mean
//! "nothing matched").

mod arguments;
mod batch;
mod cluster;
mod config;
mod duration;
mod event;
mod global;
mod job;
mod key;
mod mine;
mod minion;
mod run;
mod session;
mod snapshot;
mod tally;
mod target;

pub use global::Global;
pub use session::Session;

use crate::client::ClientError;
use crate::output::Screen;
use clap::{CommandFactory, Parser, Subcommand};
use saltern_wire::api::{Failure, FailureCode};
use saltern_wire::io::Entropy;
use std::io;
use std::sync::Arc;

/// The command line was wrong.
pub const EXIT_USAGE: u8 = 64;
/// Nothing matched.
pub const EXIT_NO_MATCH: u8 = 2;
/// Some targeted minions did not return.
pub const EXIT_MISSING: u8 = 3;
/// A file is not what it should be.
pub const EXIT_DATA: u8 = 65;
/// A file cannot be read.
pub const EXIT_INPUT: u8 = 66;
/// No master is reachable.
pub const EXIT_UNREACHABLE: u8 = 69;
/// The caller may not.
pub const EXIT_DENIED: u8 = 77;
/// The answer could not be written.
pub const EXIT_OUTPUT: u8 = 74;
/// A fault that is not the caller's.
pub const EXIT_INTERNAL: u8 = 70;
/// Interrupted by Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Whoever read stdout has gone; what a shell shows for SIGPIPE.
pub const EXIT_PIPE: u8 = 141;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   a minion failed, or the thing asked for does not exist
  2   nothing matched
  3   some targeted minions did not return
  64  the command line is wrong
  65  an archive is not whole
  66  a file cannot be read
  69  no master is reachable
  75  no quorum, or the outcome is unknown: try again
  77  denied

Examples:
  saltern key accept 'web-*'
  saltern run '*' test.ping
  saltern run -G os:Debian cmd.run 'uptime' -o json
  saltern --server https://m1.example.org --ca-fingerprint 4f… --token-file ~/.saltern cluster status";

/// Run commands on many machines through any of several masters.
#[derive(Debug, Parser)]
#[command(name = "saltern", version, about, propagate_version = true, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Asks(Asking),
    /// Back everything up that the cluster knows, and look at backups
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Start a whole cluster on this machine and show what it survives
    Demo(crate::demo::DemoArguments),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  saltern completion bash > /etc/bash_completion.d/saltern")]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Commands that ask a master.
#[derive(Debug, Subcommand)]
enum Asking {
    /// Decide which minions may work
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Run a function on minions and print what they return
    Run(run::RunArguments),
    /// Look at jobs
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Read what minions publish for each other
    #[command(subcommand)]
    Mine(mine::MineCommand),
    /// Look at minions
    #[command(subcommand)]
    Minion(minion::MinionCommand),
    /// Look after the masters
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Read and change replicated settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Follow what happens
    #[command(subcommand)]
    Event(event::EventCommand),
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// No answer, or a refusal.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The terminal or pipe is gone or full.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    Input {
        /// Which file.
        path: std::path::PathBuf,
        /// Why not.
        cause: String,
    },
    /// A file is no archive that can be trusted.
    #[error("{}: {error}", path.display())]
    Archive {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it, and where.
        error: saltern_wire::archive::ArchiveError,
    },
    /// The operator did not confirm.
    #[error("nothing was changed")]
    Declined,
    /// The demo failed.
    #[error("{0:#}")]
    Demo(anyhow::Error),
}

impl CliError {
    /// How the process ends.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Client(ClientError::Unreachable { .. }) => EXIT_UNREACHABLE,
            Self::Client(ClientError::Forbidden { .. }) => EXIT_DENIED,
            Self::Client(ClientError::Malformed { .. }) => EXIT_INTERNAL,
            Self::Client(ClientError::Refused { failure }) => failure.code.exit_code(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_PIPE,
            Self::Output(_) => EXIT_OUTPUT,
            Self::Input { .. } => EXIT_INPUT,
            Self::Archive { .. } => EXIT_DATA,
            Self::Declined | Self::Demo(_) => 1,
        }
    }

    /// The kind of refusal, if a master refused.
    fn refusal(&self) -> Option<FailureCode> {
        match self {
            Self::Client(ClientError::Refused { failure: Failure { code, .. } }) => Some(*code),
            Self::Usage(_)
            | Self::Client(_)
            | Self::Output(_)
            | Self::Input { .. }
            | Self::Archive { .. }
            | Self::Declined
            | Self::Demo(_) => None,
        }
    }
}

/// Carries out a command line and gives the process's exit code.
pub async fn main(cli: Cli, entropy: Arc<dyn Entropy>) -> u8 {
    let mut screen = Screen::standard(cli.global.output, cli.global.color);
    let advice = cli.global.advice_when_denied();
    let end = match cli.command {
        Command::Completion { shell } => completion(shell, &mut screen),
        Command::Demo(arguments) => crate::demo::run(arguments, cli.global.output).await.map_err(CliError::Demo),
        Command::Snapshot(command) => snapshot::run(command, &cli.global, entropy, &mut screen).await,
        Command::Asks(command) => match cli.global.client(entropy) {
            Ok(client) => {
                let mut session = Session::new(client, screen);
                if cli.global.as_of {
                    session.show_as_of();
                }
                let end = command.run(&mut session).await;
                screen = session.into_screen();
                end
            }
            Err(error) => Err(error),
        },
    };
    end.unwrap_or_else(|error| {
        let code = error.exit_code();
        if code != EXIT_PIPE {
            // If stderr is gone as well, the exit code is all there is to say it with.
            let _ = screen.error(&error.to_string());
            if error.refusal() == Some(FailureCode::Denied) {
                let _ = screen.note(advice);
            }
        }
        code
    })
}

impl Asking {
    async fn run(self, session: &mut Session) -> Result<u8, CliError> {
        match self {
            Self::Key(command) => key::run(command, session).await,
            Self::Run(arguments) => run::run(arguments, session).await,
            Self::Job(command) => job::run(command, session).await,
            Self::Mine(command) => mine::run(command, session).await,
            Self::Minion(command) => minion::run(command, session).await,
            Self::Cluster(command) => cluster::run(command, session).await,
            Self::Config(command) => config::run(command, session).await,
            Self::Event(command) => event::run(command, session).await,
        }
    }
}

fn completion(shell: clap_complete::Shell, screen: &mut Screen) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "saltern", &mut script);
    screen.data(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

#[cfg(test)]
mod tests;
