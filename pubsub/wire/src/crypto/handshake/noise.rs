//! The Noise protocol itself: one pattern, our random source, and a transport that splits into two halves.
//!
//! Nonces are implicit: each half counts its messages, so a message that is lost, repeated or moved fails to decrypt and
//! ends the session. A half counts to 2^64 − 2 at most, which no session reaches.

use super::HandshakeError;
use crate::io::{Entropy, draw};
use crate::limits::{NOISE_BODY_BYTES_MAX, NOISE_MESSAGE_BYTES_MAX};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The one pattern that is spoken.
const PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";

/// Hashed into the handshake, so that this protocol's messages fit no other use of the same pattern.
const PROLOGUE: &[u8] = b"saltern session";

/// Length of the tag of AES-GCM, in bytes.
const TAG_BYTES: usize = 16;

/// Random bytes from a seed that the caller's entropy gave, instead of the machine's own source.
struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

/// The library's own primitives with our random source.
struct SeededResolver {
    seed: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// One side of a handshake in progress.
pub(super) struct Noise {
    state: HandshakeState,
    own_static: [u8; 32],
}

impl Noise {
    pub(super) fn initiator(entropy: &dyn Entropy) -> Self {
        Self::new(entropy, true)
    }

    pub(super) fn responder(entropy: &dyn Entropy) -> Self {
        Self::new(entropy, false)
    }

    #[expect(clippy::expect_used, reason = "the pattern is a constant and every primitive of it is compiled in")]
    fn new(entropy: &dyn Entropy, initiator: bool) -> Self {
        let secret = Zeroizing::new(draw::<32>(entropy));
        let resolver = SeededResolver { seed: Zeroizing::new(draw::<32>(entropy)) };
        let params = PATTERN.parse().expect("the pattern is known");
        let mut dh = resolver.resolve_dh(&DHChoice::Curve25519).expect("X25519 is compiled in");
        dh.set(secret.as_slice());
        let own_static = dh.pubkey().try_into().expect("X25519 keys have 32 bytes");
        let builder = Builder::with_resolver(params, Box::new(resolver))
            .local_private_key(secret.as_slice())
            .and_then(|builder| builder.prologue(PROLOGUE))
            .expect("each is given once");
        let state = if initiator { builder.build_initiator() } else { builder.build_responder() };
        Self { state: state.expect("XX needs a static key and nothing else"), own_static }
    }

    /// This side's public static key.
    pub(super) fn own_static(&self) -> &[u8; 32] {
        &self.own_static
    }

    /// The other side's public static key, once its message was read.
    pub(super) fn remote_static(&self, step: u8) -> Result<[u8; 32], HandshakeError> {
        let key = self.state.get_remote_static().and_then(|key| key.try_into().ok());
        key.ok_or(HandshakeError::Tampered { step })
    }

    /// The hash of everything said so far, the same on both sides.
    #[expect(clippy::expect_used, reason = "SHA-256 has 32 bytes")]
    pub(super) fn hash(&self) -> [u8; 32] {
        self.state.get_handshake_hash().try_into().expect("32 bytes")
    }

    /// The message `step` with `payload`.
    pub(super) fn write(&mut self, step: u8, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        // Two keys of 32 bytes and two tags at most.
        let mut message = vec![0; payload.len() + 2 * (32 + TAG_BYTES)];
        let len = self.state.write_message(payload, &mut message).map_err(|_| HandshakeError::Tampered { step })?;
        message.truncate(len);
        Ok(message)
    }

    /// The payload of the message `step`.
    pub(super) fn read(&mut self, step: u8, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        if message.len() > NOISE_MESSAGE_BYTES_MAX {
            return Err(HandshakeError::Tampered { step });
        }
        let mut payload = vec![0; message.len()];
        let len = self.state.read_message(message, &mut payload).map_err(|_| HandshakeError::Tampered { step })?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The two halves of the finished handshake.
    pub(super) fn split(self, step: u8) -> Result<(SendCipher, ReceiveCipher), HandshakeError> {
        let state = self.state.into_stateless_transport_mode().map_err(|_| HandshakeError::Tampered { step })?;
        let state = Arc::new(state);
        Ok((SendCipher { state: state.clone(), nonce: 0 }, ReceiveCipher { state, nonce: 0 }))
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noise(…)")
    }
}

/// Why a message of a session does not pass. Final: the session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// Longer than one Noise message.
    #[error("the message has {len} bytes, the limit is {max}")]
    Large {
        /// Length found, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// Changed, repeated, moved, or not of this session.
    #[error("message {nonce} of the session does not decrypt")]
    Tampered {
        /// The message's place, from 0.
        nonce: u64,
    },
}

/// Encrypts one direction of a session.
pub struct SendCipher {
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

impl SendCipher {
    /// The next message with `plaintext`, of at most [`NOISE_BODY_BYTES_MAX`] bytes.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, CipherError> {
        let len = plaintext.len();
        if len > NOISE_BODY_BYTES_MAX {
            return Err(CipherError::Large { len, max: NOISE_BODY_BYTES_MAX });
        }
        let mut message = vec![0; len + TAG_BYTES];
        let nonce = self.nonce;
        let written = self.state.write_message(nonce, plaintext, &mut message);
        message.truncate(written.map_err(|_| CipherError::Tampered { nonce })?);
        self.nonce += 1;
        Ok(message)
    }
}

impl fmt::Debug for SendCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendCipher({} sent)", self.nonce)
    }
}

/// Decrypts one direction of a session.
pub struct ReceiveCipher {
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

impl ReceiveCipher {
    /// The plain text of the next message.
    pub fn decrypt(&mut self, message: &[u8]) -> Result<Vec<u8>, CipherError> {
        let len = message.len();
        if len > NOISE_MESSAGE_BYTES_MAX {
            return Err(CipherError::Large { len, max: NOISE_MESSAGE_BYTES_MAX });
        }
        let mut plaintext = vec![0; len];
        let nonce = self.nonce;
        let read = self.state.read_message(nonce, message, &mut plaintext);
        plaintext.truncate(read.map_err(|_| CipherError::Tampered { nonce })?);
        self.nonce += 1;
        Ok(plaintext)
    }
}

impl fmt::Debug for ReceiveCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveCipher({} received)", self.nonce)
    }
}
