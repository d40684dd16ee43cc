//! One suite over both engines: what every instance promises.

use crate::world::Bench;
use saltern_store::StoreError;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::kv::{Batch, Direction, Engine, Kv, Row, Span, Table};
use std::path::Path;

fn put(kv: &dyn Kv, table: Table, rows: &[(&str, &str)]) {
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.put(table, *key, *value);
    }
    kv.write(batch).unwrap();
}

fn keys(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|(key, _)| std::str::from_utf8(key).unwrap()).collect()
}

#[test]
fn rows_are_read_in_order_within_their_span() {
    for bench in Bench::both() {
        let kv = bench.engine.open_state(&bench.dir("kv")).unwrap();
        put(kv.as_ref(), Table::Jobs, &[("b", "2"), ("d", "4"), ("a", "1"), ("c", "3"), ("ca", "3a")]);
        put(kv.as_ref(), Table::Keys, &[("b", "other")]);
        put(kv.as_ref(), Table::Timeline, &[("b", "other")]);
        let scan = |span: &Span, direction, limit| kv.scan(Table::Jobs, span, direction, limit).unwrap();
        let all = scan(&Span::all(), Direction::Forward, 99);
        assert_eq!(keys(&all), ["a", "b", "c", "ca", "d"], "{}", bench.name);
        assert_eq!(keys(&scan(&Span::all(), Direction::Backward, 2)), ["d", "ca"], "{}", bench.name);
        assert_eq!(keys(&scan(&Span::between("b", "d"), Direction::Forward, 99)), ["b", "c", "ca"]);
        assert_eq!(keys(&scan(&Span::between("b", "d"), Direction::Backward, 99)), ["ca", "c", "b"]);
        assert_eq!(keys(&scan(&Span::prefix("c"), Direction::Backward, 99)), ["ca", "c"]);
        assert!(scan(&Span::between("d", "b"), Direction::Forward, 99).is_empty());
        assert!(scan(&Span::all(), Direction::Forward, 0).is_empty());
        assert_eq!(kv.get(Table::Jobs, b"c").unwrap(), Some(b"3".to_vec()));
        assert_eq!(kv.get(Table::Jobs, b"x").unwrap(), None);
    }
}

#[test]
fn long_tables_are_read_whole_in_both_directions() {
    for bench in Bench::both() {
        let kv = bench.engine.open_state(&bench.dir("kv")).unwrap();
        let mut batch = Batch::default();
        for number in 0..1000u32 {
            batch.put(Table::Returns, number.to_be_bytes(), [1]);
        }
        kv.write(batch).unwrap();
        let read = |direction| {
            let rows = kv.scan(Table::Returns, &Span::all(), direction, usize::MAX).unwrap();
            rows.iter().map(|(key, _)| u32::from_be_bytes(key.as_slice().try_into().unwrap())).collect::<Vec<_>>()
        };
        assert!(read(Direction::Forward).into_iter().eq(0..1000), "{}", bench.name);
        assert!(read(Direction::Backward).into_iter().eq((0..1000).rev()), "{}", bench.name);
    }
}

#[test]
fn a_batch_happens_in_its_order() {
    for bench in Bench::both() {
        let kv = bench.engine.open_state(&bench.dir("kv")).unwrap();
        put(kv.as_ref(), Table::Jobs, &[("a", "1"), ("b", "2"), ("c", "3")]);
        let mut batch = Batch::default();
        batch.put(Table::Jobs, "bb", "gone");
        batch.delete_range(Table::Jobs, "a", "c");
        batch.put(Table::Jobs, "b", "again");
        batch.put(Table::Jobs, "d", "4");
        batch.delete(Table::Jobs, "d");
        kv.write(batch).unwrap();
        let rows = kv.scan(Table::Jobs, &Span::all(), Direction::Forward, 99).unwrap();
        assert_eq!(keys(&rows), ["b", "c"], "{}", bench.name);
        assert_eq!(rows[0].1, b"again");
    }
}

#[test]
fn what_was_written_is_there_after_reopening() {
    for bench in Bench::both() {
        let dir = bench.dir("kv");
        let kv = bench.engine.open_state(&dir).unwrap();
        put(kv.as_ref(), Table::Jobs, &[("a", "1")]);
        drop(kv);
        let kv = bench.engine.open_state(&dir).unwrap();
        assert_eq!(kv.get(Table::Jobs, b"a").unwrap(), Some(b"1".to_vec()), "{}", bench.name);
        let dir = bench.dir("log");
        let log = bench.engine.open_log(&dir).unwrap();
        put(log.as_ref(), Table::Log, &[("a", "1")]);
        log.sync().unwrap();
        drop(log);
        let log = bench.engine.open_log(&dir).unwrap();
        assert_eq!(log.get(Table::Log, b"a").unwrap(), Some(b"1".to_vec()), "{}", bench.name);
    }
}

#[test]
fn a_folder_is_open_once() {
    for bench in Bench::both() {
        let dir = bench.dir("kv");
        let first = bench.engine.open_state(&dir).unwrap();
        let second = bench.engine.open_state(&dir).err().unwrap();
        assert!(matches!(second, StoreError::Locked { .. }), "{}: {second}", bench.name);
        assert!(second.to_string().contains(&dir.display().to_string()), "{second}");
        drop(first);
        assert!(bench.engine.open_state(&dir).is_ok(), "{}", bench.name);
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let bench = Bench::rocks();
    let file = bench.dir("file");
    std::fs::write(&file, "not a folder").unwrap();
    let refused = RocksEngine.open_log(&file.join("log")).err().unwrap();
    assert!(matches!(refused, StoreError::Folder { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("file/log") && text.contains("read and write"), "{text}");
}

#[test]
fn a_checkpoint_stands_still_while_the_instance_goes_on() {
    for bench in Bench::both() {
        let kv = bench.engine.open_state(&bench.dir("kv")).unwrap();
        put(kv.as_ref(), Table::Jobs, &[("a", "1")]);
        put(kv.as_ref(), Table::Keys, &[("k", "1")]);
        kv.checkpoint(&bench.dir("copy")).unwrap();
        put(kv.as_ref(), Table::Jobs, &[("a", "2"), ("b", "2")]);
        bench.engine.clone_folder(&bench.dir("copy"), &bench.dir("clone")).unwrap();
        let copy = bench.engine.open_state(&bench.dir("clone")).unwrap();
        put(copy.as_ref(), Table::Jobs, &[("c", "3")]);
        let rows = copy.scan(Table::Jobs, &Span::all(), Direction::Forward, 99).unwrap();
        assert_eq!(keys(&rows), ["a", "c"], "{}", bench.name);
        assert_eq!(rows[0].1, b"1");
        assert_eq!(copy.get(Table::Keys, b"k").unwrap(), Some(b"1".to_vec()));
        assert_eq!(kv.get(Table::Jobs, b"c").unwrap(), None);
    }
}

#[test]
fn files_are_kept_and_removed() {
    for bench in Bench::both() {
        let engine = bench.engine.as_ref();
        let dir = bench.dir("files");
        engine.make_folder(&dir.join("a")).unwrap();
        engine.append_file(&dir.join("a/x"), b"hello ").unwrap();
        engine.append_file(&dir.join("a/x"), b"world").unwrap();
        engine.sync_file(&dir.join("a/x")).unwrap();
        engine.replace_file(&dir.join("CURRENT"), b"one").unwrap();
        engine.replace_file(&dir.join("CURRENT"), b"two").unwrap();
        assert_eq!(engine.list(&dir).unwrap(), ["CURRENT", "a"], "{}", bench.name);
        assert_eq!(engine.read_file(&dir.join("a/x"), 6, 3).unwrap(), b"wor");
        assert_eq!(engine.read_file(&dir.join("a/x"), 11, 3).unwrap(), b"");
        assert_eq!(engine.read_file(&dir.join("CURRENT"), 0, 99).unwrap(), b"two");
        engine.rename(&dir.join("a"), &dir.join("b")).unwrap();
        assert_eq!(engine.file_len(&dir.join("b/x")).unwrap(), Some(11), "{}", bench.name);
        assert_eq!(engine.file_len(&dir.join("a/x")).unwrap(), None);
        engine.remove(&dir.join("b")).unwrap();
        engine.remove(&dir.join("b")).unwrap();
        assert_eq!(engine.list(&dir).unwrap(), ["CURRENT"], "{}", bench.name);
        assert!(engine.list(&dir.join("nowhere")).unwrap().is_empty());
    }
}

#[test]
fn a_crash_loses_exactly_what_was_not_durable() {
    let disk = MemoryEngine::new();
    let (log_dir, state_dir) = (Path::new("m/log"), Path::new("m/state"));
    let log = disk.open_log(log_dir).unwrap();
    let state = disk.open_state(state_dir).unwrap();
    put(log.as_ref(), Table::Log, &[("a", "1"), ("b", "1")]);
    log.sync().unwrap();
    put(log.as_ref(), Table::Log, &[("b", "2"), ("c", "2")]);
    put(state.as_ref(), Table::Jobs, &[("a", "1")]);
    state.flush().unwrap();
    put(state.as_ref(), Table::Jobs, &[("b", "2")]);
    state.sync().unwrap();
    disk.append_file(Path::new("m/f"), b"synced").unwrap();
    disk.sync_file(Path::new("m/f")).unwrap();
    disk.append_file(Path::new("m/f"), b" not").unwrap();
    disk.append_file(Path::new("m/g"), b"never").unwrap();
    disk.crash();
    assert!(log.get(Table::Log, b"a").is_err(), "a handle from before the crash is dead");
    let log = disk.open_log(log_dir).unwrap();
    let rows = log.scan(Table::Log, &Span::all(), Direction::Forward, 99).unwrap();
    assert_eq!(rows, [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"1".to_vec())]);
    let state = disk.open_state(state_dir).unwrap();
    let rows = state.scan(Table::Jobs, &Span::all(), Direction::Forward, 99).unwrap();
    assert_eq!(rows, [(b"a".to_vec(), b"1".to_vec())]);
    assert_eq!(disk.read_file(Path::new("m/f"), 0, 99).unwrap(), b"synced");
    assert_eq!(disk.file_len(Path::new("m/g")).unwrap(), None);
}
