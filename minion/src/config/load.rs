//! Merges the layers of configuration and checks the result. Every complaint is one line that names the place and the
//! remedy.

use super::file::{Layer, SetError};
use super::{CONFIG_BYTES_MAX, CONFIG_PATH_DEFAULT, Config, MineFunction, SESSION_PORT_DEFAULT};
use saltern_wire::io::{Address, AddressError};
use saltern_wire::{Map, MinionId, Value};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest label of a region or zone, in bytes: names of places, not texts.
const LABEL_BYTES_MAX: usize = 256;

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flags {
    /// `-c`: a file that has to exist. Without it the default file is read if there is one.
    pub config: Option<PathBuf>,
    /// The flags that name settings.
    pub layer: Layer,
}

/// Why there is no configuration. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}:{line}: {cause}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        cause: String,
    },
    /// An environment variable is wrong.
    #[error("environment variable {name}: {cause}")]
    Environment {
        /// Its name.
        name: String,
        /// What is wrong with it.
        cause: SetError,
    },
    /// A master's address is wrong.
    #[error("master: {0}")]
    Address(#[from] AddressError),
    /// A value does not fit.
    #[error("{key}: {cause}")]
    Value {
        /// Which key.
        key: &'static str,
        /// Why.
        cause: String,
    },
}

/// Merges files, `environment` (names and values; only `SALTERN_MINION_…` is looked at) and `flags`. `hostname` is what
/// the id is made of when none is set.
pub fn load(
    flags: Flags,
    environment: impl Iterator<Item = (String, String)>,
    hostname: &str,
) -> Result<Config, ConfigError> {
    let mut all = read_files(flags.config.as_deref())?;
    let mut over = Layer::default();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix("SALTERN_MINION_") else { continue };
        if key == "CONFIG" {
            continue;
        }
        over.set(&key.to_ascii_lowercase(), &text).map_err(|cause| ConfigError::Environment { name, cause })?;
    }
    all.overlay(over);
    all.overlay(flags.layer);
    check(all, hostname)
}

/// The main file and the files of the folder `minion.d` beside it.
fn read_files(given: Option<&Path>) -> Result<Layer, ConfigError> {
    let path = given.unwrap_or(Path::new(CONFIG_PATH_DEFAULT));
    let mut all = match read_layer(path) {
        Err(ConfigError::Read { source, .. }) if given.is_none() && source.kind() == std::io::ErrorKind::NotFound => {
            Layer::default()
        }
        read => read?,
    };
    let folder = path.with_file_name("minion.d");
    let mut parts: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(ConfigError::Read { path: folder, source }),
    };
    parts.retain(|part| part.extension().is_some_and(|end| end == "yaml" || end == "conf"));
    parts.sort();
    for part in parts {
        all.overlay(read_layer(&part)?);
    }
    Ok(all)
}

/// One file.
fn read_layer(path: &Path) -> Result<Layer, ConfigError> {
    let refuse = |source| ConfigError::Read { path: path.into(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(refuse)?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(refuse)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        let cause = format!("the file is longer than {CONFIG_BYTES_MAX} bytes");
        return Err(ConfigError::Parse { path: path.into(), line: 1, cause });
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Layer::default());
    }
    parse(&text).map_err(|(line, cause)| ConfigError::Parse { path: path.into(), line, cause })
}

/// Reads YAML; an error is its line and its cause.
fn parse(text: &str) -> Result<Layer, (u64, String)> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(1, |location| location.line());
        let cause = if let serde_saphyr::Error::SerdeUnknownField { field, expected, .. } = error {
            format!("unknown key {field:?}; known are {}", expected.join(", "))
        } else {
            one_line(&error.to_string())
        };
        (line, cause)
    })
}

/// The text without line breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Turns merged layers into a configuration.
fn check(layer: Layer, hostname: &str) -> Result<Config, ConfigError> {
    let refuse = |key, cause: &dyn std::fmt::Display| ConfigError::Value { key, cause: cause.to_string() };
    let id = match &layer.id {
        Some(text) => MinionId::new(text.clone()).map_err(|error| refuse("id", &error))?,
        None => id_of_host(hostname).ok_or_else(|| refuse("id", &"this host has no name; set id"))?,
    };
    let mut config = Config::new(id);
    for text in layer.master.iter().flat_map(|master| master.texts()) {
        let address = Address::parse(&text, Some(SESSION_PORT_DEFAULT))?;
        if address.port() == 0 {
            return Err(refuse("master", &format!("{address} has port 0; masters listen on {SESSION_PORT_DEFAULT}")));
        }
        if !config.masters.contains(&address) {
            config.masters.push(address);
        }
    }
    if let Some(text) = &layer.ca_fingerprint {
        config.ca_fingerprint = Some(text.trim().parse().map_err(|error| refuse("ca_fingerprint", &error))?);
    }
    if let Some(folder) = layer.data_dir {
        if !Path::new(&folder).is_absolute() {
            return Err(refuse("data_dir", &format!("{folder:?} is not an absolute path")));
        }
        config.data_dir = folder.into();
    }
    if let Some(functions) = layer.mine_functions {
        config.mine_functions = mine_functions(functions).map_err(|cause| refuse("mine_functions", &cause))?;
    }
    if let Some(minutes) = layer.mine_interval {
        config.mine_interval = (minutes > 0).then(|| Duration::from_secs(minutes.saturating_mul(60)));
    }
    if let Some(grains) = layer.grains {
        config.grains = grains;
    }
    for (key, label, slot) in [("region", layer.region, &mut config.region), ("zone", layer.zone, &mut config.zone)] {
        match label {
            Some(label) if label.len() > LABEL_BYTES_MAX => {
                return Err(refuse(key, &format!("it has {} bytes, the limit is {LABEL_BYTES_MAX}", label.len())));
            }
            Some(label) => *slot = label.trim().to_owned(),
            None => {}
        }
    }
    if let Some(standby) = layer.standby {
        config.standby = standby;
    }
    let spans = [
        ("ping_interval_ms", layer.ping_interval_ms, &mut config.ping_interval),
        ("ping_timeout_ms", layer.ping_timeout_ms, &mut config.ping_timeout),
        ("beacon_silence_ms_max", layer.beacon_silence_ms_max, &mut config.beacon_silence_max),
        ("dial_timeout_ms", layer.dial_timeout_ms, &mut config.dial_timeout),
        ("standby_delay_ms_max", layer.standby_delay_ms_max, &mut config.standby_delay_max),
    ];
    for (key, value, slot) in spans {
        match value {
            // Below a few milliseconds scheduling alone looks like a dead master; an hour is never meant.
            Some(ms) if !(10..=3_600_000).contains(&ms) => {
                return Err(refuse(key, &format!("{ms} is out of range: 10 to 3600000 milliseconds")));
            }
            Some(ms) => *slot = Duration::from_millis(ms),
            None => {}
        }
    }
    // A master drops a session that is silent for 20 s.
    if config.ping_interval > Duration::from_secs(10) {
        let ms = config.ping_interval.as_millis();
        return Err(refuse("ping_interval_ms", &format!("{ms} is out of range: 10 to 10000 milliseconds")));
    }
    if let Some(bytes) = layer.outbox_bytes_max {
        config.outbox_bytes_max = bytes;
    }
    if let Some(seconds) = layer.outbox_age_seconds_max {
        config.outbox_age_max = Duration::from_secs(seconds);
    }
    if let Some(jobs) = layer.jobs_running_max {
        config.jobs_running_max = usize::try_from(jobs.clamp(1, 10_000)).unwrap_or(1);
    }
    if let Some(bytes) = layer.output_bytes_max {
        // Two streams of this size and their JSON escapes have to fit one return of 16 MiB.
        config.output_bytes_max = usize::try_from(bytes.clamp(1024, 7 * 1024 * 1024)).unwrap_or(1024);
    }
    if let Some(level) = layer.log_level {
        config.log_level = level;
    }
    Ok(config)
}

/// A minion id made of the host's name: lower case, everything that an id cannot hold replaced by `-`.
fn id_of_host(hostname: &str) -> Option<MinionId> {
    let fold = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let text: String = hostname.trim().to_ascii_lowercase().chars().map(fold).take(253).collect();
    MinionId::new(text).ok()
}

/// Salt's forms: `{name: [args…]}`, `{name: {kw: …}}`, `{alias: [{mine_function: f}, args…, {kw: …}]}`, `[name, …]`.
fn mine_functions(value: Value) -> Result<Vec<MineFunction>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(names) => names.into_iter().map(|name| mine_function(name, Value::Null)).collect(),
        Value::Object(map) => map.into_iter().map(|(name, body)| mine_function(Value::String(name), body)).collect(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            Err(format!("{other} is neither a list of functions nor a mapping from function to arguments"))
        }
    }
}

/// One entry.
fn mine_function(name: Value, body: Value) -> Result<MineFunction, String> {
    let Value::String(name) = name else { return Err(format!("{name} is not the name of a function")) };
    let mut entry = MineFunction { function: name.clone(), name, arguments: Vec::new(), keywords: Map::new() };
    let keywords = |entry: &mut MineFunction, map: Map| -> Result<(), String> {
        for (key, value) in map {
            match (key.as_str(), value) {
                ("mine_function", Value::String(function)) => entry.function = function,
                ("mine_function", other) => return Err(format!("{}: mine_function {other} is no name", entry.name)),
                (_, value) => drop(entry.keywords.insert(key, value)),
            }
        }
        Ok(())
    };
    match body {
        Value::Null => {}
        Value::Object(map) => keywords(&mut entry, map)?,
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(map) => keywords(&mut entry, map)?,
                    other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                        entry.arguments.push(other);
                    }
                }
            }
        }
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => entry.arguments.push(other),
    }
    Ok(entry)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn loaded(yaml: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("minion.yaml");
        std::fs::write(&path, yaml).expect("written");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(Flags { config: Some(path), layer: Layer::default() }, environment, "Web 1.Example")
    }

    #[test]
    fn the_host_names_the_minion() {
        assert_eq!(loaded("# nothing\n", &[]).expect("defaults").id.as_str(), "web-1.example");
    }

    #[test]
    fn later_layers_win() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("minion.yaml");
        std::fs::write(&path, "id: a\nmaster: [m1, 'm2:7']\ngrains: {role: web, dc: x}\nlog_level: debug\n")
            .expect("written");
        std::fs::create_dir(folder.path().join("minion.d")).expect("made");
        std::fs::write(folder.path().join("minion.d/10.yaml"), "id: b\ngrains: {dc: y}\n").expect("written");
        let environment = [("SALTERN_MINION_LOG_LEVEL".to_owned(), "warn".to_owned())].into_iter();
        let layer = Layer { id: Some("c".into()), ..Layer::default() };
        let config = load(Flags { config: Some(path), layer }, environment, "h").expect("valid");
        assert_eq!(config.id.as_str(), "c");
        assert_eq!(config.log_level, "warn");
        assert_eq!(Value::Object(config.grains), json!({"role": "web", "dc": "y"}));
        assert_eq!(config.masters.iter().map(ToString::to_string).collect::<Vec<_>>(), ["m1:4506", "m2:7"]);
    }

    #[test]
    fn complaints_name_the_line_and_the_remedy() {
        for (yaml, expect) in [
            ("id: a\nmastr: b\n", ":2: unknown key \"mastr\"; known are id, master"),
            ("master: 'a:b:c'\n", "is not an address"),
            ("master: 'a:99999'\n", "port"),
            ("id: Web\n", "not a minion id"),
            ("id: [\n", ":"),
            ("ca_fingerprint: abc\n", "64 hexadecimal digits"),
            ("data_dir: here\n", "absolute"),
            ("ping_interval_ms: 1\n", "out of range"),
            ("ping_interval_ms: 11000\n", "out of range: 10 to 10000"),
            ("mine_interval: soon\n", ":1:"),
        ] {
            let text = loaded(yaml, &[]).expect_err(yaml).to_string();
            assert!(text.contains(expect), "{yaml:?}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        let text = loaded("", &[("SALTERN_MINION_MASTR", "x")]).expect_err("unknown").to_string();
        assert!(text.contains("SALTERN_MINION_MASTR"), "{text}");
    }

    #[test]
    fn mine_functions_take_salts_forms() {
        let yaml = "mine_functions:\n  test.ping: []\n  network.ip_addrs:\n    interface: eth0\n  addr:\n    - mine_function: network.ip_addrs\n    - eth1\n    - cidr: 10.0.0.0/8\n";
        let functions = loaded(yaml, &[]).expect("valid").mine_functions;
        assert_eq!(functions.len(), 3);
        assert_eq!((functions[0].name.as_str(), functions[0].arguments.len()), ("test.ping", 0));
        assert_eq!(functions[1].keywords.get("interface"), Some(&json!("eth0")));
        assert_eq!((functions[2].name.as_str(), functions[2].function.as_str()), ("addr", "network.ip_addrs"));
        assert_eq!(functions[2].arguments, [json!("eth1")]);
        assert_eq!(functions[2].keywords.get("cidr"), Some(&json!("10.0.0.0/8")));
    }
}
