//! The private side: unix sockets in a folder of our own, on which the zeromq sockets are bound and to which only the gate
//! connects.

use super::frame::READY_BYTES_MAX;
use super::stream::{FrameReader, StreamError, shake_hands};
use bytes::BytesMut;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::UnixStream;

/// Connections of the gate that wait for the socket behind it; as many as may wait on the port.
const BACKLOG: i32 = 4096;

/// A unix socket's path has 107 bytes at most; the folder leaves room for a number.
const FOLDER_BYTES_MAX: usize = 90;

/// The private folder of one transport. Removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    folder: tempfile::TempDir,
    next: AtomicU64,
}

impl PrivateFolder {
    /// Makes it, mode 0700, in the system's place for temporary files, or in `/tmp` where that has too long a name.
    pub(super) fn make() -> std::io::Result<Self> {
        let short = std::fs::Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        builder.prefix("saltern-").permissions(short);
        let mut place = std::env::temp_dir();
        if place.as_os_str().len() + "/saltern-123456".len() > FOLDER_BYTES_MAX {
            place = PathBuf::from("/tmp");
        }
        Ok(Self { folder: builder.tempdir_in(place)?, next: AtomicU64::new(0) })
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

/// Connects to the zeromq socket at `path` as a peer of type `ours` with `identity`. Gives the stream, and what was read
/// ahead.
pub(super) async fn enter(
    path: &Path,
    ours: &'static str,
    identity: &[u8],
    theirs: &'static str,
) -> Result<(UnixStream, BytesMut), StreamError> {
    // The crate's accept loop spins without end when it finds no descriptor: this one is freed for it.
    let spare = std::fs::File::open("/dev/null")?;
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
