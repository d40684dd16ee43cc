//! ed25519 identities, and values that carry a signature.
//!
//! Every signature covers a context string (what sort of statement this is) before the statement, so that bytes signed as
//! one thing never verify as another.

use super::memo;
use crate::codec::{CodecError, Encoded, decode, encode};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;

/// The secret half of an identity. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// From 32 secret bytes, which the caller drew from its entropy or read from its key file.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The 32 secret bytes, for the key file.
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` as a statement of sort `context`.
    pub fn sign(&self, context: &str, message: &[u8]) -> Signature {
        Signature(self.0.sign(&framed(context, message)).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public_key().fingerprint())
    }
}

/// `len(context) ‖ context ‖ message`: injective, so no two pairs share their bytes.
fn framed(context: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + context.len() + message.len());
    bytes.push(u8::try_from(context.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(context.as_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// The public half of an identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// What people compare: SHA-256 of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.0).into())
    }

    /// Checks that this key signed `message` as a statement of sort `context`; weak keys and malleable signatures fail.
    pub fn verify(&self, context: &str, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let framed = framed(context, message);
        let digest = memo::digest_of(&self.0, &framed, &signature.0);
        if digest.is_some_and(|digest| memo::is_known(&digest)) {
            return Ok(());
        }
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError::Key)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&framed, &signature).map_err(|_| SignatureError::Forged)?;
        if let Some(digest) = digest {
            memo::note(digest);
        }
        Ok(())
    }
}

/// Declares serde, Display and FromStr of a fixed-size value as hexadecimal text.
macro_rules! hex_bytes {
    ($name:ident, $len:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| HexError { text: text.chars().take(80).collect(), digits: $len * 2 })?;
                Ok(Self(bytes))
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    return String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom);
                }
                let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
                let bytes = bytes.as_slice().try_into().map_err(serde::de::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    };
}

/// Why a text is not a key, fingerprint or signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} hexadecimal digits")]
pub struct HexError {
    text: String,
    digits: usize,
}

hex_bytes!(PublicKey, 32);

/// SHA-256 of a public key, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);
hex_bytes!(Fingerprint, 32);

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);
hex_bytes!(Signature, 64);

/// Why a signed value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signer's key is not a point of the curve.
    #[error("the signer's public key is not an ed25519 key")]
    Key,
    /// The signature does not fit the key and the bytes.
    #[error("the signature does not verify")]
    Forged,
    /// The signed bytes are not the wanted value.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// A sort of statement that is signed.
pub trait Statement: Encoded {
    /// Names the sort; part of what is signed. Unique in this crate.
    const CONTEXT: &'static str;
}

/// A value as it travels: bytes and a signature that nobody has checked. There is no way to the value but [`Signed::verify`].
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    signature: Signature,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { body: self.body.clone(), signature: self.signature, of: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.signature == other.signature
    }
}
impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed<{}>({} bytes)", std::any::type_name::<T>(), self.body.len())
    }
}

impl<T> Signed<T> {
    /// Length of what is signed, in bytes.
    pub fn encoded_len(&self) -> usize {
        self.body.len()
    }
}

impl<T: Statement> Signed<T> {
    /// Signs `value`.
    pub fn new(value: &T, identity: &Identity) -> Self {
        let body = encode(value);
        let signature = identity.sign(T::CONTEXT, &body);
        Self { body, signature, of: PhantomData }
    }

    /// Checks the signature against `signer` and then decodes.
    pub fn verify(&self, signer: &PublicKey) -> Result<Verified<T>, SignatureError> {
        signer.verify(T::CONTEXT, &self.body, &self.signature)?;
        Ok(Verified { value: decode(&self.body)?, signed: self.clone() })
    }

    /// Decodes without checking, for places where the log vouches for the bytes or where the value names its own signer,
    /// which is then looked up and given to [`Signed::verify`].
    pub fn peek(&self) -> Result<T, CodecError> {
        decode(&self.body)
    }

    /// Length of the signed bytes.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there are no bytes at all, which never verifies.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

/// A value whose signature was checked. Made by [`Signed::verify`] only.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    value: T,
    signed: Signed<T>,
}

impl<T> Verified<T> {
    /// The signed form, to pass on.
    pub fn signed(&self) -> &Signed<T> {
        &self.signed
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note(String);
    impl Encoded for Note {
        const KIND: u8 = 251;
    }
    impl Statement for Note {
        const CONTEXT: &'static str = "test note";
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let alice = Identity::from_seed([1; 32]);
        let mallory = Identity::from_seed([2; 32]);
        let signed = Signed::new(&Note("x".into()), &alice);
        assert_eq!(*signed.verify(&alice.public_key()).expect("own signature"), Note("x".into()));
        assert_eq!(signed.verify(&mallory.public_key()).err(), Some(SignatureError::Forged));
        for at in 0..signed.body.len() {
            let mut bent = signed.clone();
            bent.body[at] ^= 1;
            assert_eq!(bent.verify(&alice.public_key()).err(), Some(SignatureError::Forged), "byte {at}");
        }
    }

    #[test]
    fn a_signature_of_one_sort_is_not_one_of_another() {
        let alice = Identity::from_seed([1; 32]);
        let signature = alice.sign("a", b"bc");
        assert_eq!(alice.public_key().verify("ab", b"c", &signature), Err(SignatureError::Forged));
        assert_eq!(alice.public_key().verify("a", b"bc", &signature), Ok(()));
    }

    #[test]
    fn signed_values_survive_both_encodings() {
        let alice = Identity::from_seed([1; 32]);
        let signed = Signed::new(&Note("x".into()), &alice);
        let json = serde_json::to_vec(&signed).expect("json");
        assert_eq!(serde_json::from_slice::<Signed<Note>>(&json).expect("json"), signed);
        let packed = rmp_serde::to_vec_named(&signed).expect("msgpack");
        assert_eq!(rmp_serde::from_slice::<Signed<Note>>(&packed).expect("msgpack"), signed);
    }
}
