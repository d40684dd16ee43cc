//! Join tokens as people carry them: base64url of the encoded [`JoinToken`] and four bytes that notice a slip of the hand.
//!
//! ```text
//!   token = base64url( version · kind · MessagePack … · first 4 bytes of BLAKE3 of everything before )
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use saltern_wire::api::{JoinSecret, JoinToken};
use saltern_wire::limits::MASTERS_MAX;
use saltern_wire::{CodecError, RequestId};

/// Length of the check, in bytes: one damaged token in four thousand million passes it, and then fails at the master.
const CHECK_BYTES: usize = 4;

/// Longest token, in characters: the addresses of [`MASTERS_MAX`] masters with the longest host names, and the rest.
pub const TOKEN_CHARS_MAX: usize = (MASTERS_MAX * 264 + 256) * 4 / 3;

/// Separates secrets of join tokens from everything else that is derived from a state secret.
const SECRET_CONTEXT: &str = "saltern join token secret";

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing was given.
    #[error("the join token is empty: `saltern cluster join-token` prints one")]
    Empty,
    /// Too long to be one.
    #[error("the join token has {chars} characters, at most {TOKEN_CHARS_MAX} make sense: pass the token only")]
    Long {
        /// How long it is.
        chars: usize,
    },
    /// A character that no token holds.
    #[error("the join token holds the character {0:?}: a token is letters, digits, '-' and '_' in one line")]
    Character(char),
    /// Cut off, or a character changed.
    #[error("the join token is incomplete or damaged: copy it again, whole")]
    Damaged,
    /// Whole, but from a build that this one does not understand.
    #[error("the join token cannot be read: {0}")]
    Foreign(CodecError),
}

/// Writes a token.
pub fn write(token: &JoinToken) -> String {
    let mut bytes = saltern_wire::encode(token);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token; white space around it is ignored.
pub fn read(text: &str) -> Result<JoinToken, TokenError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    if text.len() > TOKEN_CHARS_MAX {
        return Err(TokenError::Long { chars: text.chars().count() });
    }
    let allowed = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if let Some(letter) = text.chars().find(|letter| !allowed(letter)) {
        return Err(TokenError::Character(letter));
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Damaged)?;
    let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TokenError::Damaged)?;
    if blake3::hash(body).as_bytes()[..CHECK_BYTES] != *check {
        return Err(TokenError::Damaged);
    }
    saltern_wire::decode(body).map_err(TokenError::Foreign)
}

/// The secret of the token that the request `request` makes. Derived, not drawn: a retry of the same request prints the
/// same token at any master, and the truth remembers the first one's hash.
pub fn secret(state_secret: &[u8; 32], request: RequestId) -> JoinSecret {
    let mut hasher = blake3::Hasher::new_keyed(state_secret);
    hasher.update(SECRET_CONTEXT.as_bytes());
    hasher.update(request.as_bytes());
    JoinSecret(hex::encode(&hasher.finalize().as_bytes()[..16]))
}

/// What the truth holds of a secret.
pub fn secret_hash(secret: &JoinSecret) -> [u8; 32] {
    *blake3::hash(secret.0.as_bytes()).as_bytes()
}
