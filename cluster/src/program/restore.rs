//! `saltern-master restore`: arguments, the passphrase, and the work on a thread of its own.

use super::Failed;
use crate::backup::restore::{RestoreRequest, restore};
use crate::config::Config;
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_pubsub::terminal::ask_secret;
use saltern_store::kv::Engine;
use saltern_store::kv::rocks::RocksEngine;
use saltern_wire::ClusterId;
use saltern_wire::io::Disk;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longest file with a passphrase, in bytes.
const PASSPHRASE_FILE_BYTES_MAX: u64 = 4096;

/// What is to be restored.
#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// The archive
    archive: PathBuf,
    /// The keys, as `saltern cluster export-keys` wrote them
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// A file with the passphrase of the keys; without it, it is asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A further cluster whose minions are to follow; the archive's own does anyway
    #[arg(long, value_name = "CLUSTER-ID")]
    succeeds: Vec<ClusterId>,
    /// The generation of the new cluster, above that which its minions have seen; the archive's plus 1000 by default
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
}

/// Restores and says what was restored.
pub async fn run(config: Config, arguments: RestoreArguments) -> Result<u8, Failed> {
    let passphrase = passphrase(arguments.passphrase_file)?;
    let RestoreArguments { archive, keys, succeeds, generation, .. } = arguments;
    let request = RestoreRequest { archive, keys, passphrase, succeeds, generation };
    let work = move || {
        let engine: Arc<dyn Engine> = Arc::new(RocksEngine);
        restore(&config, &request, &engine, (&SystemDisk, &SystemEntropy, &SystemClock::new()))
    };
    let restored = tokio::task::spawn_blocking(work).await;
    let restored = restored.map_err(|error| Failed::Core(format!("the restore ended early: {error}")))?;
    println!("{}", restored?);
    Ok(0)
}

/// The passphrase, from a file or from the terminal.
fn passphrase(file: Option<PathBuf>) -> Result<Zeroizing<String>, Failed> {
    let Some(path) = file else {
        return ask_secret("Passphrase of the keys: ")
            .map_err(|error| Failed::Passphrase(format!("no passphrase: {error}; give one with --passphrase-file")));
    };
    let refuse = |cause: String| Failed::Passphrase(format!("{}: {cause}", path.display()));
    let bytes = SystemDisk.read(&path, PASSPHRASE_FILE_BYTES_MAX).map_err(|error| refuse(error.to_string()))?;
    let text = String::from_utf8(bytes.ok_or_else(|| refuse("there is no such file".into()))?);
    let text = Zeroizing::new(text.map_err(|_| refuse("it is not text".into()))?);
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}
