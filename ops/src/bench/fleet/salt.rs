//! Stock Salt from PyPI doing the same small work: one master, 1 to 25 minions on this machine, with the defaults of its
//! packages. Installed once into a virtual environment in the target folder; nothing else of the system is touched.

use super::Arguments;
use super::small::{MINIONS, Reached, TARGETS, first, wall};
use crate::bench::figure::Figure;
use crate::demo::report::percentile;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use saltern_pubsub::clock::SystemClock;
use saltern_wire::io::Clock;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Its name in figures.
const NAME: &str = "salt";

/// The version that is compared with.
const VERSION: &str = "3008.5";

/// Times that its command line is run for each number of targets: it takes seconds.
const RUNS: usize = 5;

/// Clients that ask at one time for the rate of returns: the number with which it is fastest counts.
const CLIENTS: [u32; 3] = [1, 2, 4];

/// How long it may take to start with all its minions.
const UP_PATIENCE: Duration = Duration::from_secs(180);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// What a minion writes into its log when it can be reached.
const READY: &str = "Minion is ready to receive requests";

/// Prints what the distribution asks for, without versions of certificates newer than a mirror may have.
const REQUIREMENTS: &str = "\
from importlib.metadata import requires
import re
for line in requires('salt'):
    name = re.match(r'[A-Za-z0-9._-]+', line).group(0)
    marker = line.partition(';')[2]
    if 'extra ==' not in line:
        print((name + (';' + marker if marker else '')) if name == 'certifi' else line)
";

/// Clients that send pings to everybody; prints returns per second.
const RETURNS: &str = "\
import multiprocessing, sys, time
import salt.client
def work(config, count):
    client = salt.client.LocalClient(config)
    return sum(len(client.cmd('*', 'test.ping', timeout=60)) for _ in range(count))
if __name__ == '__main__':
    began = time.monotonic()
    clients = int(sys.argv[2])
    with multiprocessing.Pool(clients) as pool:
        got = sum(pool.starmap(work, [(sys.argv[1], 10)] * clients))
    print(got / (time.monotonic() - began))
";

/// Stock Salt, installed.
pub struct Salt;

impl Salt {
    /// Beside the programs' folder, so in the target folder: nothing outside of it is written.
    fn folder() -> PathBuf {
        let exe = std::env::current_exe().unwrap_or_default();
        let target = exe.ancestors().nth(2).unwrap_or(Path::new("."));
        target.join(format!("peers/salt-{VERSION}"))
    }

    fn program(name: &str) -> PathBuf {
        Self::folder().join("bin").join(name)
    }

    /// Whether it is there and starts.
    pub fn is_installed() -> bool {
        let mut command = Command::new(Self::program("salt-call"));
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Installs it if it is not there.
    pub fn install() -> anyhow::Result<()> {
        if Self::is_installed() {
            return Ok(());
        }
        let folder = Self::folder();
        eprintln!("… installing salt {VERSION} into {}", folder.display());
        std::fs::create_dir_all(&folder)?;
        let text = |path: &Path| path.display().to_string();
        said("python3", &["-m", "venv", &text(&folder)])?;
        let python = text(&Self::program("python"));
        said(&python, &["-m", "pip", "install", "-q", "--no-deps", &format!("salt=={VERSION}")])?;
        let requirements = folder.join("requirements.txt");
        std::fs::write(&requirements, said(&python, &["-c", REQUIREMENTS])?)?;
        said(&python, &["-m", "pip", "install", "-q", "-r", &text(&requirements)])?;
        ensure!(Self::is_installed(), "salt-call --version fails in {}", folder.display());
        Ok(())
    }
}

/// Runs a program to its end and gives what it printed.
fn said(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = complaint.lines().rev().find(|line| line.starts_with("ERROR")).unwrap_or(complaint.trim());
        bail!("{program} {}: {line}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program of Salt with all that it started.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(name: &str, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join("said");
        let out = File::create(&log)?;
        let mut command = Command::new(Salt::program(name));
        command.arg("-c").arg(folder).args(["-l", "info"]).process_group(0);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Ok(Self { child: command.spawn()?, log })
    }

    /// Waits until it says `wanted`.
    async fn says(&mut self, wanted: &str) -> anyhow::Result<()> {
        let waited = async {
            while !std::fs::read_to_string(&self.log).unwrap_or_default().contains(wanted) {
                if let Some(status) = self.child.try_wait()? {
                    bail!("it has ended ({status}), see {}", self.log.display());
                }
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        tokio::time::timeout(UP_PATIENCE, waited).await.with_context(|| format!("it never said {wanted:?}"))?
    }

    /// Memory of it and all that it started, in KiB; pages that they share count in part, which favours it.
    fn memory_kib(&self) -> u64 {
        let group = self.child.id();
        let mut sum = 0;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The process group is the third field behind the name, which is in brackets.
            let own = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2)?.parse::<u32>().ok());
            if own == Some(group) {
                let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
                let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
                sum += line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        sum
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; that is what a signal wants anyway.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Does the small work with it, and writes its figures with ratios beside ours.
pub async fn compare(arguments: &Arguments, folder: &Path, ours: &Reached) -> anyhow::Result<()> {
    eprintln!("… salt {VERSION}: one master, {MINIONS} minions");
    let clock = SystemClock::new();
    let master = folder.join("master");
    write_master(&master, folder)?;
    let _master = Running::start("salt-master", &master)?;
    let mut minions = Vec::new();
    for number in 1..=MINIONS {
        let own = folder.join(format!("minion-{number}"));
        write_minion(&own, number)?;
        minions.push(Running::start("salt-minion", &own)?);
    }
    for minion in &mut minions {
        minion.says(READY).await?;
    }
    // Ratios are "how many times as good ours is": of times and memory theirs by ours, of rates ours by theirs.
    let put = |name: &str, value: f64, unit: &'static str, less_is_better: bool| {
        let own = ours.get(name).copied().filter(|own| *own > 0.0 && value > 0.0);
        let mut figure = Figure::new(name, value, unit).with_minions(MINIONS);
        figure.peer = Some(NAME);
        figure.ratio = own.map(|own| if less_is_better { value / own } else { own / value });
        figure.print(arguments.output);
    };
    for count in TARGETS {
        let mut walls = Vec::new();
        for _ in 0..RUNS {
            let mut command = Command::new(Salt::program("salt"));
            command.arg("-c").arg(&master).args(["-L", &first(count), "test.ping"]);
            walls.push(wall(&clock, command).await? * 1e3);
        }
        put(&format!("cli_ping_{count}_ms"), percentile(walls, 50), "ms", true);
    }
    let script = folder.join("returns.py");
    std::fs::write(&script, RETURNS)?;
    let mut rates = Vec::new();
    for clients in CLIENTS {
        let words = [script.display().to_string(), master.join("master").display().to_string(), clients.to_string()];
        let python = Salt::program("python").display().to_string();
        let rate = tokio::task::spawn_blocking(move || said(&python, &words.each_ref().map(String::as_str))).await??;
        rates.push(rate.trim().parse()?);
    }
    put("returns_acked_per_s", percentile(rates, 100), "returns/s", false);
    let held = minions.iter().map(|minion| minion.memory_kib() as f64 / 1024.0);
    put("minion_rss_mib", percentile(held.collect(), 50), "MiB", true);
    let mut starts = Vec::new();
    for _ in 0..3 {
        drop(minions.remove(0));
        // One that was killed leaves these; the next may take them for somebody who runs.
        for name in ["salt-minion.pid", "process_responsibility_salt-minion.pid"] {
            std::fs::remove_file(folder.join("minion-1/root/var/run").join(name))?;
        }
        let began = clock.monotonic();
        let mut minion = Running::start("salt-minion", &folder.join("minion-1"))?;
        minion.says(READY).await?;
        starts.push(clock.monotonic().saturating_sub(began).as_secs_f64());
        minions.insert(0, minion);
    }
    put("minion_start_s", percentile(starts, 50), "s", true);
    Ok(())
}

/// Ports of its own, on an address of its own.
const NETWORK: &str = "interface: 127.88.0.1\nipv6: False\n";

fn write_master(own: &Path, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(own)?;
    let root = folder.join("root-master");
    let text = format!("{NETWORK}root_dir: {}\npki_dir: pki\nauto_accept: True\nuser: {}\n", root.display(), user());
    Ok(std::fs::write(own.join("master"), text)?)
}

fn write_minion(own: &Path, number: usize) -> anyhow::Result<()> {
    std::fs::create_dir_all(own)?;
    let root = own.join("root");
    let text = format!(
        "master: 127.88.0.1\nid: minion-{number}\nroot_dir: {}\npki_dir: pki\nuser: {}\n",
        root.display(),
        user()
    );
    Ok(std::fs::write(own.join("minion"), text)?)
}

fn user() -> String {
    if rustix::process::geteuid().is_root() { "root".into() } else { std::env::var("USER").unwrap_or_default() }
}
