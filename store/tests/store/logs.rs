//! The log: order, groups, reopening, truncation, purging, corruption.

use crate::entry::{Entry, entries, entry};
use crate::world::Bench;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::kv::{Batch, Direction, Engine, Span, Table};
use saltern_store::log::Done;
use saltern_store::{FlushBy, Log, Soundness, StoreError};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Callbacks that report their number, and where they report it.
fn reports() -> (impl Fn(u64) -> Done, Receiver<u64>) {
    let (sender, receiver): (Sender<u64>, _) = channel();
    let make = move |number| -> Done {
        let sender = sender.clone();
        Box::new(move |result| {
            result.unwrap();
            // The test may have ended without waiting for all of them.
            sender.send(number).ok();
        })
    };
    (make, receiver)
}

fn next(receiver: &Receiver<u64>) -> u64 {
    receiver.recv_timeout(Duration::from_secs(30)).expect("the callback comes")
}

/// Opens on both engines with both ways of flushing.
fn each(mut test: impl FnMut(&Bench, FlushBy)) {
    for flush in [FlushBy::Caller, FlushBy::Thread] {
        for bench in Bench::both() {
            test(&bench, flush);
        }
    }
}

fn open(bench: &Bench, flush: FlushBy) -> Log<Entry> {
    Log::open(bench.engine.as_ref(), &bench.dir("log"), flush, Soundness::new()).unwrap()
}

#[test]
fn callbacks_come_in_order_and_what_they_announce_is_there_after_reopening() {
    each(|bench, flush| {
        let log = open(bench, flush);
        let (done, heard) = reports();
        for number in 0..100 {
            log.append(vec![entry(number * 2), entry(number * 2 + 1)], done(number));
        }
        log.save_vote(b"vote 1".to_vec(), done(100));
        log.save_committed(b"150".to_vec());
        log.save_vote(b"vote 2".to_vec(), done(101));
        assert_eq!(log.last_index(), Some(199));
        for number in 0..=101 {
            assert_eq!(next(&heard), number);
        }
        drop(log);
        let log = open(bench, flush);
        assert_eq!(log.read(.., None).unwrap(), entries(0..=199));
        assert_eq!(log.last().unwrap(), Some(entry(199)));
        assert_eq!(log.vote(), Some(b"vote 2".to_vec()));
        assert_eq!(log.committed(), Some(b"150".to_vec()));
        assert_eq!(log.purged(), None);
    });
}

#[test]
fn appends_that_wait_share_one_sync() {
    let bench = Bench::rocks();
    let log = open(&bench, FlushBy::Thread);
    // The first callback holds the thread until everything else is queued.
    let (hold, held) = channel::<()>();
    log.append(vec![entry(1)], Box::new(move |_| held.recv().unwrap_or_default()));
    let (done, heard) = reports();
    for index in 2..=500 {
        log.append(vec![entry(index)], done(index));
    }
    hold.send(()).unwrap();
    for index in 2..=500 {
        assert_eq!(next(&heard), index);
    }
    assert!(log.syncs() <= 3, "{} syncs for 500 appends", log.syncs());
}

#[test]
fn reads_are_bounded_by_range_and_bytes() {
    each(|bench, flush| {
        let log = open(bench, flush);
        let (done, heard) = reports();
        log.append(entries(5..=14), done(0));
        next(&heard);
        let check = |log: &Log<Entry>| {
            assert_eq!(log.read(7..9, None).unwrap(), entries(7..=8));
            assert_eq!(log.read(7..=9, None).unwrap(), entries(7..=9));
            assert_eq!(log.read(..7, None).unwrap(), entries(5..=6));
            assert_eq!(log.read(13.., None).unwrap(), entries(13..=14));
            assert_eq!(log.read(20.., None).unwrap(), []);
            assert_eq!(log.read(6.., Some(1)).unwrap(), entries(6..=6), "one entry at least");
            assert_eq!(log.read(6.., Some(70)).unwrap(), entries(6..=8));
        };
        check(&log);
        drop(log);
        check(&open(bench, flush));
    });
}

#[test]
fn an_entry_that_does_not_follow_is_refused() {
    let log = open(&Bench::memory(), FlushBy::Caller);
    let (done, heard) = reports();
    log.append(entries(3..=4), done(0));
    next(&heard);
    let (sender, refused) = channel();
    log.append(vec![entry(6)], Box::new(move |result| sender.send(result).unwrap()));
    let error = refused.recv().unwrap().unwrap_err().to_string();
    assert!(error.contains('6') && error.contains('4'), "{error}");
    assert_eq!(log.last_index(), Some(4));
}

#[test]
fn truncation_removes_the_end_and_other_entries_take_its_place() {
    each(|bench, flush| {
        let log = open(bench, flush);
        let (done, heard) = reports();
        log.append(entries(1..=10), done(0));
        log.truncate_after(Some(6), done(1));
        assert_eq!(log.last().unwrap(), Some(entry(6)));
        let other = Entry { index: 7, text: "of another term".into() };
        log.append(vec![other.clone()], done(2));
        (0..=2).for_each(|number| assert_eq!(next(&heard), number));
        let expect = [entries(1..=6), vec![other]].concat();
        assert_eq!(log.read(.., None).unwrap(), expect);
        drop(log);
        let log = open(bench, flush);
        assert_eq!(log.read(.., None).unwrap(), expect);
        log.truncate_after(None, done(3));
        assert_eq!(next(&heard), 3);
        assert_eq!(log.last_index(), None);
        drop(log);
        assert_eq!(open(bench, flush).last().unwrap(), None);
    });
}

#[test]
fn a_purged_beginning_stays_away_and_its_position_is_kept() {
    each(|bench, flush| {
        let log = open(bench, flush);
        let (done, heard) = reports();
        log.append(entries(1..=10), done(0));
        log.purge(4, b"position 4".to_vec(), done(1));
        log.purge(3, b"position 3".to_vec(), done(2));
        (0..=2).for_each(|number| assert_eq!(next(&heard), number));
        assert_eq!(log.read(.., None).unwrap(), entries(5..=10));
        drop(log);
        let log = open(bench, flush);
        assert_eq!(log.read(.., None).unwrap(), entries(5..=10));
        assert_eq!(log.purged().unwrap().position, b"position 4");
        // Beyond the end, as after a snapshot was installed: the log goes on behind it.
        log.purge(20, b"position 20".to_vec(), done(3));
        assert_eq!(log.last_index(), None);
        log.append(entries(21..=22), done(4));
        (3..=4).for_each(|number| assert_eq!(next(&heard), number));
        drop(log);
        let log = open(bench, flush);
        assert_eq!(log.read(.., None).unwrap(), entries(21..=22));
        assert_eq!(log.purged().unwrap().index, 20);
    });
}

#[test]
fn entries_beyond_the_tail_come_from_the_disk() {
    let bench = Bench::rocks();
    let log = open(&bench, FlushBy::Thread);
    let (done, heard) = reports();
    let large = |index| Entry { index, text: "x".repeat(400_000) };
    for index in 1..=60 {
        log.append(vec![large(index)], done(index));
    }
    (1..=60).for_each(|index| assert_eq!(next(&heard), index));
    let all = log.read(.., None).unwrap();
    assert!(all.iter().map(|entry| entry.index).eq(1..=60), "24 MB, the tail keeps 16");
    assert!(log.read(10..=50, None).unwrap().iter().map(|entry| entry.index).eq(10..=50));
    assert_eq!(log.read(1.., Some(900_000)).unwrap().len(), 2);
}

/// Changes one stored row of a log that is not open.
fn bend(engine: &dyn Engine, dir: &Path, table: Table, number: usize, change: impl Fn(&mut Vec<u8>)) {
    let kv = engine.open_log(dir).unwrap();
    let (key, mut row) = kv.scan(table, &Span::all(), Direction::Forward, 99).unwrap().swap_remove(number);
    change(&mut row);
    let mut batch = Batch::default();
    if row.is_empty() {
        batch.delete(table, key)
    } else {
        batch.put(table, key, row)
    }
    kv.write(batch).unwrap();
    kv.sync().unwrap();
}

#[test]
fn a_flipped_bit_is_found_when_the_log_is_opened() {
    for bench in Bench::both() {
        let log = open(&bench, FlushBy::Caller);
        let (done, _heard) = reports();
        log.append(entries(1..=9), done(0));
        log.save_vote(b"vote".to_vec(), done(1));
        drop(log);
        let (engine, dir) = (bench.engine.as_ref(), bench.dir("log"));
        let reopen = || {
            Log::<Entry>::open(engine, &dir, FlushBy::Caller, Soundness::new())
                .err()
                .map(|error| (error.to_string(), error))
        };
        let flip = |row: &mut Vec<u8>| *row.last_mut().unwrap() ^= 1;
        bend(engine, &dir, Table::Log, 6, flip);
        let (text, error) = reopen().expect("a bent entry");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{}: {text}", bench.name);
        assert!(text.contains("log entry 7"), "{text}");
        bend(engine, &dir, Table::Log, 6, flip);
        assert!(reopen().is_none(), "{}: whole again", bench.name);
        for (number, name) in ["generation", "vote"].into_iter().enumerate() {
            bend(engine, &dir, Table::LogMeta, number, flip);
            let (text, _) = reopen().expect(name);
            assert!(text.contains(name), "{text}");
            bend(engine, &dir, Table::LogMeta, number, flip);
        }
        bend(engine, &dir, Table::Log, 4, Vec::clear);
        let (text, _) = reopen().expect("a hole");
        assert!(text.contains("log entry 5"), "{text}");
    }
}

#[test]
fn a_crash_keeps_what_was_acknowledged() {
    let disk = MemoryEngine::new();
    let dir = Path::new("m/log");
    let log = Log::<Entry>::open(&disk, dir, FlushBy::Caller, Soundness::new()).unwrap();
    let (done, heard) = reports();
    log.append(entries(1..=3), done(0));
    log.save_vote(b"vote".to_vec(), done(1));
    assert_eq!((next(&heard), next(&heard)), (0, 1));
    log.save_committed(b"3".to_vec());
    disk.crash();
    let (sender, failed) = channel();
    log.append(vec![entry(4)], Box::new(move |result| sender.send(result.is_err()).unwrap()));
    assert!(failed.recv().unwrap(), "nothing is acknowledged after the crash");
    let log = Log::<Entry>::open(&disk, dir, FlushBy::Caller, Soundness::new()).unwrap();
    assert_eq!(log.read(.., None).unwrap(), entries(1..=3));
    assert_eq!(log.vote(), Some(b"vote".to_vec()));
    assert_eq!(log.committed(), None, "the committed position is not synced");
}
