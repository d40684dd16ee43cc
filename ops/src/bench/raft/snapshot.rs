//! A large state: made into a snapshot, shipped to a member that was away for too long, installed there; and loaded at a start.

use super::group::{ASK_WITHIN, Group};
use anyhow::Context;
use saltern_wire::io::Clock;
use serde_json::json;
use std::time::Duration;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Writers that are at work meanwhile.
const WRITERS: u32 = 16;

/// How long a step of a large state took, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// A snapshot of it was made, while others wrote.
    pub made: f64,
    /// From the start of the member that needs it until it had applied what the others had at that time, while others wrote.
    pub shipped: f64,
    /// From the start of a member that has it until it serves.
    pub restarted: f64,
    /// Whether the leader led all the time.
    pub led_on: bool,
}

/// Fills the state with `mib` of returns while one member is away, and brings that one back.
pub async fn measure(group: &mut Group, mib: u64, clock: &impl Clock) -> anyhow::Result<Took> {
    let leader = group.leader().await?.clone();
    let away = group.others(leader.number).last().context("there are others")?.number;
    let term = group.standing(leader.number).await?.number("term")?;
    group.kill(away)?;
    eprintln!("… filling the state with {mib} MiB");
    leader.ask(json!({ "do": "fill", "mib": mib }), PATIENCE).await?;
    let load = tokio::spawn({
        let leader = leader.clone();
        async move {
            loop {
                let question = json!({ "do": "single", "writers": WRITERS, "millis": 1000 });
                // It ends with the measurement.
                if leader.ask(question, PATIENCE).await.is_err() {
                    return;
                }
            }
        }
    });
    eprintln!("… making a snapshot");
    let made = leader.ask(json!({ "do": "snapshot" }), PATIENCE).await?.number("seconds")?;
    // The log is purged behind it, so that the member cannot come back without it.
    let wanted = group.standing(leader.number).await?.number("applied")?;
    let started = clock.monotonic();
    eprintln!("… shipping it");
    group.restart(away)?;
    group.wait_for(away, wanted, PATIENCE).await?;
    let shipped = clock.monotonic().saturating_sub(started).as_secs_f64();
    load.abort();
    let led_on = group.standing(leader.number).await?.number("term")? <= term;
    eprintln!("… restarting with it");
    group.kill(away)?;
    let started = clock.monotonic();
    group.restart(away)?;
    group.cluster.wait_for_serving(away, PATIENCE).await?;
    let restarted = clock.monotonic().saturating_sub(started).as_secs_f64();
    let applied = group.standing(leader.number).await?.number("applied")?;
    group.wait_for(away, applied, ASK_WITHIN).await?;
    Ok(Took { made, shipped, restarted, led_on })
}
