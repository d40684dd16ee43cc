//! `saltern run TARGET FUNCTION …`: submit, follow, and account for every targeted minion.
//!
//! ```text
//!   POST /v1/jobs ─▶ GET /v1/jobs/{jid}/events ─▶ returns as they arrive
//!                         ▲      │ the stream broke: next master, same job; each minion is shown once
//!                         └──────┘
//!                    Done, or nothing new for --timeout ─▶ GET /v1/jobs/{jid} ─▶ why the others have not answered
//! ```

use super::duration::{milliseconds, parse as parse_duration};
use super::tally::{Step, Tally};
use super::target::TargetOptions;
use super::{CliError, EXIT_INTERRUPTED, EXIT_NO_MATCH, Session, arguments, batch};
use crate::output::table::Table;
use crate::output::{Format, Page, ndjson, nested};
use saltern_wire::api::{FailureCode, JobEvent, JobView, Missing, Submit, Submitted};
use saltern_wire::job::Progress;
use saltern_wire::rolling::{Batch, BatchSize};
use saltern_wire::{MinionId, Value};
use serde_json::json;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Pause before a stream is opened again: a master that ends streams at once must not be asked in a tight loop.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// Longest wait of `--timeout`, in seconds: a day.
const TIMEOUT_S_MAX: u64 = 86_400;

/// What `run` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Arguments are numbers, true, false, lists and objects where they look like it, and text otherwise; NAME=VALUE passes one by
name. What begins with a dash stands behind --.

Examples:
  saltern run '*' test.ping
  saltern run -L web-a,web-b cmd.run 'systemctl restart nginx' timeout=30
  saltern run -C 'G@os:Debian and not db-*' status.uptime -o table
  saltern run 'laptop-*' --queue 7d cmd.run 'apt-get -y upgrade'
  saltern run 'web-*' -b 10% --failhard cmd.run 'systemctl restart nginx'

Exit codes: 0 everybody returned, 1 somebody failed, 2 nothing matched, 3 somebody did not return"
)]
pub struct RunArguments {
    /// For whom: a glob over minion ids, or as -E -L -G -C say
    #[arg(value_name = "TARGET")]
    expression: String,
    /// What to run: module.function
    function: String,
    /// Its arguments
    arguments: Vec<String>,
    #[command(flatten)]
    target: TargetOptions,
    /// Print the job's id and do not wait
    #[arg(long = "async")]
    no_wait: bool,
    /// Stop waiting after so many seconds without a new return
    #[arg(short, long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_S_MAX))]
    timeout: u64,
    /// How long minions may accept the job: 90s, 5m, 1h (the setting job_ttl_ms unless given)
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Keep the job for minions that are away: the same as --ttl, for spans like 7d
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, conflicts_with = "ttl")]
    queue: Option<Duration>,
    /// Give it to so many minions at a time: a number, or a part of them such as 10%. Goes on without this terminal
    #[arg(short, long, value_name = "N|N%", visible_alias = "batch-size")]
    batch: Option<BatchSize>,
    /// Leave a minion's place in the batch empty for so long after it returned: 5, 90s, 5m
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, requires = "batch")]
    batch_wait: Option<Duration>,
    /// End a batch at the first minion that fails; those that are away do not count
    #[arg(long, requires = "batch")]
    failhard: bool,
    /// Run it on so many of the targeted minions, drawn at random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    subset: Option<u32>,
    /// Print all returns together at the end
    #[arg(short, long = "static")]
    at_end: bool,
    /// Print a summary at the end
    #[arg(long)]
    summary: bool,
    /// Print the job's id first, and say when another master is asked
    #[arg(short, long)]
    verbose: bool,
    /// Print the job's id first
    #[arg(long)]
    show_jid: bool,
}

impl RunArguments {
    /// The body of the submission.
    fn submit(&self) -> Result<Submit, CliError> {
        let arguments =
            arguments::parse(&self.arguments).map_err(|error| CliError::Usage(format!("{error}; name it once")))?;
        Ok(Submit {
            target: self.target.target(self.expression.clone())?,
            function: self.function.clone(),
            arguments: arguments.positional,
            keywords: arguments.keywords,
            ttl_ms: self.ttl.or(self.queue).map(milliseconds),
            batch: self.batch.map(|size| Batch {
                size,
                wait_ms: self.batch_wait.map_or(0, milliseconds),
                failhard: self.failhard,
            }),
            subset: self.subset,
        })
    }
}

/// Why the waiting ended.
enum End {
    /// Everybody is settled.
    Settled,
    /// Nothing new came for as long as the operator wants to wait.
    Quiet,
    /// Ctrl-C.
    Interrupted,
}

/// Carries it out.
pub async fn run(arguments: RunArguments, session: &mut Session) -> Result<u8, CliError> {
    let submit = arguments.submit()?;
    session.client.set_patience(Duration::from_secs(arguments.timeout));
    let answer = match session.client.post("/v1/jobs", &submit).await.map_err(CliError::from) {
        Err(error) if error.refusal() == Some(FailureCode::NoMatch) => {
            session.screen.note("No minions matched the target. No command was sent, no jid was assigned.")?;
            session.screen.error("No return received")?;
            return Ok(EXIT_NO_MATCH);
        }
        outcome => outcome?,
    };
    let submitted: Submitted = session.fresh(answer)?;
    if arguments.no_wait {
        session.screen.show(&Sent { function: &submit.function, submitted: &submitted })?;
        return Ok(0);
    }
    if arguments.verbose {
        session.screen.note(&format!("Executing job with jid {}\n{}\n", submitted.jid, "-".repeat(43)))?;
    } else if arguments.show_jid {
        session.screen.note(&format!("jid: {}", submitted.jid))?;
    }
    let mut tally = Tally::new(submit.function, submitted);
    let end = follow(&arguments, &mut tally, session).await?;
    if let End::Interrupted = end {
        session.screen.note(&format!("\nThis job's jid is {}.\n{}", tally.jid, look_up(&tally)))?;
        return Ok(EXIT_INTERRUPTED);
    }
    let lost = account(&arguments, &mut tally, session).await?;
    report(&arguments, &tally, session)?;
    match lost {
        Some(error) => Err(error),
        None => Ok(tally.exit_code()),
    }
}

/// Follows the job's events from whichever master gives them.
async fn follow(arguments: &RunArguments, tally: &mut Tally, session: &mut Session) -> Result<End, CliError> {
    let path = format!("/v1/jobs/{}/events", tally.jid);
    let patience = Duration::from_secs(arguments.timeout);
    let mut quiet = Box::pin(sleep(patience));
    let mut interrupt = Box::pin(tokio::signal::ctrl_c());
    loop {
        let opened = tokio::select! {
            opened = session.client.events(&path, "", None) => opened.map_err(CliError::from),
            () = &mut quiet => return Ok(End::Quiet),
            _ = &mut interrupt => return Ok(End::Interrupted),
        };
        let broken = match opened {
            Err(error) if error.refusal() == Some(FailureCode::Denied) => return Err(error),
            Err(error) => error.to_string(),
            Ok(mut events) => loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = &mut quiet => return Ok(End::Quiet),
                    _ = &mut interrupt => return Ok(End::Interrupted),
                };
                let event = match event {
                    Ok(event) => event,
                    Err(error) => break error.to_string(),
                };
                match serde_json::from_str::<JobEvent>(&event.data) {
                    Ok(event) => {
                        if take(event, arguments, tally, session, &mut quiet, patience)? {
                            return Ok(End::Settled);
                        }
                    }
                    Err(error) => break format!("it sent what is no event: {error}"),
                }
            },
        };
        if arguments.verbose {
            session.screen.warn(&format!("{}: {broken}; asking the next master", session.client.server()))?;
        }
        session.client.move_on();
        tokio::select! {
            () = sleep(RECONNECT_PAUSE) => {}
            () = &mut quiet => return Ok(End::Quiet),
            _ = &mut interrupt => return Ok(End::Interrupted),
        }
    }
}

/// Takes in one event and shows what is new; whether everybody is settled now.
fn take(
    event: JobEvent,
    arguments: &RunArguments,
    tally: &mut Tally,
    session: &mut Session,
    quiet: &mut Pin<Box<Sleep>>,
    patience: Duration,
) -> Result<bool, CliError> {
    match tally.handle_event(event) {
        Step::Returned(minion) => {
            if !tally.has_turns_to_come() {
                *quiet = Box::pin(sleep(patience));
            }
            show_return(&minion, arguments, tally, session)?;
            Ok(false)
        }
        Step::Batch(batch) => {
            // While turns are to come, or a minion has one, the next return may be a turn away: Ctrl-C leaves, the job goes on.
            let goes_on = batch.held > 0 && !batch.stand.paused;
            *quiet = Box::pin(sleep(if goes_on { Duration::from_secs(TIMEOUT_S_MAX) } else { patience }));
            if arguments.verbose {
                session.screen.note(&batch::line(&batch))?;
            }
            Ok(false)
        }
        Step::GivenUp(_) | Step::Nothing => Ok(false),
        Step::Done => Ok(true),
    }
}

/// Asks for the whole job if somebody is not accounted for. The error if nobody could be asked.
async fn account(
    arguments: &RunArguments,
    tally: &mut Tally,
    session: &mut Session,
) -> Result<Option<CliError>, CliError> {
    if tally.is_settled() {
        return Ok(None);
    }
    match session.client.get::<JobView>(&format!("/v1/jobs/{}", tally.jid), "").await {
        Ok(answer) => {
            let view = session.fresh(answer)?;
            for minion in tally.handle_view(view) {
                show_return(&minion, arguments, tally, session)?;
            }
            Ok(None)
        }
        Err(error) => {
            let error = CliError::from(error);
            let first = error.to_string().lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
            tally.handle_silence(&format!("not known: {first}"));
            Ok(Some(error))
        }
    }
}

/// Shows one return at once where the format allows it.
fn show_return(
    minion: &MinionId,
    arguments: &RunArguments,
    tally: &Tally,
    session: &mut Session,
) -> Result<(), CliError> {
    if arguments.at_end {
        return Ok(());
    }
    match session.screen.format() {
        Format::Nested => session.screen.data(&nested_return(tally, minion))?,
        Format::Ndjson => {
            if let Some(line) = tally.line(minion) {
                session.screen.data(&ndjson::line(&line))?;
            }
        }
        Format::Json | Format::Yaml | Format::Table => {}
    }
    Ok(())
}

fn nested_return(tally: &Tally, minion: &MinionId) -> String {
    let Some(view) = tally.returns().get(minion) else { return String::new() };
    nested::entry(minion.as_str(), &view.value, if view.success { nested::SALT } else { nested::FAILED })
}

fn nested_missing(missing: &Missing) -> String {
    let text = format!("Minion did not return. [{}]", missing.reason);
    nested::entry(missing.minion.as_str(), &Value::from(text), nested::FAILED)
}

/// What comes when the waiting is over: the rest of the data, then the words about it.
fn report(arguments: &RunArguments, tally: &Tally, session: &mut Session) -> Result<(), CliError> {
    let missing = tally.missing();
    match session.screen.format() {
        Format::Json | Format::Yaml | Format::Table => session.screen.show(&Returned(tally))?,
        Format::Nested => {
            if arguments.at_end {
                session.screen.show(&Returned(tally))?;
            } else {
                session.screen.data(&missing.iter().map(nested_missing).collect::<String>())?;
            }
        }
        Format::Ndjson => {
            if arguments.at_end {
                session.screen.show(&Returned(tally))?;
            } else {
                session
                    .screen
                    .data(&missing.iter().map(|missing| ndjson::line(&missing_line(missing))).collect::<String>())?;
            }
        }
    }
    if missing.iter().any(may_return) {
        session.screen.note(&look_up(tally))?;
    }
    if arguments.summary {
        if session.screen.format().is_for_people() {
            session.screen.data(&tally.summary())?;
        } else {
            session.screen.note(tally.summary().trim_end())?;
        }
    }
    if tally.failures() > 0 {
        session.screen.error("Minions returned with non-zero exit code")?;
    }
    if !missing.is_empty() {
        let all = tally.returns().len() + missing.len();
        session.screen.error(&format!("{} of {all} minions did not return", missing.len()))?;
    }
    Ok(())
}

/// Whether a result may still come.
fn may_return(missing: &Missing) -> bool {
    match missing.state {
        Progress::Waiting | Progress::Accepted | Progress::Held => true,
        Progress::Returned
        | Progress::Failed
        | Progress::Interrupted
        | Progress::Expired
        | Progress::Unreachable
        | Progress::Cancelled
        | Progress::Skipped
        | Progress::Killed => false,
    }
}

fn look_up(tally: &Tally) -> String {
    format!(
        "The minions may not have all finished running and any remaining minions will return upon completion. \
         To look up the return data for this job later, run the following command:\n\nsaltern job show {}",
        tally.jid
    )
}

fn missing_line(missing: &Missing) -> Value {
    json!({"minion": missing.minion, "missing": missing.reason})
}

/// The whole result.
struct Returned<'a>(&'a Tally);

impl Page for Returned<'_> {
    fn document(&self) -> Value {
        self.0.document()
    }

    fn lines(&self) -> Vec<Value> {
        let returned = self.0.returns().keys().filter_map(|minion| self.0.line(minion));
        returned.chain(self.0.missing().iter().map(missing_line)).collect()
    }

    fn nested(&self) -> String {
        let returned = self.0.returns().keys().map(|minion| nested_return(self.0, minion));
        returned.chain(self.0.missing().iter().map(nested_missing)).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "RESULT", "RETCODE", "RETURN"]);
        for (minion, view) in self.0.returns() {
            let shown = match &view.value {
                Value::String(text) => text.clone(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    view.value.to_string()
                }
            };
            let result = if view.success { "ok" } else { "failed" };
            table.row([minion.to_string(), result.into(), view.retcode.to_string(), shown]);
        }
        for missing in self.0.missing() {
            table.row([missing.minion.to_string(), "missing".into(), String::new(), missing.reason]);
        }
        table
    }
}

/// A job that is not waited for.
struct Sent<'a> {
    function: &'a str,
    submitted: &'a Submitted,
}

impl Page for Sent<'_> {
    fn document(&self) -> Value {
        json!({"jid": self.submitted.jid, "fun": self.function, "targeted": self.submitted.targeted})
    }

    fn nested(&self) -> String {
        format!("Executed command with job ID: {}\n", self.submitted.jid)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["JID", "FUNCTION", "TARGETED"]);
        let Submitted { jid, targeted } = self.submitted;
        table.row([jid.to_string(), self.function.to_owned(), targeted.len().to_string()]);
        table
    }
}
