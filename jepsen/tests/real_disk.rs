//! A disk that is full or takes no writes: named refusals, nothing lost, the others go on, and room alone brings it back.
//!
//! The first test needs no privileges: its reserve is larger than any disk. The second one mounts a small file system in a
//! mount namespace of its own, and says loudly if it may not.

use anyhow::{Context, ensure};
use saltern_jepsen::real::{Wish, World, said};
use saltern_wire::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Tells the test that it runs in its own mount namespace.
const INSIDE: &str = "SALTERN_DISK_TEST_INSIDE";

/// How long something that happens by itself may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The size of the small file system, in MiB: the write-ahead log alone reserves some 70 of them for itself.
const VOLUME_MIB: u64 = 320;

/// What is left of it when it is full, in bytes: below an eighth of the reserve of 32 MiB.
const LEFT_BYTES: u64 = 3 * 1024 * 1024 / 2;

struct Story {
    world: World,
    value: u64,
}

impl Story {
    async fn new() -> anyhow::Result<Self> {
        let master_extra = "disk_reserve_mib: 32\n".to_owned();
        let world = World::masters_of(Wish { masters: 3, master_extra, ..Wish::default() }).await?;
        Ok(Self { world, value: 60_000 })
    }

    /// Writes through these masters until so many more values are acknowledged.
    async fn write(&mut self, masters: &[usize], count: u64) -> anyhow::Result<()> {
        let mut client = self.world.cluster.client_of(masters);
        for _ in 0..count {
            let mut left = 60;
            let value = serde_json::json!(self.value + 1);
            while let Err(error) = client.put::<_, Value>("/v1/config/job_ttl_ms", &value).await {
                left -= 1;
                ensure!(left > 0, "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.value += 1;
        }
        Ok(())
    }

    async fn holds(&mut self, master: usize) -> anyhow::Result<()> {
        let value = serde_json::json!(self.value);
        let newest = move |settings: &Value| settings["job_ttl_ms"] == value;
        self.world.cluster.wait(master, "the newest value", "/v1/config", newest).await?;
        Ok(())
    }

    /// A write through a master without room is refused with 75, and says whose disk, where, and what to do.
    fn is_refused_by_name(&self, master: usize) -> anyhow::Result<()> {
        let output = self.world.saltern(&[master], &["config", "set", "job_ttl_ms", "70000"])?;
        let words = said(&output);
        ensure!(output.status.code() == Some(75), "{words}");
        let member = &self.world.cluster.fleet.masters[master];
        for word in
            [&format!("the disk of {} is spent", member.name), &member.data().display().to_string(), "make room"]
        {
            ensure!(words.contains(word), "it does not say {word:?}: {words}");
        }
        Ok(())
    }

    async fn until_refused_by_name(&self, master: usize) -> anyhow::Result<()> {
        let patience = tokio::time::timeout(PATIENCE, async {
            loop {
                match self.is_refused_by_name(master) {
                    Ok(()) => return,
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        });
        if patience.await.is_err() { self.is_refused_by_name(master) } else { Ok(()) }
    }

    fn data(&self, master: usize) -> PathBuf {
        self.world.cluster.fleet.masters[master].data()
    }

    /// Makes `wanted` the leader, if a few elections can.
    async fn let_lead(&mut self, wanted: usize) -> anyhow::Result<()> {
        for _ in 0..4 {
            let leader = self.world.leader(wanted).await?;
            if leader == wanted {
                return Ok(());
            }
            self.world.kill_master(leader)?;
            self.write(&[wanted], 1).await?;
            self.world.start_master(leader)?;
            self.world.cluster.wait_for_voters(3).await?;
        }
        Ok(())
    }

    /// Waits until a master has ended by itself, and gives its exit code and last words.
    async fn ends(&mut self, master: usize) -> anyhow::Result<(Option<i32>, String)> {
        let process = self.world.cluster.fleet.masters[master].process.as_mut().context("it runs")?;
        let ending = process.wait(PATIENCE).await.context("it goes on running")?;
        self.world.cluster.fleet.masters[master].process = None;
        Ok((ending.status.code(), ending.said.join("\n")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_below_its_reserve_refuses_by_name_and_the_others_go_on() -> anyhow::Result<()> {
    let mut story = Story::new().await?;
    story.write(&[0, 1, 2], 5).await?;
    story.world.kill_master(1)?;
    let config = story.world.cluster.fleet.masters[1].config();
    let text = std::fs::read_to_string(&config)?;
    // More than any disk has free.
    std::fs::write(&config, text.replace("disk_reserve_mib: 32", "disk_reserve_mib: 1000000000"))?;
    story.world.start_master(1)?;
    story.until_refused_by_name(1).await?;
    story.write(&[0, 2], 20).await?;
    for number in [0, 2] {
        story.holds(number).await?;
    }
    let metrics = story.world.cluster.fleet.masters[1].process.as_mut().and_then(|process| process.ending());
    ensure!(metrics.is_none(), "it ended: {metrics:?}");
    // It took nothing meanwhile, and takes everything once the reserve is what the disk can give.
    story.world.kill_master(1)?;
    std::fs::write(&config, text)?;
    story.world.start_master(1)?;
    story.holds(1).await
}

/// A small file system in a file.
struct Volume {
    image: PathBuf,
    at: PathBuf,
}

impl Volume {
    fn make(image: PathBuf, at: PathBuf) -> anyhow::Result<Self> {
        std::fs::File::create(&image)?.set_len(VOLUME_MIB * 1024 * 1024)?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image.display().to_string()])?;
        let volume = Self { image, at };
        volume.mount()?;
        Ok(volume)
    }

    fn mount(&self) -> anyhow::Result<()> {
        run("mount", &["-o", "loop", &self.image.display().to_string(), &self.at.display().to_string()])
    }

    fn unmount(&self) -> anyhow::Result<()> {
        run("umount", &[&self.at.display().to_string()])
    }

    /// Fills it up to [`LEFT_BYTES`].
    fn fill(&self) -> anyhow::Result<PathBuf> {
        let ballast = self.at.join("ballast.tmp~");
        let free = free_bytes(&self.at)?;
        let file = std::fs::File::create(&ballast)?;
        let block = vec![1_u8; 64 * 1024];
        for _ in 0..free.saturating_sub(LEFT_BYTES) / block.len() as u64 {
            std::io::Write::write_all(&mut &file, &block)?;
        }
        file.sync_all()?;
        Ok(ballast)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // It goes with the mount namespace at the latest.
        let _ = run("umount", &["-l", &self.at.display().to_string()]);
    }
}

/// What `df` says is free, in bytes.
fn free_bytes(at: &Path) -> anyhow::Result<u64> {
    let output = Command::new("df").args(["-B1", "--output=avail"]).arg(at).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).with_context(|| format!("df said {text:?}"))
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
    Ok(())
}

/// Runs this test again in a mount namespace of its own. `None`: this is that run.
fn in_namespace(test: &str) -> anyhow::Result<Option<()>> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let may = |output: std::io::Result<std::process::Output>| output.is_ok_and(|output| output.status.success());
    let folder = tempfile::tempdir()?;
    let mount = format!("mount -t tmpfs none {}", folder.path().display());
    if !may(Command::new("unshare").args(["-m", "sh", "-c", &mount]).output()) {
        eprintln!("NOT TESTED: this user may not mount file systems (unshare -m); only the thresholds were tested");
        return Ok(Some(()));
    }
    let exe = std::env::current_exe()?;
    let status =
        Command::new("unshare").arg("-m").arg(exe).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status()?;
    ensure!(status.success(), "the test in its own mount namespace ended with {status}");
    Ok(Some(()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_by_name_and_recovers_and_one_that_takes_nothing_ends_the_master() -> anyhow::Result<()> {
    let name = "a_full_disk_refuses_by_name_and_recovers_and_one_that_takes_nothing_ends_the_master";
    if in_namespace(name)?.is_some() {
        return Ok(());
    }
    let mut story = Story::new().await?;
    story.write(&[0, 1, 2], 5).await?;
    // Its data moves to a small disk of its own.
    story.world.kill_master(1)?;
    let (data, kept) = (story.data(1), story.world.folder.path().join("kept"));
    std::fs::rename(&data, &kept)?;
    std::fs::create_dir(&data)?;
    let volume = Volume::make(story.world.folder.path().join("volume.img"), data.clone())?;
    run("cp", &["-a", &format!("{}/.", kept.display()), &data.display().to_string()])?;
    story.world.start_master(1)?;
    story.world.cluster.wait_for_voters(3).await?;
    story.let_lead(1).await?;

    let process = story.world.cluster.fleet.masters[1].process.as_ref().context("it runs")?.id();
    let ballast = volume.fill()?;
    story.until_refused_by_name(1).await?;
    story.write(&[0, 2], 20).await?;
    ensure!(story.world.leader(0).await? != 1, "a master without room does not lead");
    story.is_refused_by_name(1)?;
    std::fs::remove_file(ballast)?;
    story.holds(1).await?;
    story.write(&[1], 5).await?;
    let same = story.world.cluster.fleet.masters[1].process.as_ref().map(|process| process.id());
    ensure!(same == Some(process), "it recovered by a restart, not by itself");

    takes_nothing(&mut story, &volume).await
}

/// The file system turns read-only under a running master, as the kernel makes it after an error of the disk.
async fn takes_nothing(story: &mut Story, volume: &Volume) -> anyhow::Result<()> {
    let data = volume.at.display().to_string();
    run("mount", &["-o", "remount,ro,abort", &data]).or_else(|_| run("mount", &["-o", "remount,abort", &data]))?;
    story.write(&[0, 2], 5).await?;
    let (code, words) = story.ends(1).await?;
    ensure!(code == Some(74) && words.contains(&data), "{code:?}: {words}");
    story.world.start_master(1)?;
    let (code, words) = story.ends(1).await?;
    ensure!(code == Some(74) && words.contains(&data), "at the start {code:?}: {words}");
    story.write(&[0, 2], 5).await?;
    volume.unmount()?;
    volume.mount()?;
    story.world.start_master(1)?;
    story.world.cluster.wait_for_voters(3).await?;
    for number in 0..3 {
        story.holds(number).await?;
    }
    Ok(())
}
