//! Single values: where apply stands, counters that never go back, settings, the cluster.

use crate::chain;
use crate::error::StoreError;
use crate::kv::Table;
use crate::overlay::{Overlay, Read};
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::{PublicKey, Signed};
use saltern_wire::master::Directory;
use saltern_wire::settings::Settings;
use saltern_wire::{ClusterId, JobId};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

/// Last applied index, u64.
pub(crate) const APPLIED: &str = "applied";
/// The cluster's feature level, u64; absent at the first.
pub(crate) const LEVEL: &str = "level";
/// The state's chain hash, 32 bytes; see [`crate::chain`].
pub(crate) const CHAIN: &str = "chain";
/// The hash at some of the newest entries.
pub(crate) const CHECKS: &str = "checks";
/// Where the patrol goes on: a table's place in its round, and a key.
pub(crate) const PATROL: &str = "patrol";
/// Last applied position, opaque.
pub(crate) const POSITION: &str = "position";
/// Last membership, opaque.
pub(crate) const MEMBERSHIP: &str = "membership";
/// Logical time, u64 of microseconds.
pub(crate) const TIME: &str = "time";
/// Next ordinal, u64.
pub(crate) const NEXT_ORDINAL: &str = "next_ordinal";
/// Next master id, u64.
pub(crate) const NEXT_MASTER: &str = "next_master";
/// Orphans that are kept, u64.
pub(crate) const ORPHANS: &str = "orphans";
/// Newest jid, 16 bytes.
pub(crate) const NEWEST_JOB: &str = "newest_job";
const SETTINGS: &str = "settings";
const CA: &str = "ca";
const DIRECTORY: &str = "directory";
const SECRETS: &str = "secrets";

/// The cluster and its certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaRow {
    pub(crate) cluster: ClusterId,
    pub(crate) public_key: PublicKey,
    #[serde(with = "serde_bytes")]
    pub(crate) sealed: Vec<u8>,
    pub(crate) certificate_pem: String,
}

impl Encoded for CaRow {
    const KIND: u8 = 72;
}

#[derive(Deserialize)]
struct SettingsRow(Settings);

/// As much as every build of the cluster's level knows.
impl Serialize for SettingsRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.written().map_err(S::Error::custom)?)
    }
}

impl Encoded for SettingsRow {
    const KIND: u8 = 73;
}

#[derive(Serialize, Deserialize)]
struct DirectoryRow(Signed<Directory>);

impl Encoded for DirectoryRow {
    const KIND: u8 = 76;
}

/// Which state secret is in force, and which one is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SecretsRow {
    pub(crate) epoch: u64,
    pub(crate) wanted: u64,
}

impl Encoded for SecretsRow {
    const KIND: u8 = 79;
}

/// Checks a row of this table by its name.
pub(crate) fn check(name: &[u8], row: &[u8]) -> Result<(), StoreError> {
    let name = std::str::from_utf8(name).map_err(|_| super::bad_key(Table::Meta))?;
    match name {
        APPLIED | TIME | NEXT_ORDINAL | NEXT_MASTER | ORPHANS | LEVEL => parse_number(name, row).map(drop),
        // The caller of apply encodes these two and decodes them.
        POSITION | MEMBERSHIP => Ok(()),
        CHAIN if row.len() == 32 => Ok(()),
        CHAIN => Err(StoreError::corrupt("the state's chain hash", "it does not have 32 bytes")),
        CHECKS => chain::parse_checks(row).map(drop),
        // Any position is one to go on from.
        PATROL => Ok(()),
        NEWEST_JOB => parse_jid(row).map(drop),
        SETTINGS => super::decode::<SettingsRow>(Table::Meta, row).map(drop),
        CA => super::decode::<CaRow>(Table::Meta, row).map(drop),
        DIRECTORY => super::decode::<DirectoryRow>(Table::Meta, row).map(drop),
        SECRETS => super::decode::<SecretsRow>(Table::Meta, row).map(drop),
        _ => Err(super::bad_key(Table::Meta)),
    }
}

fn parse_number(name: &str, row: &[u8]) -> Result<u64, StoreError> {
    let wrong = |_| StoreError::corrupt(format!("the counter {name}"), "it does not have 8 bytes");
    row.try_into().map(u64::from_be_bytes).map_err(wrong)
}

fn parse_jid(row: &[u8]) -> Result<JobId, StoreError> {
    let digits = row.try_into().map_err(|_| StoreError::corrupt("the newest jid", "it does not have 16 bytes"))?;
    JobId::from_bytes(digits).map_err(|error| StoreError::corrupt("the newest jid", error))
}

fn key(name: &str) -> Vec<u8> {
    super::key(&[name.as_bytes()])
}

pub(crate) fn bytes(read: &impl Read, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    read.get(Table::Meta, &key(name))
}

pub(crate) fn put_bytes(over: &mut Overlay, name: &str, value: &[u8]) {
    over.put(Table::Meta, key(name), value);
}

/// A counter; `None` if it was never written.
pub(crate) fn number(read: &impl Read, name: &str) -> Result<Option<u64>, StoreError> {
    bytes(read, name)?.map(|row| parse_number(name, &row)).transpose()
}

pub(crate) fn put_number(over: &mut Overlay, name: &str, value: u64) {
    put_bytes(over, name, &value.to_be_bytes());
}

pub(crate) fn newest_job(read: &impl Read) -> Result<Option<JobId>, StoreError> {
    bytes(read, NEWEST_JOB)?.map(|row| parse_jid(&row)).transpose()
}

pub(crate) fn settings(read: &impl Read) -> Result<Settings, StoreError> {
    let row: Option<SettingsRow> = super::get(read, Table::Meta, &key(SETTINGS))?;
    Ok(row.map(|row| row.0).unwrap_or_default())
}

pub(crate) fn put_settings(over: &mut Overlay, settings: &Settings) {
    over.put(Table::Meta, key(SETTINGS), saltern_wire::encode(&SettingsRow(settings.clone())));
}

pub(crate) fn ca(read: &impl Read) -> Result<Option<CaRow>, StoreError> {
    super::get(read, Table::Meta, &key(CA))
}

pub(crate) fn put_ca(over: &mut Overlay, row: &CaRow) {
    over.put(Table::Meta, key(CA), saltern_wire::encode(row));
}

pub(crate) fn directory(read: &impl Read) -> Result<Option<Signed<Directory>>, StoreError> {
    let row: Option<DirectoryRow> = super::get(read, Table::Meta, &key(DIRECTORY))?;
    Ok(row.map(|row| row.0))
}

pub(crate) fn put_directory(over: &mut Overlay, directory: &Signed<Directory>) {
    over.put(Table::Meta, key(DIRECTORY), saltern_wire::encode(&DirectoryRow(directory.clone())));
}

/// The state secret's number; 0 and nothing wanted in a cluster that never changed it.
pub(crate) fn secrets(read: &impl Read) -> Result<SecretsRow, StoreError> {
    Ok(super::get(read, Table::Meta, &key(SECRETS))?.unwrap_or_default())
}

pub(crate) fn put_secrets(over: &mut Overlay, row: SecretsRow) {
    over.put(Table::Meta, key(SECRETS), saltern_wire::encode(&row));
}
