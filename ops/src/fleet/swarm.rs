//! A swarm beside a cluster: `saltern-minion swarm`, started, told what to do, and listened to.
//!
//! **Invariants.** Its processes end with their owner. What it says is kept here as it says it: every event, and one answer for
//! each order. Figures are asked for anew each time: old ones would show a condition that is over as met.

use super::process::{FOLDER_VARIABLE, MEMBER_VARIABLE};
use saltern_wire::swarm::{Done, Event, Figures, Line};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long an order may take: thousands of minions that start anew on a busy machine.
const ORDER_PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks at its figures, for which every worker counts its minions.
const LOOK: Duration = Duration::from_millis(50);

/// How long a swarm may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(15);

/// Bytes of its log's end that an error shows.
const LOG_TAIL_BYTES: usize = 2_000;

/// Why a swarm does not do what it should. Messages name its log's end.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// It does not start, or its pipes fail.
    #[error("the swarm: {0}")]
    Io(#[from] std::io::Error),
    /// It has ended.
    #[error("the swarm has ended; the end of its log:\n{0}")]
    Ended(String),
    /// It did not take an order.
    #[error("the swarm did not take the order {order:?}: {cause}")]
    Order {
        /// Which.
        order: String,
        /// What it said.
        cause: String,
    },
    /// A condition did not come true.
    #[error("waited {seconds} s for {what} in vain; last seen: {seen:?}")]
    Waited {
        /// For what.
        what: String,
        /// How long.
        seconds: u64,
        /// The newest figures.
        seen: Box<Figures>,
    },
}

/// What a swarm is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `saltern-minion`.
    pub program: PathBuf,
    /// Minions.
    pub count: usize,
    /// Processes; as many as it takes if it is not said.
    pub workers: Option<usize>,
    /// Its folder, made if need be.
    pub folder: PathBuf,
    /// Sessions of masters, `HOST:PORT`.
    pub masters: Vec<String>,
    /// What it pins.
    pub ca_fingerprint: String,
    /// Lines of configuration for every minion.
    pub extra: String,
    /// How many are started a second.
    pub per_second: usize,
}

/// A running swarm.
pub struct Swarm {
    child: Child,
    stdin: Option<ChildStdin>,
    folder: PathBuf,
    events: mpsc::UnboundedReceiver<Event>,
    answers: mpsc::UnboundedReceiver<Result<Done, String>>,
    reader: JoinHandle<()>,
}

impl Swarm {
    /// Starts it. Nothing is waited for.
    pub fn start(wanted: &Wanted) -> Result<Self, SwarmError> {
        std::fs::create_dir_all(&wanted.folder)?;
        let config = wanted.folder.join("minion.yaml");
        std::fs::write(&config, &wanted.extra)?;
        let log = File::options().create(true).append(true).open(wanted.folder.join("log"))?;
        let mut command = Command::new(&wanted.program);
        command.arg("swarm").args(["--events", "--every", "60", "-c"]).arg(&config);
        command.args(["--count", &wanted.count.to_string(), "--per-second", &wanted.per_second.to_string()]);
        command.args(["--master", &wanted.masters.join(","), "--ca-fingerprint", &wanted.ca_fingerprint]);
        command.arg("--folder").arg(wanted.folder.join("data"));
        if let Some(workers) = wanted.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        command.env(MEMBER_VARIABLE, "swarm").env(FOLDER_VARIABLE, &wanted.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("it has no pipe"))?;
        let (tell_event, events) = mpsc::unbounded_channel();
        let (tell_answer, answers) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Whoever listened may have gone.
                match serde_json::from_str(&line) {
                    Ok(Line::Figures(_)) => {}
                    Ok(Line::Event(event)) => drop(tell_event.send(event)),
                    Ok(Line::Done(done)) => drop(tell_answer.send(Ok(done))),
                    Ok(Line::Error(cause)) => drop(tell_answer.send(Err(cause))),
                    Err(error) => eprintln!("the swarm said {line:?}: {error}"),
                }
            }
        });
        Ok(Self { child, stdin, folder: wanted.folder.clone(), events, answers, reader })
    }

    /// Gives an order and waits for its answer.
    pub async fn order(&mut self, order: &str) -> Result<Done, SwarmError> {
        let stdin = self.stdin.as_mut().ok_or_else(|| std::io::Error::other("it has no pipe"))?;
        stdin.write_all(format!("{order}\n").as_bytes()).await?;
        stdin.flush().await?;
        let refuse = |cause: &str| SwarmError::Order { order: order.into(), cause: cause.into() };
        match tokio::time::timeout(ORDER_PATIENCE, self.answers.recv()).await {
            Ok(Some(Ok(done))) => Ok(done),
            Ok(Some(Err(cause))) => Err(refuse(&cause)),
            Ok(None) => Err(self.ended()),
            Err(_) => Err(refuse("no answer in time")),
        }
    }

    /// The figures of now.
    pub async fn figures(&mut self) -> Result<Figures, SwarmError> {
        let done = self.order("figures").await?;
        done.figures
            .map(|figures| *figures)
            .ok_or_else(|| SwarmError::Order { order: done.order, cause: "it gave no figures".into() })
    }

    /// Waits until its figures are `met`, at most `within`, and gives them.
    pub async fn wait(
        &mut self,
        what: &str,
        within: Duration,
        met: impl Fn(&Figures) -> bool,
    ) -> Result<Figures, SwarmError> {
        let mut seen = Box::<Figures>::default();
        let looks = async {
            loop {
                *seen = self.figures().await?;
                if met(&seen) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(within, looks).await {
            Ok(Ok(())) => Ok(*seen),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SwarmError::Waited { what: what.into(), seconds: within.as_secs(), seen }),
        }
    }

    /// The events since this was asked last.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            events.push(event);
        }
        events
    }

    /// The next event; `None` if it does not come within `within`.
    pub async fn next_event(&mut self, within: Duration) -> Option<Event> {
        tokio::time::timeout(within, self.events.recv()).await.ok().flatten()
    }

    /// Asks it to end, and waits for that.
    pub async fn quit(mut self) -> Result<(), SwarmError> {
        drop(self.stdin.take());
        if let Some(pid) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
            // It may have ended by itself; that is what a signal wants anyway.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(FAREWELL, self.child.wait()).await {
            Ok(status) => status.map(drop).map_err(SwarmError::Io),
            Err(_) => self.child.kill().await.map_err(SwarmError::Io),
        }
    }

    fn ended(&self) -> SwarmError {
        SwarmError::Ended(tail(&self.folder.join("log")))
    }
}

impl Drop for Swarm {
    /// Its workers end with their input, which ends with it.
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}
