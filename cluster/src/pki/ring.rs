//! The state secrets that a master holds: the one in force, those that may come into force, and those that were.
//!
//! The truth never names a secret. Which one is in force is what opens the CA's sealed key, and nothing else says so: a master
//! that was killed between keeping a secret and hearing that it is in force needs no other memory.
//!
//! | file | holds |
//! |---|---|
//! | `state.secret` | the one in force, as this master last knew |
//! | `state.secrets` | every one, a line each: its number, then 64 hexadecimal digits; the newest last |
//!
//! **Invariants.** A secret is on disk before anybody hears that this master holds it. The one in force is never dropped. Older
//! ones are kept, bounded: what was sealed before (a backup) can be opened, and keeping them gives nothing to whoever steals
//! a disk that holds the newest.

use saltern_store::view::CertificateAuthority;
use saltern_wire::crypto::seal::Sealer;
use saltern_wire::io::Disk;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use zeroize::Zeroizing;

/// Every secret that this master holds.
pub const RING_FILE: &str = "state.secrets";

/// The one in force.
const SECRET_FILE: &str = "state.secret";

/// Most secrets that are kept: those in force over several years, and what rotations that were cut short left behind.
const SECRETS_MAX: usize = 32;

/// Longest ring file, in bytes.
const RING_BYTES_MAX: u64 = 16 * 1024;

/// 32 secret bytes on their way between two masters. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub Zeroizing<[u8; 32]>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_slice())
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Zeroizing::new(serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec());
        let bytes: [u8; 32] =
            bytes.as_slice().try_into().map_err(|_| serde::de::Error::custom("a state secret has 32 bytes"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

/// One secret and its number.
#[derive(Clone, PartialEq, Eq)]
struct Kept {
    epoch: u64,
    secret: Zeroizing<[u8; 32]>,
}

/// The secrets of one master.
pub struct Keyring {
    kept: Mutex<Vec<Kept>>,
    home: OnceLock<(Arc<dyn Disk>, PathBuf)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} secrets)", self.lock().len())
    }
}

impl Keyring {
    /// Holds the secret that came with the credentials.
    pub fn new(secret: &Zeroizing<[u8; 32]>) -> Arc<Self> {
        let kept = Mutex::new(vec![Kept { epoch: 0, secret: secret.clone() }]);
        Arc::new(Self { kept, home: OnceLock::new() })
    }

    /// Adds what `folder` holds besides.
    pub fn load(secret: &Zeroizing<[u8; 32]>, disk: &dyn Disk, folder: &Path) -> Result<Arc<Self>, (PathBuf, String)> {
        let path = folder.join(RING_FILE);
        let read = disk.read(&path, RING_BYTES_MAX).map_err(|error| (path.clone(), error.to_string()))?;
        let text = Zeroizing::new(String::from_utf8(read.unwrap_or_default()).unwrap_or_default());
        let kept: Option<Vec<Kept>> = text.lines().map(parse).collect();
        let mut kept = kept.ok_or_else(|| (path, "a line is not a number and 64 hexadecimal digits".to_owned()))?;
        if kept.iter().all(|held| held.secret != *secret) {
            kept.insert(0, Kept { epoch: 0, secret: secret.clone() });
        }
        Ok(Arc::new(Self { kept: Mutex::new(kept), home: OnceLock::new() }))
    }

    /// Where secrets are kept from now on. Before, nothing is kept.
    pub fn keep_in(&self, disk: Arc<dyn Disk>, folder: &Path) {
        // A second home would be the same one: there is one folder a process.
        let _ = self.home.set((disk, folder.into()));
    }

    /// The secret that is in force: the one that opens the CA's key. `None` if this master does not hold it.
    pub fn in_force(&self, ca: &CertificateAuthority) -> Option<Zeroizing<[u8; 32]>> {
        let opens = |kept: &&Kept| Sealer::new(*kept.secret).open(super::CA_SEAL_CONTEXT, &ca.sealed).is_ok();
        self.lock().iter().rev().find(opens).map(|kept| kept.secret.clone())
    }

    /// A secret of this number that this master holds already: what a rotation that was cut short drew.
    pub fn candidate(&self, epoch: u64) -> Option<Zeroizing<[u8; 32]>> {
        self.lock().iter().rev().find(|kept| kept.epoch == epoch && epoch > 0).map(|kept| kept.secret.clone())
    }

    /// Keeps a secret, durably before this returns; harmless to repeat. Blocks for a sync of the disk.
    pub fn keep(&self, epoch: u64, secret: &Zeroizing<[u8; 32]>) -> std::io::Result<()> {
        let mut kept = self.lock();
        if kept.iter().any(|held| held.epoch == epoch && held.secret == *secret) {
            return Ok(());
        }
        let mut next = kept.clone();
        next.push(Kept { epoch, secret: secret.clone() });
        if next.len() > SECRETS_MAX {
            // The oldest goes; the one in force is among the newest.
            next.remove(0);
        }
        if let Some((disk, folder)) = self.home.get() {
            disk.replace(&folder.join(RING_FILE), render(&next).as_bytes())?;
        }
        *kept = next;
        Ok(())
    }

    /// Makes the file with the secret in force say what is. Harmless to repeat; writes only if it says something else.
    pub fn note_in_force(&self, secret: &Zeroizing<[u8; 32]>) -> std::io::Result<()> {
        let Some((disk, folder)) = self.home.get() else { return Ok(()) };
        let path = folder.join(SECRET_FILE);
        let text = Zeroizing::new(format!("{}\n", hex::encode(secret.as_slice())));
        let held = Zeroizing::new(disk.read(&path, RING_BYTES_MAX)?.unwrap_or_default());
        if held.as_slice() == text.as_bytes() {
            return Ok(());
        }
        // What the file held is in the ring's file before it is overwritten here.
        let all = self.lock().clone();
        disk.replace(&folder.join(RING_FILE), render(&all).as_bytes())?;
        disk.replace(&path, text.as_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn render(kept: &[Kept]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    for Kept { epoch, secret } in kept {
        text.push_str(&format!("{epoch} "));
        text.push_str(&Zeroizing::new(hex::encode(secret.as_slice())));
        text.push('\n');
    }
    text
}

fn parse(line: &str) -> Option<Kept> {
    let (epoch, digits) = line.split_once(' ')?;
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits.trim(), secret.as_mut_slice()).ok()?;
    Some(Kept { epoch: epoch.parse().ok()?, secret })
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::crypto::Identity;

    fn secret(byte: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([byte; 32])
    }

    fn ca_under(byte: u8) -> CertificateAuthority {
        let identity = Identity::from_seed([9; 32]);
        let sealed = Sealer::new([byte; 32]).seal(crate::pki::CA_SEAL_CONTEXT, identity.seed().as_slice(), [3; 12]);
        CertificateAuthority { public_key: identity.public_key(), sealed, certificate_pem: String::new() }
    }

    #[test]
    fn the_one_in_force_is_the_one_that_opens_the_ca_and_old_ones_stay() {
        let ring = Keyring::new(&secret(1));
        assert_eq!(ring.in_force(&ca_under(1)), Some(secret(1)));
        assert_eq!(ring.in_force(&ca_under(2)), None, "a master that missed the rotation knows that it did");
        ring.keep(1, &secret(2)).expect("kept");
        ring.keep(1, &secret(2)).expect("again");
        assert_eq!((ring.in_force(&ca_under(2)), ring.in_force(&ca_under(1))), (Some(secret(2)), Some(secret(1))));
        assert_eq!((ring.candidate(1), ring.candidate(2)), (Some(secret(2)), None));
    }

    #[test]
    fn whoever_is_killed_anywhere_finds_every_secret_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk: Arc<dyn Disk> = Arc::new(saltern_pubsub::disk::SystemDisk);
        disk.replace(&folder.path().join(SECRET_FILE), format!("{}\n", hex::encode([1; 32])).as_bytes())
            .expect("written");
        let ring = Keyring::new(&secret(1));
        ring.keep_in(Arc::clone(&disk), folder.path());
        ring.keep(1, &secret(2)).expect("kept");
        // Killed here: the file with the one in force still has the old one.
        let again = Keyring::load(&secret(1), &*disk, folder.path()).expect("read");
        assert_eq!(again.in_force(&ca_under(2)), Some(secret(2)));
        again.keep_in(Arc::clone(&disk), folder.path());
        again.note_in_force(&secret(2)).expect("noted");
        // Killed here: the old one is only in the ring's file.
        let again = Keyring::load(&secret(2), &*disk, folder.path()).expect("read");
        assert_eq!((again.in_force(&ca_under(2)), again.in_force(&ca_under(1))), (Some(secret(2)), Some(secret(1))));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let shown = format!("{:?} {:?}", Hidden(secret(0xab)), Keyring::new(&secret(0xab)));
        assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    }
}
