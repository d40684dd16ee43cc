//! Fuzz targets of everything that the store reads back from a disk or takes from another master.
//!
//! A checksum refuses nearly every mutation, so that each target is also given its input with a checksum that fits: what
//! stands behind it has to be safe by itself. What is accepted means the same after it was written and read once more.

use crate::command::Proposal;
use crate::frame;
use crate::kv::memory::MemoryEngine;
use crate::kv::{Direction, Engine, Kind, Span, Table};
use crate::log;
use crate::mark::{self, MarkRow, SLOT_BYTES};
use crate::snapshot::{FileEntry, Manifest};
use crate::state::Standing;
use crate::table;
use saltern_wire::codec::Encoded;
use std::ops::ControlFlow;
use std::path::Path;

/// Rows of one table that stand in the corpus.
const ROWS_PER_TABLE: usize = 2;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether `bytes` decode; what they mean must be the same once more.
fn same_again<T: Encoded>(bytes: &[u8]) -> bool {
    let Ok(value) = saltern_wire::decode::<T>(bytes) else { return false };
    let once = saltern_wire::encode(&value);
    let again = saltern_wire::decode::<T>(&once).expect("what was encoded is decoded");
    assert_eq!(saltern_wire::encode(&again), once);
    true
}

#[test]
fn fuzz_frame() {
    saltern_wire::keep!("frame", "entry", frame::seal(b"entry"));
    saltern_wire::keep!("frame", "empty", frame::seal(b""));
    saltern_wire::fuzz!("frame", |bytes: &[u8]| {
        assert_eq!(frame::open(&frame::seal(bytes)), Ok(bytes));
        let opened = frame::open(bytes);
        if let Ok(body) = opened {
            assert_eq!(frame::seal(body), bytes);
        }
        opened.is_ok()
    });
}

#[test]
fn fuzz_log_record() {
    let names = ["job_open", "job_record", "key_accept", "master_found", "minion_facts", "mine_report", "settings_set"];
    for name in names {
        saltern_wire::keep!("log_record", name, fixture(&format!("proposal-1-{name}.bin")));
    }
    saltern_wire::fuzz!("log_record", |bytes: &[u8]| {
        // The two records of the log that are not the caller's.
        assert_eq!(log::parse_generation(bytes).is_ok(), bytes.len() == 8);
        assert_eq!(log::split_purged(bytes).is_ok(), bytes.len() >= 8);
        same_again::<Proposal>(bytes)
    });
}

/// An input as table, length of the key, key and row.
fn row_input(table: Table, key: &[u8], row: &[u8]) -> Option<Vec<u8>> {
    let place = u8::try_from(Table::OF_STATE.iter().position(|found| *found == table)?).ok()?;
    Some([&[place, u8::try_from(key.len()).ok()?], key, row].concat())
}

fn split_row(input: &[u8]) -> Option<(Table, &[u8], &[u8])> {
    let (&[place, len], rest) = input.split_first_chunk::<2>()?;
    let (key, row) = rest.split_at_checked(usize::from(len))?;
    Some((*Table::OF_STATE.get(usize::from(place))?, key, row))
}

#[test]
fn fuzz_state_row() {
    let (disk, dir) = (MemoryEngine::new(), Path::new("state"));
    disk.append_file(&dir.join("tables"), &fixture("state-1.bin")).expect("in memory");
    let kv = disk.open_read_only(dir, Kind::State).expect("a fixture");
    for found in Table::OF_STATE {
        let rows = kv.scan(found, &Span::all(), Direction::Forward, usize::MAX).expect("in memory");
        // Small ones say as much as large ones.
        let small = rows.iter().filter(|(_, row)| row.len() < 8192).take(ROWS_PER_TABLE);
        for (number, (key, row)) in small.enumerate() {
            let input = row_input(found, key, row).expect("a short key");
            saltern_wire::keep!("state_row", &format!("{}-{number}", found.name()), input);
        }
        // Every row of the fixture is one that a check takes.
        let checked = kv.verify(found, &mut |key, row| {
            table::check(found, key, row).unwrap_or_else(|error| panic!("{}: {error}", found.name()));
            ControlFlow::Continue(())
        });
        checked.expect("in memory");
    }
    saltern_wire::fuzz!("state_row", |input: &[u8]| {
        split_row(input).is_some_and(|(found, key, row)| table::check(found, key, row).is_ok())
    });
}

#[test]
fn fuzz_durable_mark() {
    let row = |generation| MarkRow {
        generation,
        vote: Some(vec![7; 40]),
        last: Some((90_210, 0xdead_beef)),
        purged: Some(88_000),
        committed: Some(vec![9; 50]),
    };
    saltern_wire::keep!("durable_mark", "full", saltern_wire::encode(&row(31_000)));
    saltern_wire::keep!("durable_mark", "empty", saltern_wire::encode(&MarkRow::default()));
    saltern_wire::fuzz!("durable_mark", |record: &[u8]| {
        // As it is: a whole file with these bytes, which no checksum vouches for.
        let mut file = record.to_vec();
        file.resize(mark::BYTES, 0);
        assert!(mark::read(Path::new("mark"), &file).is_err());
        // In a slot with a length and a checksum that fit, and in one whose length is what the first two bytes say.
        let sealed = |mut body: Vec<u8>| {
            body.resize(SLOT_BYTES - 5, 0);
            MarkRow::open(&frame::seal(&body))
        };
        drop(sealed(record.to_vec()));
        let Ok(len) = u16::try_from(record.len()) else { return false };
        let Ok(found) = sealed([&len.to_be_bytes(), record].concat()) else { return false };
        match found.seal() {
            Ok(slot) => assert_eq!(MarkRow::open(&slot), Ok(found)),
            // Canonical bytes may be longer than those that were read: then it is refused, not cut.
            Err(cause) => assert!(cause.contains("more than a slot takes"), "{cause}"),
        }
        true
    });
}

#[test]
fn fuzz_snapshot_manifest() {
    let file = |name: &str| FileEntry { name: name.into(), len: 4096, digest: [7; 32] };
    let at = |applied, membership| Standing { applied, position: Some(vec![1; 30]), membership, chain: None };
    let one = Manifest::new(at(42, None), vec![file("000017.sst")]);
    let files = vec![file("CURRENT"), file("MANIFEST-000005"), file("000017.sst"), file("OPTIONS-000009")];
    let four = Manifest::new(at(9000, Some(vec![2; 90])), files);
    saltern_wire::keep!("snapshot_manifest", "one", saltern_wire::encode(&one));
    saltern_wire::keep!("snapshot_manifest", "four", saltern_wire::encode(&four));
    saltern_wire::fuzz!("snapshot_manifest", |body: &[u8]| {
        drop(Manifest::decode(body));
        // Whoever sends a manifest can give it any checksum and any id.
        if let Ok(claimed) = saltern_wire::decode::<Manifest>(body) {
            let standing =
                Standing { applied: claimed.applied, position: None, membership: None, chain: claimed.chain };
            drop(Manifest::decode(&Manifest::new(standing, claimed.files).encode()));
        }
        let Ok(manifest) = Manifest::decode(&frame::seal(body)) else { return false };
        assert!(manifest.files.iter().all(|file| Path::new(&file.name).components().count() == 1));
        assert_eq!(Manifest::decode(&manifest.encode()).expect("its own bytes"), manifest);
        true
    });
}
