//! What many writers did together: how much, how long, how late.

use serde_json::{Map, Value, json};
use std::time::Duration;

/// A measurement as it grows.
#[derive(Debug, Default)]
pub struct Tally {
    /// One a success, in microseconds.
    pub took_us: Vec<u32>,
    /// Attempts that were refused and made again.
    pub refused: u64,
}

impl Tally {
    /// A write took so long.
    pub fn note(&mut self, took: Duration) {
        self.took_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Puts what another writer did to it.
    pub fn add(&mut self, other: Self) {
        self.took_us.extend(other.took_us);
        self.refused += other.refused;
    }

    /// The answer: `count`, `seconds`, `p50_ms`, `p99_ms`, `max_ms`, `refused`.
    pub fn answer(mut self, within: Duration) -> Map<String, Value> {
        self.took_us.sort_unstable();
        let at = |part: f64| {
            let place = (self.took_us.len() as f64 * part) as usize;
            let us = self.took_us.get(place.min(self.took_us.len().saturating_sub(1)));
            f64::from(us.copied().unwrap_or(0)) / 1e3
        };
        let answer = json!({
            "count": self.took_us.len(),
            "seconds": within.as_secs_f64(),
            "p50_ms": at(0.50),
            "p99_ms": at(0.99),
            "max_ms": at(1.0),
            "refused": self.refused,
        });
        match answer {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}
