//! Typed, encrypted messages over a link, in two halves that two tasks may own.
//!
//! ```text
//!   message → encode → chunks of at most 65,518 bytes → (flag 1 · chunk) → Noise → link
//! ```
//!
//! The flag is 1 while more chunks of the same message follow and 0 on its last; it lies inside the encryption.
//!
//! **Invariants.** A joined message never exceeds `SESSION_MESSAGE_BYTES_MAX`. An error of a half is final for the session,
//! with one exception: [`SessionError::Large`] on sending, after which nothing was sent and the session goes on.

use bytes::{Bytes, BytesMut};
use saltern_wire::codec::{CodecError, Encoded, decode, encode};
use saltern_wire::crypto::handshake::{CipherError, HandshakeError, ReceiveCipher, SendCipher};
use saltern_wire::io::{LinkReceiver, LinkSender, TransportError};
use saltern_wire::limits::{NOISE_BODY_BYTES_MAX, SESSION_MESSAGE_BYTES_MAX};
use saltern_wire::slot::Slot;
use std::marker::PhantomData;

/// Why a session did not open, or is over.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The link failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The master has too much to do and gave a slot. No error: whoever comes at the slot is served.
    #[error("{peer} has a queue: to come again in {} ms", slot.wait_ms)]
    Slot {
        /// The other end's address.
        peer: String,
        /// When to come again, and with what.
        slot: Slot,
    },
    /// The handshake was refused by this side.
    #[error("session with {peer}: {source}")]
    Handshake {
        /// The other end's address.
        peer: String,
        /// Why.
        source: HandshakeError,
    },
    /// A message was changed, repeated or moved on its way.
    #[error("session with {peer}: {source}")]
    Cipher {
        /// The other end's address.
        peer: String,
        /// What was noticed.
        source: CipherError,
    },
    /// The other side, proven as it is, sent something that is no message.
    #[error("session with {peer}: {source}")]
    Codec {
        /// The other end's address.
        peer: String,
        /// What was noticed.
        source: CodecError,
    },
    /// The chunks of a message do not fit together.
    #[error("session with {peer}: {cause}")]
    Chunks {
        /// The other end's address.
        peer: String,
        /// What was noticed.
        cause: &'static str,
    },
    /// The message is longer than a session carries. On sending, nothing was sent.
    #[error("a message for {peer} has {len} bytes, the limit is {max}")]
    Large {
        /// The other end's address.
        peer: String,
        /// Length found, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// An earlier send was given up half way, so the stream of messages has a hole.
    #[error("the session with {peer} ended when a send was given up half way")]
    Torn {
        /// The other end's address.
        peer: String,
    },
}

/// Plain bytes of a message in one chunk: a Noise body less the flag.
const CHUNK_BYTES_MAX: usize = NOISE_BODY_BYTES_MAX - 1;

/// The flag of a message's last chunk.
const LAST: u8 = 0;

/// The flag of every other chunk.
const MORE: u8 = 1;

/// The sending half of a session.
pub struct MessageSender<T> {
    link: Box<dyn LinkSender>,
    cipher: SendCipher,
    peer: String,
    torn: bool,
    of: PhantomData<fn(&T)>,
}

impl<T: Encoded> MessageSender<T> {
    pub(crate) fn new(link: Box<dyn LinkSender>, cipher: SendCipher, peer: String) -> Self {
        Self { link, cipher, peer, torn: false, of: PhantomData }
    }

    /// Sends one message, waiting for room. Not cancel safe: a send that is dropped before it is done ends the session.
    pub async fn send(&mut self, message: &T) -> Result<(), SessionError> {
        if self.torn {
            return Err(SessionError::Torn { peer: self.peer.clone() });
        }
        let body = encode(message);
        let (len, max) = (body.len(), SESSION_MESSAGE_BYTES_MAX);
        if len > max {
            return Err(SessionError::Large { peer: self.peer.clone(), len, max });
        }
        self.torn = true;
        let mut chunks = body.chunks(CHUNK_BYTES_MAX).peekable();
        let mut plaintext = Vec::with_capacity(1 + len.min(CHUNK_BYTES_MAX));
        while let Some(chunk) = chunks.next() {
            plaintext.clear();
            plaintext.push(if chunks.peek().is_some() { MORE } else { LAST });
            plaintext.extend_from_slice(chunk);
            let sealed = self.cipher.encrypt(&plaintext);
            let sealed = sealed.map_err(|source| SessionError::Cipher { peer: self.peer.clone(), source })?;
            self.link.send(Bytes::from(sealed)).await?;
        }
        self.torn = false;
        Ok(())
    }

    /// The other end's address, for people.
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

/// The receiving half of a session.
pub struct MessageReceiver<T> {
    link: Box<dyn LinkReceiver>,
    cipher: ReceiveCipher,
    peer: String,
    joined: BytesMut,
    of: PhantomData<fn() -> T>,
}

impl<T: Encoded> MessageReceiver<T> {
    pub(crate) fn new(link: Box<dyn LinkReceiver>, cipher: ReceiveCipher, peer: String) -> Self {
        Self { link, cipher, peer, joined: BytesMut::new(), of: PhantomData }
    }

    /// The next message. Cancel safe. An error is final.
    pub async fn recv(&mut self) -> Result<T, SessionError> {
        loop {
            let sealed = self.link.recv().await?;
            let plaintext = self.cipher.decrypt(&sealed);
            let plaintext = plaintext.map_err(|source| SessionError::Cipher { peer: self.peer.clone(), source })?;
            if let Some(message) = self.handle_chunk(&plaintext)? {
                return Ok(message);
            }
        }
    }

    /// Takes one chunk and gives the message if it was the last.
    fn handle_chunk(&mut self, plaintext: &[u8]) -> Result<Option<T>, SessionError> {
        let refuse = |cause| SessionError::Chunks { peer: self.peer.clone(), cause };
        let (flag, chunk) = plaintext.split_first().ok_or_else(|| refuse("a chunk without a flag"))?;
        let (len, max) = (self.joined.len() + chunk.len(), SESSION_MESSAGE_BYTES_MAX);
        if len > max {
            return Err(SessionError::Large { peer: self.peer.clone(), len, max });
        }
        match *flag {
            MORE if chunk.is_empty() => return Err(refuse("an empty chunk that says more follows")),
            MORE => {
                self.joined.extend_from_slice(chunk);
                return Ok(None);
            }
            LAST => {}
            _ => return Err(refuse("a chunk whose flag is neither 0 nor 1")),
        }
        let message = if self.joined.is_empty() {
            decode(chunk)
        } else {
            self.joined.extend_from_slice(chunk);
            decode(&std::mem::take(&mut self.joined))
        };
        message.map(Some).map_err(|source| SessionError::Codec { peer: self.peer.clone(), source })
    }

    /// The other end's address, for people.
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

#[cfg(test)]
mod fuzz;
