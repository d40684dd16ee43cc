//! A state goes out as rows and comes back as the same state; a master that carries it on alone changes what it must and
//! nothing else.

use crate::world::{
    Bench, World, ca, cluster, digest, directory, facts, found, mine, outcome, parts, public_key, record, submit, take,
};
use saltern_store::archive::{Export, Import, scratch};
use saltern_store::command::{Command, MasterCommand, Refused, Reply};
use saltern_wire::crypto::Signed;
use saltern_wire::job::Progress;
use saltern_wire::master::Directory;
use saltern_wire::{ClusterId, JobId, Ordinal, RequestId};
use serde_json::json;
use std::ops::ControlFlow;

/// Keys, facts, mine, a job that is done, one that two minions owe, a token.
fn lived_in(bench: &Bench) -> (World, JobId, JobId) {
    let mut world = World::new(bench);
    world.run(found()).unwrap();
    world.enrol(&["web1", "web2", "web3"]);
    world.run(submit("web4")).unwrap();
    world.run(facts("web1", 7, "debian")).unwrap();
    world.run(mine(1, "network.ip_addrs", Some(json!(["10.0.0.2"])), (7, 3))).unwrap();
    let done = world.open(1, &[1]);
    world.run(record(1, parts(done, &outcome("one", true)))).unwrap();
    world.pass(1);
    let open = world.open(2, &[1, 2, 3]);
    world.run(take(open, 1)).unwrap();
    world.run(record(3, parts(open, &outcome("three", true)))).unwrap();
    let secret_hash = [5; 32];
    world.run(Command::Master(MasterCommand::Token { secret_hash, ttl_ms: 3_600_000, uses: 2 })).unwrap();
    (world, done, open)
}

fn copy(export: &Export, bench: &Bench, name: &str) -> std::sync::Arc<saltern_store::State> {
    let mut import = Import::begin(bench.engine.clone(), &bench.dir(name)).unwrap();
    let counts = export.rows(&mut |table, key, value| {
        import.row(table, key, value).unwrap();
        ControlFlow::Continue(())
    });
    let counts = counts.unwrap().expect("to the end");
    let expect =
        [("keys_accepted", 3), ("keys_pending", 1), ("jobs", 2), ("jobs_open", 1), ("returns", 2), ("mine_values", 1)];
    for (name, count) in expect {
        assert_eq!(counts.get(name), Some(&count), "{name}");
    }
    import.finish().unwrap()
}

#[test]
fn what_went_out_comes_back_whatever_is_applied_meanwhile() {
    for bench in Bench::both() {
        let (mut world, ..) = lived_in(&bench);
        let (then, at) = (digest(&world.state), world.state.revision());
        let export = Export::begin(bench.engine.clone(), &world.state, &bench.dir("export")).unwrap();
        world.enrol(&["web9"]);
        assert_ne!(digest(&world.state), then);
        assert_eq!(export.revision(), at);
        let restored = copy(&export, &bench, "restored");
        assert_eq!(digest(&restored), then, "{}", bench.name);
        assert_eq!(restored.position(), Some(format!("1.{}", at.0).into_bytes()));
        drop(export);
        assert_eq!(bench.engine.list(&bench.dir("export")).unwrap(), Vec::<String>::new(), "its folder goes with it");
    }
}

#[test]
fn a_row_that_cannot_be_read_does_not_come_in() {
    let bench = Bench::memory();
    let mut import = Import::begin(bench.engine.clone(), &bench.dir("restored")).unwrap();
    assert!(import.row("keys", b"x", b"y").is_err());
    assert!(import.row("of the future", b"x", b"y").unwrap_err().to_string().contains("newer"));
    import.finish().unwrap();
    assert!(Import::begin(bench.engine.clone(), &bench.dir("restored")).is_err(), "there is a state already");
}

#[test]
fn a_scratch_copy_changes_nothing_of_the_original() {
    for bench in Bench::both() {
        let (mut world, ..) = lived_in(&bench);
        let before = digest(&world.state);
        let copy = scratch(bench.engine.clone(), &world.state, &bench.dir("scratch")).unwrap();
        let item = world.item(submit("web7"));
        copy.apply(&[item]).unwrap();
        assert_ne!(digest(&copy), before);
        assert_eq!(digest(&world.state), before, "{}", bench.name);
    }
}

fn successor(generation: u64, cluster: u8, succeeds: &[ClusterId], masters: &[(u64, &str)]) -> Command {
    let listed = directory(generation, 1, masters).verify(&ca().public_key()).unwrap().into_inner();
    let cluster = ClusterId::from_bytes([cluster; 16]);
    let directory = Signed::new(&Directory { cluster, succeeds: succeeds.to_vec(), ..listed }, &ca());
    Command::Master(MasterCommand::Refound {
        cluster,
        ca_certificate_pem: "fresh".into(),
        ca_sealed: vec![9],
        level: 2,
        directory,
    })
}

#[test]
fn a_refounded_truth_keeps_what_it_knows_and_leaves_nothing_open() {
    let bench = Bench::memory();
    let (mut world, done, open) = lived_in(&bench);
    let fresh = world.state.fresh_master_id();
    assert!(fresh.0 > 1000, "{fresh}");
    let masters = [(fresh.0, "gamma")];
    for (wrong, says) in [
        (successor(1, 7, &[], &masters), "above 1"),
        (successor(2, 9, &[], &masters), "succeeds"),
        (successor(2, 7, &[], &[(1, "alpha"), (2, "beta")]), "not one"),
    ] {
        let refused: Refused = world.run(wrong).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let applied = world.apply(successor(2, 9, &[cluster()], &masters));
    assert_eq!(applied.applied, Ok(Reply::Done));
    let state = &world.state;
    assert_eq!(state.cluster(), Some(ClusterId::from_bytes([9; 16])));
    assert_eq!((state.ca().unwrap().certificate_pem.as_str(), state.ca().unwrap().sealed), ("fresh", vec![9]));
    assert_eq!(state.ca().unwrap().public_key, ca().public_key());
    assert_eq!((state.counts().accepted, state.counts().pending, state.counts().open_jobs), (3, 1, 0));
    let stands = |jid, ordinal| state.progress_of(jid, Ordinal(ordinal)).unwrap().unwrap().0;
    let all = [1, 2, 3].map(|ordinal| stands(&open, ordinal));
    assert_eq!(all, [Progress::Cancelled, Progress::Cancelled, Progress::Returned]);
    assert_eq!(stands(&done, 1), Progress::Returned);
    assert_eq!(state.token_ends(&[5; 32]).unwrap(), None);
    assert_eq!(state.masters().unwrap().iter().map(|master| master.master).collect::<Vec<_>>(), [fresh]);
    // An answer that was on its way takes the place of the cancellation.
    world.run(record(2, parts(open, &outcome("two", true)))).unwrap();
    assert_eq!(world.state.progress_of(&open, Ordinal(2)).unwrap().unwrap().0, Progress::Returned);
    // Ids that a lost master may have given out are not given again.
    let secret_hash = [6; 32];
    world.run(Command::Master(MasterCommand::Token { secret_hash, ttl_ms: 60_000, uses: 1 })).unwrap();
    let join = MasterCommand::Join { secret_hash, name: "delta".into(), public_key: public_key("delta", 0) };
    let Ok(Reply::Joined { master }) = world.run(Command::Master(join)) else { panic!("it joins") };
    assert!(master.0 > fresh.0 + 999, "{master}");
    // A second refounding needs a higher generation still.
    assert!(world.run(successor(2, 9, &[], &[(master.0, "delta")])).is_err());
    let item = world.item_as(Some(RequestId::from_bytes([3; 16])), successor(3, 9, &[], &[(master.0, "delta")]));
    assert_eq!(world.state.apply(&[item]).unwrap()[0].applied, Ok(Reply::Done));
    assert_eq!(world.state.masters().unwrap()[0].master, master);
}
