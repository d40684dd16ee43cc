//! `network.*`: the host's interfaces and addresses.

use super::{Args, ArgumentError, Body, Context, Function, Outcomes, Parameter};
use crate::grains::interfaces::{Interface, interfaces as read_interfaces};
use saltern_wire::{Map, Value};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "network.interfaces",
        doc: "Returns the network interfaces with their state, hardware address and addresses.",
        parameters: &[],
        pure: true,
        body: Body::Blocking(interfaces),
    },
    Function {
        name: "network.ip_addrs",
        doc: "Returns the IPv4 addresses, of one interface or of all, without 127.0.0.0/8 unless include_loopback=True, \
              those inside cidr= only.",
        parameters: &[
            Parameter::Optional("interface", "None"),
            Parameter::Optional("include_loopback", "False"),
            Parameter::Optional("cidr", "None"),
        ],
        pure: true,
        body: Body::Blocking(ip_addrs),
    },
];

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

fn describe(interface: &Interface) -> Value {
    let mut entry = Map::new();
    entry.insert("up".into(), json!(interface.up));
    entry.insert("hwaddr".into(), json!(interface.hardware_address));
    let (mut inet, mut inet6) = (Vec::new(), Vec::new());
    for (address, prefix) in &interface.addresses {
        match address {
            IpAddr::V4(v4) => {
                let mask = netmask(*prefix);
                let broadcast = Ipv4Addr::from(u32::from(*v4) | !u32::from(mask));
                inet.push(json!({"address": v4, "netmask": mask, "broadcast": broadcast, "label": interface.name}));
            }
            IpAddr::V6(v6) => inet6.push(json!({"address": v6, "prefixlen": prefix.to_string()})),
        }
    }
    for (key, list) in [("inet", inet), ("inet6", inet6)] {
        if !list.is_empty() {
            entry.insert(key.into(), Value::Array(list));
        }
    }
    Value::Object(entry)
}

fn interfaces(_: &Context, _: &Args) -> Outcomes {
    let all: Map = read_interfaces().iter().map(|interface| (interface.name.clone(), describe(interface))).collect();
    Ok(Value::Object(all).into())
}

/// Reads `10.0.0.0/8`.
fn network(text: &str) -> Result<(u32, u32), ArgumentError> {
    let refuse = || ArgumentError(format!("cidr {text:?} is not a network; write 10.0.0.0/8"));
    let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
    let address: Ipv4Addr = address.parse().map_err(|_| refuse())?;
    let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(refuse)?;
    let mask = u32::from(netmask(prefix));
    Ok((u32::from(address) & mask, mask))
}

fn ip_addrs(_: &Context, args: &Args) -> Outcomes {
    let wanted = args.text("interface")?;
    let loopback = args.flag("include_loopback", false)?;
    let inside = args.text("cidr")?.map(|text| network(&text)).transpose()?;
    let mut found: Vec<Ipv4Addr> = read_interfaces()
        .into_iter()
        .filter(|interface| wanted.as_ref().is_none_or(|name| *name == interface.name))
        .flat_map(|interface| interface.addresses)
        .filter_map(|(address, _)| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
        .filter(|v4| loopback || !v4.is_loopback())
        .filter(|v4| inside.is_none_or(|(network, mask)| u32::from(*v4) & mask == network))
        .collect();
    found.sort();
    found.dedup();
    Ok(json!(found).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        assert_eq!(network("10.1.2.3/8"), Ok((0x0a00_0000, 0xff00_0000)));
        assert_eq!(network("0.0.0.0/0"), Ok((0, 0)));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
