//! A master's configuration: YAML files, then the environment, then flags; the later one wins, key by key.
//!
//! ```text
//!   defaults ← /etc/saltern/master.yaml ← /etc/saltern/master.d/*.yaml (by name) ← SALTERN_MASTER_<KEY> ← --flags
//! ```
//!
//! Keys bear Salt's names where they mean the same. An unknown key, a value that does not fit and two values that contradict
//! each other are errors of one line that names the file and line, the variable or the flag; nothing is guessed or ignored.
//! Settings on which the truth depends are replicated: here they only seed `saltern-master init`, and a running cluster is
//! changed by `saltern config set`.

pub(crate) mod layer;
mod value;

pub use layer::{Flags, Layer};
pub use saltern_wire::profile::{Profile, Timing};
pub use value::{Host, Interface, LogLevel, Name, Port};

use saltern_wire::io::Address;
use saltern_wire::master::Endpoints;
use saltern_wire::settings::Settings;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is looked for when no flag names a file.
pub const CONFIG_FILE: &str = "/etc/saltern/master.yaml";

/// Longest configuration file, in bytes: a mistyped path to a log or an image must not be read into memory.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Everything that is decided before a master starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The master's name, unique in the cluster; the host name by default.
    pub id: String,
    /// The address it listens on.
    pub interface: IpAddr,
    /// The host under which others reach it: the interface, or the host name if that is a wildcard.
    pub advertise: String,
    /// Where other masters reach it: the host above and the mesh's port, unless a relay or a forwarded port stands before it.
    pub mesh_advertise: Address,
    /// Port of the fan-out.
    pub publish_port: u16,
    /// Port of sessions.
    pub ret_port: u16,
    /// Port for other masters.
    pub mesh_port: u16,
    /// Port of the operators' API.
    pub api_port: u16,
    /// The data folder, mode 0700.
    pub data_dir: PathBuf,
    /// The unix socket of the operators' API.
    pub socket: PathBuf,
    /// The file with the API's bearer token, mode 0600.
    pub api_token_file: PathBuf,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// What is logged.
    pub log_level: LogLevel,
    /// Raft's timing as this file says it: what a master begins with that knows no cluster's yet.
    pub timing: Timing,
    /// Whether that is no profile's timing: this master keeps it then, whatever the cluster's profile is.
    pub is_own_timing: bool,
    /// Log entries between two snapshots.
    pub snapshot_entries: u64,
    /// Log entries that stay below a snapshot, so that a master that was away for a moment needs none.
    pub log_keep_entries: u64,
    /// MiB of log entries after which a snapshot is made, however few entries they are.
    pub log_compact_mib: u64,
    /// MiB of log entries that stay below a snapshot at most.
    pub log_keep_mib: u64,
    /// What is to be kept free on the disk of the data folder, in MiB; a share of the disk if not set. See [`crate::space`].
    pub disk_reserve_mib: Option<u64>,
    /// How many minions this master is to have room for: it does not start where the system does not give it what they need. If
    /// not set, it serves as many as it has file descriptors for.
    pub minions_max: Option<u64>,
    /// Most connections from one address on each of the two ports for minions, loopback included; three quarters of all if not
    /// set. See [`saltern_pubsub::zmq::GateLimits`].
    pub connections_per_address_max: Option<u64>,
    /// Scheduled backups, if this master makes any.
    pub backup: Option<BackupPlan>,
    /// Replicated settings as `init` seeds them.
    pub seeds: Settings,
}

/// Backups that a master makes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPlan {
    /// Where to. Every master that has one writes its own; one or two of them are enough.
    pub folder: PathBuf,
    /// How often.
    pub every: Duration,
    /// How many are kept.
    pub keep: usize,
}

/// Why there is no configuration. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A file holds an unknown key or a value that does not fit.
    #[error("{path}:{line}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        cause: String,
    },
    /// An environment variable does not fit.
    #[error("environment variable {name}: {cause}")]
    Environment {
        /// Which variable.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// A flag's value does not fit.
    #[error("{name}: {cause}")]
    Flag {
        /// Which flag, with its dashes.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// The layers together make no configuration.
    #[error("configuration: {0}")]
    Contradiction(String),
}

impl ConfigError {
    /// sysexits.h: 64 (usage) for a flag, 78 (config) for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Flag { .. } => 64,
            Self::Read { .. } | Self::File { .. } | Self::Environment { .. } | Self::Contradiction(_) => 78,
        }
    }
}

impl Config {
    /// Reads every layer. `environment` is all of the process's variables, `hostname` the machine's name.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
        hostname: &str,
    ) -> Result<Self, ConfigError> {
        let mut layer = Layer::default();
        for path in files(flags)? {
            layer = layer::from_file(&path)?.over(layer);
        }
        layer = layer::from_environment(environment)?.over(layer);
        layer = layer::from_flags(flags)?.over(layer);
        Self::finish(layer, hostname)
    }

    /// Fills in what no layer says, and refuses contradictions.
    pub fn finish(layer: Layer, hostname: &str) -> Result<Self, ConfigError> {
        let contradiction = |cause: String| Err(ConfigError::Contradiction(cause));
        let id = match layer.id {
            Some(name) => name.0,
            None => match Name::parse(&hostname.to_lowercase()) {
                Ok(name) => name.0,
                Err(cause) => return contradiction(format!("the host name makes no id: {cause}; set `id`")),
            },
        };
        let interface = layer.interface.map_or(IpAddr::from([0, 0, 0, 0]), |interface| interface.0);
        let advertise = match layer.advertise {
            Some(host) => host.0,
            None if interface.is_unspecified() => match Host::parse(hostname) {
                Ok(host) => host.0,
                Err(cause) => return contradiction(format!("no host to advertise: {cause}; set `advertise`")),
            },
            None => interface.to_string(),
        };
        let unreachable = |host: &str| host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        if unreachable(&advertise) {
            return contradiction(format!(
                "others cannot reach the host {advertise}: set `advertise` to a real address"
            ));
        }
        let (mesh_host, mesh_port) = layer.mesh_advertise.map_or((advertise.clone(), None), |reach| reach.0);
        if unreachable(&mesh_host) {
            return contradiction(format!(
                "others cannot reach the host {mesh_host}: set `mesh_advertise` to a real address"
            ));
        }
        let port = |port: Option<Port>, default: u16| port.map_or(default, |port| port.0);
        let ports = [
            ("publish_port", port(layer.publish_port, 4505)),
            ("ret_port", port(layer.ret_port, 4506)),
            ("mesh_port", port(layer.mesh_port, 4510)),
            ("api_port", port(layer.api_port, 4511)),
        ];
        for (index, (name, number)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports[..index].iter().find(|(_, taken)| taken == number) {
                return contradiction(format!("{other} and {name} are both {number}: give each its own port"));
            }
        }
        let profile = layer.profile.unwrap_or_default();
        let mut timing = profile.fixed().unwrap_or_default().timing();
        timing.heartbeat_ms = layer.heartbeat_ms.unwrap_or(timing.heartbeat_ms);
        timing.election_ms_min = layer.election_ms_min.unwrap_or(timing.election_ms_min);
        timing.election_ms_max = layer.election_ms_max.unwrap_or(timing.election_ms_max);
        let Timing { heartbeat_ms, election_ms_min, election_ms_max } = timing;
        if heartbeat_ms == 0 || election_ms_min < 2 * heartbeat_ms || election_ms_max <= election_ms_min {
            return contradiction(format!(
                "heartbeat_ms {heartbeat_ms}, election_ms_min {election_ms_min}, election_ms_max {election_ms_max}: an \
                 election takes at least two heartbeats, and the maximum lies above the minimum"
            ));
        }
        let is_own_timing = Profile::of(timing).is_none();
        let backup = backup(layer.backup_folder, layer.backup_every_seconds, layer.backup_keep)?;
        let data_dir = layer.data_dir.unwrap_or_else(|| PathBuf::from("/var/lib/saltern/master"));
        let defaults = Settings::default();
        Ok(Self {
            id,
            interface,
            advertise,
            mesh_advertise: Address::new(mesh_host, mesh_port.unwrap_or(ports[2].1)),
            publish_port: ports[0].1,
            ret_port: ports[1].1,
            mesh_port: ports[2].1,
            api_port: ports[3].1,
            api_token_file: layer.api_token_file.unwrap_or_else(|| data_dir.join("api.token")),
            data_dir,
            socket: layer.socket.unwrap_or_else(|| PathBuf::from("/run/saltern/master.sock")),
            region: layer.region.map_or_else(|| "default".into(), |name| name.0),
            zone: layer.zone.map_or_else(|| "default".into(), |name| name.0),
            log_level: layer.log_level.unwrap_or_default(),
            timing,
            is_own_timing,
            snapshot_entries: layer.snapshot_entries.unwrap_or(20_000).max(1),
            log_keep_entries: layer.log_keep_entries.unwrap_or(2_000),
            log_compact_mib: layer.log_compact_mib.unwrap_or(256).max(1),
            log_keep_mib: layer.log_keep_mib.unwrap_or(64),
            disk_reserve_mib: layer.disk_reserve_mib,
            minions_max: layer.minions_max,
            connections_per_address_max: layer.connections_per_address_max,
            backup,
            seeds: Settings {
                keep_jobs_seconds: layer.keep_jobs_seconds.unwrap_or(defaults.keep_jobs_seconds),
                job_ttl_ms: layer.job_ttl_ms.unwrap_or(defaults.job_ttl_ms),
                beacon_interval_ms: layer.beacon_interval_ms.unwrap_or(defaults.beacon_interval_ms),
                auto_accept: layer.auto_accept.unwrap_or(defaults.auto_accept),
                profile,
                timing: profile.fixed().unwrap_or_default(),
                preferred_region: layer.preferred_region.map(|name| name.0).unwrap_or_default(),
                ..defaults
            },
        })
    }

    /// What a port is bound to.
    pub fn bind(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.interface, port)
    }

    /// What others are told.
    pub fn endpoints(&self) -> Endpoints {
        let at = |port| Address::new(self.advertise.clone(), port);
        Endpoints {
            fanout: at(self.publish_port),
            session: at(self.ret_port),
            mesh: self.mesh_advertise.clone(),
            api: at(self.api_port),
        }
    }
}

/// The plan of backups; none without a folder, and then nothing else of it either.
fn backup(folder: Option<PathBuf>, every: Option<u64>, keep: Option<u32>) -> Result<Option<BackupPlan>, ConfigError> {
    let contradiction = |cause: &str| Err(ConfigError::Contradiction(cause.into()));
    let Some(folder) = folder else {
        if every.is_some() || keep.is_some() {
            return contradiction("backup_every_seconds and backup_keep say nothing without `backup_folder`: set it");
        }
        return Ok(None);
    };
    if every == Some(0) || keep == Some(0) {
        return contradiction(
            "backup_every_seconds and backup_keep are at least 1: leave `backup_folder` out for none",
        );
    }
    let every = Duration::from_secs(every.unwrap_or(3600));
    Ok(Some(BackupPlan { folder, every, keep: keep.unwrap_or(24) as usize }))
}

/// The configuration file and its drop-ins, in the order in which they are laid over each other. A file that a flag names
/// has to be there; the default one need not.
fn files(flags: &Flags) -> Result<Vec<PathBuf>, ConfigError> {
    let read = |path: &Path, error: std::io::Error| ConfigError::Read { path: path.into(), cause: error.to_string() };
    let path = flags.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
    let mut files = Vec::new();
    match path.try_exists() {
        Ok(true) => files.push(path.clone()),
        Ok(false) if flags.config.is_none() => {}
        Ok(false) => return Err(read(&path, std::io::ErrorKind::NotFound.into())),
        Err(error) => return Err(read(&path, error)),
    }
    let folder = path.with_extension("d");
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            let mut drop_ins = Vec::new();
            for entry in entries {
                drop_ins.push(entry.map_err(|error| read(&folder, error))?.path());
            }
            drop_ins.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
            drop_ins.sort();
            files.extend(drop_ins);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(read(&folder, error)),
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
