//! What the storm came to.

use super::Voice;
use serde::Serialize;

/// The figures of a demo, each counted, none assumed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Masters that were started.
    pub masters: usize,
    /// Minions that were started.
    pub minions: usize,
    /// Jobs of the burst.
    pub jobs: usize,
    /// Returns that were due: one per job and targeted minion.
    pub targeted: usize,
    /// Returns that a surviving master holds.
    pub returned: usize,
    /// Starts on the minions' disks beyond one per return.
    pub duplicates: usize,
    /// Returns that were due and are not there.
    pub lost: usize,
    /// Whether every surviving master holds the same returns.
    pub identical: bool,
    /// Longest time between two acknowledged writes around the leader's death, in milliseconds.
    pub write_gap_ms: f64,
    /// Time from the leader's death until a minion was attached elsewhere, in milliseconds; the 99th percentile over the
    /// minions that were attached to it, 0 if there were none.
    pub minion_gap_ms_p99: f64,
    /// Minions that were attached to the master that died.
    pub minions_moved: usize,
    /// Load average of the machine over the last minute, when the report was made.
    pub load: f64,
}

impl Report {
    /// Whether every promise of the demo was kept.
    pub fn kept(&self) -> bool {
        self.returned == self.targeted
            && self.targeted >= 100
            && self.duplicates == 0
            && self.lost == 0
            && self.identical
    }

    /// Tells it to people.
    pub fn tell(&self, voice: &mut Voice) {
        voice.say("");
        voice.say(&format!(
            "{} jobs, {} returns due, {} recorded; {} lost, {} started twice.",
            self.jobs, self.targeted, self.returned, self.lost, self.duplicates
        ));
        let same = if self.identical { "the same on every surviving master" } else { "NOT the same on every master" };
        voice.say(&format!("Read from the survivors, they are {same}."));
        voice.say(&format!(
            "Writes were away for {:.0} ms; the {} minions of the dead master for {:.0} ms (99th percentile). Load {:.1}.",
            self.write_gap_ms, self.minions_moved, self.minion_gap_ms_p99, self.load
        ));
        voice.say(if self.kept() { "Every promise was kept." } else { "A PROMISE WAS BROKEN: see the figures above." });
    }
}

/// The machine's load average over the last minute; NaN where the system does not tell it.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// The value below which `percent` of `values` lie (nearest rank); 0 for none.
pub fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(percentile(vec![], 99), 0.0);
        assert_eq!(percentile(vec![3.0, 1.0, 2.0], 50), 2.0);
        assert_eq!(percentile((1..=100).map(f64::from).collect(), 99), 99.0);
    }

    #[test]
    fn a_report_with_a_lost_or_doubled_return_is_not_kept() {
        let good = Report {
            masters: 3,
            minions: 8,
            jobs: 16,
            targeted: 128,
            returned: 128,
            duplicates: 0,
            lost: 0,
            identical: true,
            write_gap_ms: 1.0,
            minion_gap_ms_p99: 1.0,
            minions_moved: 3,
            load: 1.0,
        };
        assert!(good.kept());
        assert!(!Report { returned: 127, lost: 1, ..good.clone() }.kept());
        assert!(!Report { duplicates: 1, ..good.clone() }.kept());
        assert!(!Report { identical: false, ..good.clone() }.kept());
        assert!(!Report { targeted: 99, returned: 99, ..good }.kept());
    }
}
