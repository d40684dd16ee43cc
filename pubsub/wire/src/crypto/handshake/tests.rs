//! Right pairs come together; everyone else is named and refused.

use super::*;
use crate::id::MasterId;
use std::sync::Mutex;

/// Counts up, so that two draws differ and two runs agree.
struct Counting(Mutex<u8>);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        let mut next = self.0.lock().expect("lock");
        for byte in out {
            *next = next.wrapping_mul(31).wrapping_add(7);
            *byte = *next;
        }
    }
}

fn entropy(seed: u8) -> Counting {
    Counting(Mutex::new(seed))
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([5; 16])
}

fn certificate(identity: &Identity, generation: u64, ca: &Identity) -> Signed<Certificate> {
    let certificate = Certificate {
        cluster: cluster(),
        master: MasterId(1),
        name: "m1".into(),
        public_key: identity.public_key(),
        generation,
    };
    Signed::new(&certificate, ca)
}

struct World {
    ca: Identity,
    master: Identity,
    minion: Identity,
    id: MinionId,
}

fn world() -> World {
    World {
        ca: Identity::from_seed([1; 32]),
        master: Identity::from_seed([2; 32]),
        minion: Identity::from_seed([3; 32]),
        id: MinionId::new("web-1").expect("valid"),
    }
}

impl World {
    fn expectation(&self) -> Expectation {
        Expectation { ca: self.ca.public_key().fingerprint(), cluster: Some(cluster()), generation_min: 3 }
    }

    fn initiator(&self) -> Initiator {
        Initiator::new(self.minion.clone(), self.id.clone(), self.expectation(), &entropy(11))
    }

    fn responder(&self) -> Responder {
        let certificate = certificate(&self.master, 3, &self.ca);
        Responder::new(self.master.clone(), certificate, self.ca.public_key(), &entropy(22))
    }

    /// What the minion says to `responder`.
    fn verdict(&self, initiator: Initiator, mut responder: Responder) -> Result<ProvenMaster, HandshakeError> {
        let mut initiator = initiator;
        let hello = initiator.hello().expect("hello");
        let answer = responder.handle_hello(&hello).expect("answer");
        initiator.handle_answer(&answer).map(|(_, established)| established.peer)
    }
}

#[test]
fn the_right_pair_comes_together_and_talks_both_ways() {
    let world = world();
    let (mut initiator, mut responder) = (world.initiator(), world.responder());
    let hello = initiator.hello().expect("hello");
    let answer = responder.handle_hello(&hello).expect("answer");
    let (proof, mut minion) = initiator.handle_answer(&answer).expect("master accepted");
    let mut master = responder.handle_proof(&proof).expect("minion accepted");
    assert_eq!(master.peer, ProvenMinion { minion: world.id.clone(), public_key: world.minion.public_key() });
    assert_eq!(minion.peer.certificate.public_key, world.master.public_key());
    assert_eq!(minion.peer.ca, world.ca.public_key());
    for text in [b"one".as_slice(), b"", &[7; NOISE_BODY]] {
        let up = minion.sender.encrypt(text).expect("encrypt");
        assert_eq!(master.receiver.decrypt(&up).expect("decrypt"), text);
        let down = master.sender.encrypt(text).expect("encrypt");
        assert_eq!(minion.receiver.decrypt(&down).expect("decrypt"), text);
    }
}

const NOISE_BODY: usize = crate::limits::NOISE_BODY_BYTES_MAX;

#[test]
fn the_same_entropy_gives_the_same_bytes() {
    let world = world();
    let run = || {
        let (mut initiator, mut responder) = (world.initiator(), world.responder());
        let hello = initiator.hello().expect("hello");
        let answer = responder.handle_hello(&hello).expect("answer");
        let (proof, _) = initiator.handle_answer(&answer).expect("accepted");
        (hello, answer, proof)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_message_of_a_session_passes_once_and_in_order() {
    let world = world();
    let (mut initiator, mut responder) = (world.initiator(), world.responder());
    let answer = responder.handle_hello(&initiator.hello().expect("hello")).expect("answer");
    let (proof, mut minion) = initiator.handle_answer(&answer).expect("accepted");
    let mut master = responder.handle_proof(&proof).expect("accepted");
    let first = minion.sender.encrypt(b"first").expect("encrypt");
    let second = minion.sender.encrypt(b"second").expect("encrypt");
    assert_eq!(master.receiver.decrypt(&second), Err(CipherError::Tampered { nonce: 0 }), "moved");
    assert!(master.receiver.decrypt(&first).is_ok());
    assert_eq!(master.receiver.decrypt(&first), Err(CipherError::Tampered { nonce: 1 }), "repeated");
    assert!(minion.receiver.decrypt(&second).is_err(), "reflected");
    let large = minion.sender.encrypt(&vec![0; NOISE_BODY + 1]);
    assert_eq!(large, Err(CipherError::Large { len: NOISE_BODY + 1, max: NOISE_BODY }));
}

#[test]
fn a_master_of_another_ca_is_refused() {
    let world = world();
    let other = Identity::from_seed([9; 32]);
    let certificate = certificate(&world.master, 3, &other);
    let responder = Responder::new(world.master.clone(), certificate, other.public_key(), &entropy(22));
    let expected = world.ca.public_key().fingerprint();
    let found = other.public_key().fingerprint();
    assert_eq!(world.verdict(world.initiator(), responder).err(), Some(HandshakeError::WrongCa { expected, found }));
}

#[test]
fn a_certificate_that_the_ca_did_not_sign_is_refused() {
    let world = world();
    let self_made = certificate(&world.master, 3, &Identity::from_seed([9; 32]));
    let responder = Responder::new(world.master.clone(), self_made, world.ca.public_key(), &entropy(22));
    let expect = HandshakeError::NotCertified(SignatureError::Forged);
    assert_eq!(world.verdict(world.initiator(), responder).err(), Some(expect));
}

#[test]
fn a_stolen_certificate_does_not_help_without_its_key() {
    let world = world();
    let thief = Identity::from_seed([66; 32]);
    let certificate = certificate(&world.master, 3, &world.ca);
    let responder = Responder::new(thief, certificate, world.ca.public_key(), &entropy(22));
    let expect = HandshakeError::Forged { role: "master", claimed: world.master.public_key().fingerprint() };
    assert_eq!(world.verdict(world.initiator(), responder).err(), Some(expect));
}

#[test]
fn another_cluster_and_a_fenced_generation_are_refused() {
    let world = world();
    let elsewhere = ClusterId::from_bytes([6; 16]);
    let expectation = Expectation { cluster: Some(elsewhere), ..world.expectation() };
    let initiator = Initiator::new(world.minion.clone(), world.id.clone(), expectation, &entropy(11));
    let expect = HandshakeError::WrongCluster { expected: elsewhere, found: cluster() };
    assert_eq!(world.verdict(initiator, world.responder()).err(), Some(expect));
    // A cluster that was restored from ours has a higher generation; its directory decides, and comes later.
    let expectation = Expectation { cluster: Some(elsewhere), generation_min: 2, ..world.expectation() };
    let initiator = Initiator::new(world.minion.clone(), world.id.clone(), expectation, &entropy(11));
    assert!(world.verdict(initiator, world.responder()).is_ok(), "it may be a successor");
    let expectation = Expectation { generation_min: 4, ..world.expectation() };
    let initiator = Initiator::new(world.minion.clone(), world.id.clone(), expectation, &entropy(11));
    let expect = HandshakeError::OldGeneration { lowest: 4, found: 3 };
    assert_eq!(world.verdict(initiator, world.responder()).err(), Some(expect));
    let expectation = Expectation { cluster: None, ..world.expectation() };
    let initiator = Initiator::new(world.minion.clone(), world.id.clone(), expectation, &entropy(11));
    assert!(world.verdict(initiator, world.responder()).is_ok(), "a minion that does not know its cluster yet");
}

#[test]
fn a_minion_that_claims_a_foreign_key_is_refused() {
    let world = world();
    let mut responder = world.responder();
    let mut noise = Noise::initiator(&entropy(11));
    let answer = responder.handle_hello(&noise.write(1, &[SESSION_VERSION]).expect("hello")).expect("answer");
    noise.read(2, &answer).expect("read");
    let thief = Identity::from_seed([66; 32]);
    let signature = thief.sign(MINION_CONTEXT, &bound(&noise.hash(), noise.own_static()));
    let claimed = world.minion.public_key();
    let proof = MinionProof { minion: world.id.clone(), public_key: claimed, signature };
    let message = noise.write(3, &encode(&proof)).expect("write");
    let expect = HandshakeError::Forged { role: "minion", claimed: claimed.fingerprint() };
    assert_eq!(responder.handle_proof(&message).err(), Some(expect));
}

#[test]
fn a_recorded_proof_is_worth_nothing_in_another_session() {
    let world = world();
    let (mut initiator, mut responder) = (world.initiator(), world.responder());
    let hello = initiator.hello().expect("hello");
    let answer = responder.handle_hello(&hello).expect("answer");
    let (proof, _) = initiator.handle_answer(&answer).expect("accepted");
    let certificate = certificate(&world.master, 3, &world.ca);
    let mut later = Responder::new(world.master.clone(), certificate, world.ca.public_key(), &entropy(33));
    later.handle_hello(&hello).expect("a hello is nobody's");
    assert_eq!(later.handle_proof(&proof).err(), Some(HandshakeError::Tampered { step: 3 }));
    let mut fresh = Initiator::new(world.minion.clone(), world.id.clone(), world.expectation(), &entropy(44));
    fresh.hello().expect("hello");
    assert_eq!(fresh.handle_answer(&answer).err(), Some(HandshakeError::Tampered { step: 2 }));
}

#[test]
fn every_changed_byte_of_every_message_is_refused() {
    let world = world();
    let pristine = |bend: Option<(u8, usize)>| -> Result<[usize; 3], HandshakeError> {
        let bent = |step: u8, mut message: Vec<u8>| {
            if let Some((_, at)) = bend.filter(|(at_step, _)| *at_step == step) {
                message[at] ^= 1;
            }
            message
        };
        let (mut initiator, mut responder) = (world.initiator(), world.responder());
        let hello = bent(1, initiator.hello()?);
        let answer = bent(2, responder.handle_hello(&hello)?);
        let (proof, _) = initiator.handle_answer(&answer)?;
        let proof = bent(3, proof);
        responder.handle_proof(&proof)?;
        Ok([hello.len(), answer.len(), proof.len()])
    };
    let lengths = pristine(None).expect("untouched");
    for (step, len) in (1..).zip(lengths) {
        // The highest bit of an X25519 public key carries nothing, but bit 0 that is flipped here always counts.
        for at in (0..len).step_by(7).chain([len - 1]) {
            assert!(pristine(Some((step, at))).is_err(), "message {step}, byte {at}");
        }
    }
}

#[test]
fn another_version_and_rubbish_are_named() {
    let world = world();
    let mut noise = Noise::initiator(&entropy(11));
    let hello = noise.write(1, &[9]).expect("write");
    assert_eq!(world.responder().handle_hello(&hello), Err(HandshakeError::Version { found: 9 }));
    assert_eq!(world.responder().handle_hello(&[0; 5]), Err(HandshakeError::Tampered { step: 1 }));
    assert_eq!(
        world.responder().handle_hello(&vec![0; NOISE_MESSAGE_BYTES_MAX + 1]),
        Err(HandshakeError::Tampered { step: 1 })
    );
    let empty = HandshakeError::Malformed { step: 1, cause: CodecError::Short };
    assert_eq!(world.responder().handle_hello(&[0; 32]), Err(empty));
}
