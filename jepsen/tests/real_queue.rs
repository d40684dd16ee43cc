//! Minions that are away while jobs are submitted: each gets what is still its own when it comes back, and nothing else.

use saltern_jepsen::real::{SETTLE, World, said};
use saltern_ops::fleet::jobs;
use saltern_wire::api::{JobState, KeyView};
use saltern_wire::job::Progress;
use saltern_wire::key::KeyState;
use saltern_wire::target::TargetKind;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// One minion is away, one comes back too late for a job that did not wait, one is deleted meanwhile. The master that took the
/// jobs is dead by the time they come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minions_that_were_away_get_what_is_queued_for_them_once_and_nothing_that_is_not() -> anyhow::Result<()> {
    let mut world = World::up(3, 3).await?;
    for minion in &mut world.cluster.fleet.minions {
        minion.process.take().ok_or_else(|| anyhow::anyhow!("{} runs", minion.id))?.kill();
    }
    let marks = world.folder.path().join("marks");
    let shell = format!("echo started >> {}", marks.display());
    let mut queued = jobs::job(TargetKind::Glob, "*", "cmd.run", &[shell.into()]);
    queued.ttl_ms = Some(DAY_MS);
    let mut short = jobs::job(TargetKind::Glob, "minion-2", "test.ping", &[]);
    short.ttl_ms = Some(1_500);
    let mut client = world.cluster.client(0);
    let queued = jobs::submit(&mut client, &queued).await?.jid;
    let short = jobs::submit(&mut client, &short).await?.jid;
    let deleted = world.saltern(&[0], &["key", "delete", "minion-3", "-y"])?;
    assert!(deleted.status.success(), "{}", said(&deleted));
    let view = jobs::wait(&mut client, short, SETTLE).await?;
    assert_eq!(view.missing.iter().map(|missing| missing.state).collect::<Vec<_>>(), [Progress::Expired]);
    world.kill_master(0)?;
    let mut client = world.cluster.client_of(&[1, 2]);
    for number in 0..3 {
        world.cluster.fleet.minions[number].process = None;
        world.cluster.fleet.start_minion(number)?;
    }
    let view = jobs::wait(&mut client, queued, SETTLE).await?;
    assert_eq!(view.summary.state, JobState::Done, "{view:?}");
    let returned: Vec<&str> = view.returns.keys().map(|minion| minion.as_str()).collect();
    assert_eq!(returned, ["minion-1", "minion-2"]);
    let missing: Vec<_> = view.missing.iter().map(|missing| (missing.minion.as_str(), missing.state)).collect();
    assert_eq!(missing, [("minion-3", Progress::Unreachable)]);
    // The deleted one has enrolled anew. Accepted, it works, and is asked for nothing of its past.
    let pending = |keys: &Vec<KeyView>| keys.iter().any(|key| key.state == KeyState::Pending);
    world.cluster.wait(1, "its key to be pending", "/v1/keys", pending).await?;
    world.cluster.accept_all(1).await?;
    world.cluster.wait_for_connected(1, 3).await?;
    let ping = jobs::run(&mut client, &jobs::for_all("test.ping", &[]), SETTLE).await?;
    assert_eq!(ping.returns.len(), 3, "{ping:?}");
    let starts = std::fs::read_to_string(&marks)?;
    assert_eq!(starts.lines().count(), 2, "each of the two started it once");
    let view = jobs::look_up(&mut client, short).await?;
    assert!(view.returns.is_empty(), "nobody ran what had expired: {view:?}");
    Ok(())
}
