//! The store's tests, one binary: RocksDB is linked once.
//!
//! `kv` and `snapshots` run over both engines; `scripts` runs every golden script on both and compares them; `laws` are the
//! properties; `fixtures` holds frozen bytes; `rot` flips bits of a data folder. After a wanted change: `UPDATE_GOLDENFILES=1 cargo test -p saltern-store`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod archives;
mod chains;
mod crashes;
mod entry;
mod fixtures;
mod kv;
mod laws;
mod levels;
mod logs;
mod marks;
mod retention;
mod rolling;
mod rot;
mod rot_stories;
mod scripts;
mod secrets;
mod snapshots;
mod states;
mod world;
