//! Disks that can lose their power: ext4 on loop devices, in the mount namespace of the run.
//!
//! ```text
//!   folder/disks/master-1.img ─ loop ─▶ folder/master-1/data      cut: FS_IOC_SHUTDOWN without a log flush: what was not
//!                                                                synced is gone, and every later write fails
//!                                                           mount_again: unmount, mount; ext4 replays its journal
//! ```
//!
//! **Invariants.** Nothing is mounted outside of a namespace of its own ([`in_own_namespace`]), so nothing stays behind, however
//! the run ends. **It refuses** to go on when a file system is not remounted: a power failure that was not seen did not happen.

mod shutdown;

use super::plan::Member;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Size of one disk, in bytes. Its file is sparse.
const DISK_BYTES: u64 = 512 * 1024 * 1024;

/// How often an unmount is tried: the kernel takes a moment to close the files of a process that was killed.
const UNMOUNT_TRIES: u32 = 200;

/// Pause between two tries.
const UNMOUNT_PAUSE: Duration = Duration::from_millis(10);

/// Environment variable that marks a process in a namespace of its own.
const MARK: &str = "SALTERN_CRASH_NAMESPACE";

/// Why power cannot be made to fail here.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The machine does not allow it.
    #[error("power loss cannot be made here: {0}; it takes root, `unshare`, `mkfs.ext4` and loop devices")]
    Absent(String),
    /// A disk that worked does not any more.
    #[error("{what} of {disk}: {cause}")]
    Disk {
        /// What was done.
        what: &'static str,
        /// Which disk.
        disk: String,
        /// What the system said.
        cause: String,
    },
}

/// Runs this program again, with the same arguments, in a mount namespace of its own, and gives how it ended. `None` if it is in
/// one already.
pub fn in_own_namespace() -> Result<Option<ExitStatus>, PowerError> {
    if std::env::var_os(MARK).is_some() {
        return Ok(None);
    }
    let absent = |error: std::io::Error| PowerError::Absent(format!("unshare: {error}"));
    let possible = Command::new("unshare").args(["--mount", "--propagation", "private", "true"]).status();
    if !possible.map_err(absent)?.success() {
        return Err(PowerError::Absent("unshare --mount is refused".into()));
    }
    let program = std::env::current_exe().map_err(absent)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program).args(std::env::args_os().skip(1));
    command.env(MARK, "1").status().map(Some).map_err(absent)
}

struct Disk {
    image: PathBuf,
    at: PathBuf,
}

/// The disks of a run.
pub struct Disks(BTreeMap<Member, Disk>);

impl Disks {
    /// Makes and mounts a disk as the data folder of each member, `folder/MEMBER/data`.
    pub fn make(folder: &Path, members: impl IntoIterator<Item = Member>) -> Result<Self, PowerError> {
        let mut disks = BTreeMap::new();
        for member in members {
            let name = member.to_string();
            let absent = |error: std::io::Error| PowerError::Absent(format!("{name}: {error}"));
            let at = folder.join(&name).join("data");
            fs::create_dir_all(&at).map_err(absent)?;
            fs::create_dir_all(folder.join("disks")).map_err(absent)?;
            let disk = Disk { image: folder.join("disks").join(format!("{name}.img")), at };
            File::create(&disk.image).and_then(|file| file.set_len(DISK_BYTES)).map_err(absent)?;
            disk.format().and_then(|()| disk.mount()).map_err(PowerError::Absent)?;
            // A new data folder is empty and its owner's.
            fs::remove_dir(disk.at.join("lost+found")).map_err(absent)?;
            fs::set_permissions(&disk.at, fs::Permissions::from_mode(0o700)).map_err(absent)?;
            disks.insert(member, disk);
        }
        Ok(Self(disks))
    }

    fn of(&self, member: Member, what: &'static str) -> Result<&Disk, PowerError> {
        let missing = || PowerError::Disk { what, disk: member.to_string(), cause: "it has none of its own".into() };
        self.0.get(&member).ok_or_else(missing)
    }

    /// The power fails: from here on nothing reaches the disk, and what was not synced is lost.
    pub fn cut(&self, member: Member) -> Result<(), PowerError> {
        let what = "cutting the power";
        let disk = self.of(member, what)?;
        let cut = File::open(&disk.at).and_then(|folder| shutdown::shut_down(&folder));
        cut.map_err(|error| PowerError::Disk { what, disk: member.to_string(), cause: error.to_string() })
    }

    /// The power is back: the file system is mounted anew. Its processes must have ended.
    pub fn mount_again(&self, member: Member) -> Result<(), PowerError> {
        let what = "mounting";
        let disk = self.of(member, what)?;
        let failed = |cause| PowerError::Disk { what, disk: member.to_string(), cause };
        disk.unmount().map_err(failed)?;
        disk.mount().map_err(failed)
    }
}

impl Disk {
    fn format(&self) -> Result<(), String> {
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"], &[&self.image])
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop"], &[&self.image, &self.at])
    }

    fn unmount(&self) -> Result<(), String> {
        let mut tries = 0;
        while let Err(error) = run("umount", &[], &[&self.at]) {
            tries += 1;
            if tries == UNMOUNT_TRIES {
                return Err(error);
            }
            std::thread::sleep(UNMOUNT_PAUSE);
        }
        Ok(())
    }
}

impl Drop for Disks {
    /// The namespace ends with the process, and its mounts with it; this only frees the disks' space earlier.
    fn drop(&mut self) {
        for disk in self.0.values() {
            let _ = run("umount", &["-l"], &[&disk.at]);
        }
    }
}

fn run(program: &str, flags: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(flags).args(paths).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
