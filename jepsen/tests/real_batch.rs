//! A rolling command outlives the terminal that started it and the master that led: `-b 10%` goes on to its end, never on more
//! than a tenth of its minions at one time, and each runs it once.
//!
//! When it began and ended where is written by the command itself, on the machines that run it.

use anyhow::{Context, ensure};
use saltern_jepsen::real::{SETTLE, World, said};
use saltern_ops::fleet::jobs;
use saltern_wire::JobId;
use saltern_wire::api::{JobPage, JobView};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Minions: two of them are a tenth.
const MINIONS: usize = 20;

/// How many may run it at one time.
const WIDTH: usize = MINIONS / 10;

/// When the command began and ended somewhere, as it wrote it down: nanoseconds, and one more or one less.
fn marks(file: &Path) -> anyhow::Result<Vec<(u64, i32)>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut marks = Vec::new();
    for line in text.lines() {
        let (word, time) = line.split_once(' ').context("a mark")?;
        marks.push((time.parse()?, if word == "begin" { 1 } else { -1 }));
    }
    marks.sort_unstable();
    Ok(marks)
}

/// How often it began, and how many ran it at one time at most.
fn figures(file: &Path) -> anyhow::Result<(usize, i32)> {
    let (mut running, mut most) = (0, 0);
    let marks = marks(file)?;
    for (_, step) in &marks {
        running += step;
        most = most.max(running);
    }
    Ok((marks.iter().filter(|(_, step)| *step > 0).count(), most))
}

async fn until(what: &str, mut met: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let look = async {
        while !met().await? {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SETTLE, look).await.with_context(|| format!("waited for {what}"))?
}

fn stands(view: &JobView) -> anyhow::Result<saltern_wire::rolling::BatchView> {
    view.summary.batch.context("it is a batch")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_goes_on_to_its_end_without_its_leader_and_without_its_terminal() -> anyhow::Result<()> {
    let mut world = World::up(3, MINIONS).await?;
    let file = world.folder.path().join("marks");
    let mark = |word| format!("echo {word} $(date +%s%N) >> {}", file.display());
    let script = format!("{}; sleep 0.3; {}", mark("begin"), mark("end"));
    let mut terminal = Command::new(&world.cluster.fleet.binaries().cli)
        .args(["run", "*", "-b", "10%", "cmd.run", &script])
        .env("SALTERN_SERVER", world.cluster.fleet.server_list())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    until("some to have run it", async || Ok(figures(&file)?.0 >= 2 * WIDTH)).await?;
    terminal.kill()?;
    terminal.wait()?;
    let leader = world.leader(0).await?;
    let page = world.cluster.client(leader).get::<JobPage>("/v1/jobs", "active=true").await?.value;
    let jid: JobId = page.jobs.first().context("the job is open")?.jid;
    world.kill_master(leader)?;
    let (begun, _) = figures(&file)?;
    let survivors: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    ensure!(begun < MINIONS, "it was over before its leader died");

    // Another master leads, and what was begun goes on. A pause holds it back, whoever leads.
    let mut client = world.cluster.client_of(&survivors);
    until("it to go on", async || Ok(figures(&file)?.0 >= begun + WIDTH)).await?;
    let paused = world.saltern(&survivors, &["job", "pause", &jid.to_string()])?;
    ensure!(paused.status.success(), "{}", said(&paused));
    until(
        "those who have it to be through",
        async || Ok(stands(&jobs::look_up(&mut client, jid).await?)?.running == 0),
    )
    .await?;
    let view = jobs::look_up(&mut client, jid).await?;
    let batch = stands(&view)?;
    ensure!(batch.stand.paused && batch.held > 0, "it was over before it was paused: {batch:?}");
    let (begun, _) = figures(&file)?;
    ensure!(begun + batch.held as usize == MINIONS, "{begun} began, {batch:?}");
    let resumed = world.saltern(&survivors, &["job", "resume", &jid.to_string()])?;
    ensure!(resumed.status.success(), "{}", said(&resumed));

    let view = jobs::wait(&mut client, jid, SETTLE).await?;
    ensure!(view.returns.len() == MINIONS && view.missing.is_empty(), "{:?}", view.missing);
    ensure!(view.returns.values().all(|returned| returned.success), "{:?}", view.returns);
    let (begun, most) = figures(&file)?;
    println!("{begun} of {MINIONS} ran it, {most} at one time at most");
    ensure!(begun == MINIONS, "it began {begun} times on {MINIONS} minions");
    ensure!(most <= i32::try_from(WIDTH)?, "{most} ran it at one time, {WIDTH} may");

    // One that fails ends it for those whose turn has not come, and everybody's state says why.
    let failing =
        world.saltern(&survivors, &["run", "*", "-b", "2", "--failhard", "cmd.run", "exit 3", "-o", "json"])?;
    ensure!(failing.status.code() == Some(1), "{}", said(&failing));
    let document: serde_json::Value = serde_json::from_slice(&failing.stdout)?;
    let missing = document["missing"].as_array().context("those who are missing")?;
    ensure!(missing.len() >= MINIONS - 2 * WIDTH, "{document}");
    ensure!(missing.iter().all(|missing| missing["reason"] == "skipped: failhard"), "{document}");
    Ok(())
}
