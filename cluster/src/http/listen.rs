//! Opens the two listeners, each with one clear line when that is impossible.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

/// Connections that the kernel holds before they are accepted. Operators are few; a herd of scripts fits.
const BACKLOG: u32 = 1024;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} for the API: {source}; choose another api_port or interface")]
    Tcp {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process serves the socket.
    #[error("{path} is served by another process: stop it, or choose another socket")]
    SocketTaken {
        /// Which path.
        path: PathBuf,
    },
    /// There is something else in its place.
    #[error("{path} exists and is no socket: move it away, or choose another socket")]
    NotASocket {
        /// Which path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the socket {path}: {source}")]
    Socket {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Listens for TLS. The port may be rebound at once after a restart.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let refuse = |source| ListenError::Tcp { address, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(refuse)?;
    socket.set_reuseaddr(true).map_err(refuse)?;
    socket.bind(address).map_err(refuse)?;
    socket.listen(BACKLOG).map_err(refuse)
}

/// Makes the unix socket, replacing a file that a dead process left. Everybody may connect: who may do what is decided by
/// the kernel's word for who they are, so that whoever may not is told so.
pub async fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let refuse = |source| ListenError::Socket { path: path.into(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(refuse)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ListenError::NotASocket { path: path.into() }),
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(ListenError::SocketTaken { path: path.into() }),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(refuse(error)),
                    Ok(()) | Err(_) => {}
                }
            }
            Err(error) => return Err(refuse(error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(refuse(error)),
    }
    let listener = UnixListener::bind(path).map_err(refuse)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(refuse)?;
    Ok(listener)
}
