//! Secrets at rest: sealed before they are proposed, so that the log, snapshots and backups hold ciphertext only.
//!
//! ```text
//!   sealed = version 1 · nonce 12 · AES-256-GCM body … tag 16
//! ```
//!
//! The key is HKDF-SHA256 of the state secret for one context (`"cluster ca"`, `"pillar"` …); the context is associated
//! data as well, so that a secret of one sort never opens as another.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// First byte of every sealed secret.
const VERSION: u8 = 1;

/// Bytes in front of the sealed body.
const PREFIX_BYTES: usize = 1 + 12;

/// Seals and opens secrets under the cluster's state secret. The secret is wiped from memory when dropped.
#[derive(Clone)]
pub struct Sealer {
    secret: Zeroizing<[u8; 32]>,
}

/// Why a sealed secret does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Too short to hold a nonce and a tag.
    #[error("a sealed secret has at least 29 bytes, this one has {len}")]
    Short {
        /// Length found, in bytes.
        len: usize,
    },
    /// Sealed by a newer build.
    #[error("the secret was sealed in format {found}, this build knows format {VERSION}: upgrade this machine")]
    Version {
        /// The version byte that was read.
        found: u8,
    },
    /// Another state secret, another context, or changed bytes.
    #[error("the secret does not open as {context:?}: it was sealed under another state secret, or its bytes changed")]
    Sealed {
        /// What it was opened as.
        context: &'static str,
    },
}

impl Sealer {
    /// Seals under `state_secret`, the 32 random bytes that `saltern-master init` drew.
    pub fn new(state_secret: [u8; 32]) -> Self {
        Self { secret: Zeroizing::new(state_secret) }
    }

    /// Seals `plaintext` as a secret of sort `context`. `nonce` is 12 fresh random bytes from the caller's entropy; using
    /// one twice in the same context gives the secrets away.
    pub fn seal(&self, context: &'static str, plaintext: &[u8], nonce: [u8; 12]) -> Vec<u8> {
        let payload = Payload { msg: plaintext, aad: context.as_bytes() };
        #[expect(clippy::expect_used, reason = "AES-GCM refuses only plain texts above 64 GiB")]
        let body = self.cipher(context).encrypt(&Nonce::from(nonce), payload).expect("a secret is short");
        let mut sealed = Vec::with_capacity(PREFIX_BYTES + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what [`Sealer::seal`] made under the same context.
    pub fn open(&self, context: &'static str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let Some((prefix, body)) = sealed.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(UnsealError::Short { len: sealed.len() });
        };
        let [version, nonce @ ..] = *prefix;
        if version != VERSION {
            return Err(UnsealError::Version { found: version });
        }
        if body.len() < 16 {
            return Err(UnsealError::Short { len: sealed.len() });
        }
        let payload = Payload { msg: body, aad: context.as_bytes() };
        self.cipher(context)
            .decrypt(&Nonce::from(nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| UnsealError::Sealed { context })
    }

    /// The cipher for one context.
    fn cipher(&self, context: &'static str) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        #[expect(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes, this asks for 32")]
        Hkdf::<Sha256>::new(Some(b"saltern state secret"), self.secret.as_slice())
            .expand(context.as_bytes(), key.as_mut_slice())
            .expect("32 bytes");
        Aes256Gcm::new(&(*key).into())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_under_its_own_secret_and_context() {
        let ours = Sealer::new([1; 32]);
        let sealed = ours.seal("cluster ca", b"the key", [9; 12]);
        assert_eq!(ours.open("cluster ca", &sealed).expect("ours").as_slice(), b"the key");
        assert_eq!(ours.open("pillar", &sealed), Err(UnsealError::Sealed { context: "pillar" }));
        let theirs = Sealer::new([2; 32]);
        assert_eq!(theirs.open("cluster ca", &sealed), Err(UnsealError::Sealed { context: "cluster ca" }));
        assert!(!sealed.windows(7).any(|window| window == b"the key"), "the plain text is visible");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_refused() {
        let sealer = Sealer::new([1; 32]);
        let sealed = sealer.seal("x", b"secret", [3; 12]);
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(sealer.open("x", &bent).is_err(), "byte {at}");
            assert!(sealer.open("x", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(sealer.open("x", &[2; 40]), Err(UnsealError::Version { found: 2 }));
        assert_eq!(sealer.open("x", &[1; 28]), Err(UnsealError::Short { len: 28 }));
    }
}
