//! Fuzz target: what a proven, but hostile, other side puts into a session's chunks.

use super::*;
use saltern_wire::MinionId;
use saltern_wire::crypto::handshake::{Expectation, Initiator, Responder};
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::io::Entropy;
use saltern_wire::master::Certificate;
use saltern_wire::session::ToMaster;

/// A link on which nothing comes: the target hands the chunks over itself.
struct Nobody;

#[async_trait::async_trait]
impl LinkReceiver for Nobody {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        std::future::pending().await
    }
}

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, out: &mut [u8]) {
        out.fill(7);
    }
}

/// A master's receiving half.
fn receiver() -> MessageReceiver<ToMaster> {
    let [ca, master, minion] = [1, 2, 3].map(|seed| Identity::from_seed([seed; 32]));
    let cluster = saltern_wire::ClusterId::from_bytes([5; 16]);
    let public_key = master.public_key();
    let certificate =
        Certificate { cluster, master: saltern_wire::MasterId(1), name: "m1".into(), public_key, generation: 1 };
    let expectation = Expectation { ca: ca.public_key().fingerprint(), cluster: None, generation_min: 0 };
    let mut responder = Responder::new(master, Signed::new(&certificate, &ca), ca.public_key(), &Fixed);
    let mut initiator = Initiator::new(minion, MinionId::new("web-1").expect("valid"), expectation, &Fixed);
    let answer = responder.handle_hello(&initiator.hello().expect("hello")).expect("answer");
    let (proof, _) = initiator.handle_answer(&answer).expect("proof");
    let established = responder.handle_proof(&proof).expect("a session");
    MessageReceiver::new(Box::new(Nobody), established.receiver, "somebody".into())
}

/// Chunks as the target reads them: each begins with its length.
fn chunks(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&[u8::try_from(part.len()).expect("short")], *part].concat()).collect()
}

#[test]
fn fuzz_session_chunks() {
    let ping = encode(&ToMaster::Ping { sequence: 3 });
    let whole = [&[LAST][..], &ping].concat();
    let (first, rest) = ping.split_at(ping.len() / 2);
    let cut = [[&[MORE][..], first].concat(), [&[LAST][..], rest].concat()];
    saltern_wire::keep!("session_chunks", "whole", chunks(&[&whole]));
    saltern_wire::keep!("session_chunks", "cut", chunks(&[&cut[0], &cut[1]]));
    saltern_wire::keep!("session_chunks", "two", chunks(&[&whole, &cut[0], &cut[1]]));
    let mut receiver = receiver();
    saltern_wire::fuzz!("session_chunks", |bytes: &[u8]| {
        receiver.joined.clear();
        let mut rest = bytes;
        let mut messages = 0;
        while let Some((len, after)) = rest.split_first() {
            let (chunk, after) = after.split_at(usize::from(*len).min(after.len()));
            rest = after;
            match receiver.handle_chunk(chunk) {
                Ok(Some(message)) => {
                    assert_eq!(decode::<ToMaster>(&encode(&message)), Ok(message));
                    messages += 1;
                }
                Ok(None) => assert!(receiver.joined.len() <= SESSION_MESSAGE_BYTES_MAX),
                Err(_) => return false,
            }
        }
        messages > 0
    });
}
