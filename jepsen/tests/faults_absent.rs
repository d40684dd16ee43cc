//! Fault points are where they are said to be, and in no release.
//!
//! A release is `cargo build --release -p saltern-cluster -p saltern-minion -p saltern-ops`. Three things keep fault points out of
//! it: no crate of it asks for the feature, the feature does not compile without debug assertions, and without the feature the
//! macro leaves nothing behind. Each has a test, and each test a control that shows that it can fail.

use saltern_ops::fleet::binaries::Binaries;
use saltern_wire::fault::{POINTS, Program};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// The features of `saltern-wire` that building these packages turns on, as cargo resolves them.
fn features_of_wire(packages: &[&str]) -> String {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["tree", "--locked", "--offline", "--edges", "normal,build,features"]);
    command.args(["--invert", "saltern-wire", "--prefix", "none"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn no_package_of_a_release_asks_for_fault_points() {
    let wanted = "saltern-wire feature \"faults\"";
    for package in ["saltern-cluster", "saltern-minion", "saltern-ops"] {
        let tree = features_of_wire(&[package]);
        assert!(tree.contains("saltern-wire"), "{tree}");
        assert!(!tree.contains(wanted), "{package}: {tree}");
    }
    let all = features_of_wire(&["saltern-cluster", "saltern-minion", "saltern-ops"]);
    assert!(!all.contains(wanted), "{all}");
    let tests = features_of_wire(&["saltern-jepsen"]);
    assert!(tests.contains(wanted), "the control: tests do ask for them: {tests}");
}

/// What the compiler says about the crate `saltern-wire` with fault points. It is given none of the crate's dependencies, and
/// complains about that as well; what is looked for is said before.
fn complaints(debug_assertions: &str, folder: &Path) -> String {
    let mut command = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
    command.args(["--edition", "2024", "--crate-type", "lib", "--crate-name", "wire", "--emit", "metadata"]);
    command.args(["--cfg", "feature=\"faults\"", "-C", &format!("debug-assertions={debug_assertions}")]);
    command.arg("--out-dir").arg(folder).arg(root().join("pubsub/wire/src/lib.rs"));
    let output = command.output().expect("rustc runs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn fault_points_do_not_compile_without_debug_assertions() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = "fault points are for tests and never part of a release";
    assert!(complaints("no", folder.path()).contains(refusal));
    assert!(!complaints("yes", folder.path()).contains(refusal), "the control: with them it is no problem");
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let release = manifest.split("[profile.release]").nth(1).unwrap_or_default();
    let release = release.split("\n[").next().unwrap_or_default();
    assert!(!release.contains("debug-assertions = true"), "releases have none: {release}");
}

/// A program that passes every fault point, compiled without the feature; `more` is added to its `main`.
fn program(folder: &Path, more: &str) -> Vec<u8> {
    let module = root().join("pubsub/wire/src/fault.rs");
    let mut text =
        format!("#[path = {:?}]\npub mod fault;\nfn main() {{\n    fault::start();\n", module.display().to_string());
    for point in POINTS {
        let _ = writeln!(text, "    fault_point!({:?});", point.name);
        if point.fallible {
            let _ = writeln!(text, "    fault_point!({:?}, cause => panic!(\"{{cause}}\"));", point.name);
        }
    }
    text.push_str(more);
    text.push_str("}\n");
    let (source, built) = (folder.join("passes.rs"), folder.join("passes"));
    std::fs::write(&source, text).expect("a file");
    let mut command = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
    let output =
        command.args(["--edition", "2024", "-C", "debug-assertions=no", "-o"]).arg(&built).arg(&source).output();
    let output = output.expect("rustc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(built).expect("a program")
}

fn holds(program: &[u8], name: &str) -> bool {
    program.windows(name.len()).any(|window| window == name.as_bytes())
}

#[test]
fn a_program_without_the_feature_holds_no_name_of_a_point_and_one_with_it_all_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let without = program(folder.path(), "");
    for point in POINTS {
        assert!(!holds(&without, point.name), "{} is in a program without fault points", point.name);
    }
    let control =
        program(folder.path(), "    println!(\"{}\", fault::POINTS[std::process::id() as usize % 2].name);\n");
    assert!(holds(&control, POINTS[0].name), "the control: a name that is used is found");
    let binaries = Binaries::find().expect("the programs are built");
    let (master, minion) = (std::fs::read(binaries.master), std::fs::read(binaries.minion));
    let (master, minion) = (master.expect("a program"), minion.expect("a program"));
    for point in POINTS {
        let program = match point.program {
            Program::Master => &master,
            Program::Minion | Program::Supervisor => &minion,
        };
        assert!(holds(program, point.name), "{} is missing in the program of the tests", point.name);
    }
}

/// Every source file below `folder`, by its path in the repository.
fn sources(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            found.insert(name, std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_point_is_passed_where_its_program_says_and_there_are_no_others() {
    let mut files = BTreeMap::new();
    for folder in ["pubsub", "store", "cluster", "minion", "ops"] {
        sources(&root().join(folder).join("src"), &mut files);
    }
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, text) in &files {
        for after in text.split("fault_point!(").skip(1) {
            let name = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            places.entry(name.unwrap_or(after)).or_default().insert(file);
        }
    }
    for point in POINTS {
        let found = places.remove(point.name).unwrap_or_default();
        assert!(!found.is_empty(), "{} is nowhere", point.name);
        for file in found {
            let fits = match point.program {
                Program::Master => {
                    file.starts_with("cluster/") || file.starts_with("store/") || file.starts_with("pubsub/")
                }
                Program::Minion => file.starts_with("minion/") && !file.ends_with("supervisor.rs"),
                Program::Supervisor => {
                    file.ends_with("minion/src/supervisor.rs") || file.ends_with("minion/src/outbox.rs")
                }
            };
            assert!(fits, "{} of {:?} is in {file}", point.name, point.program);
        }
    }
    assert!(places.is_empty(), "not in POINTS: {places:?}");
}
