//! How long nobody's write is acknowledged while something happens to the leader.

use crate::load;
use crate::question::{Bench, map};
use saltern_cluster::truth::Lane;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Writers at one time: with a round trip of 100 ms there is still an acknowledgement every few milliseconds.
const WRITERS: u32 = 16;

/// Pause after a write that was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(2);

struct Seen {
    last: Duration,
    longest: Duration,
    count: u64,
}

/// Writes for `within` and gives the longest gap between two acknowledgements, `gap_ms`, and how many there were, `count`.
pub async fn longest(bench: &Bench, within: Duration) -> anyhow::Result<Map<String, Value>> {
    let clock = Arc::clone(&bench.io.clock);
    let started = clock.monotonic();
    let end = started + within;
    let seen = Arc::new(Mutex::new(Seen { last: started, longest: Duration::ZERO, count: 0 }));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let (bench, clock, seen) = (bench.clone(), Arc::clone(&clock), Arc::clone(&seen));
        writers.spawn(async move {
            while clock.monotonic() < end {
                let write = bench.truth.propose(Lane::Control, load::note(&bench, number), None);
                // Whoever waits longer than the measurement waits for nothing that counts.
                let left = end.saturating_sub(clock.monotonic());
                match tokio::time::timeout(left, write).await {
                    Ok(Ok(_)) => {
                        let now = clock.monotonic();
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.longest = seen.longest.max(now.saturating_sub(seen.last));
                        seen.last = seen.last.max(now);
                        seen.count += 1;
                    }
                    Ok(Err(_)) => tokio::time::sleep(REFUSED_PAUSE).await,
                    Err(_) => return,
                }
            }
        });
    }
    writers.join_all().await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let longest = seen.longest.max(end.saturating_sub(seen.last));
    Ok(map(json!({ "gap_ms": longest.as_secs_f64() * 1e3, "count": seen.count })))
}
