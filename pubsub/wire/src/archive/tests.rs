//! An archive is read as it was written, however its bytes are cut, and every change of it is found where it is.

use super::*;
use crate::crypto::Identity;

fn identity(byte: u8) -> Identity {
    Identity::from_seed([byte; 32])
}

fn head() -> ArchiveHead {
    ArchiveHead {
        format: FORMAT,
        version: "0.1.0".into(),
        cluster: ClusterId::from_bytes([5; 16]),
        generation: 3,
        ca: identity(1).public_key(),
        revision: Revision(77),
        time: LogicalTime::from_unix_micros(1_795_392_390_000_000),
        by: MasterId(2),
        members: vec![ArchiveMember { id: MasterId(2), name: "m2".into(), region: "eu".into(), zone: "a".into() }],
    }
}

fn certificate() -> Signed<Certificate> {
    let public_key = identity(2).public_key();
    let certificate =
        Certificate { cluster: head().cluster, master: MasterId(2), name: "m2".into(), public_key, generation: 3 };
    Signed::new(&certificate, &identity(1))
}

/// An archive, and its sections' lengths.
fn archive(rows: &[(&'static str, usize, usize)]) -> Vec<u8> {
    let (mut writer, mut bytes) = Writer::new(&head());
    for (table, count, len) in rows {
        for row in 0..*count {
            bytes.extend(writer.row(table, &row.to_be_bytes(), &vec![7; *len]).unwrap_or_default());
        }
    }
    let counts = BTreeMap::from([("jobs".to_owned(), 3)]);
    bytes.extend(writer.finish(counts, certificate(), |seal| Signed::new(seal, &identity(2))));
    bytes
}

fn small() -> Vec<u8> {
    archive(&[("keys", 3, 10), ("jobs", 2, 5)])
}

fn read(bytes: &[u8], piece: usize) -> Result<(Vec<Part>, Verified), ArchiveError> {
    let mut reader = Reader::new();
    let mut parts = Vec::new();
    for piece in bytes.chunks(piece) {
        parts.extend(reader.push(piece)?);
    }
    Ok((parts, reader.finish()?))
}

#[test]
fn it_is_read_as_it_was_written_however_it_is_cut() {
    let bytes = small();
    let (whole, verified) = read(&bytes, bytes.len()).expect("whole");
    assert_eq!((verified.bytes, verified.sections, verified.written_by.as_str()), (bytes.len() as u64, 4, "m2"));
    assert_eq!(verified.head, head());
    assert_eq!(verified.end.rows, BTreeMap::from([("jobs".into(), 2), ("keys".into(), 3)]));
    let [Part::Head(_), Part::Rows { table, rows }, Part::Rows { .. }, Part::End(_)] = whole.as_slice() else {
        panic!("{whole:?}")
    };
    assert_eq!((table.as_str(), rows.len(), rows[1].0.as_slice()), ("keys", 3, 1usize.to_be_bytes().as_slice()));
    for piece in 1..80 {
        assert_eq!(read(&bytes, piece).expect("the same").0, whole, "in pieces of {piece}");
    }
}

#[test]
fn rows_are_gathered_to_sections_of_bounded_size() {
    let bytes = archive(&[("returns", 30, 100_000)]);
    let (parts, verified) = read(&bytes, 64 * 1024).expect("whole");
    assert!(verified.sections > 8, "{} sections", verified.sections);
    let most = parts.iter().map(|part| if let Part::Rows { rows, .. } = part { rows.len() } else { 0 }).max();
    assert_eq!(most, Some(3));
}

#[test]
fn every_flipped_bit_is_found_and_nothing_before_it_is_doubted() {
    let bytes = small();
    for bit in 0..bytes.len() * 8 {
        let mut bent = bytes.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        let at = (bit / 8) as u64;
        match read(&bent, bytes.len()) {
            Err(ArchiveError::Foreign) => assert!(at < 16),
            Err(ArchiveError::Wrong { place, .. }) => assert!(place.bytes.contains(&at), "byte {at}: {place}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn a_cut_and_a_longer_file_are_told_apart() {
    let bytes = small();
    for len in 0..bytes.len() {
        match read(&bytes[..len], 100) {
            Err(ArchiveError::Foreign) => assert!(len < 16),
            Err(ArchiveError::Cut { at, .. }) => assert_eq!(at, len as u64),
            other => panic!("{len} bytes: {other:?}"),
        }
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert_eq!(read(&longer, 9).err(), Some(ArchiveError::Behind { at: bytes.len() as u64 }));
}

#[test]
fn a_section_that_was_left_out_or_moved_is_found() {
    let bytes = small();
    let section = |from: usize| {
        let len = u32::from_be_bytes(bytes[from + 12..from + 16].try_into().expect("four")) as usize;
        from..from + HEADER_BYTES + len + SUM_BYTES
    };
    let first = section(16);
    let second = section(first.end);
    let third = section(second.end);
    let without = [&bytes[..second.start], &bytes[second.end..]].concat();
    let swapped = [&bytes[..second.start], &bytes[third.clone()], &bytes[second.clone()], &bytes[third.end..]].concat();
    for bent in [without, swapped] {
        let Err(ArchiveError::Wrong { place, .. }) = read(&bent, 50) else { panic!("it was taken") };
        assert_eq!(place.section, 1);
    }
}

#[test]
fn only_a_master_of_the_cluster_can_have_written_it() {
    let forged = |ca: u8, signer: u8| {
        let (writer, mut bytes) = Writer::new(&ArchiveHead { ca: identity(ca).public_key(), ..head() });
        bytes.extend(writer.finish(BTreeMap::new(), certificate(), |seal| Signed::new(seal, &identity(signer))));
        read(&bytes, 99).map(drop)
    };
    assert_eq!(forged(1, 2), Ok(()));
    assert!(matches!(forged(1, 9), Err(ArchiveError::Seal(_))), "another key signed");
    assert!(matches!(forged(9, 2), Err(ArchiveError::Seal(_))), "another CA");
    let (writer, mut bytes) = Writer::new(&ArchiveHead { by: MasterId(3), ..head() });
    bytes.extend(writer.finish(BTreeMap::new(), certificate(), |seal| Signed::new(seal, &identity(2))));
    assert!(matches!(read(&bytes, 99), Err(ArchiveError::Seal(_))), "in the name of another master");
}

#[test]
fn a_newer_format_is_named() {
    let (writer, mut bytes) = Writer::new(&ArchiveHead { format: FORMAT + 1, ..head() });
    bytes.extend(writer.finish(BTreeMap::new(), certificate(), |seal| Signed::new(seal, &identity(2))));
    assert_eq!(read(&bytes, 99).err(), Some(ArchiveError::Newer { found: FORMAT + 1 }));
}

#[test]
fn an_archive_of_the_first_format_is_read_for_ever() {
    let frozen: &[u8] = include_bytes!("../../tests/corpus/archive/small");
    assert_eq!(read(frozen, 33).expect("whole").0, read(&small(), 33).expect("whole").0);
}

#[test]
fn fuzz_archive() {
    crate::keep!("archive", "small", small());
    crate::keep!("archive", "empty", archive(&[]));
    crate::fuzz!("archive", |bytes: &[u8]| {
        let mut reader = Reader::new();
        let mut taken = 0;
        for piece in bytes.chunks(1000) {
            match reader.push(piece) {
                Ok(parts) => taken += parts.len(),
                Err(_) => return false,
            }
        }
        let whole = reader.finish().is_ok();
        assert!(!whole || taken >= 2, "an archive has a head and an end");
        whole
    });
}
