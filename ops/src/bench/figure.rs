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
}

impl Figure {
    /// A figure of now.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, load: load() }
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
            Output::Table => println!("{:<34} {:>12.2} {:<10} load {:.1}", self.name, self.value, self.unit, self.load),
        }
    }
}
