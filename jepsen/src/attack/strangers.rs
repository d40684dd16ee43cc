//! Strangers at the ZeroMQ ports: bytes without any secret.

use super::ground::{Dice, Ground, Outcome, Target, strike, trickle, until_cut};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Connections that one flood opens.
const FLOOD: usize = 50;

/// A greeting of ZMTP 3.0 with the NULL mechanism.
pub fn greeting() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// Greeting and READY of a socket of this type.
pub fn hello(socket: &str, identity: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", socket.as_bytes()), ("Identity", identity)] {
        body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(value);
    }
    let mut bytes = greeting();
    bytes.extend_from_slice(&[4, u8::try_from(body.len()).unwrap_or(u8::MAX)]);
    bytes.append(&mut body);
    bytes
}

/// A frame.
pub fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags | 2];
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// What a stranger does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// The 73 bytes that made the library abort: a frame of up to 2^62 bytes.
    HugeFrame,
    /// Rubbish instead of a greeting.
    RubbishBefore,
    /// Rubbish after it.
    RubbishAfter,
    /// Nothing.
    Silent,
    /// A greeting, one byte at a time.
    Trickle,
    /// A greeting and nothing more.
    GreetOnly,
    /// A whole ZMTP handshake and nothing more.
    HalfOpen,
    /// Many connections, dropped at once.
    Flood,
    /// Many connections, reset in the middle of a greeting.
    Resets,
    /// Subscriptions to everything without a capability.
    NoCapability,
    /// A capability that nobody gave.
    WrongCapability,
    /// Thousands of subscriptions.
    Subscriptions,
    /// One message of many frames.
    Multipart,
    /// A peer identity of its own choice.
    Named,
    /// Heartbeats without end.
    Pings,
    /// Commands that nobody knows.
    Commands,
    /// The largest frames that sessions have, before anything is proved.
    LargeUnproven,
}

/// All of them, with a name for the report.
pub const STRANGERS: [(Stranger, &str); 17] = [
    (Stranger::HugeFrame, "73-byte frame"),
    (Stranger::RubbishBefore, "rubbish for a greeting"),
    (Stranger::RubbishAfter, "rubbish after the greeting"),
    (Stranger::Silent, "silence"),
    (Stranger::Trickle, "slow trickle"),
    (Stranger::GreetOnly, "greeting only"),
    (Stranger::HalfOpen, "half-open"),
    (Stranger::Flood, "connection flood"),
    (Stranger::Resets, "reset storm"),
    (Stranger::NoCapability, "no capability"),
    (Stranger::WrongCapability, "wrong capability"),
    (Stranger::Subscriptions, "thousands of subscriptions"),
    (Stranger::Multipart, "huge multipart"),
    (Stranger::Named, "peer identity"),
    (Stranger::Pings, "heartbeat flood"),
    (Stranger::Commands, "unknown commands"),
    (Stranger::LargeUnproven, "large frames unproven"),
];

/// Strikes once.
pub async fn attack(stranger: Stranger, ground: &Ground, dice: &mut Dice) -> Outcome {
    let target = dice.one(&ground.targets);
    let (to, socket) = dice.one(&[(target.session, "DEALER"), (target.fanout, "SUB")]);
    match stranger {
        Stranger::HugeFrame => {
            let len = 1_u64 << dice.one(&[35, 40, 62]);
            let bytes = [greeting(), vec![2], len.to_be_bytes().to_vec()].concat();
            strike(ground, dice.connect(to).await, &bytes).await
        }
        Stranger::RubbishBefore => {
            let len = dice.number(64..5000);
            strike(ground, dice.connect(to).await, &dice.rubbish(len)).await
        }
        Stranger::RubbishAfter => {
            let len = dice.number(10..5000);
            let bytes = [greeting(), dice.rubbish(len)].concat();
            strike(ground, dice.connect(to).await, &bytes).await
        }
        Stranger::Silent => strike(ground, dice.connect(to).await, &[]).await,
        Stranger::Trickle => trickle(ground, dice.connect(to).await, &greeting(), Duration::from_millis(300)).await,
        Stranger::GreetOnly => strike(ground, dice.connect(to).await, &greeting()).await,
        Stranger::HalfOpen => strike(ground, dice.connect(to).await, &hello(socket, b"")).await,
        Stranger::Flood => flood(to, dice, false).await,
        Stranger::Resets => flood(to, dice, true).await,
        Stranger::NoCapability | Stranger::WrongCapability | Stranger::Subscriptions => {
            subscribe(stranger, ground, target, dice).await
        }
        Stranger::Multipart => {
            let mut bytes = hello("DEALER", b"");
            for _ in 0..200 {
                bytes.extend_from_slice(&frame(1, &[7; 4000]));
            }
            strike(ground, dice.connect(target.session).await, &bytes).await
        }
        Stranger::Named => strike(ground, dice.connect(to).await, &hello(socket, &dice.bytes::<9>())).await,
        Stranger::Pings => {
            let bytes = [hello("DEALER", b""), b"\x04\x0b\x04PING\x00\x64abcd".repeat(5000)].concat();
            strike(ground, dice.connect(target.session).await, &bytes).await
        }
        Stranger::Commands => {
            let bytes = [hello(socket, b""), b"\x04\x06\x05HELLO".repeat(1000)].concat();
            strike(ground, dice.connect(to).await, &bytes).await
        }
        Stranger::LargeUnproven => {
            let bytes = [hello("DEALER", b""), frame(0, &[7; 65_535])].concat();
            strike(ground, dice.connect(target.session).await, &bytes).await
        }
    }
}

async fn subscribe(stranger: Stranger, ground: &Ground, target: Target, dice: &mut Dice) -> Outcome {
    let mut bytes = hello("SUB", b"");
    match stranger {
        Stranger::WrongCapability => bytes.extend_from_slice(&frame(0, &[&[1], &dice.bytes::<16>()[..]].concat())),
        Stranger::Subscriptions => {
            for number in 0..5000_u32 {
                bytes.extend_from_slice(&frame(0, &[&[1], &number.to_be_bytes()[..]].concat()));
            }
        }
        _ => bytes.extend_from_slice(&frame(0, &[1])),
    }
    strike(ground, dice.connect(target.fanout).await, &bytes).await
}

/// Opens many connections and lets go of them at once.
async fn flood(to: SocketAddr, dice: &mut Dice, reset: bool) -> Outcome {
    let mut streams = Vec::new();
    for _ in 0..FLOOD {
        let Some(mut stream) = dice.connect(to).await else { return Outcome::Unreached };
        if reset {
            let begun = dice.number(1..64);
            // Whether the master still listens makes no difference.
            let _ = stream.write_all(&greeting()[..begun]).await;
            let _ = stream.set_zero_linger();
        }
        streams.push(stream);
    }
    Outcome::Done
}

/// Writes `bytes` and waits for the cut, on a stream that reads next to nothing.
pub async fn deaf(ground: &Ground, to: SocketAddr, bytes: &[u8], dice: &mut Dice, hold: Duration) -> Outcome {
    let Some(mut stream) = dice.connect_deaf(to).await else { return Outcome::Unreached };
    if stream.write_all(bytes).await.is_err() {
        return Outcome::Cut;
    }
    if !ground.pause(hold).await {
        return Outcome::Over;
    }
    // It has been cut by now, or what waits for it is bounded; either shows in the master's memory.
    until_cut(ground, stream).await
}
