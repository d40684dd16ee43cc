//! Small files, kept durably.
//!
//! **Invariants.** After `replace`, `append` or `remove` returned, the change survives a power cut: file and folder were
//! synced. A reader never sees half a file. Files are made with mode 0600 and folders with 0700. Errors name the path.
//!
//! One writer per file: two that replace the same file at the same time would share its temporary name.

use saltern_wire::io::Disk;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

/// Ends the name of a file that is being written. A crash may leave one; it is overwritten by the next write and never listed.
const TEMPORARY_SUFFIX: &str = ".tmp~";

/// Puts the path in front of what the system said.
fn at(path: &Path) -> impl FnOnce(Error) -> Error {
    move |error| Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The folder that holds `path`.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the entries of a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

/// Where `path` is written before it is renamed.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

impl Disk for SystemDisk {
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(at(path))?;
        if bytes.len() as u64 > bytes_max {
            let cause = format!("{}: longer than the {bytes_max} bytes that fit here", path.display());
            return Err(Error::new(ErrorKind::FileTooLarge, cause));
        }
        Ok(Some(bytes))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace_after(path, bytes, &mut || Ok(()))
    }

    fn replace_after(&self, path: &Path, bytes: &[u8], before_rename: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let temporary = temporary(path);
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(at(&temporary))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&temporary))?;
        before_rename()?;
        std::fs::rename(&temporary, path).map_err(at(path))?;
        sync_folder(folder_of(path))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600);
        let (mut file, created) = match options.open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (options.create(true).open(path).map_err(at(path))?, true)
            }
            Err(error) => return Err(at(path)(error)),
        };
        file.write_all(bytes).and_then(|()| file.sync_data()).map_err(at(path))?;
        if created { sync_folder(folder_of(path)) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Ok(()) => sync_folder(folder_of(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at(path)(error)),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(folder)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at(folder))?;
            if !entry.file_type().map_err(at(&entry.path()))?.is_file() {
                continue;
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.ends_with(TEMPORARY_SUFFIX) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn make_folder(&self, folder: &Path) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder_of(folder);
        self.make_folder(parent)?;
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => sync_folder(parent),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            Err(error) => Err(at(folder)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777
    }

    #[test]
    fn files_are_replaced_appended_listed_and_removed() {
        let home = tempfile::tempdir().expect("temporary folder");
        let folder = home.path().join("a/b");
        let (disk, file) = (SystemDisk, folder.join("x"));
        assert_eq!(disk.list(&folder).expect("list"), Vec::<String>::new());
        disk.make_folder(&folder).expect("make");
        disk.make_folder(&folder).expect("make again");
        assert_eq!((mode(&folder), mode(folder.parent().expect("parent"))), (0o700, 0o700));
        assert_eq!(disk.read(&file, 10).expect("read"), None);
        disk.replace(&file, b"one").expect("replace");
        disk.replace(&file, b"two").expect("replace");
        disk.append(&file, b" three").expect("append");
        disk.append(&folder.join("log"), b"line\n").expect("append to a new file");
        assert_eq!((mode(&file), mode(&folder.join("log"))), (0o600, 0o600));
        assert_eq!(disk.read(&file, 9).expect("read").as_deref(), Some(b"two three".as_slice()));
        assert_eq!(disk.read(&file, 8).expect_err("too long").kind(), ErrorKind::FileTooLarge);
        std::fs::write(temporary(&file), b"torn").expect("a crash left this");
        assert_eq!(disk.list(&folder).expect("list"), ["log", "x"]);
        disk.remove(&file).expect("remove");
        disk.remove(&file).expect("remove what is gone");
        assert_eq!(disk.read(&file, 10).expect("read"), None);
    }

    #[test]
    fn errors_name_the_path() {
        let home = tempfile::tempdir().expect("temporary folder");
        let error = SystemDisk.replace(&home.path().join("missing/x"), b"").expect_err("no folder");
        assert!(error.to_string().contains("missing/x"), "{error}");
        let error = SystemDisk.read(home.path(), 10).expect_err("a folder is no file");
        assert!(error.to_string().contains(&home.path().display().to_string()), "{error}");
    }
}
