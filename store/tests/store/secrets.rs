//! The state secret's number: who asks for a new one, when it is in force, and what ends with the old one; and what a removed
//! master may still do.

use crate::world::{Bench, World, directory, found_at, job, public_key, sign};
use saltern_store::command::{Applied, Command, JobCommand, MasterCommand, Refused, Reply, SecretCommand};
use saltern_store::view::Secrets;
use saltern_wire::level::LEVEL_MEMBERSHIP;
use saltern_wire::{LogicalTime, MasterId};

fn rotate(epoch: u64) -> Command {
    Command::Secret(SecretCommand::Rotate { epoch, ca_sealed: vec![7; 60] })
}

fn put(world: &mut World, version: u64, masters: &[(u64, &str)]) -> Applied {
    world.run(Command::Master(MasterCommand::Directory { directory: directory(1, version, masters) }))
}

/// Masters alpha and beta, and a join token with a use left.
fn pair(bench: &Bench, level: u32) -> World {
    let mut world = World::new(bench);
    world.run(found_at(level)).unwrap();
    let token = MasterCommand::Token { secret_hash: [5; 32], ttl_ms: 3_600_000, uses: 2 };
    world.run(Command::Master(token)).unwrap();
    let public_key = public_key("beta", 0);
    let join = MasterCommand::Join { secret_hash: [5; 32], name: "beta".into(), public_key };
    world.run(Command::Master(join)).unwrap();
    put(&mut world, 2, &[(1, "alpha"), (2, "beta")]).unwrap();
    world
}

#[test]
fn a_master_that_leaves_asks_for_a_new_secret_and_tokens_end_with_the_old_one() {
    for bench in Bench::both() {
        let mut world = pair(&bench, LEVEL_MEMBERSHIP);
        assert_eq!(world.state.secrets().unwrap(), Secrets { epoch: 0, wanted: 0 });
        put(&mut world, 3, &[(1, "alpha")]).unwrap();
        assert_eq!(world.state.secrets().unwrap(), Secrets { epoch: 0, wanted: 1 });
        assert!(world.state.token_ends(&[5; 32]).unwrap().is_some());
        assert!(matches!(world.run(rotate(2)), Err(Refused::Conflict(_))), "one after the other");
        assert_eq!(world.run(rotate(1)), Ok(Reply::Done));
        assert_eq!(world.state.secrets().unwrap(), Secrets { epoch: 1, wanted: 1 });
        assert_eq!(world.state.ca().unwrap().sealed, vec![7; 60]);
        assert_eq!(world.state.token_ends(&[5; 32]).unwrap(), None, "its secret could be worked out");
        assert!(matches!(world.run(rotate(1)), Err(Refused::Conflict(_))), "of two leaders one wins");
    }
}

#[test]
fn whoever_leaves_during_a_rotation_is_followed_by_another_one() {
    let mut world = pair(&Bench::memory(), LEVEL_MEMBERSHIP);
    let want = |epoch| Command::Secret(SecretCommand::Want { epoch });
    world.run(want(0)).unwrap();
    world.run(want(0)).unwrap();
    assert_eq!(world.state.secrets().unwrap().wanted, 1, "asked twice, it is one");
    put(&mut world, 3, &[(1, "alpha")]).unwrap();
    world.run(rotate(1)).unwrap();
    assert_eq!(world.state.secrets().unwrap(), Secrets { epoch: 1, wanted: 2 }, "it may have been handed the first");
    world.run(want(0)).unwrap();
    assert_eq!(world.state.secrets().unwrap().wanted, 2, "that one is gone already");
}

#[test]
fn a_removed_master_opens_no_job() {
    let mut world = pair(&Bench::memory(), LEVEL_MEMBERSHIP);
    world.enrol(&["web1"]);
    let open = |world: &mut World, slot: u64| {
        let now = LogicalTime::from_unix_micros(world.state.time().unix_micros() + 100 * slot);
        let mut job = job(now, slot, &[1], 60_000);
        job.master = MasterId(2);
        world.run(Command::Job(JobCommand::Open { job: sign(&job) }))
    };
    assert!(matches!(open(&mut world, 1), Ok(Reply::Opened { .. })));
    put(&mut world, 3, &[(1, "alpha")]).unwrap();
    let refused = open(&mut world, 2).unwrap_err().to_string();
    assert!(refused.contains("is not one of the cluster"), "{refused}");
}

#[test]
fn below_its_level_nothing_of_it_happens() {
    let mut world = pair(&Bench::memory(), 1);
    put(&mut world, 3, &[(1, "alpha")]).unwrap();
    assert_eq!(world.state.secrets().unwrap(), Secrets { epoch: 0, wanted: 0 });
    assert!(matches!(world.run(rotate(1)), Err(Refused::Conflict(_))));
}
