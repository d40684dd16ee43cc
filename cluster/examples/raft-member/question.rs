//! Questions on the socket, one a line, each answered by one line.

use crate::stock::Stock;
use crate::{gap, load};
use anyhow::Context;
use saltern_cluster::inbox::Inbox;
use saltern_cluster::node::Node;
use saltern_cluster::replica::Replica;
use saltern_cluster::truth::Truth;
use saltern_wire::MasterId;
use saltern_wire::io::Io;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a snapshot may take to be made.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(300);

/// What may be asked.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Question {
    /// Where this member stands.
    Where,
    /// Makes so many accepted minions, if there are fewer.
    Prepare { minions: u32 },
    /// Writes of 256 bytes, one entry each, by so many writers at once.
    Single { writers: u32, millis: u64 },
    /// Opens jobs until so many returns are owed: what the next question takes is not what it measures.
    LayIn { returns: u64 },
    /// Returns of 256 bytes through the inbox, by so many minions at once.
    Batched { writers: u32, millis: u64 },
    /// A job for all minions, and all of their returns at once.
    Returns,
    /// Writes from here on, at any leader: the longest time without an acknowledgement.
    Gap { millis: u64 },
    /// So many bytes of returns into the state.
    Fill { mib: u64 },
    /// A revocation again and again, without and with large returns.
    Revoke { millis: u64, large: bool },
    /// Asks that master to lead.
    Transfer { to: u64 },
    /// A snapshot, until it is made.
    Snapshot,
}

/// What the measurements need of a running master.
#[derive(Clone)]
pub struct Bench {
    pub truth: Truth,
    pub inbox: Inbox,
    pub io: Io,
    pub stock: Arc<Stock>,
}

impl Bench {
    /// Of `node`, with an inbox of its own.
    pub fn new(node: &Node) -> Self {
        let replica: Arc<dyn Replica> = Arc::new(node.truth.clone());
        let clock = Arc::clone(&node.io.clock);
        let witness = Arc::clone(node.truth.witness());
        let inbox = Inbox::start(replica, clock, witness, node.tasks(), node.stopping());
        let stock = Arc::new(Stock::new(Arc::clone(&node.jobs), Arc::clone(&node.io.entropy)));
        Self { truth: node.truth.clone(), inbox, io: node.io.clone(), stock }
    }

    async fn answer(&self, question: Question) -> anyhow::Result<Map<String, Value>> {
        match question {
            Question::Where => Ok(self.standing()),
            Question::Prepare { minions } => load::prepare(self, minions).await,
            Question::Single { writers, millis } => load::single(self, writers, Duration::from_millis(millis)).await,
            Question::LayIn { returns } => {
                self.stock.lay_in(returns).await?;
                Ok(Map::new())
            }
            Question::Batched { writers, millis } => load::batched(self, writers, Duration::from_millis(millis)).await,
            Question::Returns => load::returns_of_one_job(self).await,
            Question::Gap { millis } => gap::longest(self, Duration::from_millis(millis)).await,
            Question::Fill { mib } => load::fill(self, mib).await,
            Question::Revoke { millis, large } => load::revoke(self, Duration::from_millis(millis), large).await,
            Question::Transfer { to } => {
                self.truth.group().transfer(MasterId(to)).await?;
                Ok(Map::new())
            }
            Question::Snapshot => self.snapshot().await,
        }
    }

    fn standing(&self) -> Map<String, Value> {
        let state = self.truth.group().leader_state();
        map(json!({
            "id": self.truth.id().0,
            "leads": u8::from(state.is_self),
            "leader": state.leader.map_or(0, |leader| leader.0),
            "term": state.term,
            "applied": state.applied,
            "last_log": state.last_log,
            "voters": state.voters.len(),
        }))
    }

    async fn snapshot(&self) -> anyhow::Result<Map<String, Value>> {
        let started = self.io.clock.monotonic();
        let group = self.truth.group();
        let wanted = self.truth.revision().0;
        let made = async {
            group.snapshot().await?;
            loop {
                let current = group.machine().snapshots().current();
                if current.is_some_and(|snapshot| snapshot.manifest.applied >= wanted) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SNAPSHOT_PATIENCE, made).await.context("the snapshot was not made in time")??;
        let took = self.io.clock.monotonic().saturating_sub(started);
        Ok(map(json!({ "seconds": took.as_secs_f64() })))
    }
}

/// The object in `value`.
pub fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Answers questions until `stop`.
pub async fn answer_all(path: PathBuf, bench: Bench, stop: CancellationToken) {
    // Left over from an earlier life, if it is there.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, path = %path.display(), "no questions can be asked"),
    };
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let bench = bench.clone();
                    conversations.spawn(async move {
                        if let Err(error) = converse(stream, &bench).await {
                            tracing::warn!(%error, "a conversation ended early");
                        }
                    });
                }
                Err(error) => return tracing::error!(%error, "no more questions can be asked"),
            },
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn converse(stream: UnixStream, bench: &Bench) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answered = match serde_json::from_str(&line) {
            Ok(question) => bench.answer(question).await,
            Err(error) => Err(error.into()),
        };
        let answer = answered.unwrap_or_else(|error| map(json!({ "error": format!("{error:#}") })));
        write.write_all(format!("{}\n", Value::Object(answer)).as_bytes()).await?;
    }
    Ok(())
}
