//! What a number of minions needs of the system: file descriptors, places in front of the accept loop, memory for sockets.
//! Computed before anything is opened, so that a master that cannot serve its fleet says so at its start, and not in a storm.
//!
//! **Invariants.** [`Needs`] and what they are compared with are figures; only [`Room::read`] asks the system.

use super::gate::BACKLOG;
use super::limits::{DESCRIPTORS_PER_CONNECTION, DESCRIPTORS_RESERVED, GateLimits};
use std::str::FromStr;

/// Ports for minions: each minion has a connection at both.
const PORTS: u64 = 2;

/// Memory of the kernel that a connection needs to move at all, in bytes: the least buffers of both directions, a page each.
const SOCKET_BYTES: u64 = 2 * 4096;

/// What a fleet needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    minions: u64,
    /// File descriptors of the process.
    pub descriptors: u64,
    /// Connections that wait to be accepted.
    pub backlog: u64,
    /// Memory for TCP sockets, in bytes.
    pub socket_bytes: u64,
}

/// What the system gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// File descriptors that the process may have, raised as far as it may go.
    pub descriptors: u64,
    /// The longest queue in front of an accept loop.
    pub backlog: u64,
    /// Memory for all TCP sockets of the machine, in bytes.
    pub socket_bytes: u64,
}

/// Something is missing. One line, with both numbers and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Too few file descriptors.
    #[error(
        "minions_max is {minions}, which needs {needed} file descriptors (three a connection, two connections a minion, \
         {DESCRIPTORS_RESERVED} for the rest), and this process may have {given}: raise the limit (LimitNOFILE={needed} in the \
         unit, or `ulimit -Hn {needed}` before the start), or set minions_max to {fits} at most"
    )]
    Descriptors {
        /// The setting.
        minions: u64,
        /// What it needs.
        needed: u64,
        /// What there is.
        given: u64,
        /// For how many minions that is enough.
        fits: u64,
    },
    /// Too short a queue in front of the accept loop.
    #[error(
        "minions_max is {minions}, of whom {needed} may come in the same moment, and net.core.somaxconn is {given}: the others \
         would be dropped unheard; set it with `sysctl -w net.core.somaxconn={needed}`, or minions_max to {given} at most"
    )]
    Backlog {
        /// The setting.
        minions: u64,
        /// What it needs.
        needed: u64,
        /// What there is.
        given: u64,
    },
    /// Too little memory for sockets.
    #[error(
        "minions_max is {minions}, whose connections need {needed} bytes of socket memory at least, and net.ipv4.tcp_mem gives \
         all sockets of this machine {given}: raise its third number, or set minions_max to {fits} at most"
    )]
    SocketMemory {
        /// The setting.
        minions: u64,
        /// What it needs, in bytes.
        needed: u64,
        /// What there is, in bytes.
        given: u64,
        /// For how many minions that is enough.
        fits: u64,
    },
}

/// Connections at one port: one a minion, and room for those who have proved nothing yet.
fn connections(minions: u64) -> u64 {
    let unproven = u64::try_from(GateLimits::UNPROVEN_MAX).unwrap_or(u64::MAX);
    minions.saturating_add((minions / 4).clamp(16, unproven))
}

impl Needs {
    /// Of `minions` minions.
    #[must_use]
    pub fn of(minions: u64) -> Self {
        let all = connections(minions).saturating_mul(PORTS);
        Self {
            minions,
            descriptors: all.saturating_mul(DESCRIPTORS_PER_CONNECTION).saturating_add(DESCRIPTORS_RESERVED),
            backlog: minions.min(u64::try_from(BACKLOG).unwrap_or(u64::MAX)),
            socket_bytes: all.saturating_mul(SOCKET_BYTES),
        }
    }

    /// Compares them with what there is; the first that is missing is named.
    pub fn check(&self, room: &Room) -> Result<(), Shortage> {
        let minions = self.minions;
        // One is the least that can be set; who cannot have that much has to raise the limit.
        let fitting = |fits: &dyn Fn(&Self) -> bool| {
            let (mut low, mut high) = (1, minions);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if fits(&Self::of(middle)) { low = middle } else { high = middle - 1 }
            }
            low
        };
        if self.descriptors > room.descriptors {
            let (needed, given) = (self.descriptors, room.descriptors);
            let fits = fitting(&|needs| needs.descriptors <= given);
            return Err(Shortage::Descriptors { minions, needed, given, fits });
        }
        if self.backlog > room.backlog {
            return Err(Shortage::Backlog { minions, needed: self.backlog, given: room.backlog });
        }
        if self.socket_bytes > room.socket_bytes {
            let (needed, given) = (self.socket_bytes, room.socket_bytes);
            let fits = fitting(&|needs| needs.socket_bytes <= given);
            return Err(Shortage::SocketMemory { minions, needed, given, fits });
        }
        Ok(())
    }
}

impl Room {
    /// Asks the system. What it does not tell is taken to be without end.
    #[must_use]
    pub fn read() -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        Self {
            descriptors,
            backlog: number_in("/proc/sys/net/core/somaxconn", 0),
            socket_bytes: number_in("/proc/sys/net/ipv4/tcp_mem", 2).saturating_mul(page),
        }
    }
}

/// The number at `place` in a file of the kernel.
fn number_in(path: &str, place: usize) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().nth(place).and_then(|word| u64::from_str(word).ok()).unwrap_or(u64::MAX)
}

impl GateLimits {
    /// For a fleet of `minions`; the rest as always.
    #[must_use]
    pub fn for_minions(minions: u64) -> Self {
        let connections_max = usize::try_from(connections(minions)).unwrap_or(usize::MAX);
        let unproven_max = connections_max.min(Self::UNPROVEN_MAX);
        Self { connections_max, connections_per_address_max: connections_max / 4 * 3, unproven_max, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Room = Room { descriptors: u64::MAX, backlog: u64::MAX, socket_bytes: u64::MAX };

    #[test]
    fn what_a_fleet_needs_is_three_descriptors_a_connection() {
        let needs = Needs::of(2_000);
        assert_eq!(needs.descriptors, 2 * (2_000 + 500) * 3 + 2_000);
        assert_eq!((needs.backlog, needs.socket_bytes), (2_000, 2 * 2_500 * 8_192));
        assert_eq!(needs.check(&PLENTY), Ok(()));
        assert_eq!(Needs::of(u64::MAX).check(&Room { descriptors: 20_000, ..PLENTY }).is_err(), true);
    }

    #[test]
    fn what_is_missing_is_named_with_both_numbers_and_the_remedy() {
        let refused = |room: Room| Needs::of(6_000).check(&room).expect_err("too little").to_string();
        let text = refused(Room { descriptors: 20_000, ..PLENTY });
        for words in ["minions_max is 6000", "44144", "20000", "LimitNOFILE=44144", "minions_max to 2400"] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(Needs::of(2_400).check(&Room { descriptors: 20_000, ..PLENTY }).is_ok());
        assert!(Needs::of(2_401).check(&Room { descriptors: 20_000, ..PLENTY }).is_err());
        let text = refused(Room { backlog: 128, ..PLENTY });
        assert!(text.contains("net.core.somaxconn=4096") && text.contains("is 128"), "{text}");
        let text = refused(Room { socket_bytes: 1 << 20, ..PLENTY });
        assert!(text.contains("tcp_mem") && text.contains("1048576"), "{text}");
    }

    #[test]
    fn the_system_tells() {
        let room = Room::read();
        assert!(room.descriptors >= 64 && room.backlog > 0 && room.socket_bytes > 1 << 20, "{room:?}");
        assert_eq!(GateLimits::for_minions(2_000).connections_max, 2_500);
    }
}
