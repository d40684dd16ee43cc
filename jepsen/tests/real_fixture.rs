//! Data folders that earlier versions wrote: this version starts on them, serves what they held, and goes on.
//!
//! A fixture is made once for every released feature level, by `store/tests/fixtures/make-master`, and never changed.

use anyhow::{Context, ensure};
use saltern_jepsen::real::said;
use saltern_ops::fleet::binaries::Binaries;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::kv::{Batch, Engine, Table};
use saltern_wire::Value;
use saltern_wire::level::LEVEL;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A master on a copy of a fixture. Killed when it is dropped.
struct Fixture {
    binaries: Binaries,
    home: tempfile::TempDir,
    process: Option<Child>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Fixture {
    /// Unpacks `archive`. `address` is its own, so that no two of them meet.
    fn unpack(archive: &Path, address: &str) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("saltern-fixture-").tempdir()?;
        let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(home.path()).output()?;
        ensure!(unpacked.status.success(), "{}", said(&unpacked));
        let config = home.path().join("master.yaml");
        let text = std::fs::read_to_string(&config)?.replace("FOLDER", &home.path().display().to_string());
        std::fs::write(&config, text.replace("127.201.7.1", address))?;
        Ok(Self { binaries: Binaries::find()?, home, process: None })
    }

    fn master(&self, word: &str) -> Command {
        let mut command = Command::new(&self.binaries.master);
        command.arg(word).arg("-c").arg(self.home.path().join("master.yaml"));
        command
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.home.path().join("said"))?;
        self.process = Some(self.master("run").stdout(Stdio::null()).stderr(log).spawn()?);
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it runs")?;
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let ended = tokio::task::spawn_blocking(move || process.wait()).await??;
        ensure!(ended.success(), "it ended with {ended}: {}", self.said());
        Ok(())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.home.path().join("said")).unwrap_or_default()
    }

    /// What `saltern WORDS -o json` prints.
    fn ask(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.binaries.cli);
        let socket = format!("unix://{}", self.home.path().join("master.sock").display());
        command.args(words).args(["-o", "json"]).env("SALTERN_SERVER", socket).env("NO_COLOR", "1");
        let output: Output = command.output()?;
        ensure!(output.status.success(), "saltern {words:?}: {}\n{}", said(&output), self.said());
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    async fn wait(&self, what: &str, met: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut seen = String::new();
        let look = async {
            loop {
                match self.ask(&["cluster", "status"]) {
                    Ok(status) if met(&status) => return status,
                    Ok(status) => seen = status.to_string(),
                    Err(error) => seen = error.to_string(),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, look).await;
        waited.with_context(|| format!("waited for {what}; last seen: {seen}"))
    }

    fn require_sound(&self) -> anyhow::Result<()> {
        let checked = self.master("check").output()?;
        ensure!(checked.status.code() == Some(0), "{}", said(&checked));
        Ok(())
    }
}

/// Everything in `expected` must be in `found`, and be the same: later versions say more.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| found.get(name).is_some_and(|held| holds(held, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(held, value)| holds(held, value))
        }
        _ => found == expected,
    }
}

fn fixtures() -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/tests/fixtures");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(".tar.gz"));
    found.sort();
    ensure!(!found.is_empty(), "there are no fixtures");
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_of_every_earlier_version_is_started_on_and_holds_what_it_held() -> anyhow::Result<()> {
    for (number, archive) in fixtures()?.iter().enumerate() {
        let name = archive.display();
        let mut fixture = Fixture::unpack(archive, &format!("127.201.8.{}", number + 1))?;
        let expected = std::fs::read_to_string(fixture.home.path().join("expect.json"))?;
        let expected: Value = serde_json::from_str(&expected)?;
        fixture.require_sound().with_context(|| format!("{name}: before"))?;
        fixture.start()?;
        fixture.wait("a quorum of one", |status| status["quorum"] == true).await.with_context(|| format!("{name}"))?;
        let jobs = expected["jobs"].as_array().context("jobs")?;
        ensure!(jobs.len() >= 7, "{name}: it held {} jobs", jobs.len());
        for job in jobs {
            let jid = job["jid"].as_str().or(job["value"]["jid"].as_str()).context("a jid")?;
            let found = fixture.ask(&["job", "show", jid])?;
            ensure!(holds(&found, job), "{name}: the job {jid} was {job} and is {found}");
        }
        for (noun, words) in [("keys", ["key", "list"]), ("config", ["config", "get"])] {
            let found = fixture.ask(&words)?;
            ensure!(holds(&found, &expected[noun]), "{name}: {noun} were {} and are {found}", expected[noun]);
        }
        // It is of this version from here on.
        fixture.wait("the feature level to rise", |status| status["level"] == LEVEL).await?;
        let set = Command::new(&fixture.binaries.cli)
            .args(["config", "set", "snapshot_mib_per_second", "17"])
            .env("SALTERN_SERVER", format!("unix://{}", fixture.home.path().join("master.sock").display()))
            .output()?;
        ensure!(set.status.success(), "{name}: a setting of this level: {}", said(&set));
        fixture.stop().await?;
        fixture.require_sound().with_context(|| format!("{name}: after"))?;
        fixture.start()?;
        fixture.wait("it to come back", |status| status["quorum"] == true && status["level"] == LEVEL).await?;
        ensure!(fixture.ask(&["config", "get"])?["snapshot_mib_per_second"] == 17, "{name}: what it was told is gone");
        fixture.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_of_a_newer_version_is_refused_by_name_and_left_as_it_is() -> anyhow::Result<()> {
    let archives = fixtures()?;
    let mut fixture = Fixture::unpack(&archives[0], "127.201.9.1")?;
    let data = fixture.home.path().join("data");
    let current = std::fs::read_to_string(data.join("state/CURRENT"))?;
    let live = data.join("state").join(current.split(' ').next().context("a name")?);
    {
        let kv = RocksEngine.open_state(&live)?;
        let mut batch = Batch::default();
        batch.put(Table::Meta, [&[0, 0], b"level".as_slice()].concat(), u64::from(LEVEL + 1).to_be_bytes());
        kv.write(batch)?;
        kv.flush()?;
    }
    let checked = fixture.master("check").output()?;
    ensure!(checked.status.code() == Some(78), "{}", said(&checked));
    ensure!(String::from_utf8_lossy(&checked.stdout).contains("written by a newer version"), "{}", said(&checked));
    fixture.start()?;
    let mut process = fixture.process.take().context("it was started")?;
    let ended = tokio::task::spawn_blocking(move || process.wait()).await??;
    let words = fixture.said();
    ensure!(ended.code() == Some(78), "it ended with {ended}: {words}");
    let (needs, knows) = (format!("feature level {}", LEVEL + 1), format!("knows up to level {LEVEL}"));
    for part in [needs.as_str(), knows.as_str(), "Nothing is damaged", "install a version on this machine that knows"] {
        ensure!(words.contains(part), "{part:?} is not said: {words}");
    }
    ensure!(!data.join("quarantine").exists(), "it was called corrupt: {words}");
    Ok(())
}

#[test]
fn more_may_be_said_later_but_nothing_else() {
    let found = serde_json::json!({"a": [{"b": 1, "new": 2}], "c": 3});
    assert!(holds(&found, &serde_json::json!({"a": [{"b": 1}]})));
    assert!(!holds(&found, &serde_json::json!({"a": [{"b": 2}]})));
    assert!(!holds(&found, &serde_json::json!({"a": []})));
    assert!(!holds(&found, &serde_json::json!({"d": 1})));
}
