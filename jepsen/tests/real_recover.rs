//! Two of three disks are gone for good: the survivor says what it holds and what nobody can know, carries on alone with every
//! entry that it held, and its minions come back. Whoever was lost and returns is refused.

mod carried;

use anyhow::{Context, ensure};
use carried::{Writer, job_of, master_command};
use saltern_jepsen::real::faults::FAULTS;
use saltern_jepsen::real::{SETTLE, World, said};
use saltern_ops::fleet::jobs;
use saltern_wire::Value;
use saltern_wire::api::{ClusterStatus, KeyView};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where the command dies: before and after each of its two writes, and once before it has begun to write.
const DIES_AT: [&str; 5] = [
    "log.append.before=abort@1",
    "log.sync.after=abort@1",
    "log.sync.before=abort@2",
    "log.sync.after=abort@2",
    "mark.write.after=abort@1",
];

fn report_of(plan: &str) -> anyhow::Result<(String, Value)> {
    let line = plan.lines().find_map(|line| line.strip_prefix("report ")).context("there is a report")?;
    Ok((line.to_owned(), serde_json::from_str(line)?))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?
        } else {
            _ = std::fs::copy(entry.path(), target)?
        }
    }
    Ok(())
}

/// On a copy of the survivor's folder, the command dies at `spec` and is run again: the same comes of it.
fn dies_and_is_repeated(world: &World, survivor: usize, spec: &str, cluster: &str) -> anyhow::Result<()> {
    let data = world.cluster.fleet.masters[survivor].data();
    let twin = data.with_file_name("twin");
    copy(&data, &twin)?;
    let folder = twin.display().to_string();
    let apply = ["recover", "apply", "--confirm", cluster, "--data-dir", &folder];
    let mut dying = Command::new(&world.cluster.fleet.binaries().master);
    dying.args(apply).arg("-c").arg(world.cluster.fleet.masters[survivor].config()).env(FAULTS, spec);
    let died = dying.output()?;
    ensure!(died.status.code().is_none(), "{spec}: it did not die: {}", said(&died));
    let checked = master_command(world, survivor, &["check", "--data-dir", &folder])?;
    ensure!(checked.status.success(), "{spec}: {}", said(&checked));
    let again = master_command(world, survivor, &apply)?;
    ensure!(again.status.success(), "{spec}: {}", said(&again));
    ensure!(String::from_utf8_lossy(&again.stdout).contains("generation 2"), "{spec}: {}", said(&again));
    Ok(std::fs::remove_dir_all(&twin)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_is_recovered_with_every_entry_that_the_survivor_held() -> anyhow::Result<()> {
    let mut world = World::up(3, 2).await?;
    let writer = Writer::start(&world, &[0, 1, 2]);
    writer.wait_for(30).await?;
    let acknowledged = writer.stop().await?;
    let survivor = world.leader(0).await?;
    let lost: Vec<usize> = (0..3).filter(|number| *number != survivor).collect();
    let keys = world.cluster.client(survivor).get::<Vec<KeyView>>("/v1/keys", "").await?.value;

    // One more write reaches the survivor's disk and no other: nobody ever hears what became of it.
    for number in &lost {
        world.cluster.fleet.masters[*number].process.as_ref().context("it runs")?.freeze();
    }
    let last = serde_json::json!(99_999);
    let mut client = world.cluster.client(survivor);
    let unanswered = client.put::<_, Value>("/v1/config/job_ttl_ms", &last);
    ensure!(tokio::time::timeout(Duration::from_millis(150), unanswered).await.is_err(), "it was acknowledged");
    for number in &lost {
        world.kill_master(*number)?;
        // One copy for a lost master that returns.
        let data = world.cluster.fleet.masters[*number].data();
        std::fs::rename(&data, data.with_file_name("returns"))?;
    }

    // The plan: not while it runs; then what is held, what is brought back, what nobody can know.
    let running = master_command(&world, survivor, &["recover", "plan"])?;
    ensure!(running.status.code() == Some(75), "{}", said(&running));
    world.kill_master(survivor)?;
    let planned = master_command(&world, survivor, &["recover", "plan"])?;
    ensure!(planned.status.success(), "{}", said(&planned));
    let plan = String::from_utf8(planned.stdout)?;
    let (line, report) = report_of(&plan)?;
    let (held, committed) =
        (report["last"].as_u64().context("last")?, report["committed"].as_u64().context("committed")?);
    ensure!(held > committed, "the unanswered write is on its disk: {report}");
    let newest = acknowledged.settings.iter().map(|write| write.upto).max().context("some")?;
    ensure!(held > newest, "{report}, acknowledged up to {newest}");
    for words in [
        "1 of 3 voters",
        "brought back",
        &format!("every entry up to {held}"),
        &format!("behind entry {held}"),
        "not known",
        "generation 2",
    ] {
        ensure!(plan.contains(words), "{words:?} is not in:\n{plan}");
    }
    // The others' reports would be compared: with one of them there is a majority and nothing to recover.
    let mut other = report.clone();
    let lost_id = report["voters"].as_array().context("voters")?.iter().map(|voter| voter[0].clone());
    other["master"] = lost_id.into_iter().find(|id| *id != report["master"]).context("another")?;
    other["last"] = (held - 1).into();
    let both = master_command(&world, survivor, &["recover", "plan", "--report", &other.to_string()])?;
    ensure!(String::from_utf8_lossy(&both.stdout).contains("not needed"), "{} {line}", said(&both));

    // Applying it: the right cluster only, harmless to be killed at any time, and to be repeated.
    let cluster = report["cluster"].as_str().context("its id")?.to_owned();
    let wrong = master_command(&world, survivor, &["recover", "apply", "--confirm", &"0".repeat(cluster.len())])?;
    ensure!(wrong.status.code() == Some(64) && said(&wrong).contains(&cluster), "{}", said(&wrong));
    for spec in DIES_AT {
        dies_and_is_repeated(&world, survivor, spec, &cluster)?;
    }
    let applied = master_command(&world, survivor, &["recover", "apply", "--confirm", &cluster])?;
    ensure!(applied.status.code() == Some(0), "{}", said(&applied));
    let again = master_command(&world, survivor, &["recover", "apply", "--confirm", &cluster])?;
    ensure!(again.status.code() == Some(64) && said(&again).contains("the only voter"), "{}", said(&again));
    let checked = master_command(&world, survivor, &["check"])?;
    ensure!(checked.status.success(), "{}", said(&checked));

    // It serves with everything that it held, the unanswered write as well, and its minions come back.
    world.start_master(survivor)?;
    let status = world.cluster.wait_for_serving(survivor, SETTLE).await?;
    ensure!(status.directory == (2, 1) && status.members.len() == 1, "{status:?}");
    ensure!(status.cluster.to_string() == cluster && status.ca_fingerprint.to_string() == world.cluster.ca_fingerprint);
    let mut client = world.cluster.client(survivor);
    let settings = client.get::<Value>("/v1/config", "").await?.value;
    ensure!(settings["job_ttl_ms"] == last, "the write that nobody heard of is gone: {settings}");
    for write in &acknowledged.jobs {
        jobs::look_up(&mut client, write.what).await.with_context(|| format!("{write:?} is lost"))?;
    }
    let after = client.get::<Vec<KeyView>>("/v1/keys", "").await?.value;
    ensure!(after == keys, "{after:?}");
    world.cluster.wait_for_connected(survivor, 2).await?;
    let view = jobs::run(&mut client, &jobs::for_all("test.ping", &[]), SETTLE).await?;
    ensure!(view.returns.len() == 2, "{view:?}");

    returns_in_vain(&mut world, survivor, &lost).await?;

    // New ones join, under ids that nobody had.
    let known = world.cluster.client(survivor).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    ensure!(known.members.len() == 1, "{known:?}");
    let token = world.saltern(&[survivor], &["cluster", "join-token", "--uses", "2"])?;
    let token = String::from_utf8(token.stdout)?.trim().to_owned();
    for number in &lost {
        world.cluster.fleet.join(*number, &token)?;
        world.start_master(*number)?;
    }
    world.cluster.wait_for_voters(3).await?;
    let status = world.cluster.client(lost[0]).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    let fresh = status.members.iter().filter(|member| member.id.0 > 1000).count();
    ensure!(fresh == 2, "{status:?}");
    Ok(())
}

/// A lost master comes back with its old disk: the survivor does not speak to it, it serves nobody, and it does not get a
/// new id for its old name. When a whole majority of them does, minions that have met the survivor do not obey them.
async fn returns_in_vain(world: &mut World, survivor: usize, lost: &[usize]) -> anyhow::Result<()> {
    for number in lost {
        let data = world.cluster.fleet.masters[*number].data();
        copy(&data.with_file_name("returns"), &data)?;
    }
    let rejoined = master_command(world, lost[0], &["rejoin", "--force"])?;
    ensure!(!rejoined.status.success(), "{}", said(&rejoined));
    let data = world.cluster.fleet.masters[lost[0]].data();
    std::fs::remove_dir_all(&data)?;
    copy(&data.with_file_name("returns"), &data)?;
    // The survivor stands still: nobody tells the lost ones that they are of the past, and only minions can know it.
    world.cluster.fleet.masters[survivor].process.as_ref().context("it runs")?.freeze();
    for number in lost {
        world.start_master(*number)?;
    }
    world.cluster.wait_for_serving(lost[0], SETTLE).await.context("the lost ones are a quorum of the past")?;
    let mark = world.folder.path().join("mark");
    let command = job_of("*", &format!("echo ran >> {}", mark.display()), 1_000);
    let view = jobs::run(&mut world.cluster.client(lost[0]), &command, SETTLE).await?;
    ensure!(view.returns.is_empty() && view.missing.len() == 2, "minions obeyed lost masters: {view:?}");
    ensure!(!mark.exists(), "a lost master's job ran");
    // It goes on, and shows them the directory of the newer generation: they end by themselves.
    world.cluster.fleet.masters[survivor].process.as_ref().context("it runs")?.thaw();
    for number in lost {
        let process = world.cluster.fleet.masters[*number].process.as_mut().context("it was started")?;
        let ending = process.wait(SETTLE).await.context("a lost master goes on")?;
        ensure!(ending.status.code() == Some(77), "{:?}: {:?}", ending.status, ending.said);
        world.cluster.fleet.masters[*number].process = None;
    }
    let status = world.cluster.client(survivor).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    ensure!(status.members.len() == 1 && status.quorum, "{status:?}");
    for number in lost {
        std::fs::remove_dir_all(world.cluster.fleet.masters[*number].data())?;
    }
    let view = jobs::run(&mut world.cluster.client(survivor), &jobs::for_all("test.ping", &[]), SETTLE).await?;
    ensure!(view.returns.len() == 2, "{view:?}");
    Ok(())
}
