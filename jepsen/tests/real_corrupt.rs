//! Whatever of a master's data is not what was written, that master takes no part, the others go on, and it comes back.
//!
//! For each fault: the master refuses to start (65), names the cause and the command, and is shown as quarantined; what was
//! acknowledged is there; `rejoin` brings it back under a fresh id as the third voter, with everything.

use anyhow::{Context, ensure};
use saltern_jepsen::real::{Wish, World, said};
use saltern_wire::Value;
use saltern_wire::api::ClusterStatus;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// How long a master may take to end, before the others write some more …
const REFUSE_LOOK: Duration = Duration::from_millis(700);

/// … and how often that: a snapshot is made every 60 entries.
const REFUSE_LOOKS: u32 = 40;

/// What is done to a data folder whose master was killed.
type Harm = fn(&Path) -> anyhow::Result<()>;

/// A world in which every acknowledged value of one setting is known.
struct Story {
    world: World,
    value: u64,
}

impl Story {
    async fn new() -> anyhow::Result<Self> {
        // Snapshots often, so that there are tables on the disk and not only the log.
        let master_extra = "snapshot_entries: 60\nlog_keep_entries: 20\n".to_owned();
        let world = World::masters_of(Wish { masters: 3, master_extra, ..Wish::default() }).await?;
        Ok(Self { world, value: 60_000 })
    }

    /// Writes, through any of these masters, until so many more values are acknowledged.
    async fn write(&mut self, masters: &[usize], count: u64) -> anyhow::Result<()> {
        for _ in 0..count {
            let mut left = 40;
            let value = serde_json::json!(self.value + 1);
            let mut client = self.world.cluster.client_of(masters);
            while let Err(error) = client.put::<_, Value>("/v1/config/job_ttl_ms", &value).await {
                left -= 1;
                ensure!(left > 0, "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.value += 1;
        }
        Ok(())
    }

    /// Waits until a master holds the last acknowledged value.
    async fn holds(&mut self, master: usize) -> anyhow::Result<()> {
        let value = serde_json::json!(self.value);
        let newest = move |settings: &Value| settings["job_ttl_ms"] == value;
        self.world.cluster.wait(master, "the newest value", "/v1/config", newest).await?;
        Ok(())
    }

    fn data(&self, master: usize) -> PathBuf {
        self.world.cluster.fleet.masters[master].data()
    }

    /// Runs `saltern-master COMMAND…` for a master that does not run.
    fn command(&self, master: usize, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.world.cluster.fleet.binaries().master);
        command.args(words).arg("-c").arg(self.world.cluster.fleet.masters[master].config());
        Ok(command.output()?)
    }

    /// Starts a harmed master and expects its refusal, at once or when it meets what is wrong: the next snapshot reads every
    /// table, so the others go on writing. Gives what it said.
    async fn refuses(&mut self, master: usize, others: &[usize]) -> anyhow::Result<String> {
        self.world.start_master(master)?;
        let mut ending = None;
        for _ in 0..REFUSE_LOOKS {
            let process = self.world.cluster.fleet.masters[master].process.as_mut().context("it was started")?;
            ending = process.wait(REFUSE_LOOK).await;
            if ending.is_some() {
                break;
            }
            self.write(others, 10).await?;
        }
        let ending = ending.context("a master with corrupt data goes on running")?;
        let words = ending.said.join("\n");
        self.world.cluster.fleet.masters[master].process = None;
        ensure!(ending.status.code() == Some(65), "it ended with {:?}: {words}", ending.status);
        let command =
            format!("saltern-master rejoin --config {}", self.world.cluster.fleet.masters[master].config().display());
        ensure!(words.contains("is quarantined") && words.contains(&command), "{words}");
        ensure!(self.data(master).join("quarantine").is_file(), "it is not noted in the data folder");
        Ok(words)
    }

    /// Brings a quarantined master back and waits until it votes and holds everything. Gives its fresh id.
    async fn comes_back(&mut self, master: usize, asked: usize) -> anyhow::Result<u64> {
        let before = self.id_of(master, asked).await?;
        let again = self.command(master, &["run"])?;
        ensure!(again.status.code() == Some(65), "it runs although it is quarantined: {}", said(&again));
        let output = self.command(master, &["rejoin"])?;
        ensure!(output.status.code() == Some(0), "{}", said(&output));
        let checked = self.command(master, &["check"])?;
        ensure!(checked.status.code() == Some(0), "what came into place is not sound: {}", said(&checked));
        self.world.start_master(master)?;
        self.world.cluster.wait_for_voters(3).await?;
        self.holds(master).await?;
        let after = self.id_of(master, asked).await?;
        ensure!(after > before, "its id was {before} and is {after}");
        Ok(after)
    }

    async fn id_of(&self, master: usize, asked: usize) -> anyhow::Result<u64> {
        let status = self.world.cluster.client(asked).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
        let name = &self.world.cluster.fleet.masters[master].name;
        let member = status.members.iter().find(|member| member.name == *name).context("it is listed")?;
        Ok(member.id.0)
    }

    /// One fault from beginning to end.
    async fn suffers(&mut self, what: &str, master: usize, harm: Harm) -> anyhow::Result<()> {
        let others: Vec<usize> = (0..3).filter(|number| *number != master).collect();
        self.write(&[0, 1, 2], 30).await?;
        self.holds(master).await?;
        self.world.kill_master(master)?;
        harm(&self.data(master)).with_context(|| what.to_owned())?;
        let checked = self.command(master, &["check"])?;
        ensure!(checked.status.code() == Some(65), "{what}: check finds nothing: {}", said(&checked));
        ensure!(String::from_utf8_lossy(&checked.stdout).contains("corrupt "), "{what}: {}", said(&checked));
        self.refuses(master, &others).await.with_context(|| what.to_owned())?;
        self.write(&others, 5).await.with_context(|| format!("{what}: the others go on"))?;
        let name = self.world.cluster.fleet.masters[master].name.clone();
        let shown = move |status: &ClusterStatus| {
            let member = status.members.iter().find(|member| member.name == name);
            member.is_some_and(|member| member.role == "quarantined" && member.quarantined.is_some())
        };
        self.world.cluster.wait(others[0], "the quarantine to be shown", "/v1/cluster/status", shown).await?;
        self.comes_back(master, others[0]).await.with_context(|| format!("{what}: coming back"))?;
        for number in 0..3 {
            self.holds(number).await.with_context(|| what.to_owned())?;
        }
        Ok(())
    }
}

/// The newest file in `folder` whose name ends so.
fn newest(folder: &Path, ending: &str) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(ending) {
            found.push((entry.file_name(), entry.path()));
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).with_context(|| format!("{} holds no file {ending}", folder.display()))
}

/// Flips one bit of a file, at so many thousandths of its length.
fn flip(path: &Path, thousandths: usize) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(path)?;
    ensure!(!bytes.is_empty(), "{} is empty", path.display());
    let place = (bytes.len() - 1) * thousandths / 1000;
    bytes[place] ^= 0x10;
    Ok(std::fs::write(path, bytes)?)
}

/// The folder of the live tables: the first word of CURRENT, before its checksum.
fn tables(data: &Path) -> anyhow::Result<PathBuf> {
    let current = std::fs::read_to_string(data.join("state").join("CURRENT"))?;
    let live = current.split_whitespace().next().context("it names the live folder")?;
    Ok(data.join("state").join(live))
}

/// The MANIFEST of an instance.
fn manifest(folder: &Path) -> anyhow::Result<PathBuf> {
    let name = std::fs::read_to_string(folder.join("CURRENT"))?;
    Ok(folder.join(name.trim()))
}

/// Copies a folder of files and folders.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn cut(path: &Path, thousandths: u64) -> anyhow::Result<()> {
    let file = std::fs::File::options().write(true).open(path)?;
    Ok(file.set_len(file.metadata()?.len() * thousandths / 1000)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_of_the_log_is_not_what_was_written_is_noticed_and_the_master_comes_back() -> anyhow::Result<()> {
    let mut story = Story::new().await?;
    let faults: [(&str, usize, Harm); 5] = [
        ("a bit in the middle of the log", 1, |data| flip(&newest(&data.join("log"), ".log")?, 500)),
        ("a bit in the last entries of the log", 2, |data| flip(&newest(&data.join("log"), ".log")?, 995)),
        ("the end of the log is gone", 1, |data| cut(&newest(&data.join("log"), ".log")?, 700)),
        ("the MANIFEST of the log", 2, |data| flip(&manifest(&data.join("log"))?, 500)),
        ("the mark is gone", 1, |data| Ok(std::fs::remove_file(data.join("mark"))?)),
    ];
    for (what, master, harm) in faults {
        story.suffers(what, master, harm).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_tables_a_log_from_yesterday_and_a_founder_are_no_exception() -> anyhow::Result<()> {
    let mut story = Story::new().await?;
    story.suffers("the MANIFEST of the tables", 1, |data| flip(&manifest(&tables(data)?)?, 500)).await?;
    story.suffers("a bit in a table file", 2, |data| flip(&newest(&tables(data)?, ".sst")?, 300)).await?;

    // The founder's credentials name nobody else; it finds its peers by the directory that it kept.
    story.write(&[0, 1, 2], 10).await?;
    story.holds(0).await?;
    story.world.kill_master(0)?;
    copy(&story.data(0).join("log"), &story.world.folder.path().join("yesterday"))?;
    story.world.start_master(0)?;
    story.world.cluster.wait_for_voters(3).await?;
    story
        .suffers("the log of yesterday", 0, |data| {
            let world = data.ancestors().nth(2).context("the folder of the world")?;
            std::fs::remove_dir_all(data.join("log"))?;
            copy(&world.join("yesterday"), &data.join("log"))
        })
        .await
}
