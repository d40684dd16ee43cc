//! `saltern job list|active|show|why|pause|resume|kill`.

use super::target::shown as target_shown;
use super::{CliError, EXIT_NO_MATCH, Session, batch};
use crate::client::query;
use crate::output::style::{self, KEY};
use crate::output::table::Table;
use crate::output::{Page, document, nested};
use saltern_wire::api::{JobPage, JobState, JobSummary, JobView, Killed, Missing};
use saltern_wire::job::Progress;
use saltern_wire::{JobId, LogicalTime, Map, MinionId, Value};
use serde_json::json;

/// Verbs over jobs.
#[derive(Debug, clap::Subcommand)]
pub enum JobCommand {
    /// List jobs, newest first
    #[command(after_help = "Example:\n  saltern job list --limit 20 -o table")]
    List {
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only jobs older than this one: the next page
        #[arg(long, value_name = "JID")]
        before: Option<JobId>,
    },
    /// List jobs that somebody still owes an answer for
    #[command(after_help = "Example:\n  saltern job active")]
    Active,
    /// Show a job with everything it returned
    #[command(after_help = "Example:\n  saltern job show 20261123000630290107 -o json")]
    Show {
        /// The job
        jid: JobId,
    },
    /// Say of every minion that has not answered why not
    #[command(after_help = "Example:\n  saltern job why 20261123000630290107 web-b")]
    Why {
        /// The job
        jid: JobId,
        /// Only this minion
        minion: Option<MinionId>,
    },
    /// Let nobody's turn come in a job that was started with --batch; who has it goes on
    #[command(after_help = "Example:\n  saltern job pause 20261123000630290107")]
    Pause {
        /// The job
        jid: JobId,
    },
    /// Let turns come again in a job that was paused
    #[command(after_help = "Example:\n  saltern job resume 20261123000630290107")]
    Resume {
        /// The job
        jid: JobId,
    },
    /// Give a job to nobody else, and ask the minions that may run it to stop
    #[command(after_help = "Example:\n  saltern job kill 20261123000630290107")]
    Kill {
        /// The job
        jid: JobId,
    },
}

/// Carries out a verb.
pub async fn run(command: JobCommand, session: &mut Session) -> Result<u8, CliError> {
    match command {
        JobCommand::List { limit, before } => {
            let limit = limit.to_string();
            let before = before.map(|jid| jid.to_string());
            let mut parameters = vec![("limit", limit.as_str())];
            parameters.extend(before.as_deref().map(|jid| ("before", jid)));
            list(&query(&parameters), session).await
        }
        JobCommand::Active => list(&query(&[("active", "true"), ("limit", "1000")]), session).await,
        JobCommand::Show { jid } => {
            let view = job(jid, session).await?;
            session.screen.show(&Shown(view))?;
            Ok(0)
        }
        JobCommand::Why { jid, minion } => why(jid, minion, session).await,
        JobCommand::Kill { jid } => {
            let answer = session.client.post(&format!("/v1/jobs/{jid}/kill"), &json!({})).await?;
            let killed: Killed = session.fresh(answer)?;
            session.screen.show(&Killing(killed))?;
            Ok(0)
        }
        JobCommand::Pause { jid } => batch::hold(jid, "pause", session).await,
        JobCommand::Resume { jid } => batch::hold(jid, "resume", session).await,
    }
}

async fn job(jid: JobId, session: &mut Session) -> Result<JobView, CliError> {
    let answer = session.client.get(&format!("/v1/jobs/{jid}"), "").await?;
    session.fresh(answer)
}

async fn list(parameters: &str, session: &mut Session) -> Result<u8, CliError> {
    let answer = session.client.get("/v1/jobs", parameters).await?;
    let page: JobPage = session.fresh(answer)?;
    let next = page.next;
    session.screen.show(&Listed(page))?;
    if let Some(next) = next {
        session.screen.note(&format!("There are older ones: saltern job list --before {next}"))?;
    }
    Ok(0)
}

async fn why(jid: JobId, minion: Option<MinionId>, session: &mut Session) -> Result<u8, CliError> {
    let view = job(jid, session).await?;
    if let Some(minion) = &minion
        && !view.minions.contains(minion)
    {
        session.screen.error(&format!("{minion} was not among the {} targets of {jid}", view.minions.len()))?;
        return Ok(EXIT_NO_MATCH);
    }
    let missing: Vec<Missing> = view
        .missing
        .into_iter()
        .filter(|missing| minion.as_ref().is_none_or(|minion| *minion == missing.minion))
        .collect();
    if missing.is_empty() {
        let who = minion.map_or("Every targeted minion".to_owned(), |minion| minion.to_string());
        session.screen.note(&format!("{who} has answered."))?;
    }
    session.screen.show(&Why(missing))?;
    Ok(0)
}

/// `2026, Nov 23 00:04:56.337738`, as Salt writes it.
fn start_time(time: LogicalTime) -> String {
    let micros = i64::try_from(time.unix_micros()).ok();
    match micros.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()) {
        Some(stamp) => stamp.strftime("%Y, %b %d %H:%M:%S%.6f").to_string(),
        None => time.to_string(),
    }
}

/// Positional arguments, then the named ones as one object, as Salt lists them.
fn arguments(job: &JobSummary) -> Vec<Value> {
    let mut arguments = job.arguments.clone();
    if !job.keywords.is_empty() {
        arguments.push(Value::Object(job.keywords.clone()));
    }
    arguments
}

/// A job under Salt's headings.
fn headings(job: &JobSummary) -> Map {
    let entries = json!({
        "Arguments": arguments(job),
        "Function": job.function,
        "Returned": format!("{} of {}", job.returned, job.targeted),
        "StartTime": start_time(job.opened),
        "State": state_word(job.state),
        "Target": target_shown(&job.target),
        "Target-type": job.target.kind.as_str(),
        "User": job.user,
    });
    let mut headings = if let Value::Object(map) = entries { map } else { Map::new() };
    if let Some(stands) = &job.batch {
        headings.insert("Batch".into(), batch::line(stands).into());
    }
    headings
}

pub(super) fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Open => "open",
        JobState::Done => "done",
    }
}

fn progress_word(progress: Progress) -> &'static str {
    match progress {
        Progress::Waiting => "waiting",
        Progress::Accepted => "accepted",
        Progress::Returned => "returned",
        Progress::Failed => "failed",
        Progress::Interrupted => "interrupted",
        Progress::Expired => "expired",
        Progress::Unreachable => "unreachable",
        Progress::Cancelled => "cancelled",
        Progress::Held => "held",
        Progress::Skipped => "skipped",
        Progress::Killed => "killed",
    }
}

/// A page of jobs.
struct Listed(JobPage);

impl Page for Listed {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn lines(&self) -> Vec<Value> {
        self.0.jobs.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        let entry = |job: &JobSummary| nested::entry(&job.jid.to_string(), &headings(job).into(), nested::SALT);
        self.0.jobs.iter().map(entry).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["JID", "FUNCTION", "TARGET", "STATE", "RETURNED", "USER"]);
        for job in &self.0.jobs {
            table.row([
                job.jid.to_string(),
                job.function.clone(),
                job.target.to_string(),
                batch::state(job).into(),
                format!("{}/{}", job.returned, job.targeted),
                job.user.clone(),
            ]);
        }
        table
    }
}

/// One job, whole.
struct Shown(JobView);

impl Page for Shown {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn nested(&self) -> String {
        let mut entries = headings(&self.0.summary);
        entries.insert("Master".into(), self.0.master.as_str().into());
        entries.insert("Minions".into(), document(&self.0.minions));
        let result = |view: &saltern_wire::api::ReturnView| {
            json!({
                "return": view.value, "retcode": view.retcode, "success": view.success,
                "state": progress_word(view.state), "master": view.master, "duration_ms": view.duration_ms,
            })
        };
        let results: Map = self.0.returns.iter().map(|(minion, view)| (minion.to_string(), result(view))).collect();
        let missing: Map = self
            .0
            .missing
            .iter()
            .map(|missing| (missing.minion.to_string(), Value::from(missing.reason.as_str())))
            .collect();
        if !results.is_empty() {
            entries.insert("Result".into(), results.into());
        }
        if !missing.is_empty() {
            entries.insert("Missing".into(), missing.into());
        }
        nested::entry(&self.0.summary.jid.to_string(), &entries.into(), nested::SALT)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "STATE", "RETCODE", "MASTER", "MS", "RETURN"]);
        for (minion, view) in &self.0.returns {
            table.row([
                minion.to_string(),
                progress_word(view.state).into(),
                view.retcode.to_string(),
                view.master.clone(),
                view.duration_ms.to_string(),
                view.value.as_str().map_or_else(|| view.value.to_string(), str::to_owned),
            ]);
        }
        for missing in &self.0.missing {
            table.row([
                missing.minion.to_string(),
                progress_word(missing.state).into(),
                String::new(),
                String::new(),
                String::new(),
                missing.reason.clone(),
            ]);
        }
        table
    }
}

/// Who has not answered.
struct Why(Vec<Missing>);

impl Page for Why {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn lines(&self) -> Vec<Value> {
        self.0.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        let line = |missing: &Missing| {
            let text = format!("{}: {}", progress_word(missing.state), missing.reason);
            nested::entry(missing.minion.as_str(), &text.into(), nested::SALT)
        };
        self.0.iter().map(line).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "STATE", "REASON"]);
        for missing in &self.0 {
            table.row([missing.minion.to_string(), progress_word(missing.state).into(), missing.reason.clone()]);
        }
        table
    }
}

/// What ending a job came to.
struct Killing(Killed);

impl Page for Killing {
    fn document(&self) -> Value {
        json!({
            "killed": self.0.killed, "spared": self.0.spared, "jid": self.0.jid, "targeted": self.0.targeted,
        })
    }

    fn nested(&self) -> String {
        let Killed { killed, spared, jid, targeted } = &self.0;
        let minions = |count: usize| format!("{count} {}", if count == 1 { "minion" } else { "minions" });
        let shown = style::paint(KEY, &killed.to_string());
        let mut text = String::new();
        if *spared > 0 {
            let spared = minions(usize::try_from(*spared).unwrap_or(usize::MAX));
            text.push_str(&format!("{spared} that had not accepted {shown} will not be given it.\n"));
        }
        match jid {
            Some(jid) => text.push_str(&format!(
                "Asked {} to stop {shown}. Whether they did: saltern job show {jid}\n",
                minions(targeted.len())
            )),
            None => text.push_str("Nobody runs it.\n"),
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["KILLED", "SPARED", "JID", "TARGETED"]);
        let Killed { killed, spared, jid, targeted } = &self.0;
        let jid = jid.map(|jid| jid.to_string()).unwrap_or_default();
        table.row([killed.to_string(), spared.to_string(), jid, targeted.len().to_string()]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, text};
    use saltern_wire::target::{Target, TargetKind};

    fn summary() -> JobSummary {
        JobSummary {
            jid: "20261123000528429535".parse().expect("a jid"),
            function: "saltutil.find_job".into(),
            arguments: vec!["20261123000523274339".into()],
            keywords: Map::new(),
            target: Target { kind: TargetKind::List, expression: "web-a,web-b".into() },
            user: "root".into(),
            opened: LogicalTime::from_unix_micros(1_795_392_328_429_535),
            state: JobState::Open,
            targeted: 2,
            returned: 1,
            batch: None,
        }
    }

    #[test]
    fn a_list_reads_as_salts_with_what_salt_does_not_know() {
        let page = Listed(JobPage { jobs: vec![summary()], next: None });
        let expect = "20261123000528429535:
    ----------
    Arguments:
        - 20261123000523274339
    Function:
        saltutil.find_job
    Returned:
        1 of 2
    StartTime:
        2026, Nov 23 00:05:28.429535
    State:
        open
    Target:
        - web-a
        - web-b
    Target-type:
        list
    User:
        root
";
        assert_eq!(style::plain(&text(&page, Format::Nested)), expect);
        let columns = "\
JID                   FUNCTION           TARGET       STATE  RETURNED  USER
20261123000528429535  saltutil.find_job  web-a,web-b  open   1/2       root
";
        assert_eq!(text(&page, Format::Table), columns);
    }

    #[test]
    fn a_job_shows_who_is_missing_and_why() {
        let minion = |name: &str| MinionId::new(name).expect("an id");
        let missing = Missing { minion: minion("web-b"), state: Progress::Waiting, reason: "disconnected".into() };
        let view = saltern_wire::api::ReturnView {
            value: json!(true),
            retcode: 0,
            success: true,
            state: Progress::Returned,
            master: "m2".into(),
            duration_ms: 4,
        };
        let job = JobView {
            summary: summary(),
            master: "m1".into(),
            minions: vec![minion("web-a"), minion("web-b")],
            returns: [(minion("web-a"), view)].into(),
            missing: vec![missing.clone()],
        };
        let shown = style::plain(&text(&Shown(job), Format::Nested));
        for part in [
            "    Missing:\n        ----------\n        web-b:\n            disconnected\n",
            "            return:\n                True\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(style::plain(&text(&Why(vec![missing]), Format::Nested)), "web-b:\n    waiting: disconnected\n");
    }
}
