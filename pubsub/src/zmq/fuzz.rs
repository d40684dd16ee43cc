//! Fuzz target: what a stranger may write to a port of the gate, from the first byte on.

use super::frame::{
    FrameError, GREETING_BYTES, READY_BYTES_MAX, check_greeting, check_ready, greeting, message, missing, ready,
    take_frame,
};
use bytes::{Buf, BytesMut};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Largest body in this target; small, so that mutations reach it.
const BODY_BYTES_MAX: usize = 200;

/// A connection up to its first fault: what came out of the bytes.
#[derive(Debug, Default, PartialEq)]
struct Read {
    greeted: bool,
    ready: bool,
    messages: Vec<Vec<u8>>,
    taken: usize,
    fault: Option<FrameError>,
}

/// Takes what is complete in `buffer`.
fn advance(read: &mut Read, buffer: &mut BytesMut) -> Result<(), FrameError> {
    if !read.greeted {
        let Some(bytes) = buffer.first_chunk::<GREETING_BYTES>() else { return Ok(()) };
        check_greeting(bytes)?;
        buffer.advance(GREETING_BYTES);
        read.taken += GREETING_BYTES;
        read.greeted = true;
    }
    loop {
        let max = if read.ready { BODY_BYTES_MAX } else { READY_BYTES_MAX };
        let wanted = missing(buffer, max);
        assert!(wanted <= max + 9, "{wanted} bytes are asked for");
        let Some(frame) = take_frame(buffer, max)? else { return Ok(()) };
        assert!(frame.body().len() <= max);
        read.taken += frame.raw.len();
        if read.ready {
            let frame = frame.whole_message()?;
            let again = take_frame(&mut BytesMut::from(&message(frame.body())[..]), max)?;
            assert_eq!(again.as_ref().map(|frame| frame.body()), Some(frame.body()), "it goes out as it came in");
            read.messages.push(frame.body().to_vec());
        } else {
            check_ready(&frame, "DEALER")?;
            read.ready = true;
        }
    }
}

/// Reads `pieces` as they come.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let (mut read, mut buffer) = (Read::default(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Err(fault) = advance(&mut read, &mut buffer) {
            read.fault = Some(fault);
            break;
        }
    }
    read
}

/// The same bytes whole and in pieces of sizes that only the bytes decide.
fn zmtp(bytes: &[u8]) -> bool {
    let whole = read(std::iter::once(bytes));
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let size = 1 + usize::try_from(hasher.finish() % 40).unwrap_or(0);
    let pieces = read(bytes.chunks(size));
    assert_eq!(pieces, whole, "in pieces of {size}");
    whole.fault.is_none() && whole.ready
}

#[test]
fn fuzz_zmtp() {
    let hello = [greeting().to_vec(), ready("DEALER", b"")].concat();
    let mut talk = hello.clone();
    for body in [&b""[..], b"a", &[7; 200], b"\x00\x01"] {
        talk.extend_from_slice(&message(body));
    }
    let mut long = hello.clone();
    long.extend_from_slice(b"\x02\x00\x00\x00\x00\x00\x00\x00\x03abc");
    // An empty identity is none, and names are compared without their case.
    let named =
        [greeting().as_slice(), b"\x04\x29\x05READY\x0bSOCKET-TYPE\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"]
            .concat();
    for (name, bytes) in [("hello", &hello), ("talk", &talk), ("long", &long), ("named", &named)] {
        saltern_wire::keep!("zmtp", name, bytes);
    }
    saltern_wire::fuzz!("zmtp", zmtp);
}
