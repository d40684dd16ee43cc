//! First answers by request id: what makes a retried write harmless.

use crate::command::Applied;
use crate::error::StoreError;
use crate::kv::Table;
use crate::overlay::{Overlay, Read};
use saltern_wire::codec::Encoded;
use saltern_wire::{JobId, RequestId};
use serde::{Deserialize, Serialize};

/// The first answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// As it was.
    Whole(Applied),
    /// A job was opened. Its record has the minions' names, which are too many to keep twice.
    Opened(JobId),
}

/// The first answer and where it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequestRow {
    pub(crate) answer: Answer,
    /// Log index of the command that it answered.
    pub(crate) revision: u64,
}

impl Encoded for RequestRow {
    const KIND: u8 = 71;
}

pub(crate) fn get(read: &impl Read, request: RequestId) -> Result<Option<RequestRow>, StoreError> {
    super::get(read, Table::Requests, &super::key(&[request.as_bytes()]))
}

pub(crate) fn put(over: &mut Overlay, request: RequestId, row: &RequestRow) {
    over.put(Table::Requests, super::key(&[request.as_bytes()]), saltern_wire::encode(row));
}

/// Forgets the request whose 16 bytes are `subject`.
pub(crate) fn delete(over: &mut Overlay, subject: &[u8]) {
    over.delete(Table::Requests, super::key(&[subject]));
}
