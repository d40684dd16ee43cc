//! `saltern cluster …`: verbs over the masters, one family a file.

mod forecast;
mod keys;
mod lead;
mod member;
mod secret;
mod status;
mod token;

use super::duration::parse as parse_duration;
use super::{CliError, Session};
use member::MemberArguments;
use saltern_wire::api::member::MemberChange;
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
    /// Let a learner vote
    #[command(after_help = "Example:\n  saltern cluster promote m4")]
    Promote(MemberArguments),
    /// Take a master's vote away; it stays as a learner that publishes and serves reads
    #[command(after_help = "Example:\n  saltern cluster demote m3")]
    Demote(MemberArguments),
    /// Take a master out for ever; the others get a new state secret
    #[command(after_help = "Example:\n  saltern cluster drain m3 && saltern cluster remove m3")]
    Remove(MemberArguments),
    /// Move a master's minions and its leadership to others; it stays a member
    #[command(after_help = "Example:\n  saltern cluster drain m2   # then stop it, upgrade it, start it, undrain it")]
    Drain(MemberArguments),
    /// Let a drained master take minions again
    #[command(after_help = "Example:\n  saltern cluster undrain m2 --yes")]
    Undrain(MemberArguments),
    /// Let another master lead
    #[command(name = "transfer-leader", after_help = "Example:\n  saltern cluster transfer-leader m2 --yes")]
    TransferLeader {
        /// Who is to lead; without one the leader chooses
        #[arg(value_name = "MASTER")]
        to: Option<String>,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Give every master a new state secret, without a pause
    #[command(name = "rotate-secrets", after_help = "Example:\n  saltern cluster rotate-secrets --show")]
    RotateSecrets {
        /// Only show which one is in force, and who holds it
        #[arg(long)]
        show: bool,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
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
        ClusterCommand::Promote(arguments) => member::run(MemberChange::Promote, &arguments, session).await,
        ClusterCommand::Demote(arguments) => member::run(MemberChange::Demote, &arguments, session).await,
        ClusterCommand::Remove(arguments) => member::run(MemberChange::Remove, &arguments, session).await,
        ClusterCommand::Drain(arguments) => member::run(MemberChange::Drain, &arguments, session).await,
        ClusterCommand::Undrain(arguments) => member::run(MemberChange::Undrain, &arguments, session).await,
        ClusterCommand::TransferLeader { to, yes } => lead::run(to, yes, session).await,
        ClusterCommand::RotateSecrets { show, yes } => secret::run(show, yes, session).await,
    }
}
