//! Every bound of the wire, with the reason for its size. A bound that is not here does not exist.

/// Longest minion id, in bytes: the limit of a DNS name, which is what most ids are.
pub const MINION_ID_BYTES_MAX: usize = 253;

/// Largest Noise message, in bytes; fixed by the Noise specification, revision 34, section 3.
pub const NOISE_MESSAGE_BYTES_MAX: usize = 65_535;

/// Largest plain text in one Noise message: the limit above less the 16-byte tag of AES-GCM.
pub const NOISE_BODY_BYTES_MAX: usize = NOISE_MESSAGE_BYTES_MAX - 16;

/// Largest session message after its chunks are joined, in bytes: one part of a return plus its envelope, or the facts of
/// one minion, with room for a directory of masters.
pub const SESSION_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Largest part of a return, in bytes. Parts keep a log entry below [`LOG_ENTRY_BYTES_MAX`], so that one large return
/// cannot delay a key revocation behind it.
pub const RETURN_PART_BYTES_MAX: usize = 256 * 1024;

/// Largest return of one minion for one job, in bytes, over all of its parts.
pub const RETURN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest encoded command in the replicated log, in bytes.
pub const LOG_ENTRY_BYTES_MAX: usize = 512 * 1024;

/// Most returns that one log entry carries: enough to amortise an fsync, few enough to apply in about a millisecond.
pub const RETURNS_PER_ENTRY_MAX: usize = 512;

/// Most bytes of returns that one log entry carries.
pub const RETURN_BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes of returns that a minion may have unanswered at its master without having been given credit for them: dozens of
/// ordinary ones. All the minions of a master together stay below half of what its inbox holds.
pub const RETURN_WINDOW_BYTES: usize = 16 * 1024;

/// What a part of a return weighs beyond its body, in bytes, where returns are counted: jid, digest and field names.
pub const RETURN_PART_OVERHEAD_BYTES: usize = 128;

/// Largest fan-out frame on port 4505, in bytes, sealed and signed.
pub const FANOUT_FRAME_BYTES_MAX: usize = 512 * 1024;

/// Largest encoded job (function, arguments, target expression), in bytes. It has to fit a fan-out frame with its targets.
pub const JOB_BYTES_MAX: usize = 256 * 1024;

/// Largest set of grains that one minion may report, encoded, in bytes.
pub const FACTS_BYTES_MAX: usize = 256 * 1024;

/// Largest mine value of one minion and function, encoded, in bytes.
pub const MINE_VALUE_BYTES_MAX: usize = 256 * 1024;

/// Longest function name (`module.function`), in bytes.
pub const FUNCTION_NAME_BYTES_MAX: usize = 128;

/// Longest target expression, in bytes: a `-L` list of a few thousand names fits.
pub const TARGET_BYTES_MAX: usize = 64 * 1024;

/// Longest single glob in a target, in bytes: four times a minion id, for sets and for values of grains. It bounds the cost
/// of matching, which is its length times the length of what is matched.
pub const TARGET_GLOB_BYTES_MAX: usize = 1024;

/// Most nested parentheses in a compound target: the parser recurses.
pub const TARGET_DEPTH_MAX: usize = 32;

/// Largest message between two masters, in bytes: one log entry of the largest size many times over (append entries carry
/// several), or one chunk of a snapshot file.
pub const PEER_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Largest chunk of a snapshot file in one message, in bytes.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Largest body of an operator's HTTP request, in bytes.
pub const API_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Longest operator or master name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Time that a peer has to finish its ZMTP greeting and the session handshake, in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// Most masters in a directory. Voters are 3 or 5; the rest are learners in further sites.
pub const MASTERS_MAX: usize = 32;

/// Most pending (unaccepted) keys that the cluster remembers: a stranger must not fill the disks.
pub const PENDING_KEYS_MAX: u32 = 10_000;

/// Denied keys kept beside an id: enough to see an impersonation, too few to fill a disk.
pub const DENIED_KEYS_PER_ID_MAX: usize = 4;

/// Most jobs that may be open at one time.
pub const OPEN_JOBS_MAX: u32 = 10_000;
