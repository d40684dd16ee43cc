//! The private side: unix sockets in a folder of our own, on which the zeromq sockets are bound and to which only the gate
//! connects.

use super::frame::READY_BYTES_MAX;
use super::stream::{FrameReader, StreamError, shake_hands};
use bytes::BytesMut;
use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::UnixStream;

/// Connections of the gate that wait for the socket behind it; as many as may wait on the port.
const BACKLOG: i32 = 4096;

/// A unix socket's path has 107 bytes at most; the folder leaves room for a number.
const FOLDER_BYTES_MAX: usize = 90;

/// How every folder's name begins.
const PREFIX: &str = "saltern-gate-";

/// The file in a folder that its process holds locked for as long as it lives.
const LOCK: &str = "lock";

/// The private folder of one transport. Removed when dropped; that of a process that was killed, by the next that starts.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    folder: tempfile::TempDir,
    _lock: File,
    next: AtomicU64,
}

impl PrivateFolder {
    /// Makes it, mode 0700, in the system's place for temporary files, or in `/tmp` where that has too long a name.
    pub(super) fn make() -> std::io::Result<Self> {
        let mut place = std::env::temp_dir();
        if place.as_os_str().len() + PREFIX.len() + "/123456".len() > FOLDER_BYTES_MAX {
            place = PathBuf::from("/tmp");
        }
        remove_stale(&place);
        loop {
            let own = std::fs::Permissions::from_mode(0o700);
            let folder = tempfile::Builder::new().prefix(PREFIX).permissions(own).tempdir_in(&place)?;
            let path = folder.path().join(LOCK);
            let lock = File::create_new(&path)?;
            flock(&lock, FlockOperation::LockExclusive)?;
            // Another process that cleaned up may have taken it for stale before it was locked.
            if path.exists() {
                return Ok(Self { folder, _lock: lock, next: AtomicU64::new(0) });
            }
        }
    }

    /// A new listening socket and its path.
    pub(super) fn listen(&self) -> std::io::Result<(UnixListener, PathBuf)> {
        let path = self.folder.path().join(self.next.fetch_add(1, Relaxed).to_string());
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok((socket.into(), path))
    }
}

/// Removes the folders of processes that died without a farewell: ours, and with a lock that nobody holds. What cannot be
/// removed is left; the next start tries again.
fn remove_stale(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let path = entry.path();
        let own = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == getuid().as_raw());
        let lock = own.then(|| File::open(path.join(LOCK)));
        // A folder without a lock is just being made.
        if let Some(Ok(lock)) = lock
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && std::fs::remove_dir_all(&path).is_ok()
        {
            tracing::info!(folder = %path.display(), "removed the private sockets of a process that is gone");
        }
    }
}

/// Connects to the zeromq socket at `path` as a peer of type `ours` with `identity`. Gives the stream, and what was read
/// ahead.
pub(super) async fn enter(
    path: &Path,
    ours: &'static str,
    identity: &[u8],
    theirs: &'static str,
) -> Result<(UnixStream, BytesMut), StreamError> {
    // The crate's accept loop spins without end when it finds no descriptor: this one is freed for it.
    let spare = File::open("/dev/null")?;
    let stream = loop {
        match UnixStream::connect(path).await {
            Ok(stream) => break stream,
            // The backlog is full: the socket behind is busy accepting.
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => return Err(error.into()),
        }
    };
    drop(spare);
    let mut reader = FrameReader::new(&stream, READY_BYTES_MAX);
    shake_hands(&mut reader, ours, identity, theirs).await?;
    let ahead = reader.into_buffer();
    Ok((stream, ahead))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a folder as a process that was killed leaves it: its lock is held by nobody.
    fn stale(place: &Path, name: &str) -> PathBuf {
        let path = place.join(name);
        std::fs::create_dir(&path).expect("new");
        drop(UnixListener::bind(path.join("0")).expect("a socket"));
        File::create(path.join(LOCK)).expect("a lock");
        path
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
        let place = tempfile::tempdir().expect("a folder");
        let dead = stale(place.path(), "saltern-gate-dead01");
        let foreign = stale(place.path(), "somebody-elses");
        let used = stale(place.path(), "saltern-gate-used01");
        let held = File::open(used.join(LOCK)).expect("a lock");
        flock(&held, FlockOperation::LockExclusive).expect("free");
        let new = place.path().join("saltern-gate-new001");
        std::fs::create_dir(&new).expect("new");
        remove_stale(place.path());
        assert_eq!([&dead, &foreign, &used, &new].map(|path| path.exists()), [false, true, true, true]);
        drop(held);
        remove_stale(place.path());
        assert!(!used.exists(), "its process is gone");
    }

    #[test]
    fn a_folder_goes_with_its_transport_and_survives_a_cleaning() {
        let folder = PrivateFolder::make().expect("a folder");
        let path = folder.folder.path().to_path_buf();
        let other = PrivateFolder::make().expect("another one");
        assert!(path.exists(), "the second start leaves the first one's folder");
        drop((folder, other));
        assert!(!path.exists());
    }
}
