//! `saltern demo`: a whole cluster of real processes on this machine, from nothing, and the death of its leader.
//!
//! ```text
//!   fleet::bring_up  ▶  story: keys, test.ping, cmd.run, a grain, the mine  ▶  storm: kill -9 of the leader in a burst of jobs
//!                    ▶  report: what each targeted minion returned, read from another master
//! ```
//!
//! With `--rtt` the masters are as far from each other as regions are, and the story is another one ([`regions`]).
//!
//! **It refuses** to embellish: everything it prints was answered by a master or counted on the disk, and its exit code is 0
//! only if every targeted minion returned exactly once per job.

pub mod regions;
pub mod report;
pub mod storm;
pub mod story;

use crate::fleet::Plan;
use crate::fleet::bring_up::Cluster;
use crate::output::Format;
use report::Report;
use saltern_pubsub::clock::SystemClock;
use saltern_wire::io::Clock;
use std::time::Duration;

/// A demo that was told to stop at its end does so within this time of its start.
const ONCE_TIMEOUT: Duration = Duration::from_secs(48);

/// The same for a demo over regions: elections take seconds there, and so does every join.
const REGIONS_TIMEOUT: Duration = Duration::from_secs(100);

/// What the demo may be told.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(
    after_help = "Example:\n  saltern demo --masters 3 --minions 8 --once\n  saltern demo --regions eu,us,ap --rtt 80,150,220 --once"
)]
pub struct DemoArguments {
    /// Masters to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub masters: u16,
    /// Minions to start
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub minions: u16,
    /// Region labels, given to the masters in turn
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "eu,us,ap")]
    pub regions: Vec<String>,
    /// Round trips between the regions in milliseconds, pair by pair: for eu,us,ap these are eu-us, eu-ap, us-ap. Shows what
    /// the loss of a region means
    #[arg(long, value_name = "MS,…", value_delimiter = ',')]
    pub rtt: Vec<u64>,
    /// Stop everything at the end instead of leaving the cluster running
    #[arg(long)]
    pub once: bool,
}

/// Where the demo tells its story: stdout, or stderr when stdout is for the JSON document.
pub struct Voice {
    quiet_stdout: bool,
    spinner: Option<indicatif::ProgressBar>,
}

impl Voice {
    fn new(format: Format) -> Self {
        Self { quiet_stdout: !format.is_for_people(), spinner: None }
    }

    /// Says one line.
    pub fn say(&mut self, line: &str) {
        self.hush();
        if self.quiet_stdout {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Shows what is being waited for; on a terminal the line is replaced by the next.
    pub fn wait(&mut self, what: &str) {
        let spinner = self.spinner.get_or_insert_with(|| {
            let spinner = indicatif::ProgressBar::new_spinner();
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        if spinner.is_hidden() {
            eprintln!("… {what}");
        } else {
            spinner.set_message(what.to_owned());
        }
    }

    fn hush(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

/// Runs the demo and gives its exit code: 0 if every promise it shows was kept.
pub async fn run(arguments: DemoArguments, format: Format) -> anyhow::Result<u8> {
    let folder = tempfile::Builder::new().prefix("saltern-demo-").tempdir()?;
    let clock = SystemClock::new();
    let mut voice = Voice::new(format);
    let shown = show(&arguments, folder.path(), &clock, &mut voice);
    let patience = if arguments.rtt.is_empty() { ONCE_TIMEOUT } else { REGIONS_TIMEOUT };
    let (told, mut cluster) = tokio::select! {
        shown = shown => shown?,
        () = time_is_up(arguments.once, patience) => anyhow::bail!("the demo did not finish within {patience:?}; is the machine very busy?"),
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; everything it started is stopped"),
    };
    if format.is_for_people() {
        told.tell(&mut voice);
    } else {
        println!("{}", serde_json::to_string_pretty(&told)?);
    }
    if !arguments.once {
        story::how_to_go_on(&cluster, &mut voice);
        tokio::signal::ctrl_c().await?;
        voice.say("stopping everything");
    }
    cluster.fleet.masters.clear();
    cluster.fleet.minions.clear();
    Ok(if told.kept() { 0 } else { 1 })
}

/// What came of it.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
enum Told {
    /// The death of a leader.
    Storm(Report),
    /// The loss of a region.
    Regions(regions::RegionsReport),
}

impl Told {
    fn tell(&self, voice: &mut Voice) {
        match self {
            Self::Storm(report) => report.tell(voice),
            Self::Regions(report) => report.tell(voice),
        }
    }

    fn kept(&self) -> bool {
        match self {
            Self::Storm(report) => report.kept(),
            Self::Regions(report) => report.kept(),
        }
    }
}

async fn time_is_up(once: bool, within: Duration) {
    if once { tokio::time::sleep(within).await } else { std::future::pending().await }
}

async fn show(
    arguments: &DemoArguments,
    folder: &std::path::Path,
    clock: &SystemClock,
    voice: &mut Voice,
) -> anyhow::Result<(Told, Cluster)> {
    let started = clock.monotonic();
    let masters = usize::from(arguments.masters);
    let far = match arguments.rtt.as_slice() {
        [] => None,
        rtt => Some(regions::distances(&arguments.regions, rtt, masters)?),
    };
    let master_extra = far.as_ref().map(|(_, profile)| format!("profile: {profile}\n")).unwrap_or_default();
    let plan = Plan {
        masters,
        minions: usize::from(arguments.minions),
        regions: arguments.regions.clone(),
        distances: far.as_ref().map(|(distances, _)| distances.clone()),
        master_extra,
        folder: folder.to_path_buf(),
        minion_extra: "mine_functions:\n  network.ip_addrs: []\n".into(),
        ..Plan::default()
    };
    voice.say(&format!("A cluster of {} masters and {} minions, in {}", plan.masters, plan.minions, folder.display()));
    let mut cluster = Cluster::bring_up(plan, &mut |what| voice.wait(what)).await?;
    let up = clock.monotonic().saturating_sub(started);
    voice.say(&format!("It is up after {:.1} s.", up.as_secs_f64()));
    if far.is_some() {
        let report = regions::tell(&mut cluster, clock, voice).await?;
        return Ok((Told::Regions(report), cluster));
    }
    story::tell(&mut cluster, voice).await?;
    let report = storm::rage(&mut cluster, clock, voice).await?;
    Ok((Told::Storm(report), cluster))
}
