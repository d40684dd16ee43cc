//! The demo keeps its promises, and says so in numbers that a program can read.

use saltern_ops::fleet::binaries::Binaries;
use std::process::{Command, Stdio};

#[test]
fn the_demo_loses_its_leader_and_nothing_else() {
    let binaries = Binaries::find().expect("the programs are built");
    let mut command = Command::new(binaries.cli);
    command.args(["demo", "--masters", "3", "--minions", "8", "--once", "-o", "json"]).stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {told}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((report["masters"].as_u64(), report["minions"].as_u64()), (Some(3), Some(8)), "{report}");
    assert!(report["targeted"].as_u64() >= Some(100), "{report}");
    assert_eq!(report["returned"], report["targeted"], "{report}");
    assert_eq!((report["duplicates"].as_u64(), report["lost"].as_u64()), (Some(0), Some(0)), "{report}");
    for gap in ["write_gap_ms", "minion_gap_ms_p99"] {
        assert!(report[gap].is_f64(), "{gap} is a number: {report}");
    }
    assert!(report["write_gap_ms"].as_f64() > Some(0.0), "the leader's death was noticed: {report}");
}
