//! `saltern-master check`: verifies a data folder offline, and changes nothing in it.
//!
//! What the stores hold is the store's to verify ([`saltern_store::check`](fn@saltern_store::check)); this adds what stands
//! beside them: the quarantine, the credentials, the directory of masters.

use crate::pki::Credentials;
use crate::pki::credentials::DIRECTORY_FILE;
use crate::quarantine::{EXIT_CORRUPT, Quarantine};
use crate::raft::StoredEntry;
use saltern_pubsub::disk::SystemDisk;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::{CheckItem, CheckReport, StoreError, Verdict, check};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
}

/// Looks at everything in `folder`.
pub fn look(folder: &Path) -> Result<CheckReport, StoreError> {
    let mut report = check::<StoredEntry>(&RocksEngine, folder)?;
    let item = |what: &str, verdict, detail: String| CheckItem { what: what.into(), verdict, detail };
    let quarantine = match Quarantine::read(&SystemDisk, folder) {
        Ok(None) => item("the quarantine", Verdict::Absent, "this master was never doubted, or has rejoined".into()),
        Ok(Some(held)) => item("the quarantine", Verdict::Corrupt, format!("since {}: {}", held.since, held.cause)),
        Err(error) => item("the quarantine", Verdict::Unreadable, error.to_string()),
    };
    report.items.push(quarantine);
    match Credentials::load(&SystemDisk, folder) {
        Ok(credentials) => {
            let detail =
                format!("master {} {:?} of cluster {}", credentials.master, credentials.name, credentials.cluster);
            report.items.push(item("the credentials", Verdict::Sound, detail));
            // Loading passes a damaged copy over: it is one that the tables hold as well.
            let kept = match credentials.kept_directory(&SystemDisk, folder) {
                Ok(_) => item("the kept directory", Verdict::Sound, newest(&credentials)),
                Err(cause) => item("the kept directory", Verdict::Unfinished, format!("{cause}; it is written anew")),
            };
            report.items.push(kept);
        }
        Err(error) => report.items.push(item("the credentials", Verdict::Unreadable, error.to_string())),
    }
    Ok(report)
}

fn newest(credentials: &Credentials) -> String {
    match credentials.directory.verify(&credentials.ca) {
        Ok(directory) => {
            let names: Vec<&str> = directory.masters.iter().map(|master| master.name.as_str()).collect();
            format!("version {} names {}", directory.version, names.join(", "))
        }
        Err(error) => format!("{DIRECTORY_FILE}: {error}"),
    }
}

/// 0 if a master may start on it, 78 if only a newer build may, 65 if none.
pub fn exit_code(report: &CheckReport) -> u8 {
    match (report.is_sound(), report.cause()) {
        (true, _) => 0,
        (false, None) if report.is_newer() => 78,
        (false, _) => EXIT_CORRUPT,
    }
}

/// The report as text. `remedy` is the command that brings the master back.
pub fn render(report: &CheckReport, folder: &Path, format: Format, remedy: &str) -> String {
    match format {
        Format::Json => {
            let row =
                |item: &CheckItem| json!({ "what": item.what, "state": item.verdict.word(), "detail": item.detail });
            let items: Vec<_> = report.items.iter().map(row).collect();
            let document = json!({ "folder": folder, "sound": report.is_sound(), "items": items });
            format!("{document:#}\n")
        }
        Format::Table => {
            let width = |column: fn(&CheckItem) -> usize| report.items.iter().map(column).max().unwrap_or(0);
            let (states, whats) = (width(|item| item.verdict.word().len()), width(|item| item.what.len()));
            let mut text = String::new();
            for item in &report.items {
                let (state, what) = (item.verdict.word(), &item.what);
                // Writing to a String does not fail.
                let _ = writeln!(text, "{state:states$}  {what:whats$}  {}", item.detail);
            }
            let _ = if exit_code(report) == 78 {
                writeln!(
                    text,
                    "\n{} was written by a newer version: install that one and check again",
                    folder.display()
                )
            } else if report.is_sound() {
                writeln!(text, "\n{} is sound: a master may start on it", folder.display())
            } else {
                writeln!(text, "\n{} is NOT sound: bring this master back with: {remedy}", folder.display())
            };
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict) -> CheckReport {
        let item = |what: &str, verdict| CheckItem { what: what.into(), verdict, detail: "entry 7".into() };
        CheckReport { items: vec![item("the log", verdict), item("the durable mark", Verdict::Sound)] }
    }

    #[test]
    fn a_report_says_what_is_wrong_and_what_to_do() {
        let folder = Path::new("/data");
        for (verdict, code, says) in [
            (Verdict::Sound, 0, "/data is sound"),
            (Verdict::Unfinished, 0, "/data is sound"),
            (Verdict::Corrupt, 65, "NOT sound: bring this master back with: saltern-master rejoin"),
            (Verdict::Newer, 78, "a newer version: install that one"),
            (Verdict::Unreadable, 65, "NOT sound"),
        ] {
            let report = report(verdict);
            let text = render(&report, folder, Format::Table, "saltern-master rejoin");
            assert!(exit_code(&report) == code && text.contains(says), "{text}");
            let json: serde_json::Value =
                serde_json::from_str(&render(&report, folder, Format::Json, "")).expect("a document");
            assert_eq!((&json["sound"], &json["items"][0]["state"]), (&json!(code == 0), &json!(verdict.word())));
        }
    }
}
