//! Opens a session: a minion and a master prove who they are to each other, and agree on keys that nobody else has.
//!
//! ```text
//!   Noise_XX_25519_AESGCM_SHA256
//!   minion (Initiator)                                     master (Responder)
//!     hello            → e · version
//!                      ← e, ee, s, es · certificate, CA key, signature      handle_hello
//!     handle_answer    → s, se · version, id, public key, signature         handle_proof
//! ```
//!
//! The Noise static keys are drawn anew for every session. What binds each to an ed25519 identity is the signature in its
//! payload, over the handshake's hash up to that point and the static key: the hash makes it fresh and different for the
//! two roles, so a recorded handshake proves nothing later.
//!
//! **Invariants.** The minion sends its name only after it has checked the master: CA fingerprint against its pin, then the
//! certificate, then cluster and generation, then the signature. Keys leave this module only when everything was checked.
//!
//! **It refuses** trust on first use, names that the other side did not prove, and unknown versions.

mod noise;

pub use noise::{CipherError, ReceiveCipher, SendCipher};

use crate::codec::{CodecError, Encoded, decode_bounded, encode};
use crate::crypto::identity::{Fingerprint, Identity, PublicKey, Signature, SignatureError, Signed, Verified};
use crate::id::{ClusterId, MinionId};
use crate::io::Entropy;
use crate::limits::NOISE_MESSAGE_BYTES_MAX;
use crate::master::Certificate;
use crate::slot::Ticket;
use noise::Noise;
use serde::{Deserialize, Serialize};

/// The version of the session protocol that this build speaks; first byte of the first message.
pub const SESSION_VERSION: u8 = 1;

/// What the master's signature stands for.
const MASTER_CONTEXT: &str = "saltern session master";

/// What the minion's signature stands for.
const MINION_CONTEXT: &str = "saltern session minion";

/// Why no session came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other side speaks another version.
    #[error(
        "the other side speaks session version {found}, this build speaks {SESSION_VERSION}: upgrade the older one"
    )]
    Version {
        /// The version that was read.
        found: u8,
    },
    /// The master belongs to a cluster with another CA than the pinned one.
    #[error("the master's cluster CA is {found}, this minion trusts only {expected}: check master and ca_fingerprint")]
    WrongCa {
        /// The pinned fingerprint.
        expected: Fingerprint,
        /// The fingerprint that the master showed.
        found: Fingerprint,
    },
    /// The master's certificate was not issued by the CA it shows.
    #[error("the master's certificate does not verify under the cluster CA: {0}")]
    NotCertified(SignatureError),
    /// The master is one of another cluster under the same CA.
    #[error("the master belongs to cluster {found}, this minion to cluster {expected}")]
    WrongCluster {
        /// The minion's cluster.
        expected: ClusterId,
        /// The cluster in the certificate.
        found: ClusterId,
    },
    /// The master's certificate was issued before a restore or recovery that fenced it.
    #[error("the master's certificate is of generation {found}, the lowest accepted is {lowest}: it was fenced off")]
    OldGeneration {
        /// The lowest generation that the minion accepts.
        lowest: u64,
        /// The generation in the certificate.
        found: u64,
    },
    /// The identity that was claimed did not sign this session.
    #[error("the {role} did not prove the identity {claimed}")]
    Forged {
        /// `master` or `minion`.
        role: &'static str,
        /// Whose signature was missing.
        claimed: Fingerprint,
    },
    /// A message was changed on the way, or is none of a handshake.
    #[error("the handshake's message {step} does not decrypt")]
    Tampered {
        /// Which of the three messages, from 1.
        step: u8,
    },
    /// A message's content does not parse.
    #[error("the handshake's message {step} is malformed: {cause}")]
    Malformed {
        /// Which of the three messages, from 1.
        step: u8,
        /// What the parser found.
        cause: CodecError,
    },
}

/// What the master says in the second message.
#[derive(Serialize, Deserialize)]
struct MasterProof {
    certificate: Signed<Certificate>,
    ca: PublicKey,
    signature: Signature,
}

impl Encoded for MasterProof {
    const KIND: u8 = 32;
}

/// What the minion says in the third message.
#[derive(Serialize, Deserialize)]
struct MinionProof {
    minion: MinionId,
    public_key: PublicKey,
    signature: Signature,
}

impl Encoded for MinionProof {
    const KIND: u8 = 33;
}

/// What a minion demands of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The fingerprint of the cluster CA, from the configuration or the join token.
    pub ca: Fingerprint,
    /// The cluster, once the minion knows it. A certificate of another cluster is let through if its generation is above
    /// [`Expectation::generation_min`]: such a master has to bring a directory that succeeds ours.
    pub cluster: Option<ClusterId>,
    /// The lowest generation that is accepted: that of the newest directory the minion has seen.
    pub generation_min: u64,
}

/// A proven master.
#[derive(Debug, Clone)]
pub struct ProvenMaster {
    /// Its certificate, checked.
    pub certificate: Verified<Certificate>,
    /// The cluster CA; its fingerprint is the pinned one.
    pub ca: PublicKey,
}

/// A proven minion. Proven is the key; whether it is accepted under that id is for the truth to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenMinion {
    /// The id that it claims.
    pub minion: MinionId,
    /// The identity that it proved.
    pub public_key: PublicKey,
}

/// A finished handshake: who is there, and the two halves of the encrypted channel.
#[derive(Debug)]
pub struct Established<P> {
    /// The other side.
    pub peer: P,
    /// Encrypts what this side sends.
    pub sender: SendCipher,
    /// Decrypts what it receives.
    pub receiver: ReceiveCipher,
}

/// The minion's side.
#[derive(Debug)]
pub struct Initiator {
    noise: Noise,
    identity: Identity,
    minion: MinionId,
    expectation: Expectation,
}

impl Initiator {
    /// Starts a handshake of `minion`, whose key is `identity`. Ephemeral and static Noise keys come from `entropy`.
    pub fn new(identity: Identity, minion: MinionId, expectation: Expectation, entropy: &dyn Entropy) -> Self {
        Self { noise: Noise::initiator(entropy), identity, minion, expectation }
    }

    /// The first message.
    pub fn hello(&mut self) -> Result<Vec<u8>, HandshakeError> {
        self.noise.write(1, &[SESSION_VERSION])
    }

    /// The first message of a minion that was given a slot by this very master. Others would take it for another version.
    pub fn hello_at_slot(&mut self, ticket: Ticket) -> Result<Vec<u8>, HandshakeError> {
        let mut payload = vec![SESSION_VERSION];
        payload.extend_from_slice(&ticket.to_bytes());
        self.noise.write(1, &payload)
    }

    /// Checks the master's answer and gives the third message, after which the session stands.
    pub fn handle_answer(mut self, message: &[u8]) -> Result<(Vec<u8>, Established<ProvenMaster>), HandshakeError> {
        let hash = self.noise.hash();
        let body = self.noise.read(2, message)?;
        let proof: MasterProof = parse(2, &body)?;
        let peer = self.check(&proof, &hash)?;
        let hash = self.noise.hash();
        let signature = self.identity.sign(MINION_CONTEXT, &bound(&hash, self.noise.own_static()));
        let proof = MinionProof { minion: self.minion, public_key: self.identity.public_key(), signature };
        let answer = self.noise.write(3, &encode(&proof))?;
        let (sender, receiver) = self.noise.split(3)?;
        Ok((answer, Established { peer, sender, receiver }))
    }

    /// Everything that a minion asks of a master, in this order.
    fn check(&self, proof: &MasterProof, hash: &[u8; 32]) -> Result<ProvenMaster, HandshakeError> {
        let expected = self.expectation.ca;
        let found = proof.ca.fingerprint();
        if found != expected {
            return Err(HandshakeError::WrongCa { expected, found });
        }
        let certificate = proof.certificate.verify(&proof.ca).map_err(HandshakeError::NotCertified)?;
        let foreign = self.expectation.cluster.filter(|expected| *expected != certificate.cluster);
        // A higher generation under the same CA may be a cluster that was restored from ours: its directory has to say so,
        // before anything else that it says counts.
        if let Some(expected) = foreign.filter(|_| certificate.generation <= self.expectation.generation_min) {
            return Err(HandshakeError::WrongCluster { expected, found: certificate.cluster });
        }
        if certificate.generation < self.expectation.generation_min {
            let lowest = self.expectation.generation_min;
            return Err(HandshakeError::OldGeneration { lowest, found: certificate.generation });
        }
        let remote = self.noise.remote_static(2)?;
        certificate
            .public_key
            .verify(MASTER_CONTEXT, &bound(hash, &remote), &proof.signature)
            .map_err(|_| HandshakeError::Forged { role: "master", claimed: certificate.public_key.fingerprint() })?;
        Ok(ProvenMaster { certificate, ca: proof.ca })
    }
}

/// The master's side.
#[derive(Debug)]
pub struct Responder {
    noise: Noise,
    identity: Identity,
    certificate: Signed<Certificate>,
    ca: PublicKey,
}

impl Responder {
    /// Starts the answering side of a master whose key is `identity`, certified by `certificate` under `ca`.
    pub fn new(identity: Identity, certificate: Signed<Certificate>, ca: PublicKey, entropy: &dyn Entropy) -> Self {
        Self { noise: Noise::responder(entropy), identity, certificate, ca }
    }

    /// Reads the first message and gives the second.
    pub fn handle_hello(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let version = self.noise.read(1, message)?;
        match version.as_slice() {
            [SESSION_VERSION] => {}
            // Whether the ticket is good was decided before anybody came here.
            [SESSION_VERSION, ..] if Ticket::in_hello(message).is_some() => {}
            [found, ..] => return Err(HandshakeError::Version { found: *found }),
            [] => return Err(HandshakeError::Malformed { step: 1, cause: CodecError::Short }),
        }
        let hash = self.noise.hash();
        let signature = self.identity.sign(MASTER_CONTEXT, &bound(&hash, self.noise.own_static()));
        let proof = MasterProof { certificate: self.certificate.clone(), ca: self.ca, signature };
        self.noise.write(2, &encode(&proof))
    }

    /// Reads the third message, after which the session stands.
    pub fn handle_proof(mut self, message: &[u8]) -> Result<Established<ProvenMinion>, HandshakeError> {
        let hash = self.noise.hash();
        let body = self.noise.read(3, message)?;
        let proof: MinionProof = parse(3, &body)?;
        let remote = self.noise.remote_static(3)?;
        proof
            .public_key
            .verify(MINION_CONTEXT, &bound(&hash, &remote), &proof.signature)
            .map_err(|_| HandshakeError::Forged { role: "minion", claimed: proof.public_key.fingerprint() })?;
        let (sender, receiver) = self.noise.split(3)?;
        let peer = ProvenMinion { minion: proof.minion, public_key: proof.public_key };
        Ok(Established { peer, sender, receiver })
    }
}

/// What a binding signature covers: both parts have a fixed length.
fn bound(hash: &[u8; 32], noise_static: &[u8; 32]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(hash);
    bytes[32..].copy_from_slice(noise_static);
    bytes
}

/// Decodes a payload.
fn parse<T: Encoded>(step: u8, body: &[u8]) -> Result<T, HandshakeError> {
    decode_bounded(body, NOISE_MESSAGE_BYTES_MAX).map_err(|cause| HandshakeError::Malformed { step, cause })
}

#[cfg(all(test, feature = "fuzzing"))]
mod fuzz;
#[cfg(test)]
mod tests;
