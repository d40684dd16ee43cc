//! Reading an archive: bytes go in as they come, checked sections come out.

use super::{
    ArchiveEnd, ArchiveHead, FORMAT, HEADER_BYTES, KIND_END, KIND_HEAD, KIND_ROWS, MAGIC, SECTION_BYTES_MAX, SUM_BYTES,
    TABLE_BYTES_MAX, first_sum, header, sum,
};
use crate::codec::CodecError;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Why bytes are no archive that can be trusted. Says where it begins to be wrong; everything before is what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It does not begin as one.
    #[error("this is no saltern archive: it does not begin with \"saltern archive\"")]
    Foreign,
    /// It was written by a newer program.
    #[error("the archive has format {found}, this program reads up to {FORMAT}: use a newer one")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A section is not what was written.
    #[error("{place} is not what was written: {cause}")]
    Wrong {
        /// Which section, and which bytes of the file.
        place: Place,
        /// What is wrong with it.
        cause: String,
    },
    /// The file ends too early.
    #[error("the archive was cut: it ends at byte {at} in {place}, and has no end section")]
    Cut {
        /// Length of the file, in bytes.
        at: u64,
        /// Where it ends.
        place: Place,
    },
    /// Something follows the end.
    #[error("the archive ends at byte {at}, and something follows it")]
    Behind {
        /// Where it should end.
        at: u64,
    },
    /// The sums are right, and whoever made them is not a master of the cluster.
    #[error("the archive's seal does not hold: {0}")]
    Seal(String),
}

/// A section and its bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which section: 0 is the head.
    pub section: u64,
    /// Its bytes in the file; the end is not known before its header was read.
    pub bytes: Range<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section {} (bytes {} to {})", self.section, self.bytes.start, self.bytes.end)
    }
}

/// A section that was checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// What it is. The first one.
    Head(Box<ArchiveHead>),
    /// Rows of one table: keys and values.
    Rows {
        /// The table.
        table: String,
        /// Its rows.
        rows: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// The end. The last one.
    End(Box<ArchiveEnd>),
}

/// What a whole archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it is.
    pub head: ArchiveHead,
    /// How many rows there are, by table; and what people count.
    pub end: ArchiveEnd,
    /// Its length, in bytes.
    pub bytes: u64,
    /// How many sections it has.
    pub sections: u64,
    /// The name of the master that wrote it, as its certificate says.
    pub written_by: String,
}

/// An archive on its way in. After an error nothing more is taken.
pub struct Reader {
    /// What has come and is not a whole section yet.
    buffer: Vec<u8>,
    /// Where `buffer` begins in the file.
    at: u64,
    number: u64,
    begun: bool,
    before: [u8; SUM_BYTES],
    head: Option<ArchiveHead>,
    rows: BTreeMap<String, u64>,
    /// The table of the last rows, for their order.
    last: Option<(String, Vec<u8>)>,
    end: Option<(ArchiveEnd, [u8; SUM_BYTES])>,
    failed: Option<ArchiveError>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            number: 0,
            begun: false,
            before: first_sum(),
            head: None,
            rows: BTreeMap::new(),
            last: None,
            end: None,
            failed: None,
        }
    }

    /// Takes bytes in and gives the sections that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Part>, ArchiveError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.buffer.extend_from_slice(bytes);
        self.take().inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn take(&mut self) -> Result<Vec<Part>, ArchiveError> {
        let mut parts = Vec::new();
        let mut used = 0;
        if !self.begun {
            let Some(magic) = self.buffer.get(..MAGIC.len()) else { return Ok(parts) };
            if magic != MAGIC {
                return Err(ArchiveError::Foreign);
            }
            (self.begun, used) = (true, MAGIC.len());
        }
        loop {
            if self.end.is_some() {
                if used < self.buffer.len() {
                    return Err(ArchiveError::Behind { at: self.at + used as u64 });
                }
                break;
            }
            let rest = self.buffer.get(used..).unwrap_or_default();
            let Some((head, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { break };
            let from = self.at + used as u64;
            let (kind, len) = self.read_header(head, from)?;
            let whole = HEADER_BYTES + len + SUM_BYTES;
            let Some(body) = rest.get(..len) else { break };
            let Some(found) = rest.get(len..len + SUM_BYTES) else { break };
            let place = Place { section: self.number, bytes: from..from + whole as u64 };
            let expected = sum(&self.before, head, body);
            if expected != found {
                return Err(ArchiveError::Wrong { place, cause: "its checksum does not fit".into() });
            }
            let body = body.to_vec();
            parts.push(self.section(kind, &body, &place)?);
            used += whole;
            self.number += 1;
            self.before = expected;
        }
        self.buffer.drain(..used);
        self.at += used as u64;
        Ok(parts)
    }

    /// Kind and length that a header says.
    fn read_header(&self, bytes: &[u8; HEADER_BYTES], from: u64) -> Result<(u8, usize), ArchiveError> {
        let wrong = |cause: &str| {
            let place = Place { section: self.number, bytes: from..from + HEADER_BYTES as u64 };
            Err(ArchiveError::Wrong { place, cause: cause.into() })
        };
        let [kind, .., l0, l1, l2, l3, _, _, _, _] = *bytes;
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if header(kind, self.number, len) != *bytes {
            return wrong("its header does not fit its checksum, or is that of another section");
        }
        if len as usize > SECTION_BYTES_MAX {
            return wrong("it is longer than a section may be");
        }
        Ok((kind, len as usize))
    }

    fn section(&mut self, kind: u8, body: &[u8], place: &Place) -> Result<Part, ArchiveError> {
        let wrong = |cause: String| ArchiveError::Wrong { place: place.clone(), cause };
        match (kind, &self.head) {
            (KIND_HEAD, None) => {
                let head: ArchiveHead = crate::decode(body).map_err(|error| newer(&error, wrong))?;
                if head.format > FORMAT {
                    return Err(ArchiveError::Newer { found: head.format });
                }
                self.head = Some(head.clone());
                Ok(Part::Head(Box::new(head)))
            }
            (KIND_ROWS, Some(_)) => {
                let (table, rows) = parse_rows(body).ok_or_else(|| wrong("its rows do not parse".into()))?;
                self.count(&table, &rows).map_err(wrong)?;
                Ok(Part::Rows { table, rows })
            }
            (KIND_END, Some(_)) => {
                let end: ArchiveEnd = crate::decode(body).map_err(|error| newer(&error, wrong))?;
                if end.rows != self.rows {
                    return Err(wrong(format!("it counts the rows {:?}, there are {:?}", end.rows, self.rows)));
                }
                self.end = Some((end.clone(), self.before));
                Ok(Part::End(Box::new(end)))
            }
            (kind, _) => Err(wrong(format!("a section of kind {kind} has no place there"))),
        }
    }

    /// Rows come once, in the order of their keys.
    fn count(&mut self, table: &str, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), String> {
        for (key, _) in rows {
            let follows = match &self.last {
                Some((last, before)) if last == table => before < key,
                Some(_) | None => !self.rows.contains_key(table),
            };
            if !follows {
                return Err(format!("a row of the table {table} is not in order"));
            }
            self.last = Some((table.to_owned(), key.clone()));
            *self.rows.entry(table.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// The bytes have ended. Gives what the archive is if it is whole and a master of its cluster vouches for it.
    pub fn finish(self) -> Result<Verified, ArchiveError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let length = self.at + self.buffer.len() as u64;
        let (Some(head), Some((end, sum))) = (self.head, self.end) else {
            let place = Place { section: self.number, bytes: self.at..length };
            return Err(if self.begun { ArchiveError::Cut { at: length, place } } else { ArchiveError::Foreign });
        };
        let refuse = |cause: String| ArchiveError::Seal(cause);
        let certificate = end.certificate.verify(&head.ca).map_err(|error| refuse(format!("certificate: {error}")))?;
        if (certificate.cluster, certificate.master) != (head.cluster, head.by) {
            return Err(refuse(format!("master {} of cluster {} signed", certificate.master, certificate.cluster)));
        }
        let seal = end.seal.verify(&certificate.public_key).map_err(|error| refuse(error.to_string()))?;
        if (seal.cluster, seal.sum) != (head.cluster, sum) || seal.rows != end.rows || seal.counts != end.counts {
            return Err(refuse("it was made for another archive".into()));
        }
        let written_by = certificate.name.clone();
        Ok(Verified { head, end, bytes: length, sections: self.number, written_by })
    }
}

/// A record of a newer build is named as such.
fn newer(error: &CodecError, wrong: impl Fn(String) -> ArchiveError) -> ArchiveError {
    match error {
        CodecError::Newer { found, .. } => ArchiveError::Newer { found: u32::from(*found) },
        CodecError::Short | CodecError::Kind { .. } | CodecError::Body { .. } | CodecError::Large { .. } => {
            wrong(error.to_string())
        }
    }
}

/// A table's name and its rows.
type Rows = (String, Vec<(Vec<u8>, Vec<u8>)>);

fn parse_rows(body: &[u8]) -> Option<Rows> {
    let (len, rest) = body.split_first()?;
    let (name, mut rest) = rest.split_at_checked(usize::from(*len))?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.len() <= TABLE_BYTES_MAX)?;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let (key, behind) = field(rest)?;
        let (value, behind) = field(behind)?;
        rows.push((key.to_vec(), value.to_vec()));
        rest = behind;
    }
    (!rows.is_empty()).then(|| (name.to_owned(), rows))
}

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}
