//! `saltern snapshot …`: the whole truth in one file, and what such a file is worth.
//!
//! `save` asks a master and checks every section while it is written; `inspect` and `verify` ask nobody: they read the file,
//! here, on any machine. Making a cluster out of one is `saltern-master restore`.
//!
//! **Invariant.** A file has its name only once it is whole, checked and on the disk.

use super::{CliError, Global};
use crate::client::connect::Reply;
use crate::client::{AttemptError, ClientError};
use crate::output::table::Table;
use crate::output::{Format, Page, Screen, document, nested};
use saltern_wire::Value;
use saltern_wire::api::{Failure, FailureCode};
use saltern_wire::archive::{ArchiveError, ArchiveHead, Part, Reader, Verified};
use saltern_wire::io::Entropy;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long nothing of an archive may come: a master with a large truth takes a copy of it first.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Piece in which a file is read, in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// Verbs over backups.
#[derive(Debug, clap::Subcommand)]
pub enum SnapshotCommand {
    /// Write everything that the cluster knows into a file, from a master that is current
    #[command(
        after_help = "Example:\n  saltern snapshot save /backup/saltern.archive\n\nThe cluster's keys are not in it in the clear: \
                      keep `saltern cluster export-keys` in a safe, a backup is useless without."
    )]
    Save {
        /// The file
        file: PathBuf,
        /// Although there is one of that name
        #[arg(long)]
        force: bool,
    },
    /// Show what an archive is: its cluster, its point in the log, how much it holds. Reads the file, asks nobody
    #[command(after_help = "Example:\n  saltern snapshot inspect /media/safe/saltern.snapshot")]
    Inspect {
        /// The file
        file: PathBuf,
    },
    /// Check every byte of an archive, and say which are wrong. Reads the file, asks nobody. Exit 0: whole, 65: not
    #[command(after_help = "Example:\n  saltern snapshot verify /media/safe/saltern.snapshot")]
    Verify {
        /// The file
        file: PathBuf,
    },
}

/// Carries out a verb.
pub async fn run(
    command: SnapshotCommand,
    global: &Global,
    entropy: Arc<dyn Entropy>,
    screen: &mut Screen,
) -> Result<u8, CliError> {
    match command {
        SnapshotCommand::Save { file, force } => {
            let mut client = global.client(entropy)?;
            if file.exists() && !force {
                let message = format!("{} exists: choose another name, or add --force", file.display());
                return Err(CliError::Usage(message));
            }
            let reply = client.download("/v1/snapshot").await?;
            let server = client.server();
            let verified = save(reply, &file, &server).await?;
            if screen.format() == Format::Nested {
                screen
                    .note("Whole and on the disk. It is useless without the keys: saltern cluster export-keys FILE")?;
            }
            screen.show(&Inspected { file, verified })?;
        }
        SnapshotCommand::Inspect { file } => {
            let verified = read(&file)?;
            screen.show(&Inspected { file, verified })?;
        }
        SnapshotCommand::Verify { file } => {
            let verified = read(&file)?;
            let (bytes, sections) = (verified.bytes, verified.sections);
            let by = &verified.written_by;
            screen.data(&format!(
                "{} is whole: {sections} sections with {bytes} bytes, sealed by {by}\n",
                file.display()
            ))?;
        }
    }
    Ok(0)
}

/// Writes what comes beside `file`, checks it, and gives it its name.
async fn save(mut reply: Reply, file: &Path, server: &str) -> Result<Verified, CliError> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let named = |path: &Path, error: io::Error| {
        CliError::Output(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let mut options = OpenOptions::new();
    let mut out =
        options.write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(|error| named(&part, error))?;
    let taken = take(&mut reply, &mut out, &part, server).await;
    let verified = match taken {
        Ok(verified) => verified,
        Err(error) => {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
    };
    out.sync_all().map_err(|error| named(&part, error))?;
    std::fs::rename(&part, file).map_err(|error| named(file, error))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| named(parent, error))?;
    Ok(verified)
}

async fn take(reply: &mut Reply, out: &mut File, part: &Path, server: &str) -> Result<Verified, CliError> {
    let broke_off = |cause: String| {
        let message =
            format!("the archive broke off ({server}: {cause}); nothing was kept, ask again or another master");
        CliError::Client(ClientError::Refused { failure: Failure::new(FailureCode::Busy, message) })
    };
    let mut reader = Reader::new();
    loop {
        let piece = match tokio::time::timeout(SILENCE_MAX, reply.chunk()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(AttemptError::Unreachable { cause, .. } | AttemptError::Malformed(cause)))) => {
                return Err(broke_off(cause));
            }
            Ok(Some(Err(AttemptError::Refused(failure)))) => return Err(broke_off(failure.message)),
            Ok(None) => break,
            Err(_) => return Err(broke_off(format!("nothing came for {} s", SILENCE_MAX.as_secs()))),
        };
        reader.push(&piece).map_err(|error| broke_off(error.to_string()))?;
        out.write_all(&piece)
            .map_err(|error| CliError::Output(io::Error::new(error.kind(), format!("{}: {error}", part.display()))))?;
    }
    reader.finish().map_err(|error| broke_off(error.to_string()))
}

/// Reads all of a file, a piece at a time.
fn read(file: &Path) -> Result<Verified, CliError> {
    let failed = |cause: String| CliError::Input { path: file.into(), cause };
    let wrong = |error: ArchiveError| CliError::Archive { path: file.into(), error };
    let mut open = File::open(file).map_err(|error| failed(error.to_string()))?;
    let (mut reader, mut piece) = (Reader::new(), vec![0; READ_BYTES]);
    loop {
        let len = open.read(&mut piece).map_err(|error| failed(error.to_string()))?;
        if len == 0 {
            return reader.finish().map_err(wrong);
        }
        let _: Vec<Part> = reader.push(&piece[..len]).map_err(wrong)?;
    }
}

/// An archive, as people look at it.
struct Inspected {
    file: PathBuf,
    verified: Verified,
}

impl Inspected {
    fn facts(&self) -> Value {
        let Verified { head, end, bytes, sections, written_by } = &self.verified;
        let ArchiveHead { format, version, cluster, generation, ca, revision, time, members, .. } = head;
        json!({
            "file": self.file.display().to_string(),
            "cluster": cluster,
            "generation": generation,
            "revision": revision,
            "time": time,
            "written_by": written_by,
            "ca_fingerprint": ca.fingerprint(),
            "format": format,
            "version": version,
            "bytes": bytes,
            "sections": sections,
            "members": members.iter().map(document).collect::<Vec<_>>(),
            "counts": end.counts,
            "rows": end.rows,
        })
    }
}

impl Page for Inspected {
    fn document(&self) -> Value {
        self.facts()
    }

    fn nested(&self) -> String {
        nested::text(&self.facts(), nested::ORDERED)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["FILE", "CLUSTER", "GENERATION", "REVISION", "TIME", "BYTES", "JOBS", "RETURNS"]);
        let Verified { head, end, bytes, .. } = &self.verified;
        let count = |name: &str| end.counts.get(name).copied().unwrap_or(0).to_string();
        table.row([
            self.file.display().to_string(),
            head.cluster.to_string(),
            head.generation.to_string(),
            head.revision.to_string(),
            head.time.to_string(),
            bytes.to_string(),
            count("jobs"),
            count("returns"),
        ]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &[u8] = include_bytes!("../../../pubsub/wire/tests/corpus/archive/small");

    #[test]
    fn a_file_is_read_whole_or_its_first_wrong_place_is_named() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("archive");
        std::fs::write(&file, SMALL).expect("written");
        let verified = read(&file).expect("whole");
        let page = Inspected { file: file.clone(), verified };
        let text = crate::output::style::plain(&crate::output::text(&page, Format::Nested));
        assert!(text.contains("revision:\n    77") && text.contains("written_by:\n    m2"), "{text}");

        let mut bent = SMALL.to_vec();
        let at = SMALL.len() - 100;
        bent[at] ^= 1;
        std::fs::write(&file, bent).expect("written");
        let error = read(&file).expect_err("bent");
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains("section 3"), "{error}");

        std::fs::write(&file, &SMALL[..at]).expect("written");
        assert!(read(&file).expect_err("cut").to_string().contains("was cut"));
        assert_eq!(read(&home.path().join("absent")).expect_err("absent").exit_code(), 66);
    }
}
