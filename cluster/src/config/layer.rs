//! One layer of configuration, and the three places that layers come from.

use super::value::{Host, Interface, LogLevel, Name, Port, Reach};
use super::{CONFIG_BYTES_MAX, ConfigError};
use saltern_wire::profile::ProfileChoice;
use serde::Deserialize;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What the environment's variables begin with.
const ENVIRONMENT_PREFIX: &str = "SALTERN_MASTER_";

/// Declares [`Layer`]: every key once, each absent or set.
macro_rules! layer {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// Keys as one place gives them.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Layer {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl Layer {
            /// Every key there is.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($name),)*];

            /// This layer laid over `under`: its own keys win.
            pub fn over(self, under: Self) -> Self {
                Self { $($name: self.$name.or(under.$name),)* }
            }
        }
    };
}

layer! {
    /// The master's name.
    id: Name,
    /// The address to listen on.
    interface: Interface,
    /// The host that others are told.
    advertise: Host,
    /// Where other masters reach this one, if not at the advertised host and the mesh's port.
    mesh_advertise: Reach,
    /// Port of the fan-out.
    publish_port: Port,
    /// Port of sessions.
    ret_port: Port,
    /// Port for other masters.
    mesh_port: Port,
    /// Port of the API.
    api_port: Port,
    /// How many minions this master is to have room for.
    minions_max: u64,
    /// Most connections from one address, on each of the two ports for minions.
    connections_per_address_max: u64,
    /// The data folder.
    data_dir: PathBuf,
    /// The API's unix socket.
    socket: PathBuf,
    /// The file with the API's bearer token.
    api_token_file: PathBuf,
    /// Region label.
    region: Name,
    /// Zone label.
    zone: Name,
    /// What is logged.
    log_level: LogLevel,
    /// Raft's timing by distance; seeds the setting of that name.
    profile: ProfileChoice,
    /// Seeds the setting of that name.
    preferred_region: Name,
    /// Overrides the profile.
    heartbeat_ms: u64,
    /// Overrides the profile.
    election_ms_min: u64,
    /// Overrides the profile.
    election_ms_max: u64,
    /// Log entries between two snapshots.
    snapshot_entries: u64,
    /// Log entries that stay below a snapshot.
    log_keep_entries: u64,
    /// Log bytes, in MiB, after which a snapshot is made, however few entries they are.
    log_compact_mib: u64,
    /// Log bytes, in MiB, that stay below a snapshot at most.
    log_keep_mib: u64,
    /// MiB to be kept free on the disk of the data folder.
    disk_reserve_mib: u64,
    /// The folder into which this master writes backups.
    backup_folder: PathBuf,
    /// Seconds between two of them.
    backup_every_seconds: u64,
    /// How many of them are kept.
    backup_keep: u32,
    /// Seeds the setting of that name.
    keep_jobs_seconds: u64,
    /// Seeds the setting of that name.
    job_ttl_ms: u64,
    /// Seeds the setting of that name.
    beacon_interval_ms: u64,
    /// Seeds the setting of that name.
    auto_accept: bool,
}

/// Flags that every command of `saltern-master` takes. Values are checked with the other layers.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file; its drop-ins are the *.yaml files in the folder of the same name ending in .d
    #[arg(long, short = 'c', value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Name of this master
    #[arg(long, alias = "name", value_name = "NAME", global = true)]
    pub id: Option<String>,
    /// Address to listen on
    #[arg(long, value_name = "IP", global = true)]
    pub interface: Option<String>,
    /// Host that others are told
    #[arg(long, value_name = "HOST", global = true)]
    pub advertise: Option<String>,
    /// Port of the fan-out
    #[arg(long, value_name = "PORT", global = true)]
    pub publish_port: Option<String>,
    /// Port of sessions
    #[arg(long, value_name = "PORT", global = true)]
    pub ret_port: Option<String>,
    /// Port for other masters
    #[arg(long, value_name = "PORT", global = true)]
    pub mesh_port: Option<String>,
    /// Port of the operators' API
    #[arg(long, value_name = "PORT", global = true)]
    pub api_port: Option<String>,
    /// Data folder
    #[arg(long, value_name = "FOLDER", global = true)]
    pub data_dir: Option<String>,
    /// Unix socket of the operators' API
    #[arg(long, value_name = "FILE", global = true)]
    pub socket: Option<String>,
    /// File with the API's bearer token
    #[arg(long, value_name = "FILE", global = true)]
    pub api_token_file: Option<String>,
    /// Region label
    #[arg(long, value_name = "NAME", global = true)]
    pub region: Option<String>,
    /// Zone label
    #[arg(long, value_name = "NAME", global = true)]
    pub zone: Option<String>,
    /// What is logged: error, warning, info, debug or trace
    #[arg(long, short = 'l', value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
    /// Raft's timing of a new cluster: auto, lan, metro or geo
    #[arg(long, value_name = "PROFILE", global = true)]
    pub profile: Option<String>,
}

impl Flags {
    /// Every flag that was given, with its name.
    fn given(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("id", &self.id),
            ("interface", &self.interface),
            ("advertise", &self.advertise),
            ("publish_port", &self.publish_port),
            ("ret_port", &self.ret_port),
            ("mesh_port", &self.mesh_port),
            ("api_port", &self.api_port),
            ("data_dir", &self.data_dir),
            ("socket", &self.socket),
            ("api_token_file", &self.api_token_file),
            ("region", &self.region),
            ("zone", &self.zone),
            ("log_level", &self.log_level),
            ("profile", &self.profile),
        ];
        all.into_iter().filter_map(|(key, text)| Some((key, text.as_deref()?))).collect()
    }

    /// `command` with the flags as they were given, for messages that name a remedy.
    pub fn with_command(&self, command: &str) -> String {
        let mut line = format!("saltern-master {command}");
        if let Some(config) = &self.config {
            line += &format!(" --config {}", config.display());
        }
        for (key, text) in self.given() {
            line += &format!(" --{} {text}", key.replace('_', "-"));
        }
        line
    }
}

/// Reads one YAML file.
pub fn from_file(path: &Path) -> Result<Layer, ConfigError> {
    let read = |error: std::io::Error| ConfigError::Read { path: path.into(), cause: error.to_string() };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        let cause = format!("it is longer than {CONFIG_BYTES_MAX} bytes: is it a configuration file?");
        return Err(ConfigError::Read { path: path.into(), cause });
    }
    from_yaml(path, &text)
}

/// Parses the text of one YAML file; an empty one sets nothing.
pub fn from_yaml(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---";
    if text.lines().all(blank) {
        return Ok(Layer::default());
    }
    // PyYAML, which Salt reads with, takes 0644 for an octal number and yes for true.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        ConfigError::File { path: path.into(), line, cause: one_line(&error) }
    })
}

/// Takes the variables that begin with `SALTERN_MASTER_`.
pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (name, text) in variables {
        let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let refuse = |cause| ConfigError::Environment { name: name.clone(), cause };
        layer = from_pair(&key.to_lowercase(), &text).map_err(refuse)?.over(layer);
    }
    Ok(layer)
}

/// Takes the flags.
pub fn from_flags(flags: &Flags) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (key, text) in flags.given() {
        let refuse = |cause| ConfigError::Flag { name: format!("--{}", key.replace('_', "-")), cause };
        layer = from_pair(key, text).map_err(refuse)?.over(layer);
    }
    Ok(layer)
}

/// One key with its value as text: a number or truth value where the key wants one, a text otherwise.
fn from_pair(key: &str, text: &str) -> Result<Layer, String> {
    let read = |value: serde_json::Value| {
        let mut object = serde_json::Map::new();
        object.insert(key.into(), value);
        serde_json::from_value::<Layer>(object.into())
    };
    if let Ok(scalar) = serde_json::from_str::<serde_json::Value>(text)
        && (scalar.is_number() || scalar.is_boolean())
        && let Ok(layer) = read(scalar)
    {
        return Ok(layer);
    }
    match read(text.into()) {
        Ok(layer) => Ok(layer),
        Err(error) => match text.parse::<i64>() {
            // It was a number, so what is wrong with the number is the news.
            Ok(number) => Err(read(number.into()).err().unwrap_or(error).to_string()),
            Err(_) => Err(known_keys(&error.to_string())),
        },
    }
}

/// An error of the YAML parser without its drawing of the place.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    known_keys(text.lines().next().unwrap_or("it does not parse"))
}

/// Replaces serde's list of every field by the one that was probably meant.
fn known_keys(message: &str) -> String {
    let Some((_, rest)) = message.split_once("unknown field `") else { return message.into() };
    let Some((key, _)) = rest.split_once('`') else { return message.into() };
    let nearest = Layer::KEYS.iter().map(|known| (distance(key, known), *known)).min();
    match nearest {
        Some((steps, known)) if steps <= 3 => format!("unknown key `{key}`; did you mean `{known}`?"),
        Some(_) | None => format!("unknown key `{key}`; there are {}", Layer::KEYS.join(", ")),
    }
}

/// How many letters have to change to make `left` into `right` (Levenshtein's distance, by rows).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
