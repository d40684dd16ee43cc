//! How long nobody can write when the leader dies, or hands over.

use super::group::{ASK_WITHIN, Group};
use crate::demo::report::percentile;
use anyhow::Context;
use serde_json::json;
use std::time::Duration;

/// How long writers run before something happens to the leader.
const BEFORE: Duration = Duration::from_millis(500);

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// kill -9
    Kill,
    /// It hands over.
    Transfer,
}

/// The longest gap of each of `rounds`, in milliseconds, as a survivor's writers see it. They are watched for `watched`.
pub async fn rounds(group: &mut Group, change: Change, rounds: u32, watched: Duration) -> anyhow::Result<(f64, f64)> {
    let mut gaps = Vec::new();
    for round in 1..=rounds {
        let gap = one(group, change, watched).await?;
        eprintln!("… {change:?} {round} of {rounds}: {gap:.0} ms");
        gaps.push(gap);
    }
    Ok((percentile(gaps.clone(), 50), percentile(gaps, 100)))
}

async fn one(group: &mut Group, change: Change, watched: Duration) -> anyhow::Result<f64> {
    let leader = group.leader().await?.number;
    let survivor = (*group.others(leader).first().context("there are survivors")?).clone();
    let heir = group.standing(survivor.number).await?.number("id")?;
    let question = json!({ "do": "gap", "millis": watched.as_millis() as u64 });
    let watching = tokio::spawn({
        let survivor = survivor.clone();
        async move { survivor.ask(question, watched + ASK_WITHIN).await }
    });
    tokio::time::sleep(BEFORE).await;
    match change {
        Change::Kill => group.kill(leader)?,
        Change::Transfer => {
            group.member(leader).ask(json!({ "do": "transfer", "to": heir as u64 }), ASK_WITHIN).await?;
        }
    }
    let seen = watching.await??;
    anyhow::ensure!(seen.number("count")? > 0.0, "nothing was written at all");
    if change == Change::Kill {
        let applied = group.standing(survivor.number).await?.number("applied")?;
        group.restart(leader)?;
        group.wait_for(leader, applied, ASK_WITHIN).await?;
    }
    seen.number("gap_ms")
}
