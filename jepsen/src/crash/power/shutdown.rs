//! The one system call that makes a file system lose its power. The only file here that is not memory-safe by construction.

use rustix::ioctl::{Opcode, Setter, ioctl};
use std::fs::File;

/// `FS_IOC_SHUTDOWN`, as ext4 and XFS know it (linux/fs.h: `_IOR('X', 125, __u32)`).
const FS_IOC_SHUTDOWN: Opcode = 0x8004_587d;

/// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`: not even the file system's journal is written.
const NO_LOG_FLUSH: u32 = 2;

/// Shuts the file system of `folder` down at once. From here on every write and sync on it fails.
#[allow(
    unsafe_code,
    reason = "no safe wrapper exists for this ioctl, and nothing else makes a real file system lose power"
)]
pub fn shut_down(folder: &File) -> std::io::Result<()> {
    // SAFETY: FS_IOC_SHUTDOWN reads one u32 through the pointer that `Setter` passes, which lives for the whole call, and
    // writes nothing to this process's memory. On a file system that does not know it, it fails with ENOTTY.
    unsafe { ioctl(folder, Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }.map_err(Into::into)
}
