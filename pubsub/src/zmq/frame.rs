//! ZMTP 3.0 framing (RFC 23/ZMTP), as much of it as the gate lets through. Pure.
//!
//! ```text
//!   greeting  FF · 8 padding · 7F · version 3.x · mechanism "NULL" in 20 · as-server · 31 filler     64 bytes
//!   READY     command frame: 05 "READY" · (name length 1 · name · value length 4 · value)*
//!   frame     flags 1 (1 more, 2 long, 4 command) · length 1 or 8 · body
//! ```
//!
//! **Invariants.** A length is compared with its limit before a single byte is reserved for it. A frame keeps its bytes as
//! they came, so that it is passed on without being built again.
//!
//! **It refuses** every mechanism but NULL, ZMTP 2, reserved flags, commands with "more", and malformed properties. Heartbeats are
//! answered where messages go both ways, although nobody of ours sends any.

use bytes::{Buf, Bytes, BytesMut};

/// Length of a greeting, in bytes.
pub(super) const GREETING_BYTES: usize = 64;

/// Largest READY command, in bytes: a socket type, and room for what other implementations add.
pub(super) const READY_BYTES_MAX: usize = 512;

/// Longest context of a heartbeat, in bytes.
const HEARTBEAT_CONTEXT_BYTES_MAX: usize = 16;

/// Flag: more frames of the same message follow.
const MORE: u8 = 1;
/// Flag: the length has 8 bytes.
const LONG: u8 = 2;
/// Flag: a command, not a message.
const COMMAND: u8 = 4;

/// Why bytes are not what the gate lets through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first 64 bytes are no greeting that is spoken here.
    #[error("its greeting {0}")]
    Greeting(&'static str),
    /// A frame announces more bytes than its place allows.
    #[error("a frame of {len} bytes, the limit here is {max}")]
    Large {
        /// The announced length, in bytes.
        len: u64,
        /// The limit, in bytes.
        max: usize,
    },
    /// Flags that mean nothing.
    #[error("frame flags {0:#04x}")]
    Flags(u8),
    /// The READY command is malformed or missing.
    #[error("its READY command {0}")]
    Ready(&'static str),
    /// The READY command names another socket type than belongs here.
    #[error("it is a {found:?} socket, {expected} belongs here")]
    SocketType {
        /// What it said.
        found: String,
        /// What belongs here.
        expected: &'static str,
    },
    /// The READY command carries an identity. Identities are ours to give.
    #[error("it asks for a peer identity")]
    Identity,
    /// A command after the handshake: heartbeats and the like.
    #[error("a command after the handshake")]
    Command,
    /// A message of several frames. Ours have one.
    #[error("a message of several frames")]
    Multipart,
    /// The subscription is not a capability.
    #[error("a first message that is no capability")]
    Subscription,
}

/// Our greeting.
pub(super) fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// Checks the other side's greeting.
pub(super) fn check_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<(), FrameError> {
    if bytes[0] != 0xff || bytes[9] != 0x7f {
        return Err(FrameError::Greeting("is not one of ZMTP"));
    }
    if bytes[10] < 3 {
        return Err(FrameError::Greeting("is of ZMTP 2 or older"));
    }
    if &bytes[12..16] != b"NULL" || bytes[16..32].iter().any(|byte| *byte != 0) {
        return Err(FrameError::Greeting("asks for another mechanism than NULL"));
    }
    Ok(())
}

/// The READY command of a socket of type `socket`, as a whole frame.
pub(super) fn ready(socket: &str, identity: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    property(&mut body, "Socket-Type", socket.as_bytes());
    if !identity.is_empty() {
        property(&mut body, "Identity", identity);
    }
    let mut frame = vec![COMMAND, u8::try_from(body.len()).unwrap_or(u8::MAX)];
    frame.append(&mut body);
    frame
}

/// Appends one property. Names and values here are shorter than 128 bytes.
fn property(body: &mut Vec<u8>, name: &str, value: &[u8]) {
    body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(value);
}

/// Checks the other side's READY command: its socket type, and that it asks for no identity.
pub(super) fn check_ready(frame: &Frame, expected: &'static str) -> Result<(), FrameError> {
    if !frame.command {
        return Err(FrameError::Ready("is missing"));
    }
    let mut rest = frame.body().strip_prefix(b"\x05READY").ok_or(FrameError::Ready("has another name"))?;
    let mut found = None;
    while let Some((name_len, after)) = rest.split_first() {
        let torn = FrameError::Ready("is torn");
        let (name, after) = after.split_at_checked(usize::from(*name_len)).ok_or(torn.clone())?;
        let (value_len, after) = after.split_first_chunk::<4>().ok_or(torn.clone())?;
        let value_len = usize::try_from(u32::from_be_bytes(*value_len)).map_err(|_| torn.clone())?;
        let (value, after) = after.split_at_checked(value_len).ok_or(torn)?;
        rest = after;
        if name.eq_ignore_ascii_case(b"Identity") && !value.is_empty() {
            return Err(FrameError::Identity);
        }
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            found = Some(value);
        }
    }
    let found = found.ok_or(FrameError::Ready("names no socket type"))?;
    if found != expected.as_bytes() {
        let found = String::from_utf8_lossy(found).chars().take(20).collect();
        return Err(FrameError::SocketType { found, expected });
    }
    Ok(())
}

/// One frame, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Whether it is a command.
    pub(super) command: bool,
    /// Whether more frames of the same message follow.
    pub(super) more: bool,
    /// Header and body.
    pub(super) raw: Bytes,
    header: usize,
}

impl Frame {
    /// What it carries.
    pub(super) fn body(&self) -> &[u8] {
        &self.raw[self.header..]
    }

    /// Refuses everything but a message of one frame.
    pub(super) fn whole_message(self) -> Result<Self, FrameError> {
        match (self.command, self.more) {
            (true, _) => Err(FrameError::Command),
            (false, true) => Err(FrameError::Multipart),
            (false, false) => Ok(self),
        }
    }
}

/// Takes the first frame off `buffer`, `None` while it is not complete. Its body may have `max` bytes.
pub(super) fn take_frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    let Some((header, body)) = header(buffer, max)? else { return Ok(None) };
    if buffer.len() < header + body {
        return Ok(None);
    }
    let flags = buffer[0];
    let raw = buffer.split_to(header + body).freeze();
    Ok(Some(Frame { command: flags & COMMAND != 0, more: flags & MORE != 0, raw, header }))
}

/// Bytes that are missing until the first frame of `buffer` is complete, as far as its header tells.
pub(super) fn missing(buffer: &BytesMut, max: usize) -> usize {
    match header(buffer, max) {
        Ok(Some((header, body))) => (header + body).saturating_sub(buffer.len()),
        Ok(None) | Err(_) => 1,
    }
}

/// Lengths of header and body of the first frame.
fn header(buffer: &BytesMut, max: usize) -> Result<Option<(usize, usize)>, FrameError> {
    let mut rest = &buffer[..];
    let Some(flags) = rest.first().copied() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
        return Err(FrameError::Flags(flags));
    }
    rest.advance(1);
    let (header, len) = if flags & LONG != 0 {
        let Some(len) = rest.first_chunk::<8>() else { return Ok(None) };
        (9, u64::from_be_bytes(*len))
    } else {
        let Some(len) = rest.first() else { return Ok(None) };
        (2, u64::from(*len))
    };
    match usize::try_from(len) {
        Ok(body) if body <= max => Ok(Some((header, body))),
        Ok(_) | Err(_) => Err(FrameError::Large { len, max }),
    }
}

/// The answer to a heartbeat (RFC 37/ZMTP 3.1): `PING`, two bytes of a time to live, and a context that comes back. `None`
/// for every other frame, and for a longer context than the 16 bytes that there may be.
pub(super) fn pong(frame: &Frame) -> Option<Bytes> {
    let context = frame.body().strip_prefix(b"\x04PING").filter(|_| frame.command)?.get(2..)?;
    if context.len() > HEARTBEAT_CONTEXT_BYTES_MAX {
        return None;
    }
    let mut answer = vec![COMMAND, u8::try_from(5 + context.len()).unwrap_or(u8::MAX)];
    answer.extend_from_slice(b"\x04PONG");
    answer.extend_from_slice(context);
    Some(answer.into())
}

/// A message of one frame.
pub(super) fn message(body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(9 + body.len());
    match u8::try_from(body.len()) {
        Ok(len) => frame.extend_from_slice(&[0, len]),
        Err(_) => {
            frame.push(LONG);
            frame.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(body);
    frame.into()
}

/// A message of two frames, an empty one and one with `sign`: said by the gate to the socket behind it, and by nobody else,
/// because a message of several frames never passes.
pub(super) fn control(sign: u8) -> Bytes {
    Bytes::copy_from_slice(&[MORE, 0, 0, 1, sign])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(bytes: &[u8], max: usize) -> (Vec<Frame>, Option<FrameError>) {
        let (mut buffer, mut frames) = (BytesMut::from(bytes), Vec::new());
        loop {
            match take_frame(&mut buffer, max) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[test]
    fn greetings_are_checked() {
        assert_eq!(check_greeting(&greeting()), Ok(()));
        for (at, value) in [(0, 0), (9, 0), (10, 2), (12, b'P'), (16, b'X')] {
            let mut bent = greeting();
            bent[at] = value;
            assert!(matches!(check_greeting(&bent), Err(FrameError::Greeting(_))), "byte {at}");
        }
        let mut newer = greeting();
        (newer[10], newer[11]) = (3, 1);
        assert_eq!(check_greeting(&newer), Ok(()), "a newer peer speaks 3.0 to us");
    }

    #[test]
    fn ready_says_the_type_and_nothing_else() {
        let check = |bytes: &[u8]| {
            let (frames, error) = frames(bytes, READY_BYTES_MAX);
            assert_eq!(error, None);
            check_ready(&frames[0], "DEALER")
        };
        assert_eq!(check(&ready("DEALER", b"")), Ok(()));
        assert_eq!(check(&ready("DEALER", b"\x01")), Err(FrameError::Identity));
        let wrong = FrameError::SocketType { found: "SUB".into(), expected: "DEALER" };
        assert_eq!(check(&ready("SUB", b"")), Err(wrong));
        assert_eq!(check(&message(b"\x05READY")), Err(FrameError::Ready("is missing")));
        assert_eq!(check(b"\x04\x06\x05READY"), Err(FrameError::Ready("names no socket type")));
        assert_eq!(check(b"\x04\x05\x04PING"), Err(FrameError::Ready("has another name")));
        assert_eq!(check(b"\x04\x07\x05READY\x20"), Err(FrameError::Ready("is torn")));
        assert_eq!(check(b"\x04\x0c\x05READY\x01a\xff\xff\xff\xff"), Err(FrameError::Ready("is torn")));
        let mut empty = b"\x04\x13\x05READY".to_vec();
        property(&mut empty, "Identity", b"");
        assert_eq!(check(&empty), Err(FrameError::Ready("names no socket type")), "an empty identity is none");
    }

    #[test]
    fn huge_lengths_are_refused_by_their_header() {
        for shift in [20, 35, 40, 62, 63] {
            let mut bytes = vec![LONG];
            bytes.extend_from_slice(&(1u64 << shift).to_be_bytes());
            let large = FrameError::Large { len: 1 << shift, max: 1000 };
            assert_eq!(frames(&bytes, 1000), (vec![], Some(large)), "2^{shift}");
        }
    }

    #[test]
    fn a_heartbeat_is_answered_with_its_context() {
        let answer = |bytes: &[u8]| pong(&frames(bytes, 100).0[0]);
        assert_eq!(answer(b"\x04\x09\x04PING\x00\x0aab").as_deref(), Some(b"\x04\x07\x04PONGab".as_slice()));
        assert_eq!(answer(b"\x04\x07\x04PING\x00\x00").as_deref(), Some(b"\x04\x05\x04PONG".as_slice()));
        assert_eq!(answer(b"\x04\x06\x04PING\x00"), None, "without its time to live");
        assert_eq!(answer(&message(b"\x04PING\x00\x00")), None, "a message is none");
        assert_eq!(answer(b"\x04\x05\x04PONG"), None);
        let long = [b"\x04\x18\x04PING\x00\x00".as_slice(), &[7; 17]].concat();
        assert_eq!(answer(&long), None);
    }

    #[test]
    fn flags_without_a_meaning_are_refused() {
        for flags in [8, 16, 32, 64, 128, 5, 7] {
            assert_eq!(frames(&[flags, 0], 10).1, Some(FrameError::Flags(flags)));
        }
        let (control, _) = frames(&control(1), 10);
        assert_eq!((control.len(), control[0].more, control[1].body()), (2, true, [1].as_slice()));
        assert_eq!(control[0].clone().whole_message(), Err(FrameError::Multipart));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8)) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| message(body)).collect();
            let (frames, error) = frames(&bytes, 600);
            prop_assert_eq!(error, None);
            prop_assert_eq!(frames.iter().map(|frame| frame.body().to_vec()).collect::<Vec<_>>(), bodies);
            prop_assert_eq!(frames.iter().flat_map(|frame| frame.raw.to_vec()).collect::<Vec<_>>(), bytes);
        }

        #[test]
        fn rubbish_never_panics_and_never_asks_for_more_than_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..2000), max in 0usize..1000) {
            let (frames, _) = frames(&bytes, max);
            for frame in &frames {
                prop_assert!(frame.body().len() <= max);
                let _ = check_ready(frame, "DEALER");
            }
            prop_assert!(missing(&BytesMut::from(&bytes[..]), max) <= max + 9);
        }

        #[test]
        fn how_the_bytes_are_cut_does_not_matter(body in prop::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            let bytes = message(&body);
            let cut = cut.min(bytes.len());
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let early = take_frame(&mut buffer, 600).expect("valid");
            prop_assert_eq!(early.is_some(), cut == bytes.len());
            if early.is_none() {
                prop_assert!(cut + missing(&buffer, 600) <= bytes.len());
                buffer.extend_from_slice(&bytes[cut..]);
                let frame = take_frame(&mut buffer, 600).expect("valid").expect("whole");
                prop_assert_eq!(frame.body(), body.as_slice());
            }
        }
    }
}
