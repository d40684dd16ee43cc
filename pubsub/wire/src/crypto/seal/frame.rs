//! Fan-out frames: sealed with the master's fan-out key, signed with its identity.
//!
//! ```text
//!   frame = version 1 · master 8 · epoch 4 · stream 4 · counter 8 · AES-256-GCM body … tag 16 · signature 64
//!           └──────── header, 25 bytes, associated data ────────┘
//! ```
//!
//! Numbers are big endian; nonce = stream ‖ counter. The key proves membership and nothing more, because every accepted
//! minion holds it: the signature, over everything before it, is what proves the sender and is checked first.

use crate::codec::{CodecError, decode, encode};
use crate::crypto::identity::{Identity, PublicKey, Signature};
use crate::fanout::{Broadcast, FanoutKey};
use crate::id::MasterId;
use crate::limits::FANOUT_FRAME_BYTES_MAX;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// The first byte of every frame.
const VERSION: u8 = 1;

/// What a frame's signature stands for.
const CONTEXT: &str = "saltern fanout frame";

/// Length of the header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 1 + 8 + 4 + 4 + 8;

/// Length of a signature, in bytes.
const SIGNATURE_BYTES: usize = 64;

/// Length of the tag of AES-GCM, in bytes.
const TAG_BYTES: usize = 16;

/// Frames sealed under one key: the bound of NIST SP 800-38D, section 8.3, for one key, kept although counters never repeat.
pub const FRAMES_PER_KEY_MAX: u64 = 1 << 32;

/// How long frames of the previous key are still accepted. Session and fan-out are two connections, so the new key and the
/// last frames of the old one may overtake each other.
const PREVIOUS_KEY_ACCEPTED: Duration = Duration::from_secs(30);

/// Why a frame was not sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key has sealed as many frames as one key may.
    #[error("the fan-out key of epoch {epoch} is used up after {FRAMES_PER_KEY_MAX} frames: rekey")]
    Exhausted {
        /// The key's epoch.
        epoch: u32,
    },
    /// The frame would be too long to send.
    #[error("the frame would have {len} bytes, the limit is {max}")]
    Large {
        /// Length it would have, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
}

/// The clear part of a frame. Nothing in it is to be believed before the signature was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Who says it sent the frame.
    pub master: MasterId,
    /// Under which of its keys.
    pub epoch: u32,
    /// Which boot of it.
    pub stream: u32,
    /// Rises with every frame of a key.
    pub counter: u64,
}

impl FrameHeader {
    /// Reads the header of a whole frame, checking its length and version only.
    pub fn parse(frame: &[u8]) -> Result<Self, OpenError> {
        let len = frame.len();
        if len > FANOUT_FRAME_BYTES_MAX {
            return Err(OpenError::Large { len, max: FANOUT_FRAME_BYTES_MAX });
        }
        if len < FRAME_HEADER_BYTES + TAG_BYTES + SIGNATURE_BYTES {
            return Err(OpenError::Short { len });
        }
        let (version, rest) = frame.split_first().ok_or(OpenError::Short { len })?;
        if *version != VERSION {
            return Err(OpenError::Version { found: *version });
        }
        let (master, rest) = rest.split_first_chunk().ok_or(OpenError::Short { len })?;
        let (epoch, rest) = rest.split_first_chunk().ok_or(OpenError::Short { len })?;
        let (stream, rest) = rest.split_first_chunk().ok_or(OpenError::Short { len })?;
        let (counter, _) = rest.split_first_chunk().ok_or(OpenError::Short { len })?;
        Ok(Self {
            master: MasterId(u64::from_be_bytes(*master)),
            epoch: u32::from_be_bytes(*epoch),
            stream: u32::from_be_bytes(*stream),
            counter: u64::from_be_bytes(*counter),
        })
    }

    /// The header's bytes.
    fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [VERSION; FRAME_HEADER_BYTES];
        bytes[1..9].copy_from_slice(&self.master.0.to_be_bytes());
        bytes[9..13].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.stream.to_be_bytes());
        bytes[17..25].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// stream ‖ counter.
    fn nonce(self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.stream.to_be_bytes());
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        nonce
    }
}

/// The sending side of one fan-out key. Owned by one task: two sealers of one key would repeat a nonce.
pub struct FrameSealer {
    key: FanoutKey,
    cipher: Aes256Gcm,
    identity: Identity,
    counter: u64,
}

impl FrameSealer {
    /// Seals under `key`, from counter 0, signing as `identity`, the master's own.
    pub fn new(key: FanoutKey, identity: Identity) -> Self {
        let cipher = Aes256Gcm::new(&key.key.into());
        Self { key, cipher, identity, counter: 0 }
    }

    /// The key, to hand to sessions.
    pub fn key(&self) -> &FanoutKey {
        &self.key
    }

    /// Frames sealed so far.
    pub fn sealed(&self) -> u64 {
        self.counter
    }

    /// Seals and signs one frame.
    pub fn seal(&mut self, broadcast: &Broadcast) -> Result<Bytes, SealError> {
        if self.counter >= FRAMES_PER_KEY_MAX {
            return Err(SealError::Exhausted { epoch: self.key.epoch });
        }
        let plaintext = encode(broadcast);
        let len = FRAME_HEADER_BYTES + plaintext.len() + TAG_BYTES + SIGNATURE_BYTES;
        if len > FANOUT_FRAME_BYTES_MAX {
            return Err(SealError::Large { len, max: FANOUT_FRAME_BYTES_MAX });
        }
        let header = FrameHeader {
            master: self.key.master,
            epoch: self.key.epoch,
            stream: self.key.stream,
            counter: self.counter,
        };
        self.counter += 1;
        let prefix = header.to_bytes();
        let payload = Payload { msg: &plaintext, aad: &prefix };
        #[expect(clippy::expect_used, reason = "AES-GCM refuses only plain texts above 64 GiB")]
        let body = self.cipher.encrypt(&Nonce::from(header.nonce()), payload).expect("a frame is short");
        let mut frame = Vec::with_capacity(len);
        frame.extend_from_slice(&prefix);
        frame.extend_from_slice(&body);
        let signature = self.identity.sign(CONTEXT, &frame);
        frame.extend_from_slice(&signature.0);
        Ok(frame.into())
    }
}

impl fmt::Debug for FrameSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameSealer({:?}, {} sealed)", self.key, self.counter)
    }
}

/// Why a frame was not opened. Each is counted by the caller; none says anything about the next frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short to hold a header, a tag and a signature.
    #[error("a frame has at least 105 bytes, this one has {len}")]
    Short {
        /// Length found, in bytes.
        len: usize,
    },
    /// Longer than any frame.
    #[error("the frame has {len} bytes, the limit is {max}")]
    Large {
        /// Length found, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// Made by a newer build.
    #[error("the frame has version {found}, this build knows version {VERSION}: upgrade this machine")]
    Version {
        /// The version byte that was read.
        found: u8,
    },
    /// Sent by another master than the one subscribed to.
    #[error("the frame names master {found}, this is the fan-out of master {expected}")]
    WrongMaster {
        /// The master in the header.
        found: MasterId,
        /// The master subscribed to.
        expected: MasterId,
    },
    /// The signature is not the master's.
    #[error("the frame's signature is not that of master {master}")]
    Forged {
        /// The master that should have signed.
        master: MasterId,
    },
    /// Signed by the master, but under a key that is not here: not yet (`epoch > newest`), or no longer.
    #[error("the frame is of epoch {epoch} and the newest key here is of epoch {newest}")]
    UnknownEpoch {
        /// The frame's epoch.
        epoch: u32,
        /// The newest epoch that this opener holds.
        newest: u32,
    },
    /// Seen already, or older than one that was seen.
    #[error("frame {counter} was already passed, frame {expected} is the next")]
    Replayed {
        /// The frame's counter.
        counter: u64,
        /// The lowest counter that is still accepted.
        expected: u64,
    },
    /// The body does not decrypt.
    #[error("the frame does not decrypt under the key of epoch {epoch}")]
    Sealed {
        /// The frame's epoch.
        epoch: u32,
    },
    /// The body is not a broadcast.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One key and how far its frames have come.
struct Generation {
    key: FanoutKey,
    cipher: Aes256Gcm,
    next: u64,
}

impl Generation {
    fn new(key: FanoutKey) -> Self {
        let cipher = Aes256Gcm::new(&key.key.into());
        Self { key, cipher, next: 0 }
    }

    fn fits(&self, header: &FrameHeader) -> bool {
        self.key.epoch == header.epoch && self.key.stream == header.stream
    }
}

/// The receiving side of one master's fan-out: current and previous key, and protection against replays. Pure: `now` is
/// the caller's monotonic clock.
pub struct FrameOpener {
    public_key: PublicKey,
    current: Generation,
    previous: Option<(Generation, Duration)>,
}

impl FrameOpener {
    /// Opens frames of the master whose identity is `public_key` under `key`, which came through a session with it.
    pub fn new(public_key: PublicKey, key: FanoutKey) -> Self {
        Self { public_key, current: Generation::new(key), previous: None }
    }

    /// The master whose frames are opened.
    pub fn master(&self) -> MasterId {
        self.current.key.master
    }

    /// Takes a new key from the session. The one before is accepted for another 30 s. A key that is not newer, or of
    /// another master, changes nothing.
    pub fn rekey(&mut self, key: FanoutKey, now: Duration) {
        let boot_changed = key.stream != self.current.key.stream;
        if key.master != self.current.key.master || (!boot_changed && key.epoch <= self.current.key.epoch) {
            return;
        }
        let before = std::mem::replace(&mut self.current, Generation::new(key));
        self.previous = Some((before, now + PREVIOUS_KEY_ACCEPTED));
    }

    /// Checks and decrypts one frame.
    pub fn open(&mut self, frame: &[u8], now: Duration) -> Result<Broadcast, OpenError> {
        let header = FrameHeader::parse(frame)?;
        let master = self.current.key.master;
        if header.master != master {
            return Err(OpenError::WrongMaster { found: header.master, expected: master });
        }
        let (signed, signature) =
            frame.split_last_chunk::<SIGNATURE_BYTES>().ok_or(OpenError::Short { len: frame.len() })?;
        self.public_key.verify(CONTEXT, signed, &Signature(*signature)).map_err(|_| OpenError::Forged { master })?;
        self.previous.take_if(|(_, until)| *until <= now);
        let newest = self.current.key.epoch;
        let generation = if self.current.fits(&header) {
            &mut self.current
        } else {
            match &mut self.previous {
                Some((previous, _)) if previous.fits(&header) => previous,
                Some(_) | None => return Err(OpenError::UnknownEpoch { epoch: header.epoch, newest }),
            }
        };
        if header.counter < generation.next {
            return Err(OpenError::Replayed { counter: header.counter, expected: generation.next });
        }
        let (prefix, body) =
            signed.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(OpenError::Short { len: frame.len() })?;
        let plaintext = generation
            .cipher
            .decrypt(&Nonce::from(header.nonce()), Payload { msg: body, aad: prefix })
            .map_err(|_| OpenError::Sealed { epoch: header.epoch })?;
        generation.next = header.counter.saturating_add(1);
        Ok(decode(&plaintext)?)
    }
}

impl fmt::Debug for FrameOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameOpener({:?})", self.current.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::Beacon;
    use crate::id::ClusterId;
    use crate::time::LogicalTime;

    const NOW: Duration = Duration::from_secs(100);

    fn key(epoch: u32) -> FanoutKey {
        FanoutKey { master: MasterId(7), epoch, stream: 99, key: [u8::try_from(epoch).expect("small"); 32] }
    }

    fn beacon(sequence: u64) -> Broadcast {
        Broadcast::Beacon(Beacon {
            cluster: ClusterId::from_bytes([4; 16]),
            sequence,
            newest_job: None,
            time: LogicalTime::ZERO,
            directory: (1, 1),
            quorum: true,
            reconnect_window_ms: 1_000,
            next_ms: 5_000,
            level: crate::level::LEVEL_FIRST,
        })
    }

    fn pair() -> (FrameSealer, FrameOpener) {
        let master = Identity::from_seed([1; 32]);
        let opener = FrameOpener::new(master.public_key(), key(1));
        (FrameSealer::new(key(1), master), opener)
    }

    #[test]
    fn frames_open_in_order_and_never_twice() {
        let (mut sealer, mut opener) = pair();
        let first = sealer.seal(&beacon(1)).expect("seal");
        let second = sealer.seal(&beacon(2)).expect("seal");
        assert_eq!(opener.open(&first, NOW), Ok(beacon(1)));
        assert_eq!(opener.open(&first, NOW), Err(OpenError::Replayed { counter: 0, expected: 1 }));
        assert_eq!(opener.open(&second, NOW), Ok(beacon(2)));
        assert_eq!(opener.open(&first, NOW), Err(OpenError::Replayed { counter: 0, expected: 2 }));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (mut sealer, mut opener) = pair();
        let frame = sealer.seal(&beacon(1)).expect("seal");
        for at in 0..frame.len() {
            let mut bent = frame.to_vec();
            bent[at] ^= 1;
            assert!(opener.open(&bent, NOW).is_err(), "byte {at}");
            assert!(opener.open(&frame[..at], NOW).is_err(), "cut at {at}");
        }
        assert_eq!(opener.open(&frame, NOW), Ok(beacon(1)), "refused frames leave no trace");
    }

    #[test]
    fn an_accepted_minion_that_knows_the_key_cannot_forge() {
        let (_, mut opener) = pair();
        let mut insider = FrameSealer::new(key(1), Identity::from_seed([66; 32]));
        let forged = insider.seal(&beacon(1)).expect("seal");
        assert_eq!(opener.open(&forged, NOW), Err(OpenError::Forged { master: MasterId(7) }));
    }

    #[test]
    fn another_masters_frame_is_named() {
        let (_, mut opener) = pair();
        let other = FanoutKey { master: MasterId(8), ..key(1).clone() };
        let frame = FrameSealer::new(other, Identity::from_seed([1; 32])).seal(&beacon(1)).expect("seal");
        let expect = OpenError::WrongMaster { found: MasterId(8), expected: MasterId(7) };
        assert_eq!(opener.open(&frame, NOW), Err(expect));
    }

    #[test]
    fn the_previous_key_is_good_for_thirty_seconds() {
        let (mut old, mut opener) = pair();
        let mut new = FrameSealer::new(key(2), Identity::from_seed([1; 32]));
        let early = new.seal(&beacon(10)).expect("seal");
        assert_eq!(opener.open(&early, NOW), Err(OpenError::UnknownEpoch { epoch: 2, newest: 1 }));
        opener.rekey(key(2), NOW);
        assert_eq!(opener.open(&early, NOW), Ok(beacon(10)));
        let late = old.seal(&beacon(2)).expect("seal");
        assert_eq!(opener.open(&late, NOW + Duration::from_secs(29)), Ok(beacon(2)));
        assert_eq!(opener.open(&late, NOW).err(), Some(OpenError::Replayed { counter: 0, expected: 1 }));
        let later = old.seal(&beacon(3)).expect("seal");
        let expect = OpenError::UnknownEpoch { epoch: 1, newest: 2 };
        assert_eq!(opener.open(&later, NOW + Duration::from_secs(30)), Err(expect));
    }

    #[test]
    fn an_older_key_does_not_come_back() {
        let (_, mut opener) = pair();
        opener.rekey(key(3), NOW);
        opener.rekey(key(2), NOW);
        let frame = FrameSealer::new(key(3), Identity::from_seed([1; 32])).seal(&beacon(1)).expect("seal");
        assert_eq!(opener.open(&frame, NOW), Ok(beacon(1)));
    }

    #[test]
    fn a_used_up_key_refuses() {
        let (mut sealer, _) = pair();
        sealer.counter = FRAMES_PER_KEY_MAX - 1;
        assert!(sealer.seal(&beacon(1)).is_ok());
        assert_eq!(sealer.seal(&beacon(2)), Err(SealError::Exhausted { epoch: 1 }));
    }

    #[test]
    fn lengths_and_versions_are_named() {
        let (_, mut opener) = pair();
        assert_eq!(opener.open(&[1; 104], NOW), Err(OpenError::Short { len: 104 }));
        assert_eq!(opener.open(&[2; 105], NOW), Err(OpenError::Version { found: 2 }));
        let len = FANOUT_FRAME_BYTES_MAX + 1;
        let expect = OpenError::Large { len, max: FANOUT_FRAME_BYTES_MAX };
        assert_eq!(opener.open(&vec![1; len], NOW), Err(expect));
    }
}
