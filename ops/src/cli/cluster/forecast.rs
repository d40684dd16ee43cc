//! `saltern cluster forecast --lose …`: what would happen, before it does.

use super::{CliError, Session};
use crate::client::query;
use crate::output::style::{self, BAD, HEAD, TEXT};
use crate::output::table::Table;
use crate::output::{Page, document, nested};
use saltern_wire::api::{Candidate, Forecast, Outlook};
use saltern_wire::{Map, Value};
use serde_json::json;

/// Asks a master and shows its answer. The exit code is 0 if writes would go on, and 1 if not.
pub(super) async fn run(lose: &[String], session: &mut Session) -> Result<u8, CliError> {
    let parameters = query(&[("lose", &lose.join(","))]);
    let answer = session.client.get("/v1/cluster/forecast", &parameters).await?;
    let forecast: Forecast = session.fresh(answer)?;
    let goes_on = forecast.after.quorum;
    session.screen.show(&Told(forecast))?;
    Ok(if goes_on { 0 } else { 1 })
}

struct Told(Forecast);

impl Told {
    /// What people want to know first.
    fn lead(&self) -> String {
        let forecast = &self.0;
        let lost = if forecast.lost.is_empty() { "nobody".into() } else { forecast.lost.join(", ") };
        let (verdict, color) = match forecast.write_gap_ms {
            None => ("NO: writes would stop".to_owned(), BAD),
            Some((0, 0)) => ("yes: no pause in writes".to_owned(), TEXT),
            Some((from, to)) => (format!("yes: no writes for {} to {} s", seconds(from), seconds(to)), TEXT),
        };
        format!(
            "{}: {lost}\n{}: {}\n",
            style::paint(HEAD, "lost"),
            style::paint(HEAD, "goes on"),
            style::paint(color, &verdict)
        )
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1_000, ms % 1_000 / 100)
}

fn commit(candidate: &Candidate) -> String {
    match candidate.commit_us {
        Some(us) => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        None => "not known".into(),
    }
}

fn leads(outlook: &Outlook) -> String {
    match (&outlook.leader, outlook.candidates.as_slice()) {
        (Some(leader), _) => leader.clone(),
        (None, []) => "nobody".into(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|candidate| candidate.name.as_str()).collect();
            format!("one of {}", names.join(", "))
        }
    }
}

fn facts(outlook: &Outlook) -> Value {
    let commits: Map =
        outlook.candidates.iter().map(|candidate| (candidate.name.clone(), commit(candidate).into())).collect();
    json!({
        "quorum": outlook.quorum,
        "failure tolerance": outlook.failure_tolerance,
        "leader": leads(outlook),
        "commit, by leader": commits,
    })
}

impl Page for Told {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn nested(&self) -> String {
        let forecast = &self.0;
        let mut out = self.lead();
        out += &nested::entry("before", &facts(&forecast.before), nested::ORDERED);
        out += &nested::entry("after", &facts(&forecast.after), nested::ORDERED);
        let mut rest = Map::new();
        rest.insert(
            "voters".into(),
            format!("{}, of which {} are a majority", forecast.voters, forecast.majority).into(),
        );
        rest.insert("minions that move".into(), forecast.minions_moved.into());
        if !forecast.unreachable.is_empty() {
            rest.insert("silent already".into(), forecast.unreachable.join(", ").into());
        }
        if !forecast.notes.is_empty() {
            rest.insert("notes".into(), forecast.notes.clone().into());
        }
        out + &nested::text(&rest.into(), nested::ORDERED)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["", "QUORUM", "TOLERANCE", "LEADER", "MAY LEAD", "REGION", "COMMIT"]);
        table.lead(style::plain(&self.lead()).lines());
        for (when, outlook) in [("before", &self.0.before), ("after", &self.0.after)] {
            let quorum = if outlook.quorum { "yes" } else { "NO" };
            let row = |name: String, region: String, commit: String| {
                let tolerance = outlook.failure_tolerance.to_string();
                [when.into(), quorum.into(), tolerance, leads(outlook), name, region, commit]
            };
            if outlook.candidates.is_empty() {
                table.row(row(String::new(), String::new(), String::new()));
            }
            for candidate in &outlook.candidates {
                table.row(row(candidate.name.clone(), candidate.region.clone(), commit(candidate)));
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, text};

    fn told() -> Told {
        let candidate =
            |name: &str, region: &str, us| Candidate { name: name.into(), region: region.into(), commit_us: Some(us) };
        let before = Outlook {
            quorum: true,
            failure_tolerance: 1,
            leader: Some("m1".into()),
            candidates: vec![candidate("m1", "eu", 80_400)],
        };
        let after = Outlook {
            quorum: true,
            failure_tolerance: 0,
            leader: None,
            candidates: vec![candidate("m2", "us", 220_000), candidate("m3", "ap", 220_000)],
        };
        Told(Forecast {
            lost: vec!["m1".into()],
            unreachable: vec![],
            voters: 3,
            majority: 2,
            before,
            after,
            write_gap_ms: Some((4_940, 5_980)),
            minions_moved: 12,
            notes: vec!["Who is elected first cannot be known.".into()],
        })
    }

    #[test]
    fn the_verdict_comes_first_and_the_reasons_after_it() {
        let nested = style::plain(&text(&told(), Format::Nested));
        assert!(nested.starts_with("lost: m1\ngoes on: yes: no writes for 4.9 to 5.9 s\nbefore:\n"), "{nested}");
        assert!(nested.contains("one of m2, m3") && nested.contains("80.4 ms"), "{nested}");
        let expect = "\
lost: m1
goes on: yes: no writes for 4.9 to 5.9 s
        QUORUM  TOLERANCE  LEADER         MAY LEAD  REGION  COMMIT
before  yes     1          m1             m1        eu      80.4 ms
after   yes     0          one of m2, m3  m2        us      220.0 ms
after   yes     0          one of m2, m3  m3        ap      220.0 ms
";
        assert_eq!(text(&told(), Format::Table), expect);
    }

    #[test]
    fn the_end_of_writes_is_said_plainly() {
        let mut forecast = told();
        forecast.0.after = Outlook { quorum: false, failure_tolerance: 0, leader: None, candidates: vec![] };
        forecast.0.write_gap_ms = None;
        let nested = style::plain(&text(&forecast, Format::Nested));
        assert!(nested.contains("goes on: NO: writes would stop"), "{nested}");
        assert!(text(&forecast, Format::Table).contains("nobody"));
    }
}
