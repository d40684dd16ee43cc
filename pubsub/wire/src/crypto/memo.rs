//! Signatures that this process has found genuine, for a process in which thousands check the same ones: a swarm of minions.
//! Off unless somebody turns it on; a minion or a master of its own never does.
//!
//! **Invariants.** Whether a signature is genuine depends on key and bytes only, so remembering it changes nothing but time.
//! Only what was found genuine is remembered, under a digest of all that the check depends on; the oldest goes first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, OnceLock, PoisonError};

static MEMO: OnceLock<Mutex<Memo>> = OnceLock::new();

/// Digests of what was found genuine.
#[derive(Debug)]
struct Memo {
    known: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
    count_max: usize,
}

impl Memo {
    fn note(&mut self, digest: [u8; 32]) {
        if !self.known.insert(digest) {
            return;
        }
        self.order.push_back(digest);
        if self.order.len() > self.count_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// Remembers the newest `count_max` genuine signatures from now on, for the life of the process. A second call changes nothing.
pub fn turn_on(count_max: usize) {
    MEMO.get_or_init(|| Mutex::new(Memo { known: BTreeSet::new(), order: VecDeque::new(), count_max }));
}

/// What a check depends on, as a digest; `None` while nothing is remembered.
pub(super) fn digest_of(key: &[u8; 32], framed: &[u8], signature: &[u8; 64]) -> Option<[u8; 32]> {
    MEMO.get()?;
    // Both have a fixed length, so no two checks give the same bytes.
    Some(*blake3::Hasher::new().update(key).update(signature).update(framed).finalize().as_bytes())
}

/// Whether it was found genuine before.
pub(super) fn is_known(digest: &[u8; 32]) -> bool {
    MEMO.get().is_some_and(|memo| memo.lock().unwrap_or_else(PoisonError::into_inner).known.contains(digest))
}

/// It was found genuine.
pub(super) fn note(digest: [u8; 32]) {
    if let Some(memo) = MEMO.get() {
        memo.lock().unwrap_or_else(PoisonError::into_inner).note(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let mut memo = Memo { known: BTreeSet::new(), order: VecDeque::new(), count_max: 2 };
        for number in [1, 2, 2, 3] {
            memo.note([number; 32]);
        }
        assert_eq!(memo.known.iter().map(|digest| digest[0]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(memo.order.len(), 2);
    }

    #[test]
    fn a_remembered_signature_vouches_for_nothing_else() {
        turn_on(100);
        let (one, other) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let signature = one.sign("a", b"message");
        for _ in 0..2 {
            assert!(one.public_key().verify("a", b"message", &signature).is_ok());
            assert!(one.public_key().verify("b", b"message", &signature).is_err(), "another sort of statement");
            assert!(one.public_key().verify("a", b"massage", &signature).is_err(), "another message");
            assert!(other.public_key().verify("a", b"message", &signature).is_err(), "another signer");
            let theirs = other.sign("a", b"message");
            assert!(one.public_key().verify("a", b"message", &theirs).is_err(), "another signature");
        }
    }
}
