//! Snapshot files on a real file system. Everything that has to outlive a crash is fsynced here, file first, folder after.

use super::FixedFile;
use crate::error::StoreError;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Longest file that is overwritten in place, in bytes: the durable mark has 8192.
const FIXED_BYTES_MAX: usize = 64 * 1024;

/// Makes `dir` and its parents with mode 0700 and checks that a file can be made in it.
pub(crate) fn make_folder(dir: &Path) -> Result<(), StoreError> {
    // A folder that has no room, or cannot be written for another reason of the disk, is none that was badly chosen.
    let refuse = |source: std::io::Error| {
        let named = StoreError::file("making a file", dir, &source);
        let badly_chosen = matches!(named, StoreError::Engine { .. });
        if badly_chosen { StoreError::Folder { path: dir.to_path_buf(), source } } else { named }
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(refuse)?;
    let probe = dir.join(".writable");
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(refuse)?;
    fs::read_dir(dir).map_err(refuse)?;
    Ok(())
}

/// Names in `dir`, sorted; empty if it does not exist.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |error: &std::io::Error| StoreError::file("listing a folder", dir, error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(&error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| fail(&error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Length of the file, `None` if it does not exist.
pub(crate) fn file_len(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found.len())),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("reading a file's length", path, &error)),
    }
}

/// Up to `len` bytes from `offset`.
pub(crate) fn read_file(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len.min(1 << 20));
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| StoreError::file("reading a file", path, &error))
}

/// Appends, making the file with mode 0600 if need be.
pub(crate) fn append_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = || options.open(path)?.write_all(bytes);
    write().map_err(|error| StoreError::file("writing a file", path, &error))
}

/// fsyncs a file or a folder.
pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| StoreError::file("syncing", path, &error))
}

/// Temporary name, fsync, rename, fsync of the folder.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    remove(beside)?;
    append_file(beside, bytes)?;
    sync(beside)?;
    rename(beside, path)
}

/// Takes the lock that RocksDB keeps on the file `path` while it has `dir` open; it is free again when the file is dropped.
/// `None` if there is no such file, or nobody can have locked it, because it cannot be opened for writing.
///
/// The lock belongs to the process: dropped in the process that has `dir` open itself, it would be gone for both.
pub(crate) fn hold(dir: &Path, path: &Path) -> Result<Option<File>, StoreError> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ReadOnlyFilesystem) => return Ok(None),
        Err(error) => return Err(StoreError::file("opening a file", path, &error)),
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::ACCESS | Errno::AGAIN) => Err(StoreError::Locked { path: dir.to_path_buf() }),
        Err(error) => Err(StoreError::file("locking a file", path, &error.into())),
    }
}

/// A file that is overwritten in place.
pub(crate) struct Fixed {
    file: File,
    path: PathBuf,
}

impl Fixed {
    /// Opens the file, `None` if it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Some(Self { file, path: path.to_path_buf() })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::file("opening a file", path, &error)),
        }
    }
}

impl FixedFile for Fixed {
    fn read(&self) -> Result<Vec<u8>, StoreError> {
        read_file(&self.path, 0, FIXED_BYTES_MAX)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| StoreError::file("overwriting a file", &self.path, &error))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| StoreError::file("syncing", &self.path, &error))
    }
}

/// Renames and fsyncs the folder.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::file("renaming", from, &error))?;
    to.parent().map_or(Ok(()), sync)
}

/// Copies a file: tables (`.sst`) are immutable and become hard links.
pub(crate) fn clone_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    if from.extension().is_some_and(|ending| ending == "sst") && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(|error| StoreError::file("copying", from, &error))
}

/// Copies a folder of plain files: tables (`.sst`) are immutable and become hard links, the rest is copied.
pub(crate) fn clone_folder(from: &Path, to: &Path) -> Result<(), StoreError> {
    remove(to)?;
    make_folder(to)?;
    for name in list(from)? {
        let (source, copy) = (from.join(&name), to.join(&name));
        clone_file(&source, &copy)?;
        sync(&copy)?;
    }
    sync(to)?;
    to.parent().map_or(Ok(()), sync)
}

/// Removes a file or a folder with everything in it.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let gone = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Ok(()) => path.parent().map_or(Ok(()), sync),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::file("removing", path, &error)),
    }
}
