//! Log entries of the tests: an index and a text.

use saltern_store::LogEntry;

/// First byte of an entry that only a newer build reads: no index begins with it.
const NEWER: u8 = 9;
/// The text of an entry that is encoded as a newer build would.
pub const OF_A_NEWER_BUILD: &str = "of a newer build";

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub index: u64,
    pub text: String,
}

impl LogEntry for Entry {
    fn index(&self) -> u64 {
        self.index
    }
    fn encode(&self) -> Vec<u8> {
        let mut bytes = [&self.index.to_be_bytes(), self.text.as_bytes()].concat();
        bytes[0] = if self.text == OF_A_NEWER_BUILD { NEWER } else { bytes[0] };
        bytes
    }
    fn newer(bytes: &[u8]) -> Option<(u8, u8)> {
        bytes.first().filter(|first| **first == NEWER).map(|first| (*first, 0))
    }
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (index, text) = bytes.split_first_chunk::<8>().ok_or("no index")?;
        let text = String::from_utf8(text.to_vec()).map_err(|error| error.to_string())?;
        Ok(Self { index: u64::from_be_bytes(*index), text })
    }
}

pub fn entry(index: u64) -> Entry {
    Entry { index, text: format!("entry {index}") }
}

pub fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    range.map(entry).collect()
}
