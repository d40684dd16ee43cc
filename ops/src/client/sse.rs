//! Server-sent events: the decoder, and a stream of them that knows when it is dead.
//!
//! The format is that of the HTML standard, section 9.2.6: lines `field: value`, an empty line ends an event, lines that
//! begin with a colon are signs of life. Only `data` and `id` matter here; the API names its events inside the data.

use super::AttemptError;
use super::connect::Reply;
use saltern_wire::api::EVENTS_KEEPALIVE_MS;
use std::collections::VecDeque;
use std::time::Duration;

/// Longest event, in bytes: one return of the largest size, written as JSON.
pub const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a stream may be silent before it counts as broken: two signs of life may be late. A frozen master sends none, and
/// asking the next one costs nothing.
pub const SILENCE_MAX: Duration = Duration::from_millis(3 * EVENTS_KEEPALIVE_MS);

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its data, lines joined.
    pub data: String,
    /// Its id, where the server gave one.
    pub id: Option<String>,
}

/// Why no event can be read any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// The stream ended or broke; another server may go on.
    #[error("the stream broke off: {0}")]
    Broken(String),
    /// An event is larger than [`EVENT_BYTES_MAX`].
    #[error("an event is larger than {EVENT_BYTES_MAX} bytes")]
    Large,
}

/// Turns bytes into events. Holds at most one unfinished event.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Decoder {
    /// Takes bytes in and gives the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, EventsError> {
        let mut out = Vec::new();
        let mut searched = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let end = searched + length;
            let line = String::from_utf8_lossy(&self.buffer[start..end]).into_owned();
            out.extend(self.line(line.strip_suffix('\r').unwrap_or(&line)));
            start = end + 1;
            searched = start;
        }
        self.buffer.drain(..start);
        if self.buffer.len() + self.event.data.len() > EVENT_BYTES_MAX { Err(EventsError::Large) } else { Ok(out) }
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "id" => self.event.id = Some(value.to_owned()),
            _ => {}
        }
        None
    }
}

/// A stream of events from one server.
pub struct Events {
    reply: Reply,
    decoder: Decoder,
    ready: VecDeque<Event>,
}

impl Events {
    /// Reads the body of `reply`.
    pub fn new(reply: Reply) -> Self {
        Self { reply, decoder: Decoder::default(), ready: VecDeque::new() }
    }

    /// The next event. An error is final. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, EventsError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let chunk = match tokio::time::timeout(SILENCE_MAX, self.reply.chunk()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Err(EventsError::Broken(cause(error))),
                Ok(None) => return Err(EventsError::Broken("it ended".into())),
                Err(_) => return Err(EventsError::Broken(format!("silent for {} s", SILENCE_MAX.as_secs()))),
            };
            self.ready.extend(self.decoder.push(&chunk)?);
        }
    }
}

fn cause(error: AttemptError) -> String {
    match error {
        AttemptError::Unreachable { cause, .. } | AttemptError::Malformed(cause) => cause,
        AttemptError::Refused(failure) => failure.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str, id: Option<&str>) -> Event {
        Event { data: data.into(), id: id.map(str::to_owned) }
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = ": hello\n\nevent: return\ndata: {\"a\":1}\nid: 7\n\ndata: two\r\ndata:  lines\r\n\r\ndata\n\nid: 8\n\nretry: 5\n\n";
        let expect = vec![event("{\"a\":1}", Some("7")), event("two\n lines", None), event("", None)];
        for size in 1..=text.len() {
            let mut decoder = Decoder::default();
            let mut events = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                events.extend(decoder.push(chunk).expect("small"));
            }
            assert_eq!(events, expect, "cut every {size} bytes");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; 1024 * 1024];
        let pieces = (0..=EVENT_BYTES_MAX / piece.len()).map(|_| decoder.push(&piece)).collect::<Vec<_>>();
        assert_eq!(pieces.last(), Some(&Err(EventsError::Large)));
        assert!(pieces[..10].iter().all(Result::is_ok));
    }
}
