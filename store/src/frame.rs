//! How single records are protected on the disk: `version 1 · CRC32C 4 · body`. The checksum covers the version and the body.

use crate::error::StoreError;
use saltern_wire::level::Newer;

/// The version that is written, and the newest that this build reads.
const VERSION: u8 = 1;
/// Bytes before the body.
const HEADER_BYTES: usize = 5;

/// `body` with its header.
pub(crate) fn seal(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.push(VERSION);
    out.extend_from_slice(&checksum(VERSION, body).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The body of what [`seal`] wrote, or what is wrong with it.
pub(crate) fn open(bytes: &[u8]) -> Result<&[u8], String> {
    let Some((&[version, a, b, c, d], body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(format!("it has {} bytes, fewer than its header", bytes.len()));
    };
    if u32::from_be_bytes([a, b, c, d]) != checksum(version, body) {
        return Err("its checksum does not fit its bytes".into());
    }
    if version != VERSION {
        return Err(format!("it has format version {version}, this build reads version {VERSION}"));
    }
    Ok(body)
}

/// [`open`] for a record of `what`: whole but of a newer build, or corrupt.
pub(crate) fn open_of(what: impl Into<String>, bytes: &[u8]) -> Result<&[u8], StoreError> {
    open(bytes).map_err(|cause| match bytes.split_first_chunk::<HEADER_BYTES>() {
        Some((&[version, a, b, c, d], body))
            if version > VERSION && u32::from_be_bytes([a, b, c, d]) == checksum(version, body) =>
        {
            Newer::format(what, version, VERSION).into()
        }
        Some(_) | None => StoreError::corrupt(what, cause),
    })
}

/// The checksum that stands in what [`seal`] wrote; zero for bytes that are too short to be such.
pub(crate) fn checksum_of(sealed: &[u8]) -> u32 {
    match sealed.split_first_chunk::<HEADER_BYTES>() {
        Some((&[_, a, b, c, d], _)) => u32::from_be_bytes([a, b, c, d]),
        None => 0,
    }
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[version]), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_frozen() {
        assert_eq!(seal(b"entry"), [1, 0x5b, 0x5e, 0xea, 0x7b, b'e', b'n', b't', b'r', b'y']);
    }

    #[test]
    fn a_newer_record_is_named_and_not_called_corrupt() {
        let newer = [[2].as_slice(), &checksum(2, b"entry").to_be_bytes(), b"entry"].concat();
        let refused = open_of("log entry 7", &newer).expect_err("of a newer build");
        assert!(matches!(refused, StoreError::Newer(_)), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("log entry 7") && text.contains("format version 2"), "{text}");
        let mut bent = newer;
        bent[6] ^= 1;
        assert!(matches!(open_of("log entry 7", &bent), Err(StoreError::Corrupt { .. })), "a bit is flipped as well");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let sealed = seal(b"entry");
        assert_eq!(open(&sealed), Ok(b"entry".as_slice()));
        for bit in 0..sealed.len() * 8 {
            let mut bent = sealed.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bent).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(open(&sealed[..len]).is_err(), "{len} bytes");
        }
    }
}
