//! `status.*`: how the host is doing, read from `/proc` when asked; nothing is kept at rest.

use super::{Args, Body, Context, Failure, Function, Outcomes, Parameter};
use saltern_wire::{Map, Value};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "status.diskusage",
        doc: "Returns available and total bytes of each mounted file system, or of the paths named.",
        parameters: &[Parameter::Rest("paths")],
        pure: true,
        body: Body::Blocking(diskusage),
    },
    Function {
        name: "status.loadavg",
        doc: "Returns the load averages over 1, 5 and 15 minutes.",
        parameters: &[],
        pure: true,
        body: Body::Blocking(loadavg),
    },
    Function {
        name: "status.meminfo",
        doc: "Returns /proc/meminfo: value and unit of each line.",
        parameters: &[],
        pure: true,
        body: Body::Blocking(meminfo),
    },
    Function {
        name: "status.procs",
        doc: "Returns the processes: command and user by pid.",
        parameters: &[],
        pure: true,
        body: Body::Blocking(procs),
    },
    Function {
        name: "status.refusals",
        doc: "Returns how often this minion refused something since it started, by reason: jobs that are forged, of an \
              unknown master or too old, frames that were replayed, directories that are older, a disk that takes nothing.",
        parameters: &[],
        pure: true,
        body: Body::Agent,
    },
    Function {
        name: "status.uptime",
        doc: "Returns for how long the host has been up, and since when.",
        parameters: &[],
        pure: true,
        body: Body::Blocking(uptime),
    },
];

fn read(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::Failed(format!("{path}: {error}")))
}

fn diskusage(_: &Context, args: &Args) -> Outcomes {
    let named = args.rest_texts()?;
    let mounts = read("/proc/self/mounts")?;
    let mut paths: Vec<String> = named.clone();
    if named.is_empty() {
        // The kernel escapes spaces and the like in octal.
        let unescape = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        paths = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(unescape).collect();
    }
    let mut usage = Map::new();
    for path in paths {
        match rustix::fs::statvfs(path.as_str()) {
            // Pseudo file systems have no blocks.
            Ok(found) if found.f_blocks == 0 && named.is_empty() => {}
            Ok(found) => {
                let (available, total) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
                usage.insert(path, json!({"available": available, "total": total}));
            }
            // A mount that this user may not look at is left out of the overview, and named when it was asked for.
            Err(_) if named.is_empty() => {}
            Err(error) => return Err(Failure::Failed(format!("{path}: {error}"))),
        }
    }
    Ok(Value::Object(usage).into())
}

fn loadavg(_: &Context, _: &Args) -> Outcomes {
    let text = read("/proc/loadavg")?;
    let figures: Vec<f64> = text.split_whitespace().take(3).filter_map(|figure| figure.parse().ok()).collect();
    let [one, five, fifteen] = figures[..] else {
        return Err(Failure::Failed(format!("/proc/loadavg holds {text:?}")));
    };
    Ok(json!({"1-min": one, "5-min": five, "15-min": fifteen}).into())
}

fn meminfo(_: &Context, _: &Args) -> Outcomes {
    let mut all = Map::new();
    for line in read("/proc/meminfo")?.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let mut words = rest.split_whitespace();
        let value = words.next().unwrap_or_default();
        let entry = match words.next() {
            Some(unit) => json!({"value": value, "unit": unit}),
            None => json!({"value": value}),
        };
        all.insert(name.to_owned(), entry);
    }
    Ok(Value::Object(all).into())
}

/// User names by number, from `/etc/passwd`.
fn users() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.to_owned(), name))
    };
    text.lines().filter_map(entry).collect()
}

fn procs(_: &Context, _: &Args) -> Outcomes {
    let users = users();
    let entries = std::fs::read_dir("/proc").map_err(|error| Failure::Failed(format!("/proc: {error}")))?;
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).collect();
    pids.sort_unstable();
    let mut all = Map::new();
    for pid in pids {
        // A process that ended meanwhile has no status.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut command = String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned();
        if command.is_empty() {
            command = format!("[{}]", field("Name:").unwrap_or_default());
        }
        let uid = field("Uid:").unwrap_or_default();
        let user = users.get(&uid).cloned().unwrap_or(uid);
        all.insert(pid.to_string(), json!({"cmd": command, "user": user}));
    }
    Ok(Value::Object(all).into())
}

fn uptime(_: &Context, _: &Args) -> Outcomes {
    let text = read("/proc/uptime")?;
    let seconds = text.split(['.', ' ']).next().and_then(|digits| digits.parse::<i64>().ok());
    let Some(seconds) = seconds else { return Err(Failure::Failed(format!("/proc/uptime holds {text:?}"))) };
    let stat = read("/proc/stat")?;
    let since = stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|digits| digits.trim().parse().ok());
    let since: i64 = since.unwrap_or(0);
    let since_iso = jiff::Timestamp::from_second(since).map(|time| time.to_string()).unwrap_or_default();
    Ok(json!({
        "seconds": seconds,
        "days": seconds / 86_400,
        "time": format!("{}:{:02}", seconds % 86_400 / 3600, seconds % 3600 / 60),
        "since_t": since,
        "since_iso": since_iso,
    })
    .into())
}
