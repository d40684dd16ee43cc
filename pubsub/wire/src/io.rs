//! The edges: everything that differs between production, a test and the simulation comes in as one [`Io`].
//!
//! Sleeping is tokio's business on the floors above (its clock can be paused and seeded); *reading* time, drawing random
//! bytes, sending and storing go through these traits and nothing else.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The four edges of a process.
#[derive(Clone)]
pub struct Io {
    /// How messages travel between minions and masters.
    pub transport: Arc<dyn Transport>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where small files are kept.
    pub disk: Arc<dyn Disk>,
}

/// A machine's clocks.
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary point, never going back. In the simulation it is the simulated time.
    fn monotonic(&self) -> Duration;
    /// The wall clock in microseconds since 1970-01-01 UTC. It may be wrong and may jump: show it, never compare it.
    fn wall_unix_micros(&self) -> u64;
}

/// A source of random bytes; cryptographically secure in production, seeded in the simulation.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]);
}

/// Draws `N` random bytes.
pub fn draw<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// Small files, written durably. Calls block; keep them off hot paths or on a blocking thread.
pub trait Disk: Send + Sync + 'static {
    /// The file's bytes, `None` if it does not exist; an error if it is longer than `bytes_max`.
    fn read(&self, path: &Path, bytes_max: u64) -> std::io::Result<Option<Vec<u8>>>;
    /// Puts `bytes` in place of the file: temporary name, fsync, rename, fsync of the folder. Mode 0600.
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()>;
    /// As [`Disk::replace`], and calls `before_rename` once `bytes` are synced under their temporary name, where there is
    /// such a moment, or else before everything. Its error leaves the file as it was.
    fn replace_after(
        &self,
        path: &Path,
        bytes: &[u8],
        before_rename: &mut dyn FnMut() -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        before_rename()?;
        self.replace(path, bytes)
    }
    /// Appends `bytes` to the file, creating it if need be, and returns after fdatasync (and, on creation, the folder's).
    fn append(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()>;
    /// Removes the file if it exists and fsyncs its folder.
    fn remove(&self, path: &Path) -> std::io::Result<()>;
    /// Names of the files in a folder, sorted; empty if the folder does not exist.
    fn list(&self, folder: &Path) -> std::io::Result<Vec<String>>;
    /// Makes a folder and its parents, mode 0700.
    fn make_folder(&self, folder: &Path) -> std::io::Result<()>;
}

/// `host:port`, the host a name or an address, IPv6 in brackets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {cause}; write HOST or HOST:PORT, IPv6 as [::1]:PORT")]
pub struct AddressError {
    text: String,
    cause: &'static str,
}

impl Address {
    /// From its two halves; `host` is an IPv6 address without brackets, an IPv4 address or a name.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `HOST` or `HOST:PORT`, with `port_default` where no port is given.
    pub fn parse(text: &str, port_default: Option<u16>) -> Result<Self, AddressError> {
        let refuse = |cause| AddressError { text: text.chars().take(100).collect(), cause };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| refuse("the bracket is not closed"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(refuse("the brackets hold no IPv6 address"));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(refuse("there is text after the bracket")),
            }
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(named) {
            return Err(refuse("the host is no name and no IP address"));
        }
        let port = match port {
            Some(digits) => digits.parse().map_err(|_| refuse("the port is not a number from 0 to 65535"))?,
            None => port_default.ok_or_else(|| refuse("the port is missing"))?,
        };
        Ok(Self { host: host.into(), port })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, None)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why nothing travelled.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The other end, or the road to it, is gone. A new link may work.
    #[error("the link to {peer} is closed: {cause}")]
    Closed {
        /// Who it was.
        peer: String,
        /// What was noticed.
        cause: String,
    },
    /// The address cannot be used.
    #[error("{address}: {source}")]
    Address {
        /// The address as configured.
        address: Address,
        /// What the system said.
        source: std::io::Error,
    },
    /// The other end broke the protocol.
    #[error("{peer} broke the protocol: {cause}")]
    Protocol {
        /// Who it was.
        peer: String,
        /// What was wrong.
        cause: String,
    },
    /// A deadline passed.
    #[error("no answer from {peer} within {after_ms} ms")]
    TimedOut {
        /// Who it was.
        peer: String,
        /// How long it was waited for, in milliseconds.
        after_ms: u64,
    },
}

/// One end of a connection that carries whole messages in order, and nothing after the first one lost.
pub struct Link {
    /// Sends.
    pub sender: Box<dyn LinkSender>,
    /// Receives.
    pub receiver: Box<dyn LinkReceiver>,
    /// The other end's address, for people.
    pub peer: String,
}

/// The sending half of a [`Link`]. Dropping both halves closes the link.
#[async_trait::async_trait]
pub trait LinkSender: Send + 'static {
    /// Sends one message, waiting for room. An error is final.
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError>;
}

/// The receiving half of a [`Link`].
#[async_trait::async_trait]
pub trait LinkReceiver: Send + 'static {
    /// The next message. An error is final. Cancel safe.
    async fn recv(&mut self) -> Result<Bytes, TransportError>;
}

/// Accepts links.
#[async_trait::async_trait]
pub trait Listener: Send + 'static {
    /// The next link. Cancel safe. An error means that the listener is gone.
    async fn accept(&mut self) -> Result<Link, TransportError>;
    /// The address it listens on, with the real port where 0 was asked for.
    fn address(&self) -> Address;
}

/// A one-time right to subscribe to one master's fan-out; handed out inside a session, read by the gate of port 4505.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capability(pub [u8; 16]);

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capability(…)")
    }
}

/// A master's fan-out: one frame to every subscriber at once.
pub trait Fanout: Send + Sync + 'static {
    /// Queues `frame` for every subscriber and returns at once. A subscriber that does not drain is cut off.
    fn publish(&self, frame: Bytes);
    /// Lets one connection subscribe with `capability`.
    fn admit(&self, capability: Capability);
    /// Withdraws `capability`, and cuts the connection that used it.
    fn revoke(&self, capability: Capability);
    /// Connections that are subscribed now.
    fn subscribers(&self) -> usize;
    /// The address it publishes on.
    fn address(&self) -> Address;
}

/// How minions and masters reach each other: sessions (4506) and the fan-out (4505).
#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Opens a session link to a master.
    async fn dial(&self, address: &Address) -> Result<Link, TransportError>;
    /// Accepts session links from minions.
    async fn listen(&self, bind: &Address) -> Result<Box<dyn Listener>, TransportError>;
    /// Subscribes to a master's fan-out; every frame it publishes from now on is received, or the receiver fails.
    async fn subscribe(
        &self,
        address: &Address,
        capability: Capability,
    ) -> Result<Box<dyn LinkReceiver>, TransportError>;
    /// Opens a fan-out.
    async fn fanout(&self, bind: &Address) -> Result<Arc<dyn Fanout>, TransportError>;
}
