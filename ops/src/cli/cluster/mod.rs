//! `saltern cluster …`: verbs over the masters, one family a file.

mod forecast;
mod keys;
mod status;
mod token;

use super::duration::parse as parse_duration;
use super::{CliError, Session};
use std::path::PathBuf;
use std::time::Duration;

/// Verbs over the masters.
#[derive(Debug, clap::Subcommand)]
pub enum ClusterCommand {
    /// Show quorum, failure tolerance and every master
    #[command(after_help = "Example:\n  saltern cluster status -o table")]
    Status,
    /// Write the cluster's keys under a passphrase, for the safe: a backup is useless without
    #[command(name = "export-keys", after_help = "Example:\n  saltern cluster export-keys /media/safe/saltern.keys")]
    ExportKeys {
        /// The file
        file: PathBuf,
        /// A file with the passphrase, at least 12 bytes; without it, it is asked for
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Although there is a file of that name
        #[arg(long)]
        force: bool,
    },
    /// Say what the loss of some masters would mean: quorum, leader, pause in writes, commit latency
    #[command(
        after_help = "Exit code 1 if writes would stop.\n\nExample:\n  saltern cluster forecast --lose region:eu -o table"
    )]
    Forecast {
        /// region:NAME, zone:NAME or a master's name; repeatable, and several with commas
        #[arg(long, value_name = "WHAT", value_delimiter = ',', required = true)]
        lose: Vec<String>,
    },
    /// Print a token with which a new master may join
    #[command(
        name = "join-token",
        after_help = "Example:\n  saltern-master join \"$(ssh m1 saltern cluster join-token --ttl 10m)\""
    )]
    JoinToken {
        /// How long it is good for, at most 7d
        #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// How many masters may use it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
        uses: u32,
    },
}

/// Carries out a verb.
pub async fn run(command: ClusterCommand, session: &mut Session) -> Result<u8, CliError> {
    match command {
        ClusterCommand::Status => status::run(session).await,
        ClusterCommand::ExportKeys { file, passphrase_file, force } => {
            keys::run(file, passphrase_file, force, session).await
        }
        ClusterCommand::Forecast { lose } => forecast::run(&lose, session).await,
        ClusterCommand::JoinToken { ttl, uses } => token::run(ttl, uses, session).await,
    }
}
