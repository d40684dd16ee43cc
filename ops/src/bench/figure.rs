//! One measured number.

use super::Output;
use crate::demo::report::load;
use serde::Serialize;
use std::time::Duration;

/// A number with its unit, and the machine's load when it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Load average over the last minute.
    pub load: f64,
    /// How many minions it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minions: Option<usize>,
    /// Whose it is, if it is not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'static str>,
    /// How many times as much ours is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Figure {
    /// A figure of now.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, load: load(), minions: None, peer: None, ratio: None }
    }

    /// The same, of so many minions.
    pub fn with_minions(self, minions: usize) -> Self {
        Self { minions: Some(minions), ..self }
    }

    /// The same of `peer`; `ours` is what we reached in the same run.
    pub fn of_peer(self, peer: &'static str, ours: f64) -> Self {
        let ratio = (self.value > 0.0).then(|| ours / self.value);
        Self { peer: Some(peer), ratio, ..self }
    }

    /// A time in seconds.
    pub fn seconds(name: impl Into<String>, value: Duration) -> Self {
        Self::new(name, value.as_secs_f64(), "s")
    }

    /// A time in milliseconds.
    pub fn millis(name: impl Into<String>, value: Duration) -> Self {
        Self::new(name, value.as_secs_f64() * 1e3, "ms")
    }

    /// Writes it to stdout.
    pub fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", serde_json::to_string(self).unwrap_or_default()),
            Output::Table => {
                let peer = self.peer.map(|peer| format!("  {peer}, ours × {:.2}", self.ratio.unwrap_or(f64::NAN)));
                let (name, value, unit, load) = (&self.name, self.value, self.unit, self.load);
                println!("{name:<34} {value:>12.2} {unit:<10} load {load:.1}{}", peer.unwrap_or_default());
            }
        }
    }
}
