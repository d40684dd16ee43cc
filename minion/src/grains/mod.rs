//! Grains: facts about the host, under Salt's names, and how the layers of them become one mapping.
//!
//! ```text
//!   host facts ← `grains:` of the configuration ← grains.setval             the later one wins
//! ```
//!
//! What changes by itself all the time (uptime, load, free memory) is not a grain: every difference is reported to the
//! truth. Facts are read when the agent starts and on `saltutil.refresh_grains`, not at rest.

pub mod interfaces;

use interfaces::interfaces;
use saltern_wire::{Map, MinionId, Value};
use serde_json::json;
use std::net::IpAddr;

/// Lays the three layers over each other.
pub fn merged(id: &MinionId, host: &Map, configured: &Map, set: &Map) -> Map {
    let mut all = host.clone();
    all.insert("id".into(), json!(id));
    all.insert("saltern_version".into(), json!(env!("CARGO_PKG_VERSION")));
    for layer in [configured, set] {
        for (key, value) in layer {
            all.insert(key.clone(), value.clone());
        }
    }
    all
}

/// BLAKE3 of the grains as they are reported.
pub fn digest(grains: &Map) -> [u8; 32] {
    // `to_value` of a mapping with text keys has no way to fail, and its text is the same for the same mapping.
    *blake3::hash(Value::Object(grains.clone()).to_string().as_bytes()).as_bytes()
}

/// The facts of this host. Blocks for a few milliseconds.
pub fn host_facts() -> Map {
    let mut facts = Map::new();
    kernel(&mut facts);
    operating_system(&mut facts);
    hardware(&mut facts);
    network(&mut facts);
    user(&mut facts);
    facts
}

/// The name of this host as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn text_of(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn kernel(facts: &mut Map) {
    let uname = rustix::system::uname();
    let text = |field: &std::ffi::CStr| field.to_string_lossy().into_owned();
    facts.insert("kernel".into(), json!(text(uname.sysname())));
    facts.insert("kernelrelease".into(), json!(text(uname.release())));
    facts.insert("kernelversion".into(), json!(text(uname.version())));
    let machine = text(uname.machine());
    facts.insert(
        "osarch".into(),
        json!(match machine.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    );
    facts.insert("cpuarch".into(), json!(machine));
}

/// Salt's names of distributions whose id is not simply their name in lower case.
fn os_name(id: &str, name: &str) -> String {
    match id {
        "debian" => "Debian".into(),
        "ubuntu" => "Ubuntu".into(),
        "rhel" => "RedHat".into(),
        "centos" => "CentOS".into(),
        "fedora" => "Fedora".into(),
        "rocky" => "Rocky".into(),
        "almalinux" => "AlmaLinux".into(),
        "alpine" => "Alpine".into(),
        "arch" => "Arch".into(),
        "amzn" => "Amazon".into(),
        "sles" => "SLES".into(),
        _ => name.split(' ').next().unwrap_or(name).to_owned(),
    }
}

/// Salt's families.
fn os_family(id: &str, like: &str, os: &str) -> String {
    let is = |names: &[&str]| names.contains(&id) || like.split(' ').any(|other| names.contains(&other));
    if is(&["debian", "ubuntu"]) {
        "Debian".into()
    } else if is(&["rhel", "fedora", "centos", "amzn"]) {
        "RedHat".into()
    } else if is(&["suse", "sles", "opensuse"]) {
        "Suse".into()
    } else {
        os.to_owned()
    }
}

fn operating_system(facts: &mut Map) {
    let mut text = text_of("/etc/os-release");
    if text.is_empty() {
        text = text_of("/usr/lib/os-release");
    }
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let (id, name) = (field("ID"), field("NAME"));
    let os = os_name(&id, &name);
    let release = field("VERSION_ID");
    facts.insert("os_family".into(), json!(os_family(&id, &field("ID_LIKE"), &os)));
    facts.insert("osfullname".into(), json!(name));
    facts.insert("oscodename".into(), json!(field("VERSION_CODENAME")));
    let major = release.split('.').next().unwrap_or_default();
    if let Ok(number) = major.parse::<u32>() {
        facts.insert("osmajorrelease".into(), json!(number));
    }
    facts.insert("osfinger".into(), json!(format!("{os}-{major}")));
    facts.insert("osrelease".into(), json!(release));
    facts.insert("os".into(), json!(os));
    let machine_id = text_of("/etc/machine-id");
    if !machine_id.trim().is_empty() {
        facts.insert("machine_id".into(), json!(machine_id.trim()));
    }
    let init = text_of("/proc/1/comm");
    facts.insert("init".into(), json!(init.trim()));
}

fn hardware(facts: &mut Map) {
    let cpus = text_of("/proc/cpuinfo");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    facts.insert("num_cpus".into(), json!(count.max(1)));
    facts.insert("cpu_model".into(), json!(model.map_or("Unknown", |(_, name)| name.trim())));
    let memory = text_of("/proc/meminfo");
    let mebibytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0) / 1024
    };
    facts.insert("mem_total".into(), json!(mebibytes("MemTotal:")));
    facts.insert("swap_total".into(), json!(mebibytes("SwapTotal:")));
}

fn network(facts: &mut Map) {
    let host = hostname();
    let short = host.split('.').next().unwrap_or_default().to_owned();
    let fqdn = fqdn(&host);
    facts.insert("domain".into(), json!(fqdn.split_once('.').map_or("", |(_, domain)| domain)));
    facts.insert("fqdn".into(), json!(fqdn));
    facts.insert("host".into(), json!(short));
    facts.insert("localhost".into(), json!(host));
    facts.insert("nodename".into(), json!(host));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let (mut by_name, mut v4_by_name, mut v6_by_name, mut hardware) = (Map::new(), Map::new(), Map::new(), Map::new());
    for interface in interfaces() {
        let of = |wanted: fn(&IpAddr) -> bool| -> Vec<String> {
            let addresses = interface.addresses.iter().map(|(address, _)| address);
            addresses.filter(|address| wanted(address)).map(ToString::to_string).collect()
        };
        let (own_v4, own_v6) = (of(IpAddr::is_ipv4), of(IpAddr::is_ipv6));
        by_name.insert(interface.name.clone(), json!(of(|_| true)));
        v4_by_name.insert(interface.name.clone(), json!(own_v4));
        v6_by_name.insert(interface.name.clone(), json!(own_v6));
        hardware.insert(interface.name.clone(), json!(interface.hardware_address));
        v4.extend(own_v4);
        v6.extend(own_v6);
    }
    v4.sort();
    v6.sort();
    facts.insert("ipv4".into(), json!(v4));
    facts.insert("ipv6".into(), json!(v6));
    facts.insert("ip_interfaces".into(), Value::Object(by_name));
    facts.insert("ip4_interfaces".into(), Value::Object(v4_by_name));
    facts.insert("ip6_interfaces".into(), Value::Object(v6_by_name));
    facts.insert("hwaddr_interfaces".into(), Value::Object(hardware));
}

/// The full name from `/etc/hosts`, as resolvers look it up first; the plain name if there is none.
fn fqdn(host: &str) -> String {
    if host.contains('.') {
        return host.to_owned();
    }
    let hosts = text_of("/etc/hosts");
    let full = hosts.lines().map(|line| line.split('#').next().unwrap_or_default()).find_map(|line| {
        let names: Vec<&str> = line.split_whitespace().skip(1).collect();
        names.contains(&host).then(|| names.iter().find(|name| name.contains('.')).copied()).flatten()
    });
    full.unwrap_or(host).to_owned()
}

fn user(facts: &mut Map) {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let passwd = text_of("/etc/passwd");
    let name = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse::<u32>() == Ok(uid)).then(|| fields[0])
    });
    facts.insert("uid".into(), json!(uid));
    facts.insert("gid".into(), json!(gid));
    facts.insert("username".into(), json!(name.unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_facts() {
        let facts = host_facts();
        for key in [
            "os",
            "osrelease",
            "os_family",
            "oscodename",
            "osfullname",
            "kernel",
            "kernelrelease",
            "cpuarch",
            "num_cpus",
            "cpu_model",
            "mem_total",
            "host",
            "fqdn",
            "ipv4",
            "ipv6",
            "ip_interfaces",
            "uid",
        ] {
            assert!(facts.contains_key(key), "{key} is missing");
        }
        assert_eq!(facts["kernel"], json!("Linux"));
        assert!(facts["mem_total"].as_u64().is_some_and(|mebibytes| mebibytes > 0));
        assert!(facts["ipv4"].as_array().is_some_and(|list| list.contains(&json!("127.0.0.1"))));
        assert_eq!(digest(&facts), digest(&host_facts()), "facts do not change by themselves");
    }

    #[test]
    fn later_layers_win() {
        let map = |value: Value| value.as_object().expect("a mapping").clone();
        let id = MinionId::new("web-1").expect("an id");
        let host = map(json!({"os": "Debian", "role": "x"}));
        let all = merged(&id, &host, &map(json!({"role": "web"})), &map(json!({"role": "db"})));
        assert_eq!((&all["os"], &all["role"], &all["id"]), (&json!("Debian"), &json!("db"), &json!("web-1")));
    }

    #[test]
    fn families_follow_salt() {
        for (id, like, os, family) in [
            ("debian", "", "Debian", "Debian"),
            ("ubuntu", "debian", "Ubuntu", "Debian"),
            ("rocky", "rhel centos fedora", "Rocky", "RedHat"),
            ("alpine", "", "Alpine", "Alpine"),
        ] {
            assert_eq!(os_name(id, "Some Linux"), os);
            assert_eq!(os_family(id, like, os), family);
        }
    }
}
