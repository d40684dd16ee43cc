//! A disk in memory for the unit tests of this crate.

use saltern_wire::io::Disk;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files by path. A torn write keeps half of its bytes and fails.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    tear: Mutex<bool>,
}

impl MemoryDisk {
    pub(crate) fn tear_next_write(&self) {
        *self.tear.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tears(&self) -> bool {
        std::mem::take(&mut self.tear.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match self.files().get(path) {
            Some(bytes) if bytes.len() as u64 > bytes_max => Err(Error::new(ErrorKind::FileTooLarge, "too long")),
            found => Ok(found.cloned()),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if self.tears() {
            return Err(Error::other("the disk is gone"));
        }
        self.files().insert(path.into(), bytes.into());
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let torn = self.tears();
        let kept = if torn { &bytes[..bytes.len() / 2] } else { bytes };
        self.files().entry(path.into()).or_default().extend_from_slice(kept);
        if torn { Err(Error::other("the disk is gone")) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.files().remove(path);
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let inside = |path: &PathBuf| {
            (path.parent() == Some(folder)).then(|| path.file_name().and_then(|name| name.to_str()).map(str::to_owned))
        };
        Ok(self.files().keys().filter_map(inside).flatten().collect())
    }

    fn make_folder(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }
}
