//! The machine's clock and random source: the only file that may name them.
//!
//! The monotonic clock is tokio's, so that a runtime with a paused clock pauses this one too.

use saltern_wire::io::{Clock, Entropy};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The machine's clocks; monotonic time counts from when it was made.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Starts counting now.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn monotonic(&self) -> Duration {
        Instant::now().saturating_duration_since(self.started)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn wall_unix_micros(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
    }
}

/// The kernel's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// Ends the process if the kernel gives no random bytes: going on with predictable keys would be worse.
    fn fill(&self, out: &mut [u8]) {
        #[expect(clippy::expect_used, reason = "predictable keys would be worse than a dead process")]
        getrandom::fill(out).expect("the kernel's random source works");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::io::draw;

    #[tokio::test(start_paused = true)]
    async fn monotonic_time_follows_a_paused_runtime() {
        let clock = SystemClock::new();
        let before = clock.monotonic();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.monotonic() - before, Duration::from_secs(3600));
        assert!(clock.wall_unix_micros() > 1_700_000_000_000_000, "the wall clock is after 2023");
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(draw::<32>(&SystemEntropy), draw::<32>(&SystemEntropy));
    }
}
