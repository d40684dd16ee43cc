//! The power is cut at every single step of receiving, installing and making a snapshot; each time the machine comes back
//! with the old or the new, whole, and finishes what was begun.

use crate::world::{BEGIN, Bench, World, digest, outcome, parts, record};
use saltern_store::command::Command;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::kv::{Engine, FixedFile, Kind, Kv};
use saltern_store::{Manifest, Snapshots, Soundness, State, StoreError};
use saltern_wire::LogicalTime;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Performs so many changes, then none any more.
struct Failing {
    disk: MemoryEngine,
    left: AtomicU64,
}

impl Failing {
    fn step(&self, path: &Path) -> Result<(), StoreError> {
        let spend = |left: u64| left.checked_sub(1);
        let spent = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend);
        let cut = |_| StoreError::Engine { doing: "writing", path: path.into(), cause: "the power is cut".into() };
        spent.map(drop).map_err(cut)
    }
}

impl Engine for Failing {
    fn open_log(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError> {
        self.disk.open_log(dir)
    }
    fn open_state(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError> {
        self.step(dir)?;
        self.disk.open_state(dir)
    }
    fn has_instance(&self, dir: &Path) -> Result<bool, StoreError> {
        self.disk.has_instance(dir)
    }
    fn hold(&self, dir: &Path) -> Result<Box<dyn Send>, StoreError> {
        self.disk.hold(dir)
    }
    fn open_read_only(&self, dir: &Path, kind: Kind) -> Result<Arc<dyn Kv>, StoreError> {
        self.disk.open_read_only(dir, kind)
    }
    fn make_folder(&self, dir: &Path) -> Result<(), StoreError> {
        self.step(dir)?;
        self.disk.make_folder(dir)
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>, StoreError> {
        self.disk.list(dir)
    }
    fn file_len(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        self.disk.file_len(path)
    }
    fn read_file(&self, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.disk.read_file(path, offset, len)
    }
    fn append_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.step(path)?;
        self.disk.append_file(path, bytes)
    }
    fn sync_file(&self, path: &Path) -> Result<(), StoreError> {
        self.step(path)?;
        self.disk.sync_file(path)
    }
    fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.step(path)?;
        self.disk.replace_file(path, bytes)
    }
    fn open_fixed(&self, path: &Path) -> Result<Option<Box<dyn FixedFile>>, StoreError> {
        self.disk.open_fixed(path)
    }
    fn clone_folder(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.step(to)?;
        self.disk.clone_folder(from, to)
    }
    fn clone_file(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.step(to)?;
        self.disk.clone_file(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.step(to)?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.step(path)?;
        self.disk.remove(path)
    }
}

/// A machine of its own: a state with two minions, flushed.
struct Machine {
    disk: MemoryEngine,
}

fn at(name: &str) -> PathBuf {
    Path::new("machine").join(name)
}

impl Machine {
    fn new() -> Self {
        let machine = Self { disk: MemoryEngine::new() };
        let state = machine.state(&machine.plain());
        let mut world = World { state, next: 1, now: LogicalTime::from_unix_micros(BEGIN) };
        world.enrol(&["old1", "old2"]);
        world.state.flush().unwrap();
        machine
    }

    fn plain(&self) -> Arc<dyn Engine> {
        Arc::new(self.disk.clone())
    }

    fn failing_after(&self, steps: u64) -> Arc<dyn Engine> {
        Arc::new(Failing { disk: self.disk.clone(), left: AtomicU64::new(steps) })
    }

    fn state(&self, engine: &Arc<dyn Engine>) -> Arc<State> {
        State::open(engine.clone(), &at("state"), Soundness::new()).unwrap()
    }
}

/// Receives and installs everything; stops at the first error.
fn take_over(engine: &Arc<dyn Engine>, from: &Snapshots, manifest: &Manifest) -> Result<(), StoreError> {
    let state = State::open(engine.clone(), &at("state"), Soundness::new())?;
    let snapshots = Snapshots::open(engine.clone(), &at("snapshots"), Soundness::new())?;
    let whole = snapshots.current().filter(|current| current.manifest == *manifest);
    let snapshot = match whole {
        Some(snapshot) => snapshot,
        None => {
            let receiving = snapshots.receive(manifest.clone())?;
            while let Some(piece) = receiving.missing()?.into_iter().next() {
                let bytes = from.read_chunk(&manifest.id, &piece.file, piece.offset, 2000)?;
                receiving.write_chunk(&piece.file, piece.offset, &bytes)?;
            }
            receiving.finish()?
        }
    };
    snapshots.install(&state, &snapshot)
}

#[test]
fn receiving_and_installing_survive_a_power_cut_at_every_step() {
    let bench = Bench::memory();
    let mut source = World::new(&bench);
    source.enrol(&["new1"]);
    let jid = source.open(0, &[1]);
    source.run(record(1, parts(jid, &outcome(&"x".repeat(5000), true)))).unwrap();
    let sending = Snapshots::open(bench.engine.clone(), &bench.dir("snapshots"), Soundness::new()).unwrap();
    let manifest = sending.create(&source.state).unwrap().manifest;
    let new = digest(&source.state);
    let old = {
        let machine = Machine::new();
        digest(&machine.state(&machine.plain()))
    };
    let mut cuts = 0;
    for steps in 0.. {
        let machine = Machine::new();
        let outcome = take_over(&machine.failing_after(steps), &sending, &manifest);
        machine.disk.crash();
        let found = digest(&machine.state(&machine.plain()));
        assert!(found == old || found == new, "after {steps} steps it is neither");
        if outcome.is_ok() {
            assert_eq!(found, new, "what was announced is durable");
            break;
        }
        cuts += 1;
        take_over(&machine.plain(), &sending, &manifest).unwrap();
        assert_eq!(digest(&machine.state(&machine.plain())), new, "after {steps} steps");
    }
    assert!(cuts > 10, "only {cuts} steps were cut");
}

#[test]
fn making_a_snapshot_survives_a_power_cut_at_every_step() {
    let mut cuts = 0;
    for steps in 0.. {
        let machine = Machine::new();
        let engine = machine.plain();
        let snapshots = Snapshots::open(engine.clone(), &at("snapshots"), Soundness::new()).unwrap();
        let mut world =
            World { state: machine.state(&engine), next: 5, now: LogicalTime::from_unix_micros(BEGIN + 99) };
        let first = snapshots.create(&world.state).unwrap();
        world.run(Command::Tick).unwrap();
        let failing = machine.failing_after(steps);
        let second = Snapshots::open(failing, &at("snapshots"), Soundness::new())
            .and_then(|snapshots| snapshots.create(&world.state));
        machine.disk.crash();
        let held = Snapshots::open(machine.plain(), &at("snapshots"), Soundness::new()).unwrap().current().unwrap();
        match second {
            Ok(second) => {
                assert_eq!(held, second);
                break;
            }
            Err(_) => assert!(held == first || held.manifest.applied == 5, "after {steps} steps"),
        }
        cuts += 1;
    }
    assert!(cuts >= 4, "only {cuts} steps were cut");
}
