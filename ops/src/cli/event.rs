//! `saltern event watch`: what happens, as it happens, from whichever master tells it.
//!
//! A stream that breaks is taken up at the next master. Events of the log are shown once, by revision and tag; those that are
//! not in the log (presence) may come twice, and what happened while no master was asked is named as a gap.

use super::{CliError, EXIT_UNREACHABLE, Session};
use crate::client::ClientError;
use crate::output::style::{self, KEY};
use crate::output::{Format, document, json as json_format, ndjson, yaml};
use saltern_wire::event::Event;
use saltern_wire::target::glob::Glob;
use saltern_wire::{Revision, Value};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::sleep;

/// Pause before a stream is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How often every server may be unreachable in a row before the command gives up: about half a minute of a whole cluster
/// being away.
const ATTEMPTS_MAX: u32 = 60;

/// Verbs over events.
#[derive(Debug, clap::Subcommand)]
pub enum EventCommand {
    /// Print events until Ctrl-C
    #[command(after_help = "Example:\n  saltern event watch --tag 'salt/job/*/ret/*' -o ndjson")]
    Watch {
        /// Only events whose tag matches this glob
        #[arg(long, value_name = "GLOB", default_value = "*")]
        tag: String,
        /// End after so many events
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

/// Carries out a verb.
pub async fn run(command: EventCommand, session: &mut Session) -> Result<u8, CliError> {
    let EventCommand::Watch { tag, count } = command;
    let mut watch = Watch { tag: Glob::new(&tag), left: count, last: Seen::default() };
    let mut interrupt = Box::pin(tokio::signal::ctrl_c());
    tokio::select! {
        end = watch.run(session) => end,
        _ = &mut interrupt => Ok(0),
    }
}

struct Watch {
    tag: Glob,
    /// How many events are still wanted, if there is an end.
    left: Option<u64>,
    last: Seen,
}

impl Watch {
    async fn run(&mut self, session: &mut Session) -> Result<u8, CliError> {
        let mut failed = 0;
        let mut opened = false;
        let mut last_event = None;
        loop {
            let broken = match session.client.events("/v1/events", "", last_event.clone()).await {
                Err(error @ ClientError::Unreachable { .. }) => {
                    failed += 1;
                    if failed == ATTEMPTS_MAX || !opened {
                        session.screen.error(&error.to_string())?;
                        return Ok(EXIT_UNREACHABLE);
                    }
                    None
                }
                Err(error) => return Err(error.into()),
                Ok(mut events) => loop {
                    (failed, opened) = (0, true);
                    let event = match events.next().await {
                        Ok(event) => event,
                        Err(error) => break Some(error.to_string()),
                    };
                    last_event = event.id.or(last_event);
                    match serde_json::from_str::<Event>(&event.data) {
                        Ok(event) => {
                            if self.show(event, session)? {
                                return Ok(0);
                            }
                        }
                        Err(error) => break Some(format!("it sent what is no event: {error}")),
                    }
                },
            };
            if let Some(cause) = broken {
                let server = session.client.server();
                session
                    .screen
                    .warn(&format!("{server}: {cause}; going on at the next master, events may be missing"))?;
                session.client.move_on();
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Shows an event that is new and wanted; whether it was the last one wanted.
    fn show(&mut self, event: Event, session: &mut Session) -> Result<bool, CliError> {
        if !self.last.is_new(&event) || !self.tag.matches(&event.tag) {
            return Ok(false);
        }
        let text = text(&event, session.screen.format());
        session.screen.data(&text)?;
        self.left = self.left.map(|left| left - 1);
        Ok(self.left == Some(0))
    }
}

/// What was shown last.
#[derive(Debug, Default)]
struct Seen {
    revision: Revision,
    /// Tags of that revision: one entry of the log may cause several events.
    tags: BTreeSet<String>,
}

impl Seen {
    fn is_new(&mut self, event: &Event) -> bool {
        if event.revision == Revision(0) {
            return true;
        }
        if event.revision > self.revision {
            self.revision = event.revision;
            self.tags.clear();
        }
        event.revision == self.revision && self.tags.insert(event.tag.clone())
    }
}

/// One event; `TAG<tab>DATA` for people, as `salt-run state.event` prints it.
fn text(event: &Event, format: Format) -> String {
    match format {
        Format::Nested | Format::Table => {
            format!("{}\t{}\n", style::paint(KEY, &style::clean(&event.tag)), style::clean(&data(event).to_string()))
        }
        Format::Json => json_format::text(&document(event)),
        Format::Yaml => format!("---\n{}", yaml::text(&document(event))),
        Format::Ndjson => ndjson::line(&document(event)),
    }
}

/// The data with Salt's time stamp inside.
fn data(event: &Event) -> Value {
    let mut data = event.data.clone();
    if let Value::Object(map) = &mut data {
        map.insert("_stamp".into(), event.time.to_string().into());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::LogicalTime;
    use serde_json::json;

    fn event(revision: u64, tag: &str) -> Event {
        Event {
            tag: tag.into(),
            revision: Revision(revision),
            time: LogicalTime::from_unix_micros(1_795_392_390_290_718),
            data: json!({"jid": "20261123000630290128"}),
        }
    }

    #[test]
    fn events_of_the_log_are_shown_once() {
        let mut seen = Seen::default();
        let told = [(5, "a"), (5, "b"), (5, "a"), (6, "a"), (5, "c"), (0, "p"), (0, "p"), (7, "a")];
        let new: Vec<bool> = told.iter().map(|(revision, tag)| seen.is_new(&event(*revision, tag))).collect();
        assert_eq!(new, [true, true, false, true, false, true, true, true]);
    }

    #[test]
    fn an_event_reads_as_salts() {
        let shown = style::plain(&text(&event(5, "salt/job/20261123000630290128/new"), Format::Nested));
        let expect = "salt/job/20261123000630290128/new\t\
                      {\"jid\":\"20261123000630290128\",\"_stamp\":\"2026-11-23T00:06:30.290718Z\"}\n";
        assert_eq!(shown, expect);
    }
}
