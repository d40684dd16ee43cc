//! RocksDB. The only file that knows its name.
//!
//! A *log* instance writes its WAL by hand ([`Kv::sync`]) and recovers with `TolerateCorruptedTailRecords`: the default mode
//! silently drops everything behind a flipped bit. A *state* instance has no WAL (the replicated log is one) and flushes all
//! tables at one point, so that the last applied position never reaches the disk without its effects.

use super::{Batch, Direction, Engine, FixedFile, Kind, Kv, Op, Pressure, Span, Table, Visit, disk};
use crate::error::StoreError;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::statistics::Ticker;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    DBRecoveryMode, FlushOptions, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use saltern_wire::level::Newer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for blocks read from table files, shared by all tables of an instance, in bytes. An idle master stays small.
const BLOCK_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Memory for unflushed rows over all tables of an instance, in bytes: a flush of this size takes a fraction of a second.
const WRITE_BUFFER_BYTES: usize = 64 * 1024 * 1024;
/// Share of the memory for unflushed rows that says which rows are not among them.
const MEMTABLE_BLOOM_SHARE: f64 = 0.05;
/// Most table files held open by an instance. The process has 20,000 descriptors, nearly all of them for minions.
const OPEN_FILES_MAX: i32 = 512;
/// A WAL beyond this size makes RocksDB flush the tables that hold it back, in bytes.
const WAL_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The real engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RocksEngine;

struct RocksKv {
    db: DB,
    path: PathBuf,
    kind: Kind,
    /// With the counters of an instance that is open for reading only.
    counted: Option<Options>,
}

impl RocksEngine {
    fn open(self, dir: &Path, kind: Kind) -> Result<Arc<dyn Kv>, StoreError> {
        disk::make_folder(dir)?;
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        refuse_headless(dir)?;
        let db = DB::open_cf_descriptors(&instance_options(kind), dir, families(kind, &cache, false))
            .map_err(|error| open_error(dir, &error))?;
        Ok(Arc::new(RocksKv { db, path: dir.to_path_buf(), kind, counted: None }))
    }
}

/// The column families of an instance. Every instance has one called `default`; we keep nothing in it.
fn families(kind: Kind, cache: &Cache, verifying: bool) -> Vec<ColumnFamilyDescriptor> {
    let names = kind.tables().iter().map(|table| table.name()).chain(["default"]);
    names.map(|name| ColumnFamilyDescriptor::new(name, table_options(cache, verifying))).collect()
}

/// RocksDB makes a new database where the file CURRENT is missing and removes the tables of the old one: not where there
/// are any.
fn refuse_headless(dir: &Path) -> Result<(), StoreError> {
    let names = disk::list(dir)?;
    let has_data = names.iter().any(|name| name.ends_with(".sst") || name.ends_with(".log"));
    if has_data && !names.iter().any(|name| name == "CURRENT") {
        return Err(StoreError::corrupt(format!("the database in {}", dir.display()), "its file CURRENT is missing"));
    }
    Ok(())
}

fn instance_options(kind: Kind) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    match kind {
        Kind::Log => {
            options.set_manual_wal_flush(true);
            options.set_max_total_wal_size(WAL_BYTES_MAX);
        }
        Kind::State => options.set_atomic_flush(true),
    }
    options
}

fn table_options(cache: &Cache, verifying: bool) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    // For a verification, outside of the cache: then they are read, and checked, as soon as a table is opened.
    blocks.set_cache_index_and_filter_blocks(!verifying);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES / 2);
    // Most rows that are looked for among those in memory are not there: request ids, pieces of returns.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_SHARE);
    if verifying {
        // Overwritten rows are stepped over one by one: a jump would leave blocks unread.
        options.set_max_sequential_skip_in_iterations(u64::MAX);
    }
    options
}

/// RocksDB reports a held lock as an I/O error that names its LOCK file.
fn open_error(dir: &Path, error: &rocksdb::Error) -> StoreError {
    let cause = error.to_string();
    if cause.contains("While lock file") || cause.contains("lock hold by current process") {
        return StoreError::Locked { path: dir.to_path_buf() };
    }
    // Tables are only ever added.
    if cause.contains("Column families not opened") {
        let tables = cause.rsplit(": ").next().unwrap_or_default();
        let what = format!("the database in {}", dir.display());
        return Newer::of(what, format!("the tables {tables}"), "none of these").into();
    }
    // The folder itself is there: what it does not find is a file that its list of files names.
    if cause.starts_with("Corruption") || cause.contains("No such file or directory") {
        return StoreError::corrupt(format!("the database in {}", dir.display()), cause);
    }
    StoreError::engine("opening the database", dir, cause)
}

impl RocksKv {
    fn fail(&self, doing: &'static str, error: &rocksdb::Error) -> StoreError {
        let cause = error.to_string();
        if cause.starts_with("Corruption") {
            return StoreError::corrupt(format!("the database in {}", self.path.display()), cause);
        }
        StoreError::engine(doing, &self.path, cause)
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(table.name()).ok_or_else(|| StoreError::Engine {
            doing: "looking for a table",
            path: self.path.clone(),
            cause: format!("this instance has no table {}", table.name()),
        })
    }
}

impl RocksKv {
    /// A number that the database knows of itself; 0 if it does not tell.
    fn number(&self, name: &str) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }

    /// The same, summed over all tables.
    fn sum(&self, name: &str) -> u64 {
        let families = self.kind.tables().iter().filter_map(|table| self.family(*table).ok());
        families.filter_map(|family| self.db.property_int_value_cf(family, name).ok().flatten()).sum()
    }
}

impl Kv for RocksKv {
    fn pressure(&self) -> Pressure {
        Pressure {
            stopped: self.number("rocksdb.is-write-stopped") > 0,
            slowed_to_bytes_per_s: self.number("rocksdb.actual-delayed-write-rate"),
            unflushed_bytes: self.sum("rocksdb.cur-size-all-mem-tables"),
            owed_bytes: self.sum("rocksdb.estimate-pending-compaction-bytes"),
        }
    }

    fn holds_writes(&self) -> bool {
        self.number("rocksdb.is-write-stopped") > 0 || self.number("rocksdb.actual-delayed-write-rate") > 0
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(table)?, key).map_err(|error| self.fail("reading", &error))
    }

    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(span.start.clone());
        if let Some(end) = &span.end {
            options.set_iterate_upper_bound(end.clone());
        }
        let mut rows = self.db.raw_iterator_cf_opt(self.family(table)?, options);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        rows.status().map_err(|error| self.fail("reading", &error))
    }

    #[allow(deprecated, reason = "it is called of no use without removed ranges, and these are what it is used for")]
    fn verify(&self, table: Table, visit: Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.fill_cache(false);
        // A range that was removed would be jumped over, and its blocks left unread.
        options.set_ignore_range_deletions(true);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(table)?, options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|error| self.fail("reading", &error))?;
        // What is not a row (filters, properties) is read when a table is opened, and passed over if it is bad: it is only
        // counted. It does no harm here, but it must not travel.
        match self.counted.as_ref().map_or(0, |counted| counted.get_ticker_count(Ticker::BlockChecksumMismatchCount)) {
            0 => Ok(()),
            bad => {
                let what = format!("the database in {}", self.path.display());
                Err(StoreError::corrupt(what, format!("{bad} blocks of its tables do not fit their checksums")))
            }
        }
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        for op in batch.ops {
            match op {
                Op::Put(table, key, value) => writes.put_cf(self.family(table)?, key, value),
                Op::Delete(table, key) => writes.delete_cf(self.family(table)?, key),
                Op::DeleteRange(table, start, end) => writes.delete_range_cf(self.family(table)?, start, end),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(self.kind == Kind::State);
        self.db.write_opt(writes, &options).map_err(|error| self.fail("writing", &error))
    }

    fn sync(&self) -> Result<(), StoreError> {
        match self.kind {
            Kind::Log => self.db.flush_wal(true).map_err(|error| self.fail("syncing the write-ahead log", &error)),
            Kind::State => Ok(()),
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        let families = self.kind.tables().iter().map(|table| self.family(*table)).collect::<Result<Vec<_>, _>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.fail("flushing", &error))
    }

    fn compact(&self, table: Table, span: &Span) -> Result<(), StoreError> {
        // Dropping whole files (`delete_files_in_range`) would be cheaper and wrong: it may drop the file with a removal and keep
        // an older one, which straddles the range's end, with the rows that were removed.
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let (start, end) = (span.start.as_slice(), span.end.as_deref());
        let family = self.family(table)?;
        self.db.compact_range_cf_opt(family, Some(start), end, &options);
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.kind.tables().iter().try_fold(0, |sum: u64, table| {
            let bytes = self.db.property_int_value_cf(self.family(*table)?, "rocksdb.live-sst-files-size");
            Ok(sum.saturating_add(bytes.map_err(|error| self.fail("asking for its size", &error))?.unwrap_or(0)))
        })
    }

    fn checkpoint(&self, into: &Path) -> Result<(), StoreError> {
        // RocksDB flushes inside, all tables at one point.
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(into));
        made.map_err(|error| self.fail("making a checkpoint", &error))?;
        for name in disk::list(into)? {
            disk::sync(&into.join(name))?;
        }
        disk::sync(into)
    }
}

impl Engine for RocksEngine {
    fn open_log(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError> {
        self.open(dir, Kind::Log)
    }

    fn open_state(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError> {
        self.open(dir, Kind::State)
    }

    fn has_instance(&self, dir: &Path) -> Result<bool, StoreError> {
        Ok(!disk::list(dir)?.is_empty())
    }

    fn hold(&self, dir: &Path) -> Result<Box<dyn Send>, StoreError> {
        Ok(Box::new(disk::hold(dir, &dir.join("LOCK"))?))
    }

    fn open_read_only(&self, dir: &Path, kind: Kind) -> Result<Arc<dyn Kv>, StoreError> {
        refuse_headless(dir)?;
        let mut options = instance_options(kind);
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        options.enable_statistics();
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let db = DB::open_cf_descriptors_read_only(&options, dir, families(kind, &cache, true), false)
            .map_err(|error| open_error(dir, &error))?;
        Ok(Arc::new(RocksKv { db, path: dir.to_path_buf(), kind, counted: Some(options) }))
    }

    fn make_folder(&self, dir: &Path) -> Result<(), StoreError> {
        disk::make_folder(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, StoreError> {
        disk::list(dir)
    }

    fn file_len(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        disk::file_len(path)
    }

    fn read_file(&self, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        disk::read_file(path, offset, len)
    }

    fn append_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        disk::append_file(path, bytes)
    }

    fn sync_file(&self, path: &Path) -> Result<(), StoreError> {
        disk::sync(path)
    }

    fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        disk::replace_file(path, bytes)
    }

    fn open_fixed(&self, path: &Path) -> Result<Option<Box<dyn FixedFile>>, StoreError> {
        Ok(disk::Fixed::open(path)?.map(|file| Box::new(file) as Box<dyn FixedFile>))
    }

    fn clone_folder(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        disk::clone_folder(from, to)
    }

    fn clone_file(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        disk::clone_file(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        disk::rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        disk::remove(path)
    }
}
