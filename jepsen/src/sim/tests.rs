//! Whole runs. The seeds of `seeds.txt` each found something once.

use super::history::{Deed, to_bytes};
use super::plan::FAULTS_DEFAULT;
use super::world::{Options, Run, run};

fn good(seed: u64) -> Run {
    let run = match run(Options { seed, faults: FAULTS_DEFAULT }) {
        Ok(run) => run,
        Err(error) => panic!("{error}"),
    };
    let complaints: Vec<String> = run.violations.iter().map(ToString::to_string).collect();
    assert!(complaints.is_empty(), "seed {seed}: {complaints:#?}");
    run
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (first, second) = (to_bytes(&good(1).history), to_bytes(&good(1).history));
    if first != second {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>();
        let (first, second) = (text(&first), text(&second));
        let at = first.iter().zip(&second).position(|(a, b)| a != b).unwrap_or(first.len().min(second.len()));
        panic!("line {at} differs: {:?} and {:?}", first.get(at), second.get(at));
    }
}

#[test]
fn different_seeds_keep_every_promise() {
    for seed in [2, 5, 7] {
        let run = good(seed);
        let faults = run.history.iter().filter(|operation| matches!(operation.deed, Deed::Fault { .. })).count();
        assert!(faults >= FAULTS_DEFAULT, "seed {seed}: {faults} faults were made");
    }
}

#[test]
fn seeds_that_found_something_keep_every_promise() {
    for seed in super::seeds() {
        good(seed);
    }
}
