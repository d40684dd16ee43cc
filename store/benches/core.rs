//! What one core does with the log and the state: append, apply, decode. `cargo bench -p saltern-store`.
//!
//! Whole figures, with disks and other masters, are `ops/bench raft`'s; these tell which of the three became slower.

#[allow(dead_code, reason = "it is shared with the tests, which use more of it")]
#[path = "../tests/store/entry.rs"]
mod entry;
#[allow(dead_code, reason = "it is shared with the tests, which use more of it")]
#[path = "../tests/store/world.rs"]
mod world;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use entry::Entry;
use saltern_store::command::{Command, JobCommand, MineCommand, Proposal};
use saltern_store::{FlushBy, Log, Soundness};
use saltern_wire::job::ReturnPart;
use saltern_wire::mine::{MineReport, MineStamp};
use saltern_wire::{JobId, LogicalTime, MasterId, Ordinal, RequestId, Value};
use std::sync::mpsc;
use world::{Bench, World};

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 256;

/// Returns of one entry, as the inbox puts them together.
const RETURNS: u32 = 256;

/// Entries of one group.
const GROUP: u64 = 64;

fn main() {
    divan::main();
}

/// One group of entries through queue, write and sync: on this disk, and in memory for what it costs the processor.
#[divan::bench(args = ["memory", "rocks"])]
fn append(bencher: Bencher<'_, '_>, engine: &str) {
    let bench = engine_named(engine);
    let log = Log::<Entry>::open(&*bench.engine, &bench.dir("log"), FlushBy::Thread, Soundness::new());
    let log = log.expect("a new log");
    let mut next = 1;
    bencher.counter(ItemsCount::new(GROUP)).bench_local(|| {
        let text = "x".repeat(PAYLOAD_BYTES);
        let entries = (next..next + GROUP).map(|index| Entry { index, text: text.clone() }).collect();
        next += GROUP;
        let (done, durable) = mpsc::channel();
        log.append(entries, Box::new(move |result| done.send(result).expect("somebody waits")));
        durable.recv().expect("it is called back").expect("it is written");
    });
}

/// An entry full of returns that are owed.
#[divan::bench(args = ["memory", "rocks"])]
fn apply_returns(bencher: Bencher<'_, '_>, engine: &str) {
    let bench = engine_named(engine);
    let mut world = World::new(&bench);
    world.run(world::found()).expect("a fresh state");
    let names: Vec<String> = (0..RETURNS).map(|number| format!("minion-{number}")).collect();
    world.enrol(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let ordinals: Vec<u32> = (1..=RETURNS).collect();
    let state = world.state.clone();
    let bencher = bencher.counter(ItemsCount::new(RETURNS)).with_inputs(|| {
        world.pass(1);
        let jid = world.open(1, &ordinals);
        world.item(record(jid))
    });
    bencher.bench_local_values(|item| state.apply(&[item]).expect("it follows"));
}

/// As many entries of one mine value each, in one call.
#[divan::bench(args = ["memory", "rocks"])]
fn apply_single(bencher: Bencher<'_, '_>, engine: &str) {
    let bench = engine_named(engine);
    let mut world = World::new(&bench);
    world.run(world::found()).expect("a fresh state");
    let names: Vec<String> = (0..GROUP).map(|number| format!("minion-{number}")).collect();
    world.enrol(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (state, mut counter) = (world.state.clone(), 0);
    let bencher = bencher.counter(ItemsCount::new(GROUP)).with_inputs(|| {
        counter += 1;
        let items = (1..=GROUP).map(|minion| {
            let command = note(Ordinal(u32::try_from(minion).expect("few")), counter);
            world.item_as(Some(request(counter * GROUP + minion)), command)
        });
        items.collect::<Vec<_>>()
    });
    bencher.bench_local_values(|items| state.apply(&items).expect("they follow"));
}

/// An entry full of returns, as a follower reads it.
#[divan::bench]
fn decode(bencher: Bencher<'_, '_>) {
    let jid = JobId::mint(LogicalTime::from_unix_micros(world::BEGIN), 0);
    let proposal = Proposal { request: None, by: MasterId(1), stamp: LogicalTime::ZERO, command: record(jid) };
    let bytes = saltern_wire::encode(&proposal);
    bencher
        .counter(ItemsCount::new(RETURNS))
        .bench(|| saltern_wire::decode::<Proposal>(black_box(&bytes)).expect("it was encoded"));
}

fn engine_named(name: &str) -> Bench {
    if name == "rocks" { Bench::rocks() } else { Bench::memory() }
}

fn record(jid: JobId) -> Command {
    let outcome = world::outcome(&"x".repeat(PAYLOAD_BYTES), true);
    let parts: Vec<ReturnPart> = ReturnPart::split(jid, &outcome).expect("it is small");
    let returns = (1..=RETURNS).flat_map(|ordinal| parts.iter().map(move |part| (Ordinal(ordinal), part.clone())));
    Command::Job(JobCommand::Record { returns: returns.collect() })
}

fn request(number: u64) -> RequestId {
    RequestId::from_bytes((u128::from(number) << 64).to_be_bytes())
}

fn note(minion: Ordinal, counter: u64) -> Command {
    let value = Some(Value::String("x".repeat(PAYLOAD_BYTES)));
    let stamp = MineStamp { incarnation: 1, counter };
    Command::Mine(MineCommand::Report { minion, reports: vec![MineReport { function: "note".into(), value, stamp }] })
}
