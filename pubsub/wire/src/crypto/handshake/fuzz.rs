//! Fuzz targets of the handshake: each message as a stranger may send it, and what is inside the encrypted ones as somebody
//! may write it who speaks Noise well.

use super::noise::Noise;
use super::*;

/// Always the same, so that a recorded message fits.
struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&self, out: &mut [u8]) {
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = self.0.wrapping_add(u8::try_from(at % 251).unwrap_or(0));
        }
    }
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([5; 16])
}

fn certificate() -> Signed<Certificate> {
    let public_key = identity(2).public_key();
    let certificate =
        Certificate { cluster: cluster(), master: crate::MasterId(1), name: "m1".into(), public_key, generation: 1 };
    Signed::new(&certificate, &identity(1))
}

fn initiator() -> Initiator {
    let expectation =
        Expectation { ca: identity(1).public_key().fingerprint(), cluster: Some(cluster()), generation_min: 1 };
    Initiator::new(identity(3), MinionId::new("web-1").expect("valid"), expectation, &Fixed(11))
}

fn responder() -> Responder {
    Responder::new(identity(2), certificate(), identity(1).public_key(), &Fixed(22))
}

/// The three messages of a good handshake.
fn recorded() -> [Vec<u8>; 3] {
    let (mut initiator, mut responder) = (initiator(), responder());
    let hello = initiator.hello().expect("hello");
    let answer = responder.handle_hello(&hello).expect("answer");
    let (proof, _) = initiator.handle_answer(&answer).expect("proof");
    [hello, answer, proof]
}

#[test]
fn fuzz_handshake_hello() {
    let [hello, _, _] = recorded();
    crate::keep!("handshake_hello", "good", hello);
    crate::fuzz!("handshake_hello", |bytes: &[u8]| responder().handle_hello(bytes).is_ok());
}

#[test]
fn fuzz_handshake_answer() {
    let [_, answer, _] = recorded();
    crate::keep!("handshake_answer", "good", answer);
    crate::fuzz!("handshake_answer", |bytes: &[u8]| {
        let mut initiator = initiator();
        initiator.hello().expect("hello");
        let accepted = initiator.handle_answer(bytes).is_ok();
        // The highest bit of an X25519 key is ignored by its definition, but hashed: nothing else than the answer passes.
        assert!(!accepted || bytes == answer, "an answer was forged");
        accepted
    });
}

#[test]
fn fuzz_handshake_proof() {
    let [hello, _, proof] = recorded();
    crate::keep!("handshake_proof", "good", proof);
    crate::fuzz!("handshake_proof", |bytes: &[u8]| {
        let mut responder = responder();
        responder.handle_hello(&hello).expect("answer");
        let accepted = responder.handle_proof(bytes).is_ok();
        assert!(!accepted || bytes == proof, "a proof was forged");
        accepted
    });
}

#[test]
fn fuzz_handshake_master_proof() {
    // What a false master writes into an answer that decrypts.
    let mut first = initiator();
    let hello = first.hello().expect("hello");
    let impostor = |payload: &[u8]| {
        let mut noise = Noise::responder(&Fixed(22));
        noise.read(1, &hello).expect("hello");
        noise.write(2, payload)
    };
    let mut noise = Noise::responder(&Fixed(22));
    noise.read(1, &hello).expect("hello");
    let signature = identity(2).sign(MASTER_CONTEXT, &bound(&noise.hash(), noise.own_static()));
    let proof = encode(&MasterProof { certificate: certificate(), ca: identity(1).public_key(), signature });
    crate::keep!("handshake_master_proof", "good", proof);
    crate::fuzz!("handshake_master_proof", |bytes: &[u8]| {
        let Ok(answer) = impostor(bytes) else { return false };
        let mut initiator = initiator();
        initiator.hello().expect("hello");
        match initiator.handle_answer(&answer) {
            Ok((_, established)) => {
                assert_eq!(established.peer.certificate.public_key, identity(2).public_key());
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn fuzz_handshake_minion_proof() {
    let writer = |payload: &dyn Fn(&Noise) -> Vec<u8>| {
        let mut responder = responder();
        let mut noise = Noise::initiator(&Fixed(11));
        let hello = noise.write(1, &[SESSION_VERSION]).expect("hello");
        let answer = responder.handle_hello(&hello).expect("answer");
        noise.read(2, &answer).expect("answer");
        let payload = payload(&noise);
        (responder, noise.write(3, &payload), payload)
    };
    let good = |noise: &Noise| {
        let signature = identity(3).sign(MINION_CONTEXT, &bound(&noise.hash(), noise.own_static()));
        let minion = MinionId::new("web-1").expect("valid");
        encode(&MinionProof { minion, public_key: identity(3).public_key(), signature })
    };
    crate::keep!("handshake_minion_proof", "good", writer(&good).2);
    crate::fuzz!("handshake_minion_proof", |bytes: &[u8]| {
        let (responder, message, _) = writer(&|_| bytes.to_vec());
        let Ok(message) = message else { return false };
        match responder.handle_proof(&message) {
            Ok(established) => {
                assert_eq!(established.peer.public_key, identity(3).public_key(), "a name without its key");
                true
            }
            Err(_) => false,
        }
    });
}
