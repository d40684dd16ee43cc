//! What a snapshot is: where it stands, and its files with their digests.

use super::MANIFEST_BYTES_MAX;
use crate::error::StoreError;
use crate::frame;
use crate::kv::Engine;
use crate::state::Standing;
use saltern_wire::codec::Encoded;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// Most files of a snapshot: RocksDB keeps tables of 64 MiB, so this is a state of a quarter of a terabyte.
const FILES_MAX: usize = 4096;
/// Longest name of a file, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What a snapshot is. Travels before its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name: the applied index and a digest of all the rest.
    pub id: String,
    /// Index of the last entry in it.
    pub applied: u64,
    /// Its position, as the caller of apply encoded it.
    #[serde(with = "serde_bytes")]
    pub position: Option<Vec<u8>>,
    /// The last membership in it, as the caller of apply encoded it.
    #[serde(with = "serde_bytes")]
    pub membership: Option<Vec<u8>>,
    /// The chain hash at its position; absent below the feature level that brings it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub chain: Option<[u8; 32]>,
    /// Its files, by name.
    pub files: Vec<FileEntry>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name within the snapshot.
    pub name: String,
    /// Its length, in bytes.
    pub len: u64,
    /// BLAKE3 of its content.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
}

impl Encoded for Manifest {
    const KIND: u8 = 74;
}

impl Manifest {
    /// Describes files that are whole.
    pub(crate) fn new(standing: Standing, mut files: Vec<FileEntry>) -> Self {
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let Standing { applied, position, membership, chain } = standing;
        let mut manifest = Self { id: String::new(), applied, position, membership, chain, files };
        manifest.id = manifest.name();
        manifest
    }

    /// Bytes with a checksum, for the disk and for the wire.
    pub fn encode(&self) -> Vec<u8> {
        frame::seal(&saltern_wire::encode(self))
    }

    /// The inverse of [`Manifest::encode`], checked as something that came from another machine.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let refuse = |cause: String| StoreError::Snapshot { id: String::new(), cause };
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(refuse(format!("its manifest has {} bytes, the limit is {MANIFEST_BYTES_MAX}", bytes.len())));
        }
        let body = match frame::open_of("a snapshot", bytes) {
            Ok(body) => body,
            Err(error @ StoreError::Newer(_)) => return Err(error),
            Err(error) => return Err(refuse(error.finding())),
        };
        let manifest: Self = saltern_wire::decode(body).map_err(|error| refuse(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Length of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.len))
    }

    /// Refuses names that could lead out of the folder, and an id that does not follow from the rest.
    fn check(&self) -> Result<(), StoreError> {
        let refuse = |cause: String| StoreError::Snapshot { id: self.id.chars().take(80).collect(), cause };
        if self.id != self.name() {
            return Err(refuse("its id does not follow from what it describes".into()));
        }
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return Err(refuse(format!("it has {} files, it must have 1 to {FILES_MAX}", self.files.len())));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        for file in &self.files {
            let name = &file.name;
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(refuse(format!("{name:?} is no name for one of its files")));
            }
        }
        let names: BTreeSet<_> = self.files.iter().map(|file| &file.name).collect();
        if names.len() < self.files.len() {
            return Err(refuse("it names a file twice".into()));
        }
        Ok(())
    }

    fn name(&self) -> String {
        let unnamed = Self { id: String::new(), ..self.clone() };
        let digest = blake3::hash(&saltern_wire::encode(&unnamed)).to_hex();
        format!("{:020}-{}", self.applied, &digest.as_str()[..16])
    }
}

/// Reads a manifest of ours.
pub(super) fn load(engine: &dyn Engine, path: &Path) -> Result<Manifest, StoreError> {
    let bytes = engine.read_file(path, 0, MANIFEST_BYTES_MAX + 1)?;
    Manifest::decode(&bytes).map_err(|error| match error {
        StoreError::Newer(newer) => newer.into(),
        other => StoreError::corrupt(format!("the file {}", path.display()), other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str) -> Manifest {
        let file = FileEntry { name: name.into(), len: 3, digest: [7; 32] };
        let standing = Standing { applied: 42, position: Some(vec![1]), membership: None, chain: None };
        Manifest::new(standing, vec![file])
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let made = manifest("000017.sst");
        assert_eq!(Manifest::decode(&made.encode()).expect("own"), made);
        assert!(made.id.starts_with("00000000000000000042-"), "{}", made.id);
    }

    #[test]
    fn a_description_without_a_hash_is_as_it_always_was() {
        let without = manifest("000017.sst");
        assert!(!saltern_wire::encode(&without).windows(5).any(|word| word == b"chain"), "an older build reads it");
        let with = Manifest { chain: Some([9; 32]), ..without.clone() };
        assert!(Manifest::decode(&with.encode()).is_err(), "the id follows from the hash as well");
        let named = Manifest { id: with.name(), ..with };
        assert_eq!(Manifest::decode(&named.encode()).expect("whole").chain, Some([9; 32]));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "..", "../x", "a/b", ".hidden", "a\0b", &"x".repeat(65)] {
            let refused = Manifest::decode(&manifest(name).encode()).expect_err(name).to_string();
            assert!(refused.contains("no name"), "{refused}");
        }
        let renamed = Manifest { id: "../../etc".into(), ..manifest("CURRENT") };
        assert!(Manifest::decode(&renamed.encode()).is_err());
        let mut bent = manifest("CURRENT").encode();
        bent[20] ^= 1;
        assert!(Manifest::decode(&bent).is_err());
    }
}
