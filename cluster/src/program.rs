//! The commands of `saltern-master`: `init`, `join`, `run`, `drain`, `undrain`, `rejoin`, `restore`, `recover`, `check`, and
//! their exit codes.
//!
//! A command that fails says so in one line on stderr. Exit codes are those of sysexits.h: 64 usage, 65 data that cannot be
//! trusted, 66 an input that cannot be read, 69 no master reachable, 70 a fault of the master, 71 the system, 74 the disk, 75 try again, 77 denied,
//! 78 configuration.

mod check;
mod claim;
mod drain;
mod recover;
mod restore;
mod run;

use crate::config::{Config, ConfigError};
use crate::founding::{self, FoundingError, JoinError, RejoinError};
use crate::node::{Node, StartError};
use crate::pki;
use crate::quarantine::EXIT_CORRUPT;
use crate::space::{DiskFault, EXIT_DISK};
use claim::{Claim, ClaimError};
use clap::{Parser, Subcommand};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_store::StoreError;

/// One master of a Saltern cluster.
#[derive(Debug, Parser)]
#[command(name = "saltern-master", version, about, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: MasterCommand,
    #[command(flatten)]
    flags: crate::config::Flags,
}

#[derive(Debug, Subcommand)]
enum MasterCommand {
    /// Make a new cluster, of which this is the first master
    Init,
    /// Become a master of an existing cluster
    Join {
        /// What `saltern cluster join-token` printed on one of its masters
        token: String,
    },
    /// Run this master until SIGTERM
    Run,
    /// Come back under a fresh id after this master's data was found corrupt; needs no token
    #[command(
        after_help = "The other masters give this one a fresh id, on the word of its old certificate. Everything that was\n\
        doubted is moved into DATA_DIR/quarantined-TIME. Running it again after any failure is harmless."
    )]
    Rejoin {
        /// Although nothing was found wrong with the data
        #[arg(long)]
        force: bool,
    },
    /// Make a new cluster out of an archive and the exported keys, with this machine as its first master
    #[command(
        after_help = "The archive comes from `saltern snapshot save`, the keys from `saltern cluster export-keys`. Nothing is\n\
        written before every byte of both was checked. Minions follow the new cluster without enrolling again; jobs that\n\
        were open are cancelled. Run it on one machine only: the others join it."
    )]
    Restore(restore::RestoreArguments),
    /// After a majority of the masters was lost for good: show what this one holds, or let it carry on alone
    #[command(subcommand)]
    Recover(recover::RecoverCommand),
    /// Move this machine's minions and leadership to other masters, then end the running master with exit code 0
    #[command(
        after_help = "Minions are asked to move one after the other, over the setting drain_spread_ms. A job that runs on them goes\n\
        on, and reports through another master. Once started again, the master takes no minions until `undrain`."
    )]
    Drain {
        /// Leave it running, as a member without minions
        #[arg(long)]
        stay: bool,
        /// How long that may take, in seconds; what is under way goes on
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
    },
    /// Let this machine's master take minions again
    Undrain,
    /// Verify the data folder of a master that is not running; changes nothing. Exit 0: sound, 65: not, 75: in use
    Check {
        /// How the report is written
        #[arg(long, short = 'o', value_enum, default_value = "table")]
        output: check::Format,
    },
}

/// Why a command failed, with its exit code.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Founding(#[from] FoundingError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Rejoin(#[from] RejoinError),
    #[error(transparent)]
    Restore(#[from] crate::backup::restore::RestoreError),
    #[error(transparent)]
    Recover(#[from] crate::recover::RecoverError),
    #[error("{0}")]
    Passphrase(String),
    #[error(transparent)]
    Credentials(#[from] pki::credentials::CredentialsError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Listen(#[from] crate::http::ListenError),
    #[error("TLS cannot be set up: {0}")]
    Pki(#[from] pki::PkiError),
    #[error("the data folder cannot be checked: {0}")]
    Unchecked(StoreError),
    #[error(transparent)]
    Disk(#[from] DiskFault),
    #[error("this master stopped because a write to {folder} failed: {cause}. Nothing that it acknowledged is lost")]
    Write { folder: String, cause: String },
    #[error(transparent)]
    Needs(#[from] saltern_pubsub::zmq::Shortage),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error(
        "this master is quarantined: {cause}. It does not vote, serve or replicate; what it holds stays as it is. Bring it \
         back from the other masters, under a fresh id, with: {remedy}"
    )]
    Quarantined { cause: String, remedy: String },
    #[error("this master stopped: {0}")]
    Newer(String),
    #[error(transparent)]
    Drain(#[from] drain::DrainError),
    #[error("{0}")]
    Removed(String),
    #[error("{0}")]
    Core(String),
}

impl Failed {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Claim(error) => error.exit_code(),
            Self::Join(error) => error.exit_code(),
            Self::Rejoin(error) => error.exit_code(),
            Self::Restore(error) => error.exit_code(),
            Self::Recover(error) => error.exit_code(),
            Self::Passphrase(_) => 66,
            Self::Founding(_) | Self::Credentials(_) | Self::Start(_) | Self::Listen(_) | Self::File { .. } => 78,
            Self::Newer(_) | Self::Needs(_) => 78,
            Self::Quarantined { .. } => EXIT_CORRUPT,
            Self::Disk(_) | Self::Write { .. } => EXIT_DISK,
            Self::Unchecked(StoreError::Locked { .. }) => 75,
            Self::Unchecked(_) => 78,
            Self::Drain(error) => error.exit_code(),
            Self::Removed(_) => 77,
            Self::Pki(_) | Self::Core(_) => 70,
        }
    }
}

/// Runs one command to its end and gives its exit code.
pub async fn main_of(arguments: Arguments) -> u8 {
    main_beside(arguments, |_| ()).await
}

/// The same, with something that begins beside a master that `run` has started: the load of a benchmark, which would measure
/// its own way to the master if it came from outside.
pub async fn main_beside(arguments: Arguments, beside: impl FnOnce(&Node)) -> u8 {
    match carry_out(arguments, beside).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("saltern-master: {error}");
            error.exit_code()
        }
    }
}

async fn carry_out(arguments: Arguments, beside: impl FnOnce(&Node)) -> Result<u8, Failed> {
    let uname = rustix::system::uname();
    let config = Config::load(&arguments.flags, std::env::vars(), &uname.nodename().to_string_lossy())?;
    match arguments.command {
        MasterCommand::Init => {
            println!("{}", founding::init(&config, &SystemDisk, &SystemEntropy, &SystemClock::new())?);
            Ok(0)
        }
        MasterCommand::Join { token } => {
            println!("{}", founding::join(&config, &token, &SystemDisk, &SystemEntropy).await?);
            Ok(0)
        }
        MasterCommand::Run => {
            let _claim = Claim::take(&config.data_dir)?;
            run::run(config, &arguments.flags.with_command("rejoin"), beside).await.map(|()| 0)
        }
        MasterCommand::Rejoin { force } => {
            let _claim = Claim::take(&config.data_dir)?;
            let (disk, entropy, clock) = (SystemDisk, SystemEntropy, SystemClock::new());
            println!("{}", founding::rejoin(&config, force, &disk, &entropy, &clock).await?);
            Ok(0)
        }
        MasterCommand::Restore(arguments) => {
            let _claim = Claim::take(&config.data_dir)?;
            restore::run(config, arguments).await
        }
        MasterCommand::Recover(command) => {
            let _claim = Claim::take(&config.data_dir)?;
            recover::run(config, command).await
        }
        MasterCommand::Drain { stay, timeout } => {
            drain::drain(&config, stay, std::time::Duration::from_secs(timeout)).await.map(|()| 0)
        }
        MasterCommand::Undrain => drain::undrain(&config).await.map(|()| 0),
        MasterCommand::Check { output } => {
            let _claim = Claim::take(&config.data_dir)?;
            let folder = config.data_dir.clone();
            let looked = tokio::task::spawn_blocking(move || check::look(&folder)).await;
            let report = looked.map_err(|error| Failed::Core(format!("the check ended early: {error}")))?;
            let report = report.map_err(Failed::Unchecked)?;
            print!("{}", check::render(&report, &config.data_dir, output, &arguments.flags.with_command("rejoin")));
            Ok(check::exit_code(&report))
        }
    }
}
