//! The parent of a swarm's workers: starts them, adds up what they say, and passes orders on.
//!
//! ```text
//!   stdin, control socket ──▶ orders, one after the other ──▶ every worker's stdin (its share of HOW-MANY)
//!   every worker's stdout ──▶ events as they are · figures and answers added up ──▶ stdout
//! ```
//!
//! **Invariants.** An order has its answer once every worker has answered. A worker that ends by itself ends the swarm with an
//! error. Workers end with their parent, however it ends.

use super::Plan;
use super::orders::Order;
use saltern_wire::swarm::{Done, Figures, Line};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// How long workers may take to end before they are killed: as long as their minions have, and a little more.
const FAREWELL: Duration = Duration::from_secs(12);

/// Lines that wait to be read here. Workers wait when it is full.
const LINES_MAX: usize = 4096;

/// Orders that wait. Whoever gives them waits when it is full.
const ORDERS_MAX: usize = 64;

/// Why a swarm ends. One line each.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A process or pipe failed.
    #[error("worker {number}: {source}")]
    Worker {
        /// Which, from 1.
        number: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A worker ended by itself.
    #[error("worker {number} has ended ({status}); what it complained of stands above")]
    Ended {
        /// Which, from 1.
        number: usize,
        /// How.
        status: ExitStatus,
    },
    /// The control socket cannot be made.
    #[error("--control {}: {source}; another swarm may be listening there", path.display())]
    Control {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// An order, and who wants the answer besides standard output.
struct Given {
    order: Order,
    reply: Option<oneshot::Sender<Line>>,
}

/// What comes from the workers.
enum Heard {
    Line(usize, Line),
    Ended(usize, std::io::Result<ExitStatus>),
}

/// An order on its way.
struct Pending {
    done: Done,
    missing: usize,
    reply: Option<oneshot::Sender<Line>>,
}

struct Crew {
    plan: Plan,
    workers: Vec<ChildStdin>,
    figures: Vec<Figures>,
    waiting: VecDeque<Given>,
    pending: Option<Pending>,
}

/// Runs a swarm until it is told to quit, standard input not counting when it is closed. Each worker is `program` with
/// `arguments` and its number.
pub async fn run(
    plan: Plan,
    program: &Path,
    arguments: &[OsString],
    control: Option<PathBuf>,
) -> Result<(), CrewError> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let tasks = TaskTracker::new();
    let (tell, mut heard) = mpsc::channel(LINES_MAX);
    let mut workers = Vec::new();
    for number in 0..plan.workers {
        let failed = |source| CrewError::Worker { number: number + 1, source };
        let mut command = Command::new(program);
        command.args(arguments).arg("--worker").arg(number.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| failed(std::io::Error::other("it has no pipes")))?;
        workers.push(stdin);
        tasks.spawn(listen(number, child, stdout, tell.clone()));
    }
    let (give, mut given) = mpsc::channel(ORDERS_MAX);
    tasks.spawn(take(BufReader::new(tokio::io::stdin()), give.clone()));
    if let Some(path) = control {
        let failed = |source| CrewError::Control { path: path.clone(), source };
        // One that is left of a swarm that was killed: nobody answers there.
        if UnixStream::connect(&path).await.is_err() && path.exists() {
            std::fs::remove_file(&path).map_err(failed)?;
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        tasks.spawn(serve(listener, give.clone(), tasks.clone()));
    }
    let figures = vec![Figures::default(); plan.workers];
    let mut ticks = tokio::time::interval(plan.every);
    let mut crew = Crew { plan, workers, figures, waiting: VecDeque::new(), pending: None };
    loop {
        let quits = tokio::select! {
            biased;
            _ = term.recv() => true,
            _ = interrupt.recv() => true,
            Some(heard) = heard.recv() => {
                crew.handle_heard(heard).await?;
                false
            }
            Some(given) = given.recv() => crew.handle_given(given).await?,
            _ = ticks.tick() => {
                say(&Line::Figures(Box::new(crew.sum())));
                false
            }
        };
        if quits {
            break;
        }
    }
    let (count, plan_workers) = (crew.workers.len(), std::mem::take(&mut crew.workers));
    // The end of their input is the end of the workers.
    drop(plan_workers);
    let farewell = async {
        let mut ended = 0;
        while ended < count {
            match heard.recv().await {
                Some(Heard::Ended(..)) => ended += 1,
                Some(Heard::Line(..)) => {}
                None => return,
            }
        }
    };
    // Whoever takes longer is killed with this process's end of it.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
    Ok(())
}

impl Crew {
    fn sum(&self) -> Figures {
        let mut sum = Figures::default();
        self.figures.iter().for_each(|figures| sum.add(figures));
        sum
    }

    async fn handle_heard(&mut self, heard: Heard) -> Result<(), CrewError> {
        match heard {
            Heard::Ended(number, Ok(status)) => Err(CrewError::Ended { number: number + 1, status }),
            Heard::Ended(number, Err(source)) => Err(CrewError::Worker { number: number + 1, source }),
            Heard::Line(number, Line::Figures(figures)) => {
                self.figures[number] = *figures;
                Ok(())
            }
            Heard::Line(_, line @ (Line::Event(_) | Line::Error(_))) => {
                say(&line);
                Ok(())
            }
            Heard::Line(_, Line::Done(done)) => {
                let Some(pending) = &mut self.pending else { return Ok(()) };
                pending.done.add(done);
                pending.missing -= 1;
                if pending.missing == 0
                    && let Some(pending) = self.pending.take()
                {
                    let line = Line::Done(pending.done);
                    say(&line);
                    // The asker may be gone.
                    let _ = pending.reply.map(|reply| reply.send(line));
                }
                self.next().await
            }
        }
    }

    /// Takes an order; `true` if it is the last.
    async fn handle_given(&mut self, given: Given) -> Result<bool, CrewError> {
        if given.order == Order::Quit {
            return Ok(true);
        }
        self.waiting.push_back(given);
        self.next().await.map(|()| false)
    }

    /// Sends the next order, if none is on its way.
    async fn next(&mut self) -> Result<(), CrewError> {
        if self.pending.is_some() {
            return Ok(());
        }
        let Some(Given { order, reply }) = self.waiting.pop_front() else { return Ok(()) };
        for (number, stdin) in self.workers.iter_mut().enumerate() {
            let line = format!("{}\n", order.share(number, self.plan.workers, self.plan.count));
            let written = async {
                stdin.write_all(line.as_bytes()).await?;
                stdin.flush().await
            };
            written.await.map_err(|source| CrewError::Worker { number: number + 1, source })?;
        }
        let done = Done { order: order.to_string(), ..Done::default() };
        self.pending = Some(Pending { done, missing: self.workers.len(), reply });
        Ok(())
    }
}

fn say(line: &Line) {
    use std::io::Write;
    // Nobody may be reading any more; what the swarm does goes on.
    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(line).unwrap_or_default());
}

/// Hears one worker until it has ended.
async fn listen(number: usize, mut child: Child, stdout: ChildStdout, tell: mpsc::Sender<Heard>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        match serde_json::from_str(&text) {
            Ok(line) => {
                if tell.send(Heard::Line(number, line)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(number, %error, "a worker said something that is no line of a swarm"),
        }
    }
    // The crew may have ended.
    let _ = tell.send(Heard::Ended(number, child.wait().await)).await;
}

/// Takes orders from standard input.
async fn take(input: impl AsyncBufRead + Unpin, give: mpsc::Sender<Given>) {
    let mut lines = input.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match Order::parse(&line) {
            Ok(order) => {
                if give.send(Given { order, reply: None }).await.is_err() {
                    return;
                }
            }
            Err(error) => say(&Line::Error(error.to_string())),
        }
    }
}

/// Takes orders from the control socket.
async fn serve(listener: UnixListener, give: mpsc::Sender<Given>, tasks: TaskTracker) {
    while let Ok((stream, _)) = listener.accept().await {
        tasks.spawn(converse(stream, give.clone()));
    }
}

/// One order, one answer, for as long as the other side likes.
async fn converse(mut stream: UnixStream, give: mpsc::Sender<Given>) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match Order::parse(&line) {
            Ok(order) => {
                let (reply, answered) = oneshot::channel();
                if give.send(Given { order, reply: Some(reply) }).await.is_err() {
                    return;
                }
                let Ok(answer) = answered.await else { return };
                answer
            }
            Err(error) => Line::Error(error.to_string()),
        };
        let text = format!("{}\n", serde_json::to_string(&answer).unwrap_or_default());
        if write.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}
