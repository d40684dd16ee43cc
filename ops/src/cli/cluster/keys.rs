//! `saltern cluster export-keys`: what a backup is useless without, under a passphrase, for the safe.

use super::{CliError, Session};
use crate::output::Format;
use saltern_pubsub::terminal::ask_secret;
use saltern_wire::api::{ExportKeys, ExportedKeys, Passphrase};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest file with a passphrase, in bytes.
const PASSPHRASE_FILE_BYTES_MAX: u64 = 4096;

/// Asks a master for the keys and writes them, sealed, into `file`.
pub(super) async fn run(
    file: PathBuf,
    passphrase_file: Option<PathBuf>,
    force: bool,
    session: &mut Session,
) -> Result<u8, CliError> {
    if file.exists() && !force {
        let message = format!("{} exists: choose another name, or add --force", file.display());
        return Err(CliError::Usage(message));
    }
    let passphrase = passphrase(passphrase_file.as_deref())?;
    let body = ExportKeys { passphrase: Passphrase(passphrase.to_string()) };
    let answer = session.client.post("/v1/cluster/export-keys", &body).await?;
    let keys: ExportedKeys = session.fresh(answer)?;
    write(&file, keys.file.as_bytes())
        .map_err(|error| CliError::Output(io::Error::new(error.kind(), format!("{}: {error}", file.display()))))?;
    if session.screen.format() == Format::Nested {
        session.screen.note(&format!(
            "The keys of the cluster {} are in {}. Keep the file and its passphrase in a safe, apart from the backups: \
             together they are the cluster.",
            keys.cluster,
            file.display()
        ))?;
    }
    Ok(0)
}

/// From a file, or from the terminal, twice.
fn passphrase(file: Option<&Path>) -> Result<Zeroizing<String>, CliError> {
    if let Some(path) = file {
        let refuse = |cause: String| CliError::Input { path: path.into(), cause };
        let open = File::open(path).map_err(|error| refuse(error.to_string()))?;
        let mut text = Zeroizing::new(String::new());
        io::Read::read_to_string(&mut io::Read::take(open, PASSPHRASE_FILE_BYTES_MAX), &mut text)
            .map_err(|error| refuse(error.to_string()))?;
        return Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()));
    }
    let ask = |prompt: &str| {
        ask_secret(prompt)
            .map_err(|error| CliError::Usage(format!("no passphrase: {error}; give one with --passphrase-file FILE")))
    };
    let passphrase = ask("Passphrase for the keys (12 bytes or more): ")?;
    if *ask("The same again: ")? != *passphrase {
        return Err(CliError::Usage("the two passphrases differ: nothing was written".into()));
    }
    Ok(passphrase)
}

/// Temporary name, fsync, rename, fsync of the folder.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&part, file)?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
