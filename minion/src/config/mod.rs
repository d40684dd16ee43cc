//! What an operator may set on a minion, after all layers are merged and checked.
//!
//! ```text
//!   minion.yaml ← minion.d/*.yaml (by name) ← SALTERN_MINION_… ← flags        the later one wins
//! ```
//!
//! Key names are Salt's where they mean the same. [`file`] holds the keys as written, [`load`] merges the layers; this
//! module holds the result. **It refuses** unknown keys, addresses that are none, and a `run` without a pinned CA: a
//! minion never trusts a master on first use.

pub mod file;
pub mod load;

use saltern_wire::crypto::Fingerprint;
use saltern_wire::io::Address;
use saltern_wire::{Map, MinionId, Value};
use std::path::PathBuf;
use std::time::Duration;

pub use load::{ConfigError, Flags, load};

/// The session port of a master when the configuration names none.
pub const SESSION_PORT_DEFAULT: u16 = 4506;

/// Where the configuration stands when `-c` is not given.
pub const CONFIG_PATH_DEFAULT: &str = "/etc/saltern/minion.yaml";

/// Largest configuration file that is read, in bytes: far above any real one, far below what hurts.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// A minion's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The name it asks to be accepted under.
    pub id: MinionId,
    /// Masters to start from; the directory adds the others.
    pub masters: Vec<Address>,
    /// SHA-256 of the cluster CA's public key; what every master has to prove.
    pub ca_fingerprint: Option<Fingerprint>,
    /// Where key, journal and outbox live.
    pub data_dir: PathBuf,
    /// What it reports to the mine by itself, in the order of the configuration.
    pub mine_functions: Vec<MineFunction>,
    /// How often it does so; `None` means only at start.
    pub mine_interval: Option<Duration>,
    /// Grains set by the operator; they win over host facts.
    pub grains: Map,
    /// The region that it stands in, in the words of the masters' regions; empty if nobody says. Masters of its own zone, then
    /// of its own region, come first.
    pub region: String,
    /// The zone that it stands in, likewise.
    pub zone: String,
    /// Whether it keeps a second session with another master.
    pub standby: bool,
    /// How long after it attached the second session is opened, at most: minions that attach together spread over it.
    pub standby_delay_max: Duration,
    /// How often the session is pinged.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered before the master counts as gone.
    pub ping_timeout: Duration,
    /// How long the fan-out may be silent before the master counts as gone, at most.
    pub beacon_silence_max: Duration,
    /// How long opening a session may take.
    pub dial_timeout: Duration,
    /// Bytes of returns that may wait on disk before new jobs are refused.
    pub outbox_bytes_max: u64,
    /// How long a return may wait before new jobs are refused.
    pub outbox_age_max: Duration,
    /// Jobs that may run at one time.
    pub jobs_running_max: usize,
    /// Bytes of one stream of a command's output that are kept.
    pub output_bytes_max: usize,
    /// A level or a filter of tracing, e.g. `info` or `saltern_minion=debug`.
    pub log_level: String,
}

/// One entry of `mine_functions`.
#[derive(Debug, Clone, PartialEq)]
pub struct MineFunction {
    /// The name under which others look it up.
    pub name: String,
    /// The function that is called.
    pub function: String,
    /// Its positional arguments.
    pub arguments: Vec<Value>,
    /// Its keyword arguments.
    pub keywords: Map,
}

impl Config {
    /// All defaults for `id`, with no master. `saltern-minion run` needs at least masters and a fingerprint besides.
    pub fn new(id: MinionId) -> Self {
        Self {
            id,
            masters: Vec::new(),
            ca_fingerprint: None,
            data_dir: PathBuf::from("/var/lib/saltern/minion"),
            mine_functions: Vec::new(),
            mine_interval: Some(Duration::from_secs(60 * 60)),
            grains: Map::new(),
            region: String::new(),
            zone: String::new(),
            standby: true,
            standby_delay_max: Duration::from_secs(10),
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(6),
            beacon_silence_max: Duration::from_secs(12),
            dial_timeout: Duration::from_secs(5),
            outbox_bytes_max: 256 * 1024 * 1024,
            outbox_age_max: Duration::from_secs(7 * 24 * 3600),
            jobs_running_max: 256,
            output_bytes_max: 4 * 1024 * 1024,
            log_level: "info".into(),
        }
    }
}
