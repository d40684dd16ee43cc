//! The archive: one file that holds a whole truth, for `saltern snapshot` and `saltern-master restore`.
//!
//! ```text
//!   "saltern archive\n"                                                      16 bytes
//!   section 0   head    what it is: cluster, generation, revision, members
//!   section 1…  rows    rows of one table, in the order of their keys; tables in their order
//!   last one    end     how many rows there are of each table; the seal of the master that wrote it
//!
//!   a section   kind 1 · zeros 3 · number 8 · length 4 · CRC32C of these 4  │  body  │  sum 32
//!   a sum       BLAKE3 of the sum before it, the header and the body; the first one follows the sum of the magic bytes
//! ```
//!
//! **Invariants.** Sums are chained: a section that was changed, left out, moved or taken from another archive is found at its
//! place, and everything before it is known to be what was written. A file that was cut has no end. The seal is a master's
//! signature over the last sum, and its certificate is the CA's: only a master of that cluster can have written the file.
//! Neither side ever holds more than one section in memory.
//!
//! **It refuses** to look inside rows: keys and values are the store's. What is sealed in the truth (the CA's key) is sealed
//! here, too; everything else can be read by whoever has the file.

mod read;
mod write;

pub use read::{ArchiveError, Part, Reader, Verified};
pub use write::Writer;

use crate::codec::Encoded;
use crate::crypto::identity::Statement;
use crate::crypto::{PublicKey, Signed};
use crate::id::{ClusterId, MasterId, Revision};
use crate::master::Certificate;
use crate::time::LogicalTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an archive begins with.
pub const MAGIC: [u8; 16] = *b"saltern archive\n";

/// The format that this build writes, and the newest one that it reads.
pub const FORMAT: u32 = 1;

/// Bytes of a section's header.
pub const HEADER_BYTES: usize = 20;

/// Bytes of a section's sum.
pub const SUM_BYTES: usize = 32;

/// Rows are gathered to sections of about this many bytes: a wrong byte is named that exactly.
pub const SECTION_BYTES: usize = 256 * 1024;

/// Longest body of a section, in bytes: one section's worth and a row of the largest size behind it.
pub const SECTION_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest name of a table, in bytes.
pub const TABLE_BYTES_MAX: usize = 64;

/// A section of the head.
const KIND_HEAD: u8 = 1;
/// A section of rows.
const KIND_ROWS: u8 = 2;
/// The section at the end.
const KIND_END: u8 = 3;

/// What an archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveHead {
    /// [`FORMAT`] of whoever wrote it. Read before everything else, so that a newer one is named as such.
    pub format: u32,
    /// The version of the program that wrote it.
    pub version: String,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its generation.
    pub generation: u64,
    /// The cluster's CA.
    pub ca: PublicKey,
    /// The point in the log: everything up to it is in here, and nothing behind it.
    pub revision: Revision,
    /// The truth's time at that point.
    pub time: LogicalTime,
    /// The master that wrote it.
    pub by: MasterId,
    /// The masters of the directory.
    pub members: Vec<ArchiveMember>,
}

impl Encoded for ArchiveHead {
    const KIND: u8 = 90;
}

/// A master of the cluster, when the archive was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveMember {
    /// Its number.
    pub id: MasterId,
    /// Its name.
    pub name: String,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
}

/// The last section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveEnd {
    /// How many rows there are, by table.
    pub rows: BTreeMap<String, u64>,
    /// What people count: accepted and pending keys, jobs, returns, mine values, and so on.
    pub counts: BTreeMap<String, u64>,
    /// Who vouches for all of it.
    pub seal: Signed<ArchiveSeal>,
    /// Whose key that is.
    pub certificate: Signed<Certificate>,
}

impl Encoded for ArchiveEnd {
    const KIND: u8 = 91;
}

/// Says that an archive is what a master had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSeal {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The sum of the last section before the end.
    #[serde(with = "serde_bytes")]
    pub sum: [u8; SUM_BYTES],
    /// As in [`ArchiveEnd::rows`].
    pub rows: BTreeMap<String, u64>,
    /// As in [`ArchiveEnd::counts`].
    pub counts: BTreeMap<String, u64>,
}

impl Encoded for ArchiveSeal {
    const KIND: u8 = 92;
}

impl Statement for ArchiveSeal {
    const CONTEXT: &'static str = "saltern archive";
}

/// The sum that the first section follows.
fn first_sum() -> [u8; SUM_BYTES] {
    *blake3::hash(&MAGIC).as_bytes()
}

/// The sum of a section.
fn sum(before: &[u8; SUM_BYTES], header: &[u8; HEADER_BYTES], body: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(header).update(body);
    *hasher.finalize().as_bytes()
}

/// A section's header.
fn header(kind: u8, number: u64, len: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = kind;
    bytes[4..12].copy_from_slice(&number.to_be_bytes());
    bytes[12..16].copy_from_slice(&len.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
