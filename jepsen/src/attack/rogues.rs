//! Peers with keys: a stranger with a key of its own, and a minion that was accepted and has gone bad.

use super::ground::{Dice, Ground, Outcome, Target};
use super::strangers::{deaf, frame, hello};
use saltern_pubsub::call::{MinionCredentials, Session};
use saltern_pubsub::clock::SystemEntropy;
use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_wire::MinionId;
use saltern_wire::crypto::Identity;
use saltern_wire::crypto::handshake::{Expectation, Initiator};
use saltern_wire::io::{Address, Link, Transport};
use saltern_wire::level::LEVEL;
use saltern_wire::session::{Attach, Grant, SessionRole, Standing, ToMaster, ToMinion};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a rogue waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages of a recorded handshake, in the order in which the minion sent them.
type Recording = Vec<Vec<u8>>;

/// What rogues share.
pub struct Rogues {
    transport: ZmqTransport,
    /// A handshake that once was good.
    recording: Mutex<Option<Recording>>,
    /// The accepted ones, each used by one attacker at a time.
    accepted: Vec<Arc<Mutex<MinionCredentials>>>,
}

/// What a rogue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rogue {
    /// A valid handshake by a key that nobody has seen.
    UnknownKey,
    /// A valid handshake, then rubbish in place of messages.
    RubbishAfter,
    /// A handshake that once was good, again.
    Replay,
    /// Half a handshake.
    Abort,
    /// A capability that was used already, while it is in use.
    UsedCapability,
    /// A subscriber that takes nothing.
    DeafSubscriber,
    /// A session that asks without end and reads nothing.
    DeafSession,
    /// The same minion, again and again.
    Duplicates,
}

/// All of them, with a name for the report.
pub const ROGUES: [(Rogue, &str); 8] = [
    (Rogue::UnknownKey, "handshake by an unknown key"),
    (Rogue::RubbishAfter, "handshake, then rubbish"),
    (Rogue::Replay, "replayed handshake"),
    (Rogue::Abort, "handshake given up"),
    (Rogue::UsedCapability, "used capability"),
    (Rogue::DeafSubscriber, "subscriber that takes nothing"),
    (Rogue::DeafSession, "session that reads nothing"),
    (Rogue::Duplicates, "one minion many times"),
];

/// Rogues that have to be accepted before the attack.
pub const ACCEPTED: usize = 4;

fn credentials(ground: &Ground, name: &str, seed: [u8; 32]) -> anyhow::Result<MinionCredentials> {
    Ok(MinionCredentials {
        identity: Identity::from_seed(seed),
        minion: MinionId::new(name)?,
        expectation: Expectation { ca: ground.ca, cluster: None, generation_min: 0 },
    })
}

impl Rogues {
    /// Makes the keys of those that are to be accepted.
    pub fn new(ground: &Ground, dice: &mut Dice) -> anyhow::Result<Self> {
        let transport = ZmqTransport::new(GateLimits::default())?;
        let accepted = (0..ACCEPTED).map(|number| {
            let credentials = credentials(ground, &format!("rogue-{number}"), dice.bytes())?;
            anyhow::Ok(Arc::new(Mutex::new(credentials)))
        });
        let accepted = accepted.collect::<anyhow::Result<_>>()?;
        Ok(Self { transport, recording: Mutex::new(None), accepted })
    }

    /// Attaches each of those that are to be accepted once, so that an operator sees its key.
    pub async fn enrol(&self, ground: &Ground) -> anyhow::Result<()> {
        for rogue in &self.accepted {
            let credentials = rogue.lock().await;
            let (session, standing) = self.attach(ground.targets[0], &credentials).await?;
            anyhow::ensure!(matches!(standing, Standing::Pending | Standing::Accepted { .. }), "{standing:?}");
            drop(session);
        }
        Ok(())
    }

    async fn dial(&self, target: Target) -> anyhow::Result<Link> {
        let address = Address::new(target.session.ip().to_string(), target.session.port());
        Ok(self.transport.dial(&address).await?)
    }

    /// A session, and what the master thinks of its key.
    async fn attach(&self, target: Target, rogue: &MinionCredentials) -> anyhow::Result<(Session, Standing)> {
        let link = self.dial(target).await?;
        let mut session = Session::open(link, rogue, &SystemEntropy, PATIENCE).await?;
        let attach = Attach {
            version: "0".into(),
            incarnation: 1,
            directory: None,
            facts_digest: [0; 32],
            credit: false,
            role: SessionRole::default(),
            level: LEVEL,
        };
        session.sender.send(&ToMaster::Attach(attach)).await?;
        let standing = tokio::time::timeout(PATIENCE, async {
            loop {
                if let ToMinion::Standing(standing) = session.receiver.recv().await? {
                    return anyhow::Ok(standing);
                }
            }
        });
        let standing = standing.await??;
        Ok((session, standing))
    }

    /// A session of an accepted rogue, and its right to the fan-out.
    async fn granted(&self, target: Target, rogue: &MinionCredentials) -> anyhow::Result<(Session, Grant)> {
        let (mut session, _) = self.attach(target, rogue).await?;
        let grant = tokio::time::timeout(PATIENCE, async {
            loop {
                if let ToMinion::Grant(grant) = session.receiver.recv().await? {
                    return anyhow::Ok(grant);
                }
            }
        });
        let grant = grant.await??;
        Ok((session, grant))
    }

    /// Strikes once.
    pub async fn attack(&self, rogue: Rogue, ground: &Ground, dice: &mut Dice) -> Outcome {
        let target = dice.one(&ground.targets);
        let struck = tokio::select! {
            struck = self.strike(rogue, ground, target, dice) => struck,
            () = ground.over.cancelled() => return Outcome::Over,
        };
        match struck {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::debug!(?rogue, %error, "a rogue did not get through");
                Outcome::Unreached
            }
        }
    }

    async fn strike(&self, rogue: Rogue, ground: &Ground, target: Target, dice: &mut Dice) -> anyhow::Result<Outcome> {
        match rogue {
            Rogue::UnknownKey => {
                let name = format!("stranger-{}", hex::encode(dice.bytes::<4>()));
                self.attach(target, &credentials(ground, &name, dice.bytes())?).await?;
                Ok(Outcome::Done)
            }
            Rogue::RubbishAfter => self.rubbish_after(ground, target, dice).await,
            Rogue::Replay => self.replay(ground, target, dice).await,
            Rogue::Abort => {
                let mut link = self.dial(target).await?;
                let mut initiator = initiator(ground, dice)?;
                link.sender.send(initiator.hello()?.into()).await?;
                link.receiver.recv().await?;
                Ok(Outcome::Done)
            }
            Rogue::UsedCapability => {
                let rogue = self.accepted[0].lock().await;
                let (_session, grant) = self.granted(target, &rogue).await?;
                let address = Address::new(target.fanout.ip().to_string(), target.fanout.port());
                let _in_use = self.transport.subscribe(&address, grant.capability).await?;
                let again = self.transport.subscribe(&address, grant.capability).await;
                Ok(if again.is_err() { Outcome::Cut } else { Outcome::Kept })
            }
            Rogue::DeafSubscriber => {
                let rogue = self.accepted[1].lock().await;
                let (_session, grant) = self.granted(target, &rogue).await?;
                let subscription = frame(0, &[&[1], &grant.capability.0[..]].concat());
                let bytes = [hello("SUB", b""), subscription].concat();
                deaf(ground, target.fanout, &bytes, dice, Duration::from_secs(30)).await;
                // Beacons and jobs are small: what the sockets between take may be all there is.
                Ok(Outcome::Done)
            }
            Rogue::DeafSession => {
                let rogue = self.accepted[2].lock().await;
                let (mut session, _) = self.attach(target, &rogue).await?;
                for sequence in 0..200_000 {
                    if session.sender.send(&ToMaster::Ping { sequence }).await.is_err() {
                        return Ok(Outcome::Cut);
                    }
                }
                Ok(Outcome::Kept)
            }
            Rogue::Duplicates => {
                let rogue = self.accepted[3].lock().await;
                let mut sessions = Vec::new();
                for _ in 0..10 {
                    sessions.push(self.attach(target, &rogue).await?);
                }
                Ok(Outcome::Done)
            }
        }
    }

    /// A good handshake and then bytes that no key has sealed; of what it said, a recording is kept.
    async fn rubbish_after(&self, ground: &Ground, target: Target, dice: &mut Dice) -> anyhow::Result<Outcome> {
        let mut link = self.dial(target).await?;
        let mut initiator = initiator(ground, dice)?;
        let hello = initiator.hello()?;
        link.sender.send(hello.clone().into()).await?;
        let answer = link.receiver.recv().await?;
        let (proof, _) = initiator.handle_answer(&answer)?;
        link.sender.send(proof.clone().into()).await?;
        *self.recording.lock().await = Some(vec![hello, proof]);
        let len = dice.number(1..4000);
        link.sender.send(dice.rubbish(len).into()).await?;
        Ok(ending(&mut link).await)
    }

    async fn replay(&self, ground: &Ground, target: Target, dice: &mut Dice) -> anyhow::Result<Outcome> {
        let recording = self.recording.lock().await.clone();
        let Some(recording) = recording else {
            return self.rubbish_after(ground, target, dice).await;
        };
        let mut link = self.dial(target).await?;
        for message in recording {
            if link.sender.send(message.into()).await.is_err() {
                return Ok(Outcome::Cut);
            }
        }
        Ok(ending(&mut link).await)
    }
}

fn initiator(ground: &Ground, dice: &mut Dice) -> anyhow::Result<Initiator> {
    let who = credentials(ground, "stranger-0", dice.bytes())?;
    Ok(Initiator::new(who.identity, who.minion, who.expectation, &SystemEntropy))
}

/// Waits until the master has had enough.
async fn ending(link: &mut Link) -> Outcome {
    let listening = async { while link.receiver.recv().await.is_ok() {} };
    match tokio::time::timeout(2 * PATIENCE, listening).await {
        Ok(()) => Outcome::Cut,
        Err(_) => Outcome::Kept,
    }
}
