//! Where the programs are: beside the running one, as cargo and packages both put them.

use std::path::{Path, PathBuf};

/// The programs of a release.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `saltern`
    pub cli: PathBuf,
    /// `saltern-master`
    pub master: PathBuf,
    /// `saltern-minion`
    pub minion: PathBuf,
}

/// A program is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not beside this program (in {folder}): build it with `cargo build --workspace --bins`")]
pub struct MissingBinary {
    name: &'static str,
    folder: PathBuf,
}

impl Binaries {
    /// Looks beside the running program, and one folder up, where cargo keeps the programs that belong to a test.
    pub fn find() -> Result<Self, MissingBinary> {
        let exe = std::env::current_exe().unwrap_or_default();
        let beside = exe.parent().unwrap_or(Path::new(".")).to_path_buf();
        let above = beside.parent().unwrap_or(Path::new(".")).to_path_buf();
        let find = |name: &'static str| {
            let candidates = [beside.join(name), above.join(name)];
            let found = candidates.into_iter().find(|path| path.is_file());
            found.ok_or_else(|| MissingBinary { name, folder: beside.clone() })
        };
        Ok(Self { cli: find("saltern")?, master: find("saltern-master")?, minion: find("saltern-minion")? })
    }
}
