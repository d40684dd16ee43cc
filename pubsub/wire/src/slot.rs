//! A place in the queue of those who want to attach: what a master says instead of a handshake when too many come at once.
//!
//! ```text
//!   minion ── hello ─────────────▶ master     over its rate: before any cryptography
//!          ◀── slot: in N ms, ticket ──       and the connection is over
//!          …  N ms …
//!          ── hello · ticket ────▶            at its slot it goes before everybody who has none
//! ```
//!
//! A slot is no error: a minion that holds one has been counted, and comes back once. What travels here is not encrypted and
//! proves nothing; a stolen ticket opens one handshake, which whoever stole it could have asked for.
//!
//! **Invariants.** A slot is shorter than every second message of a handshake, so the two are never mistaken for each other.
//! A ticket is shown only to the address that gave it: masters that do not know of slots never meet one.

use crate::crypto::handshake::SESSION_VERSION;

/// Longest wait that a minion obeys, in milliseconds. A forged slot costs no more than that.
pub const SLOT_WAIT_MS_MAX: u32 = 60_000;

/// Length of a ticket, in bytes.
const TICKET_BYTES: usize = 24;

/// Length of a slot, in bytes: a mark, the wait, the ticket. A handshake's second message has two keys and a tag at least.
const SLOT_BYTES: usize = 1 + 4 + TICKET_BYTES;

/// First byte of a slot.
const SLOT_MARK: u8 = 0x51;

/// Length of the ephemeral key in front of a hello's payload, in bytes.
const EPHEMERAL_BYTES: usize = 32;

/// Stands for a reserved place. Good once, at the master that gave it, until it starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The place's number; 0 is none.
    pub number: u64,
    /// Random, so that nobody guesses the places of others.
    pub secret: [u8; 16],
}

/// When to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// In so many milliseconds.
    pub wait_ms: u32,
    /// To be shown then. Without one, nothing was reserved: the queue is full, and whoever comes again begins anew.
    pub ticket: Option<Ticket>,
}

impl Ticket {
    /// What follows the version in a hello.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TICKET_BYTES] {
        let mut bytes = [0; TICKET_BYTES];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.secret);
        bytes
    }

    /// Reads what [`Ticket::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; TICKET_BYTES]) -> Option<Self> {
        let (number, secret) = bytes.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        let secret = secret.try_into().ok()?;
        (number != 0).then_some(Self { number, secret })
    }

    /// The ticket in a minion's first message. Costs nothing: the message is neither decrypted nor believed.
    #[must_use]
    pub fn in_hello(message: &[u8]) -> Option<Self> {
        let (version, ticket) = message.get(EPHEMERAL_BYTES..)?.split_first()?;
        Self::from_bytes(ticket.try_into().ok()?).filter(|_| *version == SESSION_VERSION)
    }
}

impl Slot {
    /// The master's answer to a hello that comes too early.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[0] = SLOT_MARK;
        bytes[1..5].copy_from_slice(&self.wait_ms.to_be_bytes());
        if let Some(ticket) = self.ticket {
            bytes[5..].copy_from_slice(&ticket.to_bytes());
        }
        bytes
    }

    /// Whether a master's first message is a slot. The wait is never longer than [`SLOT_WAIT_MS_MAX`].
    #[must_use]
    pub fn from_bytes(message: &[u8]) -> Option<Self> {
        let bytes: &[u8; SLOT_BYTES] = message.try_into().ok()?;
        let (mark, rest) = bytes.split_first()?;
        let (wait, ticket) = rest.split_first_chunk::<4>()?;
        let wait_ms = u32::from_be_bytes(*wait).min(SLOT_WAIT_MS_MAX);
        (*mark == SLOT_MARK).then_some(Self { wait_ms, ticket: Ticket::from_bytes(ticket.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_of_a_slot_are_frozen() {
        let ticket = Ticket { number: 258, secret: [7; 16] };
        let slot = Slot { wait_ms: 1_500, ticket: Some(ticket) };
        let mut frozen = vec![0x51, 0, 0, 0x05, 0xdc, 0, 0, 0, 0, 0, 0, 1, 2];
        frozen.extend_from_slice(&[7; 16]);
        assert_eq!(slot.to_bytes().as_slice(), frozen);
        assert_eq!(Slot::from_bytes(&frozen), Some(slot));
        let full = Slot { wait_ms: 9, ticket: None };
        assert_eq!(Slot::from_bytes(&full.to_bytes()), Some(full), "no ticket");
        let ages = Slot { wait_ms: u32::MAX, ticket: None };
        assert_eq!(Slot::from_bytes(&ages.to_bytes()).map(|slot| slot.wait_ms), Some(SLOT_WAIT_MS_MAX));
    }

    proptest! {
        #[test]
        fn nothing_else_is_a_slot_or_a_ticket(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(slot) = Slot::from_bytes(&bytes) {
                prop_assert_eq!((bytes.len(), bytes[0]), (SLOT_BYTES, SLOT_MARK));
                prop_assert!(slot.wait_ms <= SLOT_WAIT_MS_MAX);
            }
            if let Some(ticket) = Ticket::in_hello(&bytes) {
                prop_assert_eq!(bytes.len(), EPHEMERAL_BYTES + 1 + TICKET_BYTES);
                prop_assert_ne!(ticket.number, 0);
            }
        }
    }
}
