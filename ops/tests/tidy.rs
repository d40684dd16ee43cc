//! The repository itself, checked: who may import whom, which words stay in which folder, what every file has to begin with.
//!
//! Each check is a pure function from files to complaints. Its test runs it on the repository, where it must find nothing,
//! and on a made-up offence, where it must find that: a check that cannot complain is none.

mod tidy {
    pub mod manifest;
    pub mod source;
}

use std::collections::{BTreeMap, BTreeSet};
use tidy::manifest::{Manifest, workspace_dependencies};
use tidy::source::{File, code, names, repository, top_folders};

/// Crates, their folders and their floors. A crate uses what stands on lower floors only.
const FLOORS: [(&str, &str, u8); 7] = [
    ("saltern-wire", "pubsub/wire", 1),
    ("saltern-store", "store", 2),
    ("saltern-pubsub", "pubsub", 2),
    ("saltern-cluster", "cluster", 3),
    ("saltern-minion", "minion", 3),
    ("saltern-ops", "ops", 4),
    ("saltern-jepsen", "jepsen", 5),
];

/// The folders at the top. There is no seventh: a new concern goes where its owner is.
const FOLDERS: [&str; 6] = ["cluster", "jepsen", "minion", "ops", "pubsub", "store"];

/// Words of code and the only paths that may know them.
const CONFINED: [(&str, &[&str]); 5] = [
    ("openraft", &["cluster/src/raft/", "jepsen/"]),
    ("rocksdb", &["store/src/kv/rocks.rs", "store/tests/", "jepsen/"]),
    ("zeromq", &["pubsub/src/zmq/"]),
    ("Instant::now", &["pubsub/src/clock.rs"]),
    ("SystemTime::now", &["pubsub/src/clock.rs"]),
];

/// Third-party crates and the only crates of ours that may depend on them.
const CONFINED_DEPENDENCIES: [(&str, &[&str]); 3] = [
    ("openraft", &["saltern-cluster", "saltern-jepsen"]),
    ("rocksdb", &["saltern-store", "saltern-jepsen"]),
    ("zeromq", &["saltern-pubsub"]),
];

/// Programs that stay small, and what they must not link even through other crates of ours.
const UNLINKED: [(&str, &[&str]); 3] = [
    ("saltern-wire", &["tokio", "socket2", "getrandom", "openraft", "rocksdb", "zeromq"]),
    ("saltern-minion", &["openraft", "rocksdb"]),
    ("saltern-ops", &["openraft", "rocksdb"]),
];

/// A file that is longer is two files.
const LINES_MAX: usize = 600;

/// Asserts that `complaints` has none.
fn clean(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "the repository is untidy:\n  {}", complaints.join("\n  "));
}

/// Asserts that a check noticed: one complaint, with these words in it.
fn noticed(complaints: &[String], words: &[&str]) {
    assert_eq!(complaints.len(), 1, "expected exactly one complaint: {complaints:#?}");
    assert!(words.iter().all(|word| complaints[0].contains(word)), "{words:?} are not all in: {}", complaints[0]);
}

fn manifests(files: &[File]) -> BTreeMap<String, Manifest> {
    let own = FLOORS.iter().filter_map(|(name, folder, _)| {
        let path = format!("{folder}/Cargo.toml");
        let file = files.iter().find(|file| file.path == path)?;
        Some(((*name).to_owned(), Manifest::read(file)))
    });
    own.collect()
}

/// The crate that a path belongs to: the longest folder that holds it.
fn owner(path: &str) -> Option<(&'static str, u8)> {
    let inside =
        FLOORS.iter().filter(|(_, folder, _)| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
    inside.max_by_key(|(_, folder, _)| folder.len()).map(|(name, _, floor)| (*name, *floor))
}

/// Imports that go up or sideways, in manifests and in code.
fn upward_imports(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut judge = |place: String, name: &str, floor: u8, used: &str| {
        let Some((_, _, its)) = FLOORS.iter().find(|(known, _, _)| *known == used) else {
            return complaints.push(format!("{place}: {used} is no crate of this workspace; name it in FLOORS"));
        };
        if used != name && *its >= floor {
            complaints.push(format!(
                "{place}: {name} (floor {floor}) uses {used} (floor {its}); only lower floors may be used"
            ));
        }
    };
    for (name, manifest) in manifests(files) {
        let floor = FLOORS.iter().find(|(known, _, _)| *known == name).map_or(0, |found| found.2);
        for used in manifest.all().filter(|used| used.starts_with("saltern-")) {
            judge(manifest.path.clone(), &name, floor, used);
        }
    }
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some((name, floor)) = owner(&file.path) else { continue };
        let code = code(&file.text);
        for (at, line) in code.lines().enumerate() {
            for word in line.split(|c: char| !tidy::source::is_word(c)).filter(|word| word.starts_with("saltern_")) {
                // Names of metrics and of fields are texts and fields: only a path is an import.
                if line.contains(&format!("{word}::")) || line.contains(&format!("use {word}")) {
                    judge(format!("{}:{}", file.path, at + 1), name, floor, &word.replace('_', "-"));
                }
            }
        }
    }
    complaints
}

#[test]
fn no_crate_imports_upward() {
    clean(upward_imports(&repository()));
    let sideways = File::made_up("minion/src/agent.rs", "//! x\nuse saltern_cluster::Node;\n");
    noticed(&upward_imports(&[sideways]), &["minion/src/agent.rs:2", "saltern-cluster", "floor 3"]);
    let manifest = File::made_up("pubsub/wire/Cargo.toml", "[dependencies]\nsaltern-store.workspace = true\n");
    noticed(&upward_imports(&[manifest]), &["pubsub/wire/Cargo.toml", "saltern-store"]);
    let down = File::made_up("cluster/src/a.rs", "//! x\nuse saltern_store::State; // saltern_ops::Cli\n");
    clean(upward_imports(&[down]));
}

/// Confined words in code outside their folders.
fn strayed_words(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let code = code(&file.text);
        for (word, homes) in CONFINED {
            if homes.iter().any(|home| file.path.starts_with(home)) {
                continue;
            }
            let strayed = code.lines().enumerate().filter(|(_, line)| names(line, word));
            complaints
                .extend(strayed.map(|(at, _)| {
                    format!("{}:{}: `{word}` is named only in {}", file.path, at + 1, homes.join(", "))
                }));
        }
    }
    for (name, manifest) in manifests(files) {
        for (dependency, homes) in CONFINED_DEPENDENCIES {
            if !homes.contains(&name.as_str()) && manifest.all().any(|used| used == dependency) {
                complaints.push(format!("{}: only {} may depend on {dependency}", manifest.path, homes.join(", ")));
            }
        }
    }
    complaints
}

#[test]
fn confined_words_stay_at_home() {
    clean(strayed_words(&repository()));
    let raft = File::made_up("cluster/src/truth.rs", "//! By openraft.\nfn f() { openraft::new(); }\n");
    noticed(&strayed_words(&[raft]), &["cluster/src/truth.rs:2", "openraft", "cluster/src/raft/"]);
    let clock = File::made_up("minion/src/agent.rs", "//! x\nlet now = tokio::time::Instant::now();\n");
    noticed(&strayed_words(&[clock]), &["minion/src/agent.rs:2", "pubsub/src/clock.rs"]);
    let prose =
        File::made_up("ops/src/a.rs", "//! x\n// ZeroMQ, by zeromq, asks Instant::now()\nlet a = \"rocksdb\";\n");
    clean(strayed_words(&[prose]));
    let manifest = File::made_up("ops/Cargo.toml", "[dev-dependencies]\nrocksdb.workspace = true\n");
    noticed(&strayed_words(&[manifest]), &["ops/Cargo.toml", "rocksdb"]);
}

/// Programs that would link what they must not, directly or through our own crates.
fn linked_against_the_rule(files: &[File]) -> Vec<String> {
    let manifests = manifests(files);
    let mut complaints = Vec::new();
    for (program, unlinked) in UNLINKED {
        let mut reached = BTreeSet::from([program]);
        let mut open = vec![program];
        while let Some(name) = open.pop() {
            let Some(manifest) = manifests.get(name) else { continue };
            for used in &manifest.dependencies {
                if reached.insert(used.as_str()) {
                    open.push(used.as_str());
                }
            }
        }
        let wrong = unlinked.iter().filter(|name| reached.contains(**name));
        complaints
            .extend(wrong.map(|name| format!("{program} links {name}, directly or through another crate of ours")));
    }
    complaints
}

#[test]
fn small_programs_stay_small() {
    clean(linked_against_the_rule(&repository()));
    let ops = File::made_up("ops/Cargo.toml", "[dependencies]\nsaltern-store = { workspace = true }\n");
    let store = File::made_up("store/Cargo.toml", "[dependencies]\nrocksdb.workspace = true\n");
    noticed(&linked_against_the_rule(&[ops, store]), &["saltern-ops", "rocksdb"]);
}

/// Sources that do not say at their head what they are.
fn headless(files: &[File]) -> Vec<String> {
    let head = |file: &&File| {
        let first = file.text.lines().next().unwrap_or_default();
        first.strip_prefix("//! ").is_none_or(|head| head.trim().is_empty() || head.trim() == "Placeholder.")
    };
    let headless = files.iter().filter(|file| file.is_rust()).filter(head);
    headless
        .map(|file| format!("{}: begin with `//! ` and what the file is, its invariants, what it refuses", file.path))
        .collect()
}

#[test]
fn every_file_says_what_it_is() {
    clean(headless(&repository()));
    noticed(&headless(&[File::made_up("store/src/a.rs", "use std::fmt;\n")]), &["store/src/a.rs"]);
    noticed(&headless(&[File::made_up("store/src/a.rs", "//!\nuse std::fmt;\n")]), &["store/src/a.rs"]);
}

/// Sources that should be two.
fn swollen(files: &[File]) -> Vec<String> {
    let long = files.iter().filter(|file| file.is_rust()).map(|file| (file, file.text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LINES_MAX);
    long.map(|(file, lines)| format!("{}: {lines} lines; split it, {LINES_MAX} is the limit", file.path)).collect()
}

#[test]
fn no_file_is_swollen() {
    clean(swollen(&repository()));
    let file = File::made_up("cluster/src/node.rs", &"\n".repeat(LINES_MAX + 1));
    noticed(&swollen(&[file]), &["cluster/src/node.rs", "601 lines"]);
    clean(swollen(&[File::made_up("cluster/src/node.rs", &"\n".repeat(LINES_MAX))]));
}

/// Work that was put off: macros and attributes in code, marks in any text.
fn postponed(files: &[File]) -> Vec<String> {
    // Put together here, so that this file does not complain about itself.
    let marks = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO")];
    let calls = ["todo!(", "unimplemented!(", "#[ignore"];
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path != "Cargo.lock") {
        let marked = file.lines().filter_map(|(at, line)| Some((at, marks.iter().find(|mark| names(line, mark))?)));
        complaints.extend(marked.map(|(at, mark)| format!("{}:{at}: `{mark}`: do it, or leave it out", file.path)));
        if file.is_rust() {
            let code = code(&file.text);
            for (at, line) in code.lines().enumerate() {
                let found = calls.iter().filter(|call| line.contains(**call));
                complaints
                    .extend(found.map(|call| format!("{}:{}: `{call}`: do it, or leave it out", file.path, at + 1)));
            }
        }
    }
    complaints
}

#[test]
fn nothing_is_put_off() {
    clean(postponed(&repository()));
    let file = |text| [File::made_up("store/src/a.rs", text)];
    noticed(&postponed(&file(concat!("//! x\nfn f() {\n    to", "do!()\n}\n"))), &["store/src/a.rs:3"]);
    noticed(&postponed(&file("//! x\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n")), &["store/src/a.rs:3", "ignore"]);
    noticed(&postponed(&file(concat!("//! x\n// FIX", "ME later\n"))), &["store/src/a.rs:2"]);
}

#[test]
fn there_are_six_folders() {
    let mut folders = top_folders();
    folders.sort();
    assert_eq!(folders, FOLDERS, "the top level is fixed: a new concern goes into the folder of its owner");
}

/// Paths that exist on one machine only.
fn private_paths(files: &[File]) -> Vec<String> {
    let private = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let mut complaints = Vec::new();
    for file in files {
        for (at, line) in file.lines() {
            let stands = |path: &&&str| {
                line.match_indices(**path).any(|(at, _)| {
                    !line[..at].chars().next_back().is_some_and(|c| tidy::source::is_word(c) || "./}~)-".contains(c))
                })
            };
            let found = private.iter().filter(stands);
            complaints.extend(found.map(|path| format!("{}:{at}: `{path}` exists on one machine only", file.path)));
        }
    }
    complaints
}

#[test]
fn no_path_of_one_machine() {
    clean(private_paths(&repository()));
    let file = |text| [File::made_up("ops/demo", text)];
    noticed(&private_paths(&file(concat!("x\ncd /ro", "ot/saltern\n"))), &["ops/demo:2"]);
    clean(private_paths(&file(concat!("cd \"$folder/wo", "rk/a\"\n"))));
}

/// Dependencies that CONTRIBUTING does not account for, rows that account for nothing, entries that nobody uses, and
/// versions that stand outside the workspace's table.
fn unaccounted(files: &[File]) -> Vec<String> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let declared = workspace_dependencies(text("Cargo.toml"));
    let rows = text("CONTRIBUTING.md").lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let full = cells.len() >= 3 && cells[1..3].iter().all(|cell| !cell.is_empty());
        Some((cells.first()?.trim_end_matches('`').to_owned(), full))
    });
    let rows: BTreeMap<String, bool> = rows.collect();
    let manifests = manifests(files);
    let used: BTreeSet<&str> = manifests.values().flat_map(Manifest::all).collect();
    let mut complaints = Vec::new();
    for name in declared.iter().filter(|name| !name.starts_with("saltern-")) {
        if rows.get(name) != Some(&true) {
            complaints.push(format!("CONTRIBUTING.md: the table has no full row for `{name}`: crate, licence, reason"));
        }
        if !used.contains(name.as_str()) {
            complaints.push(format!("Cargo.toml: nobody uses {name}"));
        }
    }
    let stale = rows.keys().filter(|name| !declared.contains(*name));
    complaints
        .extend(stale.map(|name| format!("CONTRIBUTING.md: `{name}` is no dependency of the workspace (any more)")));
    for manifest in manifests.values() {
        let own = manifest.unshared.iter();
        complaints.extend(own.map(|line| {
            format!("{}:{line}: versions stand in the root Cargo.toml: write `.workspace`", manifest.path)
        }));
    }
    complaints
}

#[test]
fn every_dependency_is_accounted_for() {
    clean(unaccounted(&repository()));
    let root = File::made_up(
        "Cargo.toml",
        "[workspace.dependencies]\nsaltern-wire = { path = \"pubsub/wire\" }\nhex = \"0.4\"\n",
    );
    let user = File::made_up("store/Cargo.toml", "[dependencies]\nhex.workspace = true\n");
    let good = File::made_up("CONTRIBUTING.md", "| `hex` | MIT | Keys in hexadecimal |\n");
    clean(unaccounted(&[root.clone(), user.clone(), good.clone()]));
    noticed(&unaccounted(&[root.clone(), user.clone()]), &["hex", "CONTRIBUTING.md"]);
    let hollow = File::made_up("CONTRIBUTING.md", "| `hex` | MIT | |\n");
    noticed(&unaccounted(&[root.clone(), user.clone(), hollow]), &["hex", "CONTRIBUTING.md"]);
    noticed(&unaccounted(&[root.clone(), good.clone()]), &["nobody uses hex"]);
    let fixed = File::made_up("store/Cargo.toml", "[dependencies]\nhex = \"0.4\"\n");
    noticed(&unaccounted(&[root, fixed, good]), &["store/Cargo.toml:2"]);
}

/// Two records with one kind byte: one could be read as the other.
fn shared_kinds(files: &[File]) -> Vec<String> {
    let mut known: BTreeMap<u8, String> = BTreeMap::new();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && file.path.contains("src/")) {
        let code = code(&file.text);
        for (at, line) in code.lines().enumerate() {
            let number =
                line.trim().strip_prefix("const KIND: u8 = ").and_then(|rest| rest.trim_end_matches(';').parse().ok());
            // From 250 on they belong to unit tests, whose records nobody keeps.
            let Some(number) = number.filter(|number| *number < 250) else { continue };
            let place = format!("{}:{}", file.path, at + 1);
            match known.get(&number) {
                Some(other) => complaints.push(format!("{place}: kind {number} belongs to the record at {other}")),
                None => drop(known.insert(number, place)),
            }
        }
    }
    complaints
}

#[test]
fn every_kind_of_record_has_its_own_number() {
    clean(shared_kinds(&repository()));
    let one = File::made_up("store/src/a.rs", "//! x\n    const KIND: u8 = 60;\n");
    let two = File::made_up("store/src/b.rs", "//! x\n    const KIND: u8 = 60;\n    const KIND: u8 = 61;\n");
    noticed(&shared_kinds(&[one, two]), &["store/src/b.rs:2", "store/src/a.rs:2", "kind 60"]);
}

/// Scripts that cannot be run.
fn lame_scripts(files: &[File]) -> Vec<String> {
    let lame = files.iter().filter(|file| file.text.starts_with("#!/") && !file.executable);
    lame.map(|file| format!("{}: a script that nobody may execute; chmod +x it", file.path)).collect()
}

#[test]
fn every_script_is_executable() {
    let files = repository();
    clean(lame_scripts(&files));
    for script in ["ops/setup", "ops/demo", "ops/test", "ops/bench", ".ci/run"] {
        assert!(files.iter().any(|file| file.path == script), "{script} is gone");
    }
    noticed(&lame_scripts(&[File::made_up("ops/x", "#!/usr/bin/env bash\n")]), &["ops/x"]);
}

/// Links in prose to files that are not there.
fn dead_links(files: &[File]) -> Vec<String> {
    let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let exists =
        |path: &str| known.contains(path) || files.iter().any(|file| file.path.starts_with(&format!("{path}/")));
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (at, line) in file.lines() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let target = target.split('#').next().unwrap_or_default().trim_end_matches('/');
                if target.is_empty() || target.contains("://") {
                    continue;
                }
                let path = if folder.is_empty() { target.to_owned() } else { format!("{folder}/{target}") };
                if !exists(&path) {
                    complaints.push(format!("{}:{at}: the link to {target} leads nowhere", file.path));
                }
            }
        }
    }
    complaints
}

/// Files and folders that the documents name in backquotes and that are not there.
fn phantom_paths(files: &[File]) -> Vec<String> {
    let exists = |path: &str| files.iter().any(|file| file.path == path || file.path.starts_with(&format!("{path}/")));
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&&*file.path)) {
        for (at, line) in file.lines() {
            for word in line.split('`').skip(1).step_by(2) {
                let path = word.trim_end_matches('/');
                let plain = path.chars().all(|c| tidy::source::is_word(c) || "./-".contains(c));
                let ours = FOLDERS.iter().any(|folder| path.starts_with(&format!("{folder}/")));
                if plain && ours && !exists(path) {
                    complaints.push(format!("{}:{at}: there is no {path}", file.path));
                }
            }
        }
    }
    complaints
}

#[test]
fn documents_name_what_exists() {
    let files = repository();
    clean(dead_links(&files));
    clean(phantom_paths(&files));
    let linking = |text| [File::made_up("ops/README.md", text), File::made_up("ops/adr/0001-a.md", "# a\n")];
    noticed(&dead_links(&linking("[b](adr/0002-b.md)\n")), &["ops/README.md:1", "0002"]);
    clean(dead_links(&linking("[a](adr/0001-a.md#x), [all](adr/), [web](https://example.org/)\n")));
    let naming = |text| [File::made_up("ARCHITECTURE.md", text), File::made_up("store/src/view.rs", "//! x\n")];
    noticed(&phantom_paths(&naming("`store/src/eye.rs`\n")), &["ARCHITECTURE.md:1", "store/src/eye.rs"]);
    clean(phantom_paths(&naming("`store/src/view.rs`, `store/src/`, `store/src/{a,b}.rs`\n")));
}

#[test]
fn code_is_told_from_comments_and_texts() {
    let check = |source: &str, expect: &str| {
        let words: Vec<String> = code(source).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), expect, "of {source}");
    };
    check("a // b\nc", "a c");
    check("a /* b /* c */ d */ e", "a e");
    check(r#"a "b \" c" d"#, "a d");
    check(r##"a r#"b " c"# d"##, "a d");
    check(r#"a br"b\" c"#, "a b c");
    check(r"a '\'' '\u{1F600}' 'b' c<'d> ''' e", "a c<'d> e");
    check("for_r \"x\" // \"y\nz", "for_r z");
}
