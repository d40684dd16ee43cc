//! How a value becomes bytes: one version byte, one kind byte, then MessagePack with named fields.
//!
//! Named fields make rolling upgrades possible: a reader skips fields it does not know and fills absent ones from their
//! serde defaults. The version rises only when that is not enough; the kind keeps a record of one sort from ever being
//! read as another.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value with a place in the format. `KIND` is explicit, append-only and unique; `VERSION` is the one that is written.
pub trait Encoded: Serialize + DeserializeOwned {
    /// The second byte of every encoding.
    const KIND: u8;
    /// The first byte of every encoding, and the newest that this build reads.
    const VERSION: u8 = 1;
}

/// Why bytes are not the wanted value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer than two bytes.
    #[error("the record ends before its header")]
    Short,
    /// Written by a newer build.
    #[error("the record has format version {found}, this build reads up to {known}: upgrade this machine")]
    Newer {
        /// The version byte that was read.
        found: u8,
        /// The newest version that this build reads.
        known: u8,
    },
    /// A record of another sort.
    #[error("the record is of kind {found}, expected kind {expected}")]
    Kind {
        /// The kind byte that was read.
        found: u8,
        /// The kind byte of the wanted type.
        expected: u8,
    },
    /// The body does not parse.
    #[error("the record of kind {kind} is malformed: {cause}")]
    Body {
        /// The kind byte.
        kind: u8,
        /// What the parser found.
        cause: String,
    },
    /// Longer than the limit for its place.
    #[error("the record has {len} bytes, the limit is {max}")]
    Large {
        /// Length found, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
}

/// Encodes `value` with its header.
///
/// Panics only if `value` cannot be represented at all, which no type of this crate allows.
pub fn encode<T: Encoded>(value: &T) -> Vec<u8> {
    encode_as::<T>(value)
}

/// Encodes what reads back as a `T`: a borrowed form of it, for values too large to be copied first.
pub fn encode_as<T: Encoded>(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(T::VERSION);
    out.push(T::KIND);
    let mut serializer = rmp_serde::Serializer::new(&mut out).with_struct_map();
    #[expect(clippy::expect_used, reason = "a Vec never refuses a write and our types have no unrepresentable value")]
    value.serialize(&mut serializer).expect("types of the wire are representable");
    out
}

/// Decodes what [`encode`] wrote. The caller has bounded `bytes` already.
pub fn decode<T: Encoded>(bytes: &[u8]) -> Result<T, CodecError> {
    let [version, kind, body @ ..] = bytes else { return Err(CodecError::Short) };
    if *version > T::VERSION {
        return Err(CodecError::Newer { found: *version, known: T::VERSION });
    }
    if *kind != T::KIND {
        return Err(CodecError::Kind { found: *kind, expected: T::KIND });
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    reader.set_max_depth(128);
    let value =
        T::deserialize(&mut reader).map_err(|error| CodecError::Body { kind: *kind, cause: error.to_string() })?;
    Ok(value)
}

/// [`decode`] with a bound on the length, for bytes that come straight from a socket.
pub fn decode_bounded<T: Encoded>(bytes: &[u8], max: usize) -> Result<T, CodecError> {
    if bytes.len() > max {
        return Err(CodecError::Large { len: bytes.len(), max });
    }
    decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        a: u32,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        a: u32,
        #[serde(default)]
        b: Option<String>,
    }
    impl Encoded for Old {
        const KIND: u8 = 250;
    }
    impl Encoded for New {
        const KIND: u8 = 250;
    }

    #[test]
    fn an_added_field_is_read_by_old_and_new() {
        let new = encode(&New { a: 7, b: Some("x".into()) });
        assert_eq!(decode::<Old>(&new), Ok(Old { a: 7 }));
        let old = encode(&Old { a: 7 });
        assert_eq!(decode::<New>(&old), Ok(New { a: 7, b: None }));
    }

    #[test]
    fn wrong_headers_are_named() {
        assert_eq!(decode::<Old>(&[1]), Err(CodecError::Short));
        assert_eq!(decode::<Old>(&[9, 250, 0]), Err(CodecError::Newer { found: 9, known: 1 }));
        assert_eq!(decode::<Old>(&[1, 3, 0]), Err(CodecError::Kind { found: 3, expected: 250 }));
        assert!(matches!(decode::<Old>(&[1, 250, 0xc1]), Err(CodecError::Body { kind: 250, .. })));
        assert_eq!(decode_bounded::<Old>(&[0; 9], 8), Err(CodecError::Large { len: 9, max: 8 }));
    }
}
