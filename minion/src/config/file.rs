//! The keys as they are written in YAML, in the environment or as flags; every one optional, none unknown.

use saltern_wire::{Map, Value};
use serde::Deserialize;

/// One layer of configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Layer {
    /// Salt's `id`.
    pub id: Option<String>,
    /// Salt's `master`: one address or a list.
    pub master: Option<OneOrMany>,
    /// SHA-256 of the cluster CA's key, 64 hexadecimal digits; shown by `saltern cluster status`.
    pub ca_fingerprint: Option<String>,
    /// The data folder.
    pub data_dir: Option<String>,
    /// Salt's `mine_functions`.
    pub mine_functions: Option<Value>,
    /// Salt's `mine_interval`, in minutes; 0 reports at start only.
    pub mine_interval: Option<u64>,
    /// Salt's `grains`.
    pub grains: Option<Map>,
    /// The region of this machine, in the words of the masters' regions.
    pub region: Option<String>,
    /// The zone of this machine, likewise.
    pub zone: Option<String>,
    /// Whether a second session waits with another master.
    pub standby: Option<bool>,
    /// Milliseconds after which the second session is opened, at most.
    pub standby_delay_ms_max: Option<u64>,
    /// Milliseconds between two pings.
    pub ping_interval_ms: Option<u64>,
    /// Milliseconds a ping may stay unanswered.
    pub ping_timeout_ms: Option<u64>,
    /// Milliseconds of silence on the fan-out, at most.
    pub beacon_silence_ms_max: Option<u64>,
    /// Milliseconds for opening a session.
    pub dial_timeout_ms: Option<u64>,
    /// Bytes of unsent returns.
    pub outbox_bytes_max: Option<u64>,
    /// Seconds a return may wait.
    pub outbox_age_seconds_max: Option<u64>,
    /// Jobs at one time.
    pub jobs_running_max: Option<u64>,
    /// Bytes kept of each output stream of a command.
    pub output_bytes_max: Option<u64>,
    /// Salt's `log_level`.
    pub log_level: Option<String>,
}

/// `master: a` or `master: [a, b]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text; commas separate several.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts one by one.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::One(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
            Self::Many(texts) => texts.iter().map(|text| text.trim().to_owned()).collect(),
        }
    }
}

/// Why one text is not a value of its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such key.
    #[error("there is no such setting")]
    Unknown,
    /// The key takes a whole number.
    #[error("{0:?} is not a whole number")]
    Number(String),
    /// The key takes true or false.
    #[error("{0:?} is neither true nor false")]
    Truth(String),
    /// The key takes a structure, which only a file can hold.
    #[error("it can be set in the configuration file only")]
    FileOnly,
}

impl Layer {
    /// Sets the key `name` from a text, as the environment gives it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SetError> {
        let number = || text.trim().parse::<u64>().map(Some).map_err(|_| SetError::Number(text.into()));
        let truth = || match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(SetError::Truth(text.into())),
        };
        match name {
            "id" => self.id = Some(text.into()),
            "master" => self.master = Some(OneOrMany::One(text.into())),
            "ca_fingerprint" => self.ca_fingerprint = Some(text.into()),
            "data_dir" => self.data_dir = Some(text.into()),
            "log_level" => self.log_level = Some(text.into()),
            "region" => self.region = Some(text.into()),
            "zone" => self.zone = Some(text.into()),
            "standby" => self.standby = Some(truth()?),
            "standby_delay_ms_max" => self.standby_delay_ms_max = number()?,
            "mine_interval" => self.mine_interval = number()?,
            "ping_interval_ms" => self.ping_interval_ms = number()?,
            "ping_timeout_ms" => self.ping_timeout_ms = number()?,
            "beacon_silence_ms_max" => self.beacon_silence_ms_max = number()?,
            "dial_timeout_ms" => self.dial_timeout_ms = number()?,
            "outbox_bytes_max" => self.outbox_bytes_max = number()?,
            "outbox_age_seconds_max" => self.outbox_age_seconds_max = number()?,
            "jobs_running_max" => self.jobs_running_max = number()?,
            "output_bytes_max" => self.output_bytes_max = number()?,
            "mine_functions" | "grains" => return Err(SetError::FileOnly),
            _ => return Err(SetError::Unknown),
        }
        Ok(())
    }

    /// Lays `over` on top: its keys win, its grains and mine functions are merged key by key.
    pub fn overlay(&mut self, over: Self) {
        fn put<T>(slot: &mut Option<T>, over: Option<T>) {
            if over.is_some() {
                *slot = over;
            }
        }
        put(&mut self.id, over.id);
        put(&mut self.master, over.master);
        put(&mut self.ca_fingerprint, over.ca_fingerprint);
        put(&mut self.data_dir, over.data_dir);
        put(&mut self.mine_interval, over.mine_interval);
        put(&mut self.region, over.region);
        put(&mut self.zone, over.zone);
        put(&mut self.standby, over.standby);
        put(&mut self.standby_delay_ms_max, over.standby_delay_ms_max);
        put(&mut self.ping_interval_ms, over.ping_interval_ms);
        put(&mut self.ping_timeout_ms, over.ping_timeout_ms);
        put(&mut self.beacon_silence_ms_max, over.beacon_silence_ms_max);
        put(&mut self.dial_timeout_ms, over.dial_timeout_ms);
        put(&mut self.outbox_bytes_max, over.outbox_bytes_max);
        put(&mut self.outbox_age_seconds_max, over.outbox_age_seconds_max);
        put(&mut self.jobs_running_max, over.jobs_running_max);
        put(&mut self.output_bytes_max, over.output_bytes_max);
        put(&mut self.log_level, over.log_level);
        match (&mut self.grains, over.grains) {
            (Some(below), Some(above)) => below.extend(above),
            (slot, above) => put(slot, above),
        }
        match (&mut self.mine_functions, over.mine_functions) {
            (Some(Value::Object(below)), Some(Value::Object(above))) => below.extend(above),
            (slot, above) => put(slot, above),
        }
    }
}
