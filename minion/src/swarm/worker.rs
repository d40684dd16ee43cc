//! One worker process of a swarm: orders on standard input, lines of JSON on standard output.
//!
//! **Invariants.** Orders are carried out one after the other, each answered with one line. The end of standard input is the
//! end of the worker: a swarm whose parent died leaves nothing behind.

use super::Plan;
use super::board::Board;
use super::members::{Members, Shared};
use super::orders::{HowMany, Order};
use super::pool::Pool;
use crate::agent::StartError;
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_wire::MinionId;
use saltern_wire::crypto::memo;
use saltern_wire::id::IdError;
use saltern_wire::io::{Clock, Io};
use saltern_wire::swarm::{Done, Figures, Line};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::task::TaskTracker;

/// How long agents may take to end at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Signatures that the minions of a worker check once for all of them: those of the jobs of some minutes.
const SIGNATURES_MAX: usize = 100_000;

/// Why a worker does not work. One line each.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The prefix makes no id.
    #[error("--prefix: {0}")]
    Id(#[from] IdError),
    /// Files or sockets cannot be used.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A minion does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What figures are made of.
struct Sources {
    board: Arc<Board>,
    tally: Arc<super::work::Tally>,
    dials: Arc<super::held::Dials>,
    pool: Arc<Pool>,
}

impl Sources {
    fn figures(&self) -> Figures {
        Figures {
            executed: self.tally.executed.load(Relaxed),
            failed: self.tally.failed.load(Relaxed),
            jobs: self.tally.jobs.load(Relaxed),
            doubled: self.tally.doubled.load(Relaxed),
            dials: self.dials.tried.load(Relaxed),
            dials_failed: self.dials.failed.load(Relaxed),
            syncs: self.pool.syncs(),
            resident_kib: resident_kib(),
            processor_us: processor_us().unwrap_or(0),
            ..self.board.figures()
        }
    }
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time of this process: user and system, fields 14 and 15 of its `stat`.
fn processor_us() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Its name is in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((ticks(14)? + ticks(15)?) * 1_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Runs worker `number` of `plan` until it is told to quit.
pub async fn run(plan: Plan, number: usize) -> Result<(), WorkerError> {
    memo::turn_on(SIGNATURES_MAX);
    let ids = plan.minions_of(number).map(|minion| MinionId::new(format!("{}-{minion}", plan.prefix)));
    let ids = ids.collect::<Result<Vec<MinionId>, _>>()?;
    let folder = plan.folder_of(number);
    std::fs::create_dir_all(&folder)?;
    let pool = Arc::new(Pool::open(folder.join("pool"))?);
    let clock = Arc::new(SystemClock::new());
    let io = Io {
        transport: Arc::new(ZmqTransport::new(GateLimits::default())?),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        disk: pool.clone(),
    };
    let (lines, written) = mpsc::unbounded_channel();
    let names = ids.iter().map(ToString::to_string);
    let board = Arc::new(Board::new(names, clock.clone(), plan.events.then(|| lines.clone())));
    let shared = Shared::new(&plan, io, board.clone());
    let sources = Arc::new(Sources { board, tally: shared.tally.clone(), dials: shared.dials.clone(), pool });
    let tasks = TaskTracker::new();
    tasks.spawn(write(written));
    tasks.spawn(tell_figures(plan.every, sources.clone(), lines.clone()));
    let mut members = Members::new(shared, ids);
    obey(&plan, &mut members, &sources, &lines, clock.as_ref()).await?;
    // What was asked for last is still on its way out; whoever reads may be gone.
    let _ = tokio::time::timeout(FAREWELL, members.stop(usize::MAX)).await;
    Ok(())
}

/// Starts everybody, and carries out what comes in.
async fn obey(
    plan: &Plan,
    members: &mut Members,
    sources: &Sources,
    lines: &UnboundedSender<Line>,
    clock: &dyn Clock,
) -> Result<(), WorkerError> {
    members.start((plan.per_second / plan.workers.max(1)).max(1)).await?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = orders.next_line().await? {
        let order = match Order::parse(&line) {
            Ok(Order::Quit) => break,
            Ok(order) => order,
            Err(error) => {
                drop(lines.send(Line::Error(error.to_string())));
                continue;
            }
        };
        let mut done = Done { order: order.to_string(), at_us: clock.wall_unix_micros(), ..Done::default() };
        match &order {
            Order::Stop(count) => done.minions = members.stop(number_of(*count)).await,
            Order::Start => done.minions = members.start(usize::MAX).await?,
            Order::Restart(count) => done.minions = members.restart(number_of(*count)).await?,
            Order::Cut(count) => done.minions = members.cut(number_of(*count)),
            Order::Freeze(count) => done.minions = members.freeze(number_of(*count)),
            Order::Thaw => done.minions = members.thaw(),
            Order::Mark(name) => done.mark = Some(sources.tally.mark(name)),
            Order::Figures => done.figures = Some(Box::new(sources.figures())),
            Order::Quit => break,
        }
        // The writer ends with the worker.
        let _ = lines.send(Line::Done(done));
    }
    Ok(())
}

/// The crew has made it a number.
fn number_of(how_many: HowMany) -> usize {
    how_many.of(super::MINIONS_MAX)
}

async fn tell_figures(every: Duration, sources: Arc<Sources>, lines: UnboundedSender<Line>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if lines.send(Line::Figures(Box::new(sources.figures()))).is_err() {
            return;
        }
    }
}

/// Writes lines; many at a time when many wait.
async fn write(mut lines: UnboundedReceiver<Line>) {
    let mut stdout = tokio::io::stdout();
    let mut waiting = Vec::new();
    while lines.recv_many(&mut waiting, 256).await > 0 {
        let mut text = String::new();
        for line in waiting.drain(..) {
            text.push_str(&serde_json::to_string(&line).unwrap_or_default());
            text.push('\n');
        }
        if stdout.write_all(text.as_bytes()).await.is_err() || stdout.flush().await.is_err() {
            return;
        }
    }
}
