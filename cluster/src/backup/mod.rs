//! Backups: a whole truth in one file, and a cluster out of one.
//!
//! ```text
//!   snapshot save ─ GET /v1/snapshot ─▶ archive::write ─ sections ─▶ the operator's file     (nothing of it in memory)
//!   backup_folder, backup_every ──────▶ schedule ───────────────────▶ saltern-CLUSTER-REVISION.archive, the newest few
//!   cluster export-keys ──────────────▶ keys::seal ─ under a passphrase ─▶ the safe
//!   saltern-master restore ARCHIVE ───▶ restore: archive + keys ─▶ a data folder of a new cluster with one master
//! ```
//!
//! **Invariants.** An archive is the truth at one point of the log, at which the master that writes it is known to be current.
//! It holds no secret in the clear; without the keys in the safe nothing can be made of it. A restored cluster has a new id and
//! a higher generation, under the same CA: minions follow it, and obey nothing of the former cluster any more. Restoring looks
//! at every byte of the archive before it writes the first one.
//!
//! **It refuses** to restore over another master's files, and from an archive that is not whole.

pub mod archive;
pub mod keys;
pub mod restore;
pub mod schedule;
