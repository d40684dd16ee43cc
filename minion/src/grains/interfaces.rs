//! The host's network interfaces.

use std::net::IpAddr;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// `02:42:ac:11:00:02`.
    pub hardware_address: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Addresses with the length of their network prefix, in order.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// All interfaces, by name.
pub fn interfaces() -> Vec<Interface> {
    let found = match sysinfo::Networks::new_with_refreshed_list() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the network interfaces cannot be read");
            return Vec::new();
        }
    };
    let mut all: Vec<Interface> = found
        .iter()
        .map(|(name, data)| {
            let mut addresses: Vec<(IpAddr, u8)> =
                data.ip_networks().iter().map(|network| (network.addr, network.prefix)).collect();
            addresses.sort();
            let name = name.to_string_lossy().into_owned();
            let (up, hardware_address) = (is_up(&name), data.mac_address().to_string());
            Interface { name, hardware_address, up, addresses }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The first bit of the interface's flags is IFF_UP.
fn is_up(name: &str) -> bool {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/flags")).unwrap_or_default();
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1)
}
