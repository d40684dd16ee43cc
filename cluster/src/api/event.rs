//! Everything that happens, as server-sent events; and how any stream of this API is sent.

use super::Api;
use crate::http::{Client, Fresh, Refusal};
use crate::room::Place;
use axum::Extension;
use axum::extract::State as Shared;
use axum::response::sse::{Event as SentEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use saltern_wire::api::EVENTS_KEEPALIVE_MS;
use std::sync::Arc;
use std::time::Duration;

/// `GET /v1/events`: each event under its revision as id; presence, which never enters the log, has none.
pub async fn events(
    Shared(api): Shared<Arc<Api>>,
    Extension(client): Extension<Client>,
    _: Fresh,
) -> Result<Response, Refusal> {
    let place = api.stream_place(&client)?;
    let sent = api.watch.events().map(|event| {
        let sent = SentEvent::default().event("event");
        let sent = if event.revision.0 == 0 { sent } else { sent.id(event.revision.to_string()) };
        sent.json_data(&event)
    });
    Ok(stream(&api, place, sent).into_response())
}

/// Sends a stream with signs of life until it ends, the client leaves or the master stops.
pub(super) fn stream<S>(
    api: &Api,
    place: Place<Client>,
    events: S,
) -> Sse<impl Stream<Item = Result<SentEvent, axum::Error>> + use<S>>
where
    S: Stream<Item = Result<SentEvent, axum::Error>> + Send + 'static,
{
    let stop = api.stop.clone();
    let events = events.take_until(stop.cancelled_owned()).map(move |event| {
        // The place is the stream's for as long as it lives.
        let _ = &place;
        event
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_millis(EVENTS_KEEPALIVE_MS)))
}
