//! What sessions refused, counted by reason: on a master, strangers and changed messages; on a minion, masters that are none.
//!
//! The reasons are a fixed few words, fit for a label of metrics. Frames of the fan-out have their own counters:
//! [`crate::subscriber::RefusedFrames`].

use crate::channel::SessionError;
use saltern_wire::crypto::handshake::HandshakeError;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

impl SessionError {
    /// The word for what was refused; `None` if nothing was, and the link merely failed.
    #[must_use]
    pub fn refusal(&self) -> Option<&'static str> {
        Some(match self {
            Self::Transport(_) | Self::Torn { .. } | Self::Slot { .. } => return None,
            Self::Handshake { source, .. } => match source {
                HandshakeError::Version { .. } => "version",
                HandshakeError::WrongCa { .. } => "wrong_ca",
                HandshakeError::NotCertified(_) => "not_certified",
                HandshakeError::WrongCluster { .. } => "wrong_cluster",
                HandshakeError::OldGeneration { .. } => "old_generation",
                HandshakeError::Forged { .. } => "forged",
                HandshakeError::Tampered { .. } => "handshake_tampered",
                HandshakeError::Malformed { .. } => "handshake_malformed",
            },
            Self::Cipher { .. } => "message_tampered",
            Self::Chunks { .. } | Self::Codec { .. } => "message_malformed",
            Self::Large { .. } => "message_large",
        })
    }
}

/// How often each reason came up. One for a process; whoever handles a [`SessionError`] notes it.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<&'static str, u64>>);

impl Refusals {
    /// Counts `error` if it is a refusal.
    pub fn note(&self, error: &SessionError) {
        if let Some(reason) = error.refusal() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
        }
    }

    /// All reasons that came up, with their counts.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(reason, count)| (*reason, *count)).collect()
    }
}
