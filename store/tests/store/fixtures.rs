//! Frozen bytes: what a released version has written must be readable for ever. A fixture is never changed, only added.
//!
//! `UPDATE_FIXTURES=1 cargo test -p saltern-store` writes the ones that are missing.

use crate::world::{
    BEGIN, accept, cluster, facts, found, here, job, mine, outcome, parts, record, set, sign, submit, take,
};
use saltern_store::command::{Command, JobCommand, MasterCommand, Proposal};
use saltern_wire::{JobId, LogicalTime, MasterId, RequestId};
use serde_json::json;

fn families() -> Vec<(&'static str, Command)> {
    let opened = LogicalTime::from_unix_micros(BEGIN);
    let jid = JobId::mint(opened, 1);
    let secret_hash = [5; 32];
    assert_eq!(cluster().to_string(), "07".repeat(16), "the fixtures are made from fixed names");
    vec![
        ("tick", Command::Tick),
        ("key_submit", submit("web1")),
        ("key_accept", accept("web1")),
        ("minion_facts", facts("web1", 7, "debian")),
        ("job_open", Command::Job(JobCommand::Open { job: sign(&job(opened, 1, &[1, 2, 70_000], 60_000)) })),
        ("job_accept", take(jid, 2)),
        ("job_record", record(2, parts(jid, &outcome("true", true)))),
        ("mine_report", mine(2, "network.ip_addrs", Some(json!(["10.0.0.2"])), (7, 3))),
        ("master_found", found()),
        ("master_token", Command::Master(MasterCommand::Token { secret_hash, ttl_ms: 3_600_000, uses: 2 })),
        ("settings_set", set("keep_jobs_seconds", json!(3600))),
    ]
}

#[test]
fn proposals_of_earlier_versions_are_read() {
    for (name, command) in families() {
        let request = Some(RequestId::from_bytes([0xaa; 16]));
        let stamp = LogicalTime::from_unix_micros(BEGIN);
        let proposal = Proposal { request, by: MasterId(3), stamp, command };
        let path = here("fixtures").join(format!("proposal-1-{name}.bin"));
        if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(&path, saltern_wire::encode(&proposal)).unwrap();
        }
        let frozen = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(saltern_wire::decode::<Proposal>(&frozen).unwrap(), proposal, "{name}");
    }
}
