//! `saltern cluster status`: what people are woken for first, then every master.

use super::{CliError, Session};
use crate::output::style::{self, BAD, HEAD, TEXT};
use crate::output::table::Table;
use crate::output::{Page, document, nested};
use saltern_wire::Value;
use saltern_wire::api::{BackupStatus, ClusterStatus, MemberStatus, TimingStatus};
use saltern_wire::master::MasterState;
use serde_json::json;

/// Asks a master and shows its answer.
pub(super) async fn run(session: &mut Session) -> Result<u8, CliError> {
    let answer = session.client.get("/v1/cluster/status", "").await?;
    let master = answer.master.clone();
    let status: ClusterStatus = session.fresh(answer)?;
    let unfit = status.timing.as_ref().and_then(|timing| timing.unfit.clone());
    session.screen.show(&Status { status, master })?;
    if let Some(unfit) = unfit {
        session.screen.warn(&unfit)?;
    }
    Ok(0)
}

/// The cluster as one master sees it.
struct Status {
    status: ClusterStatus,
    master: String,
}

impl Status {
    /// What people are woken for.
    fn lead(&self) -> String {
        let (quorum, color) = if self.status.quorum { ("yes", TEXT) } else { ("NO", BAD) };
        let tolerance = self.status.failure_tolerance;
        let tolerance_color = if tolerance > 0 { TEXT } else { BAD };
        format!(
            "{}: {}\n{}: {}\n",
            style::paint(HEAD, "quorum"),
            style::paint(color, quorum),
            style::paint(HEAD, "failure tolerance"),
            style::paint(tolerance_color, &tolerance.to_string())
        )
    }
}

/// A figure that a master may not know.
fn known(figure: Option<u64>) -> String {
    figure.map(|figure| figure.to_string()).unwrap_or_default()
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10)
}

fn round_trip(member: &MemberStatus) -> String {
    // The last one says little: it may have met a busy moment.
    match member.round_trip.map(|way| way.p50_us).or(member.round_trip_us) {
        Some(micros) => milliseconds(micros),
        None => String::new(),
    }
}

impl Page for Status {
    fn document(&self) -> Value {
        let mut document = document(&self.status);
        if let Value::Object(map) = &mut document {
            map.insert("answered_by".into(), self.master.as_str().into());
        }
        document
    }

    fn nested(&self) -> String {
        let status = &self.status;
        let mut out = self.lead();
        let facts = json!({
            "leader": status.leader.as_deref().unwrap_or("none known"),
            "term": status.term,
            "cluster": status.cluster,
            "CA fingerprint": status.ca_fingerprint,
            "minions": format!("{} connected, {} accepted", status.minions_connected, status.minions_accepted),
            "open jobs": status.jobs_open,
            "profile": status.timing.as_ref().map_or_else(|| "not known".into(), profile),
            "preferred region": preferred(status),
            "feature level": status.level,
            "directory": format!("generation {}, version {}", status.directory.0, status.directory.1),
            "answered by": self.master,
        });
        out += &nested::text(&facts, nested::ORDERED);
        if let Some(backup) = &status.backup {
            out += &nested::entry("backups", &backup_of(backup), nested::ORDERED);
        }
        let members: saltern_wire::Map =
            status.members.iter().map(|member| (member.name.clone(), facts_of(member))).collect();
        out + &nested::entry("members", &members.into(), nested::ORDERED)
    }

    fn table(&self) -> Table {
        let status = &self.status;
        let mut table = Table::new(&[
            "MASTER",
            "ROLE",
            "REACHABLE",
            "TERM",
            "LAST INDEX",
            "LAG",
            "ROUND TRIP",
            "VERSION",
            "REGION",
            "MINIONS",
            "API",
        ]);
        table.lead(style::plain(&self.lead()).lines());
        for member in &status.members {
            table.row([
                member.name.clone(),
                part_of(member),
                if member.reachable { "yes" } else { "NO" }.into(),
                status.term.to_string(),
                known(member.last_log),
                known(member.lag),
                round_trip(member),
                member.version.clone().unwrap_or_default(),
                member.region.clone(),
                known(member.minions),
                member.endpoints.api.to_string(),
            ]);
        }
        table
    }
}

/// Its program, with the newest feature level that it knows.
fn version(member: &MemberStatus) -> String {
    let level = member.level.map(|level| format!(" (knows feature level {level})")).unwrap_or_default();
    member.version.as_ref().map(|version| format!("{version}{level}")).unwrap_or_default()
}

/// The scheduled backups of the answering master.
fn backup_of(backup: &BackupStatus) -> Value {
    let age = backup.age_seconds.map_or_else(|| "there is none yet".to_owned(), |age| format!("{age} s"));
    json!({
        "folder": backup.folder,
        "newest": backup.newest.as_deref().unwrap_or("none"),
        "age": age,
        "bytes": backup.bytes,
        "kept": backup.kept,
        "last attempt": backup.failure.as_deref().map_or_else(|| "done".to_owned(), |cause| format!("FAILED: {cause}")),
    })
}

/// The group's timing, and who does not run with it (yet).
fn profile(timing: &TimingStatus) -> String {
    let chosen = if timing.profile.fixed().is_none() { " (auto)" } else { "" };
    let other =
        if timing.other.is_empty() { String::new() } else { format!("; not yet on {}", timing.other.join(", ")) };
    format!("{}{chosen}{other}", timing.timing)
}

fn preferred(status: &ClusterStatus) -> &str {
    let region = status.timing.as_ref().map_or("", |timing| timing.preferred_region.as_str());
    if region.is_empty() { "none" } else { region }
}

/// Its part in the group, with how far it has come, and whether it gives its minions away.
fn part_of(member: &MemberStatus) -> String {
    let mut part = member.role.clone();
    if let Some((percent, _)) = catching_up(member) {
        part += &format!(" {percent} %");
    }
    if member.state == MasterState::Draining {
        part += ", draining";
    }
    part
}

/// How far a master that does not vote yet is, in percent and entries; nothing to say once it lacks few.
fn catching_up(member: &MemberStatus) -> Option<(u64, String)> {
    /// So few are sent within a moment.
    const FEW: u64 = 500;
    let (last, lag) = (member.last_log?, member.lag.filter(|lag| *lag > FEW)?);
    if !matches!(member.role.as_str(), "joining" | "learner") {
        return None;
    }
    let all = last.saturating_add(lag);
    Some((last.saturating_mul(100) / all.max(1), format!("{last} of {all} entries, lacks {lag}")))
}

/// One member, what matters first.
fn facts_of(member: &MemberStatus) -> Value {
    let or_unknown = |text: String| if text.is_empty() { "not known".to_owned() } else { text };
    if let Some(cause) = &member.quarantined {
        return json!({
            "role": member.role,
            "reachable": member.reachable,
            "cause": cause,
            "remedy": "run `saltern-master rejoin` on that machine, then start it",
            "region": member.region,
            "zone": member.zone,
            "api": member.endpoints.api,
        });
    }
    let slowest = member.round_trip.map_or_else(String::new, |way| format!(" (p99 {})", milliseconds(way.p99_us)));
    json!({
        "role": part_of(member),
        "reachable": member.reachable,
        "state": member.state,
        "catching up": catching_up(member).map_or_else(|| "no".to_owned(), |(_, text)| text),
        "last index": or_unknown(known(member.last_log)),
        "lag": or_unknown(known(member.lag)),
        "round trip": or_unknown(round_trip(member) + &slowest),
        "version": or_unknown(version(member)),
        "region": member.region,
        "zone": member.zone,
        "minions": or_unknown(known(member.minions)),
        "api": member.endpoints.api,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, text};
    use saltern_wire::api::RoundTrip;
    use saltern_wire::crypto::Fingerprint;
    use saltern_wire::io::Address;
    use saltern_wire::master::Endpoints;
    use saltern_wire::profile::{Profile, ProfileChoice};
    use saltern_wire::{ClusterId, MasterId};

    fn member(name: &str, reachable: bool) -> MemberStatus {
        let at = |port| Address::new("10.0.0.1", port);
        MemberStatus {
            id: MasterId(1),
            name: name.into(),
            role: if reachable { "leader" } else { "follower" }.into(),
            state: MasterState::Active,
            endpoints: Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) },
            region: "eu".into(),
            zone: "a".into(),
            reachable,
            quarantined: None,
            last_log: reachable.then_some(120),
            lag: reachable.then_some(0),
            round_trip_us: reachable.then_some(1_234),
            round_trip: reachable.then_some(RoundTrip { p50_us: 1_230, p99_us: 9_876, count: 100 }),
            minions: reachable.then_some(8),
            version: reachable.then(|| "0.1.0".into()),
            level: reachable.then_some(2),
        }
    }

    fn page() -> Status {
        let status = ClusterStatus {
            cluster: ClusterId::from_bytes([1; 16]),
            ca_fingerprint: Fingerprint([2; 32]),
            quorum: false,
            failure_tolerance: 0,
            leader: None,
            term: 7,
            members: vec![member("m1", true), member("m2", false)],
            minions_accepted: 8,
            minions_connected: 8,
            jobs_open: 0,
            directory: (1, 3),
            timing: Some(TimingStatus {
                profile: ProfileChoice::Auto,
                timing: Profile::Geo,
                other: vec!["m2".into()],
                unfit: Some("too far".into()),
                preferred_region: "eu".into(),
            }),
            level: 2,
            backup: None,
        };
        Status { status, master: "m1".into() }
    }

    #[test]
    fn scheduled_backups_are_shown_with_their_age_and_their_failure() {
        let mut page = page();
        let backup =
            BackupStatus { folder: "/b".into(), newest: Some("x.archive".into()), kept: 2, ..BackupStatus::default() };
        page.status.backup = Some(BackupStatus { age_seconds: Some(75), ..backup.clone() });
        let nested = style::plain(&text(&page, Format::Nested));
        assert!(nested.contains("age:\n        75 s") && nested.contains("last attempt:\n        done"), "{nested}");
        page.status.backup = Some(BackupStatus { failure: Some("the disk is full".into()), ..backup });
        let nested = style::plain(&text(&page, Format::Nested));
        assert!(nested.contains("there is none yet") && nested.contains("FAILED: the disk is full"), "{nested}");
    }

    #[test]
    fn a_master_that_catches_up_says_how_far_it_is() {
        let far = MemberStatus {
            role: "joining".into(),
            last_log: Some(1_000),
            lag: Some(3_000),
            state: MasterState::Draining,
            ..member("m3", true)
        };
        assert_eq!(part_of(&far), "joining 25 %, draining");
        assert_eq!(catching_up(&far), Some((25, "1000 of 4000 entries, lacks 3000".into())));
        assert_eq!(part_of(&member("m1", true)), "leader");
    }

    #[test]
    fn quorum_and_tolerance_come_first() {
        let nested = style::plain(&text(&page(), Format::Nested));
        assert!(
            nested.starts_with("quorum: NO\nfailure tolerance: 0\nleader:\n    none known\nterm:\n    7\n"),
            "{nested}"
        );
        let order = [
            "members:",
            "    m1:",
            "role:",
            "reachable:",
            "last index:",
            "0.1.0 (knows feature level 2)",
            "    m2:",
            "not known",
        ];
        let at: Vec<usize> =
            order.iter().map(|part| nested.find(part).unwrap_or_else(|| panic!("{part}: {nested}"))).collect();
        assert!(at.is_sorted(), "{nested}");

        assert!(nested.contains("geo (auto); not yet on m2") && nested.contains("1.23 ms (p99 9.87 ms)"), "{nested}");
        let expect = "\
quorum: NO
failure tolerance: 0
MASTER  ROLE      REACHABLE  TERM  LAST INDEX  LAG  ROUND TRIP  VERSION  REGION  MINIONS  API
m1      leader    yes        7     120         0    1.23 ms     0.1.0    eu      8        10.0.0.1:4511
m2      follower  NO         7     -           -    -           -        eu      -        10.0.0.1:4511
";
        assert_eq!(text(&page(), Format::Table), expect);
    }
}
