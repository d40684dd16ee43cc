//! The receiving side: pieces come in order within each file, what is on the disk counts, and nothing becomes a snapshot
//! before every digest fits.

use super::{MANIFEST, Manifest, RECEIVING, Snapshot, Snapshots, manifest};
use crate::error::StoreError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// A snapshot on its way in. Dropping it keeps what has come; [`Snapshots::receive`] goes on from there.
pub struct Receiving {
    snapshots: Snapshots,
    manifest: Manifest,
    folder: PathBuf,
}

/// What is missing of one file: everything from `offset` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPiece {
    /// Which file.
    pub file: String,
    /// How much of it is here, in bytes.
    pub offset: u64,
    /// How much is missing, in bytes. Zero for an empty file that is not here yet.
    pub len: u64,
}

impl Receiving {
    pub(super) fn begin(snapshots: Snapshots, manifest: Manifest) -> Result<Self, StoreError> {
        // Whoever calls this with a manifest that did not come through `decode` gets the same checks.
        let manifest = Manifest::decode(&manifest.encode())?;
        let name = format!("{RECEIVING}{}", manifest.id);
        let described = snapshots.path(&format!("{name}{MANIFEST}"));
        let folder = snapshots.path(&name);
        let engine = snapshots.engine();
        let known = engine.file_len(&described)?.is_some()
            && manifest::load(engine, &described).is_ok_and(|known| known == manifest);
        if !known {
            engine.remove(&folder)?;
            engine.replace_file(&described, &manifest.encode())?;
        }
        engine.make_folder(&folder)?;
        salvage(&snapshots, &manifest, &folder)?;
        snapshots.tidy(Some(&manifest.id))?;
        Ok(Self { snapshots, manifest, folder })
    }

    /// What is received.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What has not come yet, by file.
    pub fn missing(&self) -> Result<Vec<MissingPiece>, StoreError> {
        let mut missing = Vec::new();
        for entry in &self.manifest.files {
            let here = self.snapshots.engine().file_len(&self.folder.join(&entry.name))?;
            let offset = here.unwrap_or(0);
            if here.is_none() || offset < entry.len {
                let len = entry.len.saturating_sub(offset);
                missing.push(MissingPiece { file: entry.name.clone(), offset, len });
            }
        }
        Ok(missing)
    }

    /// Adds a piece to a file. It must begin where the file ends so far and not go beyond the file's length; a piece that
    /// is here already is taken as done.
    pub fn write_chunk(&self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let entry = self.manifest.files.iter().find(|entry| entry.name == file);
        let entry = entry.ok_or_else(|| self.refuse(format!("it has no file {file:?}")))?;
        let path = self.folder.join(&entry.name);
        // A sender that gave up may have left a piece on its way while the next one sends it again.
        let _alone = self.snapshots.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let here = self.snapshots.engine().file_len(&path)?.unwrap_or(0);
        let end = offset.saturating_add(bytes.len() as u64);
        if end > entry.len {
            return Err(self.refuse(format!("a piece of {file} ends at {end}, the file has {} bytes", entry.len)));
        }
        if end <= here && !bytes.is_empty() {
            return Ok(());
        }
        if offset != here {
            return Err(self.refuse(format!("a piece of {file} begins at {offset}, expected {here}")));
        }
        self.snapshots.engine().append_file(&path, bytes)
    }

    /// Checks every digest, makes everything durable and the received snapshot the current one. A file whose digest does
    /// not fit is removed, so that it is missing again.
    pub fn finish(&self) -> Result<Snapshot, StoreError> {
        if let Some(piece) = self.missing()?.first() {
            return Err(self.refuse(format!("{} bytes of {} are missing", piece.len, piece.file)));
        }
        let engine = self.snapshots.engine();
        for entry in &self.manifest.files {
            let path = self.folder.join(&entry.name);
            let (len, digest) = super::digest(engine, &path)?;
            if (len, digest) != (entry.len, entry.digest) {
                engine.remove(&path)?;
                return Err(
                    self.refuse(format!("the file {} does not fit its digest; it is received anew", entry.name))
                );
            }
            engine.sync_file(&path)?;
        }
        let described = self.snapshots.path(&format!("{RECEIVING}{}{MANIFEST}", self.manifest.id));
        let snapshot = self.snapshots.adopt(&self.folder, self.manifest.clone())?;
        self.snapshots.engine().remove(&described)?;
        Ok(snapshot)
    }

    fn refuse(&self, cause: String) -> StoreError {
        StoreError::Snapshot { id: self.manifest.id.clone(), cause }
    }
}

/// Takes over what `manifest` names and this machine has: pieces of other receptions, which are given up now, and files of
/// snapshots that came before. A master makes its snapshots from tables that never change, so that a newer one shares most
/// files with the one before it. Digests are checked in the end, whatever came from where.
fn salvage(snapshots: &Snapshots, manifest: &Manifest, folder: &Path) -> Result<(), StoreError> {
    let engine = snapshots.engine();
    let mut lacking = BTreeMap::new();
    for entry in &manifest.files {
        if engine.file_len(&folder.join(&entry.name))?.is_none() {
            lacking.insert((entry.digest, entry.len), entry.name.as_str());
        }
    }
    let kept: Vec<Manifest> = snapshots.lock().iter().map(|kept| kept.manifest.clone()).collect();
    for other in kept {
        for entry in &other.files {
            let same = (entry.digest, entry.len);
            // One that has gone bad meanwhile would be refused in the end, and be found here again.
            if !lacking.contains_key(&same)
                || super::check_file(engine, &snapshots.path(&other.id), &other.id, entry).is_err()
            {
                continue;
            }
            let Some(wanted) = lacking.remove(&same) else { continue };
            engine.clone_file(&snapshots.path(&other.id).join(&entry.name), &folder.join(wanted))?;
        }
    }
    for name in engine.list(&snapshots.shared.dir)? {
        let Some(other) = name.strip_suffix(MANIFEST).filter(|id| id.starts_with(RECEIVING)) else { continue };
        let from = snapshots.path(other);
        if from == folder {
            continue;
        }
        // One that cannot be read has nothing that could be told apart.
        let Ok(described) = manifest::load(engine, &snapshots.path(&name)) else { continue };
        for entry in described.files {
            let (path, same) = (from.join(&entry.name), (entry.digest, entry.len));
            if lacking.contains_key(&same)
                && engine.file_len(&path)?.is_some()
                && let Some(wanted) = lacking.remove(&same)
            {
                engine.rename(&path, &folder.join(wanted))?;
            }
        }
    }
    Ok(())
}
