//! What the unit tests of this crate share: a disk in memory, and a small cluster's signatures.

use crate::ledger::Ledger;
use crate::rules::Rules;
use crate::trust::Trust;
use roaring::RoaringBitmap;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::fanout::Offer;
use saltern_wire::id::Ordinal;
use saltern_wire::io::{Address, Disk};
use saltern_wire::job::Job;
use saltern_wire::master::{Certificate, Directory, Endpoints, MasterRecord, MasterState};
use saltern_wire::target::Target;
use saltern_wire::{ClusterId, JobId, LogicalTime, Map, MasterId};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files by path. A torn write keeps half of its bytes and fails.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    tear: Mutex<bool>,
}

impl MemoryDisk {
    pub(crate) fn tear_next_write(&self) {
        *self.tear.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tears(&self) -> bool {
        std::mem::take(&mut self.tear.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match self.files().get(path) {
            Some(bytes) if bytes.len() as u64 > bytes_max => Err(Error::new(ErrorKind::FileTooLarge, "too long")),
            found => Ok(found.cloned()),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if self.tears() {
            return Err(Error::other("the disk is gone"));
        }
        self.files().insert(path.into(), bytes.into());
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let torn = self.tears();
        let kept = if torn { &bytes[..bytes.len() / 2] } else { bytes };
        self.files().entry(path.into()).or_default().extend_from_slice(kept);
        if torn { Err(Error::other("the disk is gone")) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.files().remove(path);
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let inside = |path: &PathBuf| {
            (path.parent() == Some(folder)).then(|| path.file_name().and_then(|name| name.to_str()).map(str::to_owned))
        };
        Ok(self.files().keys().filter_map(inside).flatten().collect())
    }

    fn make_folder(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }
}

pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
pub(crate) const ORDINAL: Ordinal = Ordinal(5);

pub(crate) fn ca() -> Identity {
    Identity::from_seed([1; 32])
}

pub(crate) fn master(id: u64) -> Identity {
    Identity::from_seed([10 + u8::try_from(id).expect("small"); 32])
}

pub(crate) fn directory(generation: u64, version: u64, masters: &[u64]) -> Signed<Directory> {
    let address = |port| Address::new("m", port);
    let record = |id: &u64| {
        let public_key = master(*id).public_key();
        let (master, name) = (MasterId(*id), format!("m{id}"));
        let certificate = Certificate { cluster: CLUSTER, master, name: name.clone(), public_key, generation };
        MasterRecord {
            id: master,
            name,
            state: MasterState::Active,
            endpoints: Endpoints { fanout: address(1), session: address(2), mesh: address(3), api: address(4) },
            region: String::new(),
            zone: String::new(),
            weight: 100,
            certificate: Signed::new(&certificate, &ca()),
            public_key,
            role: saltern_wire::master::Role::Voter,
        }
    };
    let masters = masters.iter().map(record).collect();
    Signed::new(&Directory { cluster: CLUSTER, generation, version, masters, succeeds: vec![], retired: vec![] }, &ca())
}

/// Decisions over this ledger: two masters, generation 3, accepted.
pub(crate) fn rules(ledger: Ledger) -> Rules {
    let mut trust = Trust::new(ca().public_key().fingerprint());
    trust.handle_directory(ca().public_key(), &directory(3, 1, &[1, 2])).expect("genuine").expect("newer");
    let mut rules = Rules::new(trust, ledger);
    rules.handle_ordinal(Some(ORDINAL));
    rules
}

pub(crate) fn time(number: u64) -> LogicalTime {
    LogicalTime::from_unix_micros(1_795_392_390_000_000 + number * 1_000_000)
}

pub(crate) fn job(number: u64, function: &str) -> Job {
    Job {
        cluster: CLUSTER,
        generation: 3,
        jid: JobId::mint(time(number), 1),
        master: MasterId(1),
        function: function.into(),
        arguments: Vec::new(),
        keywords: Map::new(),
        target: Target { kind: Default::default(), expression: "*".into() },
        targets: RoaringBitmap::from_iter([ORDINAL.0]),
        user: "root".into(),
        opened: time(number),
        ttl_ms: 60_000,
    }
}

pub(crate) fn offer(job: &Job, signer: &Identity) -> Offer {
    Offer { job: Signed::new(job, signer), remaining_ms: 1000 }
}
