//! Addresses and ports on loopback that nobody else uses.

use crate::fleet::FleetError;
use std::net::{Ipv4Addr, TcpListener};

/// The four ports that each master of a fleet listens on, on an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The fan-out.
    pub publish: u16,
    /// Sessions.
    pub session: u16,
    /// Other masters.
    pub mesh: u16,
    /// Operators.
    pub api: u16,
}

/// First ports of the sets that are tried: the defaults, then three more, should something listen on every address.
const BASES: [u16; 4] = [4505, 14_505, 24_505, 30_505];

impl Ports {
    fn from_base(base: u16) -> Self {
        Self { publish: base, session: base + 1, mesh: base + 5, api: base + 6 }
    }

    /// The first set that is free on the addresses of `masters` masters.
    pub fn pick(network: [u8; 2], masters: usize) -> Result<Self, FleetError> {
        let free = |ports: &Self| {
            let all = [ports.publish, ports.session, ports.mesh, ports.api];
            (1..=masters).all(|number| {
                let host = host_of(network, number);
                all.iter().all(|port| TcpListener::bind((host, *port)).is_ok())
            })
        };
        let found = BASES.into_iter().map(Self::from_base).find(free);
        found.ok_or(FleetError::Ports(host_of(network, 1)))
    }
}

/// The two middle numbers of a fleet's addresses. Two fleets at one time get different ones: their processes' ids differ, or
/// the numbers of the fleets within their process.
pub fn network_of(process: u32, fleet: u32) -> [u8; 2] {
    // A prime stride: the next fleet of this process is far from the first one of the next process.
    let [_, _, high, low] = process.wrapping_add(fleet.wrapping_mul(7919)).to_be_bytes();
    // Away from 127.0.x.x, where other programs listen.
    [high | 0x40, low]
}

/// The address of the master with this number.
pub fn host_of(network: [u8; 2], number: usize) -> Ipv4Addr {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, network[0], network[1], last)
}

/// Where a relay listens for the master at `address`.
pub fn relayed_of(address: Ipv4Addr) -> Ipv4Addr {
    let [first, second, third, last] = address.octets();
    // Fleets have fewer masters than this.
    Ipv4Addr::new(first, second, third, last.wrapping_add(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleets_of_one_process_have_addresses_of_their_own() {
        let networks: std::collections::BTreeSet<[u8; 2]> = (0..64).map(|fleet| network_of(4711, fleet)).collect();
        assert_eq!(networks.len(), 64);
    }

    #[test]
    fn a_used_port_moves_the_whole_set() {
        let network = [0x7f, 0x01];
        let first = Ports::pick(network, 2).expect("some set is free");
        let taken = TcpListener::bind((host_of(network, 2), first.mesh)).expect("it was free");
        let second = Ports::pick(network, 2).expect("another set is free");
        assert_ne!(first, second);
        drop(taken);
    }
}
