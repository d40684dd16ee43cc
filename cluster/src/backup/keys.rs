//! The keys of a cluster under a passphrase, for the safe: the CA's secret key and the state secret.
//!
//! The file is one line of JSON. The passphrase becomes a key by Argon2id (RFC 9106), with a salt and costs that stand in the
//! file; both secrets are sealed with it by [`Sealer`]. What can be read without the passphrase is which cluster it is for.
//!
//! **It refuses** costs that only a wrong file would ask for, so that opening one never takes more than a moment.

use argon2::{Algorithm, Argon2, Params, Version};
use saltern_wire::ClusterId;
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::seal::Sealer;
use saltern_wire::crypto::{Fingerprint, Identity};
use saltern_wire::io::{Entropy, draw};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The only format there is.
const FORMAT: u32 = 1;

/// What the secrets are sealed as.
const CONTEXT: &str = "cluster keys";

/// Memory that a guess costs, in KiB: the second choice of RFC 9106, section 4, which a small master has as well.
const MEMORY_KIB: u32 = 64 * 1024;

/// Passes over it.
const PASSES: u32 = 3;

/// Most memory that a file may ask for, in KiB.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;

/// Most passes that a file may ask for.
const PASSES_MAX: u32 = 16;

/// Shortest passphrase, in bytes: everything stands and falls with it.
pub const PASSPHRASE_BYTES_MIN: usize = 12;

/// Longest passphrase, in bytes.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Longest keys file, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024;

/// What the safe keeps.
pub struct ClusterKeys {
    /// The CA, with its secret key.
    pub ca: Identity,
    /// Seals secret values of the truth.
    pub state_secret: Zeroizing<[u8; 32]>,
}

/// Why a keys file was not made or does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The passphrase is no good.
    #[error("the passphrase has {found} bytes: use {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX}")]
    Passphrase {
        /// Its length, in bytes.
        found: usize,
    },
    /// It is none.
    #[error("this is no file that `saltern cluster export-keys` wrote: {0}")]
    Malformed(String),
    /// The passphrase is another one, or the bytes were changed.
    #[error("the keys do not open: the passphrase is wrong, or the file was changed")]
    Sealed,
    /// The key derivation failed.
    #[error("the passphrase cannot be turned into a key: {0}")]
    Derivation(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    saltern_keys: u32,
    cluster: ClusterId,
    ca_fingerprint: Fingerprint,
    salt: String,
    memory_kib: u32,
    passes: u32,
    sealed: String,
}

/// What is sealed. Both are 64 hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct Secrets {
    ca: String,
    state_secret: String,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.ca.zeroize();
        self.state_secret.zeroize();
    }
}

impl Encoded for Secrets {
    const KIND: u8 = 93;
}

impl ClusterKeys {
    /// The keys of `cluster` under `passphrase`, as a file's text. Takes a good part of a second of one core, on purpose.
    pub fn seal(&self, cluster: ClusterId, passphrase: &str, entropy: &dyn Entropy) -> Result<String, KeysError> {
        check_passphrase(passphrase)?;
        let salt: [u8; 16] = draw(entropy);
        let key = derive(passphrase, &salt, MEMORY_KIB, PASSES)?;
        let secrets = Secrets {
            ca: hex::encode(self.ca.seed().as_slice()),
            state_secret: hex::encode(self.state_secret.as_slice()),
        };
        let plain = Zeroizing::new(saltern_wire::encode(&secrets));
        let file = KeysFile {
            saltern_keys: FORMAT,
            cluster,
            ca_fingerprint: self.ca.public_key().fingerprint(),
            salt: hex::encode(salt),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            sealed: hex::encode(Sealer::new(*key).seal(CONTEXT, &plain, draw(entropy))),
        };
        serde_json::to_string(&file).map(|text| text + "\n").map_err(|error| KeysError::Malformed(error.to_string()))
    }

    /// Opens what [`ClusterKeys::seal`] made; also says for which cluster it was made.
    pub fn open(text: &str, passphrase: &str) -> Result<(ClusterId, Self), KeysError> {
        let malformed = |cause: String| KeysError::Malformed(cause);
        let file: KeysFile = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if file.saltern_keys != FORMAT {
            return Err(malformed(format!("it has format {}, this build reads {FORMAT}", file.saltern_keys)));
        }
        if file.memory_kib > MEMORY_KIB_MAX || file.passes > PASSES_MAX {
            return Err(malformed(format!("it asks for {} KiB and {} passes", file.memory_kib, file.passes)));
        }
        check_passphrase(passphrase)?;
        let bytes = |text: &str| hex::decode(text).map_err(|error| malformed(error.to_string()));
        let key = derive(passphrase, &bytes(&file.salt)?, file.memory_kib, file.passes)?;
        let plain = Sealer::new(*key).open(CONTEXT, &bytes(&file.sealed)?).map_err(|_| KeysError::Sealed)?;
        let secrets: Secrets = saltern_wire::decode(&plain).map_err(|error| malformed(error.to_string()))?;
        let (ca, state_secret) = (secret(&secrets.ca)?, secret(&secrets.state_secret)?);
        let ca = Identity::from_seed(*ca);
        if ca.public_key().fingerprint() != file.ca_fingerprint {
            return Err(malformed("its CA key is not the one it names".into()));
        }
        Ok((file.cluster, Self { ca, state_secret }))
    }
}

fn check_passphrase(passphrase: &str) -> Result<(), KeysError> {
    let found = passphrase.len();
    let good = (PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&found);
    if good { Ok(()) } else { Err(KeysError::Passphrase { found }) }
}

fn secret(text: &str) -> Result<Zeroizing<[u8; 32]>, KeysError> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, bytes.as_mut_slice())
        .map_err(|_| KeysError::Malformed("a key does not have 64 hexadecimal digits".into()))?;
    Ok(bytes)
}

fn derive(passphrase: &str, salt: &[u8], memory_kib: u32, passes: u32) -> Result<Zeroizing<[u8; 32]>, KeysError> {
    let failed = |error: argon2::Error| KeysError::Derivation(error.to_string());
    let parameters = Params::new(memory_kib, passes, 1, Some(32)).map_err(failed)?;
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    argon.hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice()).map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_pubsub::clock::SystemEntropy;

    const PASSPHRASE: &str = "correct horse battery";

    fn sealed() -> String {
        let keys = ClusterKeys { ca: Identity::from_seed([1; 32]), state_secret: Zeroizing::new([2; 32]) };
        keys.seal(ClusterId::from_bytes([3; 16]), PASSPHRASE, &SystemEntropy).expect("sealed")
    }

    #[test]
    fn keys_open_with_their_passphrase_and_no_other() {
        let text = sealed();
        let (cluster, keys) = ClusterKeys::open(&text, PASSPHRASE).expect("opens");
        assert_eq!((cluster, *keys.state_secret), (ClusterId::from_bytes([3; 16]), [2; 32]));
        assert_eq!(keys.ca.public_key(), Identity::from_seed([1; 32]).public_key());
        assert_eq!(ClusterKeys::open(&text, "correct horse batterY").err(), Some(KeysError::Sealed));
        assert!(!text.contains(&hex::encode([1; 32])) && !text.contains(&hex::encode([2; 32])));
        assert_ne!(sealed(), text, "salt and nonce are drawn");
    }

    #[test]
    fn a_changed_file_and_a_weak_passphrase_are_refused() {
        let text = sealed();
        let at = text.find("sealed\":\"").expect("there") + 60;
        let digit = if &text[at..=at] == "0" { "1" } else { "0" };
        let bent = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
        assert_eq!(ClusterKeys::open(&bent, PASSPHRASE).err(), Some(KeysError::Sealed));
        let greedy = text.replace("\"passes\":3", "\"passes\":999");
        assert!(matches!(ClusterKeys::open(&greedy, PASSPHRASE), Err(KeysError::Malformed(_))));
        assert!(matches!(ClusterKeys::open("{}", PASSPHRASE), Err(KeysError::Malformed(_))));
        let keys = ClusterKeys { ca: Identity::from_seed([1; 32]), state_secret: Zeroizing::new([2; 32]) };
        let weak = keys.seal(ClusterId::from_bytes([3; 16]), "short", &SystemEntropy);
        assert_eq!(weak, Err(KeysError::Passphrase { found: 5 }));
    }
}
