//! What the gate lets through, and how much of it.

use saltern_wire::limits::{FANOUT_FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS};
use std::time::Duration;

/// How long sent bytes may stay unacknowledged, in milliseconds: longer than any rerouting that a session should survive,
/// shorter than the minute after which an operator would look.
pub(super) const UNACKNOWLEDGED_MS_MAX: u64 = 20_000;

/// File descriptors of one connection: the TCP socket and both ends of the unix stream behind it.
pub(super) const DESCRIPTORS_PER_CONNECTION: u64 = 3;

/// File descriptors that are left for everything else in the process: databases, peers, operators.
pub(super) const DESCRIPTORS_RESERVED: u64 = 2_000;

/// What the gate lets through, per port. All are bounds against strangers as much as against accidents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateLimits {
    /// Most connections at one time.
    pub connections_max: usize,
    /// Most connections from one source: an IPv4 address, or the /64 network of an IPv6 one. Loopback is no exception:
    /// whoever keeps a fleet on one host, or behind one address, sets it to that fleet's size.
    pub connections_per_address_max: usize,
    /// New connections from one source, a second, once its burst is used up.
    pub arrivals_per_address_per_second: u32,
    /// New connections from one source at once.
    pub arrivals_per_address_burst: u32,
    /// Most connections that have not proved anything yet. Each holds some tens of KiB
    /// at most.
    pub unproven_max: usize,
    /// Largest frame of a session's peer, in bytes, until it was sent a second message, which means that its handshake was
    /// good: the messages of a handshake and the first one after it have some hundred bytes. It bounds what strangers make a
    /// master keep.
    pub unproven_frame_bytes_max: usize,
    /// How long a connection may take to greet, to make ready and to show its capability; also how long a dial may take.
    pub handshake_timeout: Duration,
    /// How long a peer may take nothing of what is being written to it.
    pub stall_timeout: Duration,
    /// Most bytes that wait for one subscriber; above it the subscriber is cut.
    pub subscriber_queue_bytes_max: usize,
}

impl GateLimits {
    /// Most connections that have not proved anything, as far as there are descriptors: what a fleet's return needs at one
    /// time, and a few tens of MiB. Whoever bounds handshakes behind the gate leaves room for so many, so that the gate is
    /// who decides.
    pub const UNPROVEN_MAX: usize = 1024;
}

impl Default for GateLimits {
    /// As many connections as the process has descriptors for, shared between the two ports; one address never takes all.
    fn default() -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
        // A small limit still serves a few.
        let usable = descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(descriptors / 2);
        let connections_max = usize::try_from(usable / (2 * DESCRIPTORS_PER_CONNECTION)).unwrap_or(usize::MAX);
        Self {
            connections_max,
            connections_per_address_max: connections_max / 4 * 3,
            // A fleet of thousands that comes back at once fits: its handshakes take a core a second or two.
            arrivals_per_address_per_second: 1000,
            arrivals_per_address_burst: 4096,
            unproven_max: connections_max.min(Self::UNPROVEN_MAX),
            unproven_frame_bytes_max: 4 * 1024,
            handshake_timeout: Duration::from_millis(HANDSHAKE_TIMEOUT_MS),
            stall_timeout: Duration::from_millis(UNACKNOWLEDGED_MS_MAX),
            subscriber_queue_bytes_max: 4 * FANOUT_FRAME_BYTES_MAX,
        }
    }
}

/// Raises this process's limit of open files to the most that the system allows, and gives it. For `main`, before anything
/// is opened; [`GateLimits::default`] goes by it.
pub fn raise_descriptor_limit() -> std::io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
