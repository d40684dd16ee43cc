//! A backup taken under load is the truth at one point of the log, a cluster made of it is that and nothing else, and
//! minions that have met it obey nobody of the former one.

mod carried;

use anyhow::{Context, ensure};
use carried::{Acknowledged, Writer, job_of, master_command, minions_obey_only, restore, save, write_secret};
use saltern_jepsen::real::{SETTLE, Wish, World, said};
use saltern_ops::fleet::jobs;
use saltern_wire::api::{ClusterStatus, JobPage, JobView, KeyView};
use saltern_wire::job::Progress;
use saltern_wire::mine::MineEntry;
use saltern_wire::{JobId, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What of the truth people look at: keys, jobs with their returns, mine values.
#[derive(Debug, PartialEq)]
struct Seen {
    keys: Vec<(String, String, String)>,
    jobs: BTreeMap<JobId, Value>,
    mine: Vec<(String, String, Value)>,
}

impl Seen {
    /// As master `asked` shows it.
    async fn at(world: &World, asked: usize) -> anyhow::Result<Self> {
        let mut client = world.cluster.client(asked);
        let keys = client.get::<Vec<KeyView>>("/v1/keys", "").await?.value;
        let mut seen = Self { keys: Vec::new(), jobs: BTreeMap::new(), mine: Vec::new() };
        for key in keys {
            seen.keys.push((key.minion.to_string(), format!("{:?}", key.state), key.fingerprint.to_string()));
        }
        let mut before = None;
        loop {
            let page = before.map_or_else(|| "limit=100".to_owned(), |jid: JobId| format!("limit=100&before={jid}"));
            let page = client.get::<JobPage>("/v1/jobs", &page).await?.value;
            for summary in &page.jobs {
                let view: JobView = jobs::look_up(&mut client, summary.jid).await?;
                seen.jobs.insert(summary.jid, returns_of(&view));
            }
            before = page.jobs.last().map(|summary| summary.jid);
            if page.jobs.len() < 100 {
                break;
            }
        }
        for entry in client.get::<Vec<MineEntry>>("/v1/mine?kind=glob&target=*&function=fact", "").await?.value {
            seen.mine.push((entry.minion.to_string(), entry.function, entry.value));
        }
        Ok(seen)
    }
}

/// Who returned what. The master that carried it is another cluster's after a restore: its name is not compared.
fn returns_of(view: &JobView) -> Value {
    let one = |returned: &saltern_wire::api::ReturnView| {
        serde_json::json!([returned.value, returned.retcode, returned.success, returned.state])
    };
    let all: BTreeMap<String, Value> =
        view.returns.iter().map(|(minion, returned)| (minion.to_string(), one(returned))).collect();
    serde_json::json!({ "function": view.summary.function, "returns": all })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_is_restored_on_fresh_folders_and_minions_follow() -> anyhow::Result<()> {
    let mut world = World::of(Wish { masters: 3, minions: 2, ..Wish::default() }).await?;
    let mut client = world.cluster.client(0);
    let send = {
        let mut send = jobs::job(saltern_wire::target::TargetKind::Glob, "minion-1", "mine.send", &["fact".into()]);
        send.arguments.push("echo something".into());
        send.keywords.insert("mine_function".into(), "cmd.run".into());
        send
    };
    jobs::run(&mut client, &send, SETTLE).await?;
    // A job that its minion has not heard of: nobody may run it after the restore.
    world.cluster.fleet.minions[1].process.take().context("it runs")?.kill();
    let mark = world.folder.path().join("mark");
    let open =
        jobs::submit(&mut client, &job_of("minion-2", &format!("echo ran >> {}", mark.display()), 600_000)).await?;

    // The backup is taken while settings are written and jobs run, through all masters.
    let writer = Writer::start(&world, &[0, 1, 2]);
    writer.wait_for(20).await?;
    let keys = world.folder.path().join("keys");
    let archive = world.folder.path().join("backup.archive");
    let revision = save(&world, &[1], &archive)?;
    write_secret(&world, &[2], &keys)?;
    writer.wait_for(20).await?;
    let acknowledged = writer.stop().await?;
    ensure!(acknowledged.settings.iter().any(|write| write.after >= revision), "the load went on after the backup");
    ensure!(acknowledged.jobs.iter().any(|write| write.upto <= revision), "and was there before");
    let before = Seen::at(&world, 0).await?;

    // Another life: three fresh folders, the first one restored, the others joined.
    for number in 0..3 {
        world.kill_master(number)?;
        let data = world.cluster.fleet.masters[number].data();
        std::fs::rename(&data, data.with_file_name("former"))?;
    }
    let restored = restore(&world, 0, &archive, &keys)?;
    ensure!(!restored.contains("cancelled       0 jobs"), "{restored}");
    world.start_master(0)?;
    world.cluster.wait_for_serving(0, SETTLE).await?;
    let token = world.cluster.join_token(2).await?;
    for number in 1..3 {
        world.cluster.fleet.join(number, &token)?;
        world.start_master(number)?;
    }
    world.cluster.wait_for_voters(3).await?;
    for number in 0..3 {
        check_restored(&world, number, &acknowledged, revision, &before, open.jid).await?;
    }

    // Minions come back by themselves, and the open job does not run.
    world.cluster.fleet.start_minion(1)?;
    for number in 0..3 {
        world.cluster.wait_for_connected(number, 2).await?;
    }
    let view = jobs::run(&mut world.cluster.client(2), &jobs::for_all("test.ping", &[]), SETTLE).await?;
    ensure!(view.returns.len() == 2, "{view:?}");
    ensure!(!mark.exists(), "a job that was open when the backup was taken ran again");
    minions_obey_only(&mut world, 2).await?;
    ensure!(!mark.exists(), "the former masters made it run");
    Ok(())
}

/// Everything that was acknowledged up to `revision` is there, and nothing that came later.
async fn check_restored(
    world: &World,
    asked: usize,
    acknowledged: &Acknowledged,
    revision: u64,
    before: &Seen,
    open: JobId,
) -> anyhow::Result<()> {
    let mut client = world.cluster.client(asked);
    let settings = client.get::<Value>("/v1/config", "").await?.value;
    let value = settings["job_ttl_ms"].as_u64().context("a number")?;
    for write in &acknowledged.settings {
        ensure!(write.upto > revision || write.what <= value, "{write:?} is lost at {revision}: {value}");
        ensure!(write.after < revision || write.what > value, "{write:?} came after {revision}: {value}");
    }
    let after = Seen::at(world, asked).await?;
    ensure!(after.keys == before.keys && after.mine == before.mine, "{after:?} is not {before:?}");
    for write in &acknowledged.jobs {
        let held = after.jobs.contains_key(&write.what);
        ensure!(held || write.upto > revision, "{write:?} is lost at {revision}");
        ensure!(!held || write.after < revision, "{write:?} came after {revision}");
    }
    for (jid, held) in &after.jobs {
        let known = before.jobs.get(jid).with_context(|| format!("the job {jid} was never there"))?;
        // A return that was recorded behind the backup is not in it: what is there is what was there.
        for (minion, returned) in held["returns"].as_object().context("a map")? {
            ensure!(known["returns"][minion] == *returned, "{jid}: {minion} returned {returned}, once {known}");
        }
    }
    let cancelled = jobs::look_up(&mut client, open).await?;
    let states: Vec<_> = cancelled.missing.iter().map(|missing| missing.state).collect();
    ensure!(states == [Progress::Cancelled], "{cancelled:?}");
    let status = client.get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    ensure!(status.directory.0 == 1001 && status.jobs_open == 0, "{status:?}");
    Ok(())
}

/// Nothing was written where a restore was refused.
fn untouched(data: &Path) -> anyhow::Result<()> {
    ensure!(!data.exists(), "{} exists", data.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_or_cut_file_is_refused_before_anything_is_touched() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backups = folder.path().join("scheduled");
    let master_extra = format!("backup_folder: {}\nbackup_every_seconds: 1\nbackup_keep: 2\n", backups.display());
    let mut world = World::masters_of(Wish { masters: 1, master_extra, ..Wish::default() }).await?;
    let (archive, keys) = (folder.path().join("archive"), folder.path().join("keys"));
    let revision = save(&world, &[0], &archive)?;
    ensure!(revision > 0);
    write_secret(&world, &[0], &keys)?;
    let again = world.saltern(&[0], &["snapshot", "save", &archive.display().to_string()])?;
    ensure!(again.status.code() == Some(64), "an archive is not overwritten: {}", said(&again));

    // Scheduled ones: the newest two stay, their age is shown.
    let writer = Writer::settings_only(&world, &[0]);
    let rotated = |status: &ClusterStatus| {
        status.backup.as_ref().is_some_and(|backup| {
            backup.kept == 2 && backup.failure.is_none() && backup.age_seconds.is_some() && backup.revision.is_some()
        })
    };
    let status = world.cluster.wait(0, "two scheduled backups", "/v1/cluster/status", rotated).await?;
    writer.stop().await?;
    let newest = backups.join(status.backup.and_then(|backup| backup.newest).context("it has a name")?);
    let verified = world.saltern(&[0], &["snapshot", "verify", &newest.display().to_string()]);
    // The schedule goes on: the file may be gone by now, and then it was whole when it was given its name.
    let verified = verified?;
    ensure!(verified.status.success() || !newest.exists(), "{}", said(&verified));
    world.kill_master(0)?;
    let data = world.cluster.fleet.masters[0].data();
    std::fs::rename(&data, data.with_file_name("former"))?;

    let whole = std::fs::read(&archive)?;
    let bent = folder.path().join("bent");
    let mut wrong: Vec<(String, Vec<u8>)> = vec![("another file".into(), b"hello".repeat(99))];
    for thousandths in [1, 999] {
        let at = (whole.len() * thousandths / 1000).min(whole.len() - 1);
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        wrong.push((format!("a bit of byte {at}"), flipped));
        wrong.push((format!("cut at byte {at}"), whole[..at].to_vec()));
    }
    wrong.push(("something behind it".into(), [whole.as_slice(), b"x"].concat()));
    for (what, bytes) in wrong {
        std::fs::write(&bent, bytes)?;
        let verified = world.saltern(&[0], &["snapshot", "verify", &bent.display().to_string()])?;
        ensure!(verified.status.code() == Some(65), "{what}: {}", said(&verified));
        let output = carried::try_restore(&world, 0, &bent, &keys)?;
        ensure!(output.status.code() == Some(65), "{what}: {}", said(&output));
        ensure!(said(&output).contains("nothing was written"), "{what}: {}", said(&output));
        untouched(&data)?;
    }
    // Keys that do not open.
    let text = std::fs::read_to_string(&keys)?;
    std::fs::write(&bent, text.replace("\"salt\":\"", "\"salt\":\"00"))?;
    let output = carried::try_restore(&world, 0, &archive, &bent)?;
    ensure!(output.status.code() == Some(77), "{}", said(&output));
    untouched(&data)?;

    // What an interrupted restore left does not stand in the way; what is another master's does.
    std::fs::create_dir_all(data.join("state").join("state-1"))?;
    std::fs::write(data.join("state").join("CURRENT"), "torn")?;
    let output = carried::try_restore(&world, 0, &archive, &keys)?;
    ensure!(output.status.code() == Some(78) && said(&output).contains("not empty"), "{}", said(&output));
    std::fs::write(data.join("restoring"), "interrupted")?;
    for spec in
        ["log.sync.before=abort@1", "log.sync.after=abort@2", "log.sync.after=abort@3", "mark.write.after=abort@1"]
    {
        let died = carried::try_restore_with(&world, 0, &archive, &keys, Some(spec))?;
        ensure!(died.status.code().is_none(), "{spec}: it did not die: {}", said(&died));
        ensure!(!data.join("master.json").exists(), "{spec}: it counts as a master's folder");
    }
    restore(&world, 0, &archive, &keys)?;
    let again = carried::try_restore(&world, 0, &archive, &keys)?;
    ensure!(again.status.code() == Some(78), "over a master's folder: {}", said(&again));
    let checked = master_command(&world, 0, &["check"])?;
    ensure!(checked.status.success(), "{}", said(&checked));
    world.start_master(0)?;
    world.cluster.wait_for_serving(0, Duration::from_secs(60)).await?;
    Ok(())
}
