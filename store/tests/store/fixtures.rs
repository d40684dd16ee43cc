//! Frozen bytes: what a released version has written must be readable for ever. A fixture is never changed, only added.
//!
//! `UPDATE_FIXTURES=1 cargo test -p saltern-store` writes the ones that are missing.

use crate::world::{
    BEGIN, Bench, World, accept, affirm, cluster, current, delete, deliver, digest, directory, facts, found_at, here,
    id, job, mine, outcome, parts, public_key, record, reject, set, sign, submit, take,
};
use saltern_store::command::{Command, JobCommand, KeyCommand, MasterCommand, Proposal};
use saltern_store::{Snapshots, Soundness};
use saltern_wire::level::LEVEL_FIRST;
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
        ("key_reject", reject("web1")),
        ("key_delete", delete("web1")),
        ("minion_facts", facts("web1", 7, "debian")),
        ("job_open", Command::Job(JobCommand::Open { job: sign(&job(opened, 1, &[1, 2, 70_000], 60_000)) })),
        ("job_accept", take(jid, 2)),
        ("job_record", record(2, parts(jid, &outcome("true", true)))),
        ("job_deliver", deliver(jid, 1, 2)),
        ("mine_report", mine(2, "network.ip_addrs", Some(json!(["10.0.0.2"])), (7, 3))),
        ("mine_affirm", affirm(2, "network.ip_addrs", (7, 3), (7, 4))),
        ("master_found", found_at(LEVEL_FIRST)),
        ("master_token", Command::Master(MasterCommand::Token { secret_hash, ttl_ms: 3_600_000, uses: 2 })),
        (
            "master_join",
            Command::Master(MasterCommand::Join {
                secret_hash,
                name: "beta".into(),
                public_key: public_key("beta", 0),
            }),
        ),
        (
            "master_directory",
            Command::Master(MasterCommand::Directory { directory: directory(1, 2, &[(1, "alpha"), (2, "beta")]) }),
        ),
        (
            "master_rejoin",
            Command::Master(MasterCommand::Rejoin {
                gone: MasterId(2),
                name: "beta".into(),
                public_key: public_key("beta", 1),
            }),
        ),
        (
            "master_refound",
            Command::Master(MasterCommand::Refound {
                cluster: cluster(),
                ca_certificate_pem: "-----BEGIN CERTIFICATE-----".into(),
                ca_sealed: vec![4, 5, 6],
                level: 2,
                directory: directory(2, 1, &[(1, "alpha")]),
            }),
        ),
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

/// A state with a row in nearly every table.
fn populated(bench: &Bench) -> World {
    let mut world = World::new(bench);
    world.run(found_at(LEVEL_FIRST)).unwrap();
    world.enrol(&["web1", "web2"]);
    world.run(submit("web3")).unwrap();
    world.run(Command::Key(KeyCommand::Submit { minion: id("web1"), public_key: public_key("web1", 1) })).unwrap();
    // What came after the first version is not in its state.
    let later = ["master_found", "master_rejoin", "mine_affirm", "master_refound", "job_deliver"];
    for (_, command) in families().into_iter().filter(|(name, _)| !later.contains(name)) {
        let item = world.item_as(Some(RequestId::from_bytes([world.next as u8; 16])), command);
        world.state.apply(&[item]).unwrap();
    }
    world.enrol(&["web1"]);
    let jid = world.open(9, &[2, 3]);
    world.run(take(jid, 2)).unwrap();
    let long = parts(jid, &outcome(&"x".repeat(300_000), true));
    world.run(record(2, long[..1].to_vec())).unwrap();
    world.run(record(3, parts(jid, &outcome("one", true)))).unwrap();
    world.run(record(3, parts(jid, &outcome("two", true)))).unwrap();
    world.run(record(2, parts(JobId::mint(LogicalTime::ZERO, 3), &outcome("orphan", true)))).unwrap();
    world
}

#[test]
fn a_state_of_an_earlier_version_is_read_and_means_the_same() {
    let (made, bench) = (Bench::memory(), Bench::memory());
    let world = populated(&made);
    let path = here("fixtures").join("state-1.bin");
    let live = bench.dir("state").join("state-1");
    if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        let snapshots = Snapshots::open(made.engine.clone(), &made.dir("snapshots"), Soundness::new()).unwrap();
        let made = snapshots.create(&world.state).unwrap();
        let file = &made.manifest.files[0];
        let bytes = snapshots.read_chunk(&made.manifest.id, &file.name, 0, 1 << 24).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let frozen = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bench.engine.append_file(&live.join("tables"), &frozen).unwrap();
    bench.engine.replace_file(&bench.dir("state").join("CURRENT"), &current(1)).unwrap();
    let state = bench.state();
    assert_eq!(state.position(), world.state.position());
    assert_eq!(state.counts(), world.state.counts());
    assert_eq!(state.directory(), world.state.directory());
    for jid in world.state.jobs(None, 99, false).unwrap().iter().map(|job| job.jid) {
        assert_eq!(state.job(&jid).unwrap(), world.state.job(&jid).unwrap());
        assert_eq!(state.returns(&jid).unwrap(), world.state.returns(&jid).unwrap());
        assert_eq!(state.progress(&jid).unwrap(), world.state.progress(&jid).unwrap());
    }
    // As long as the format is the first one, the same commands make the same bytes.
    assert_eq!(digest(&state), digest(&world.state));
}
