//! Writing an archive: rows go in one by one, sections come out as they get full.

use super::{
    ArchiveEnd, ArchiveHead, ArchiveSeal, KIND_END, KIND_HEAD, KIND_ROWS, MAGIC, SECTION_BYTES, SUM_BYTES, first_sum,
    header, sum,
};
use crate::crypto::Signed;
use crate::id::ClusterId;
use crate::master::Certificate;
use std::collections::BTreeMap;

/// An archive on its way out.
pub struct Writer {
    cluster: ClusterId,
    number: u64,
    before: [u8; SUM_BYTES],
    /// The table of the rows in `body`.
    table: &'static str,
    body: Vec<u8>,
    rows: BTreeMap<String, u64>,
}

impl Writer {
    /// Begins an archive; the bytes are its beginning.
    pub fn new(head: &ArchiveHead) -> (Self, Vec<u8>) {
        let (cluster, before) = (head.cluster, first_sum());
        let mut writer = Self { cluster, number: 0, before, table: "", body: Vec::new(), rows: BTreeMap::new() };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(writer.section(KIND_HEAD, &crate::encode(head)));
        (writer, bytes)
    }

    /// Adds a row; gives a section if one got full. All rows of a table come together.
    pub fn row(&mut self, table: &'static str, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let full = self.body.len() >= SECTION_BYTES || (self.table != table && !self.body.is_empty());
        let section = full.then(|| self.flush());
        if self.body.is_empty() {
            self.table = table;
            self.body.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
            self.body.extend_from_slice(table.as_bytes());
        }
        for part in [key, value] {
            self.body.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.body.extend_from_slice(part);
        }
        *self.rows.entry(table.to_owned()).or_default() += 1;
        section
    }

    /// Ends the archive: `sign` signs the seal. The bytes are the rest of it.
    pub fn finish(
        mut self,
        counts: BTreeMap<String, u64>,
        certificate: Signed<Certificate>,
        sign: impl FnOnce(&ArchiveSeal) -> Signed<ArchiveSeal>,
    ) -> Vec<u8> {
        let mut bytes = if self.body.is_empty() { Vec::new() } else { self.flush() };
        let rows = std::mem::take(&mut self.rows);
        let seal = ArchiveSeal { cluster: self.cluster, sum: self.before, rows: rows.clone(), counts: counts.clone() };
        let end = ArchiveEnd { rows, counts, seal: sign(&seal), certificate };
        bytes.extend(self.section(KIND_END, &crate::encode(&end)));
        bytes
    }

    fn flush(&mut self) -> Vec<u8> {
        let body = std::mem::take(&mut self.body);
        self.section(KIND_ROWS, &body)
    }

    fn section(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let header = header(kind, self.number, u32::try_from(body.len()).unwrap_or(u32::MAX));
        let sum = sum(&self.before, &header, body);
        self.number += 1;
        self.before = sum;
        [header.as_slice(), body, &sum].concat()
    }
}
