//! Writes the truth of this master as an archive, piece by piece.

use crate::pki::Credentials;
use saltern_store::{Snapshots, State, StoreError};
use saltern_wire::archive::{ArchiveHead, ArchiveMember, FORMAT, Writer};
use saltern_wire::crypto::Signed;
use saltern_wire::master::MasterRecord;
use saltern_wire::{LogicalTime, Revision};
use std::ops::ControlFlow;

/// Why an archive was not written to its end.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveWriteError {
    /// The truth cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to back up.
    #[error("this master has not caught up with its cluster yet: try again, or ask another one")]
    Unfounded,
    /// Whoever was to take it stopped taking.
    #[error("nobody takes the archive any more")]
    Unwanted,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The point in the log.
    pub revision: Revision,
    /// The truth's time at that point.
    pub time: LogicalTime,
    /// Length, in bytes.
    pub bytes: u64,
}

/// Writes the truth as it is now to `sink`, a section at a time, and stops when `sink` says so. Blocks for as long as it
/// takes; entries are applied meanwhile.
pub fn write(
    state: &State,
    snapshots: &Snapshots,
    credentials: &Credentials,
    sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<Written, ArchiveWriteError> {
    let export = snapshots.export(state)?;
    let signed = export.directory().ok_or(ArchiveWriteError::Unfounded)?;
    let directory = signed.verify(&credentials.ca).map_err(|error| StoreError::Corrupt {
        what: "the directory of masters in the tables".into(),
        cause: error.to_string(),
    })?;
    let head = ArchiveHead {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: directory.cluster,
        generation: directory.generation,
        ca: credentials.ca,
        revision: export.revision(),
        time: export.time(),
        by: credentials.master,
        members: directory.masters.iter().map(member).collect(),
    };
    let mut bytes = 0;
    let mut pass = |piece: Vec<u8>| {
        bytes += piece.len() as u64;
        sink(piece)
    };
    let (mut writer, begin) = Writer::new(&head);
    if pass(begin).is_break() {
        return Err(ArchiveWriteError::Unwanted);
    }
    let counts = export.rows(&mut |table, key, value| match writer.row(table, key, value) {
        Some(section) => pass(section),
        None => ControlFlow::Continue(()),
    })?;
    let counts = counts.ok_or(ArchiveWriteError::Unwanted)?;
    let certificate = credentials.certificate.clone();
    let end = writer.finish(counts, certificate, |seal| Signed::new(seal, &credentials.identity));
    if pass(end).is_break() {
        return Err(ArchiveWriteError::Unwanted);
    }
    Ok(Written { revision: head.revision, time: head.time, bytes })
}

fn member(record: &MasterRecord) -> ArchiveMember {
    ArchiveMember { id: record.id, name: record.name.clone(), region: record.region.clone(), zone: record.zone.clone() }
}
