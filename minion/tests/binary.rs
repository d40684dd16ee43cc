//! The program as an operator meets it: complaints, exit codes, and functions called by hand.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_saltern-minion");
const PIN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SALTERN_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program with a configuration file.
fn configured(root: &Path, yaml: &str, arguments: &[&str]) -> Output {
    let path = root.join("minion.yaml");
    std::fs::write(&path, yaml).expect("written");
    program().args(arguments).arg("-c").arg(path).output().expect("ran")
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    text
}

#[test]
fn wrong_configurations_end_with_78_and_one_line() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("data");
    let whole = format!("id: a\nmaster: localhost\nca_fingerprint: {PIN}\ndata_dir: {}\n", data.display());
    for (yaml, expect) in [
        (format!("{whole}outbox: 5\n"), "minion.yaml:5: unknown key \"outbox\""),
        (whole.replace("localhost", "'a b'"), "\"a b\" is not an address"),
        (whole.replace("master: localhost\n", ""), "no master is configured"),
        (whole.replace("ca_fingerprint", "#"), "ca_fingerprint is not set"),
        (whole.replace(PIN, "abc"), "64 hexadecimal digits"),
        (whole.replace("id: a", "id: A"), "\"A\" is not a minion id"),
        (format!("{whole}log_level: 'a=b=c'\n"), "log_level"),
    ] {
        let output = configured(root.path(), &yaml, &["run"]);
        let text = complaint(&output);
        assert!(text.contains(expect), "{text}");
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(!data.exists(), "no trace left of {yaml}");
    }
    let output = program().args(["run", "-c", "/nowhere/minion.yaml"]).output().expect("ran");
    assert!(complaint(&output).contains("/nowhere/minion.yaml"));
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_data_folder_that_cannot_be_used_is_named() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("file");
    std::fs::write(&file, "").expect("written");
    let yaml = format!("id: a\nmaster: localhost\nca_fingerprint: {PIN}\ndata_dir: {}/data\n", file.display());
    let output = configured(root.path(), &yaml, &["run"]);
    let text = complaint(&output);
    assert!(text.contains("/file") && output.status.code() == Some(78), "{text}");
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("data");
    let lock = saltern_minion::folder::lock(&data).expect("free");
    let yaml = format!("id: a\nmaster: localhost\nca_fingerprint: {PIN}\ndata_dir: {}\n", data.display());
    let output = configured(root.path(), &yaml, &["run"]);
    let text = complaint(&output);
    let pid = format!("pid {}", std::process::id());
    assert!(text.contains("another minion") && text.contains(&pid), "{text}");
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(std::fs::read_dir(&data).expect("a folder").count(), 1, "only the lock is there");
    drop(lock);
}

#[test]
fn wrong_usage_ends_with_64() {
    for arguments in [&["--nonsense"][..], &["call"], &["frobnicate"]] {
        let output = program().args(arguments).output().expect("ran");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    assert_eq!(program().arg("--version").output().expect("ran").status.code(), Some(0));
}

#[test]
fn the_fingerprint_stays() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("data");
    let print = || program().args(["fingerprint", "--data-dir"]).arg(&data).output().expect("ran");
    let first = String::from_utf8(print().stdout).expect("text");
    assert_eq!(first.trim().len(), 64, "{first}");
    assert_eq!(String::from_utf8(print().stdout).expect("text"), first);
}

/// Calls a function and gives its value and the exit code.
fn call(arguments: &[&str]) -> (Value, i32) {
    let output = program().args(["call", "-o", "json", "--id", "web-1"]).args(arguments).output().expect("ran");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {output:?}"));
    (value["local"].clone(), output.status.code().expect("a code"))
}

#[test]
fn functions_answer_in_salts_shapes() {
    assert_eq!(call(&["test.ping"]), (json!(true), 0));
    assert_eq!(call(&["test.echo", "hi there"]), (json!("hi there"), 0));
    assert_eq!(call(&["test.arg", "1", "a=b"]), (json!({"args": [1], "kwargs": {"a": "b"}}), 0));
    assert_eq!(call(&["test.fail"]).1, 1);
    assert_eq!(call(&["test.false"]), (json!(false), 1));
    assert_eq!(call(&["no.such_fn"]), (json!("'no.such_fn' is not available."), 1));
    assert_eq!(call(&["grains.get", "id"]), (json!("web-1"), 0));
    assert_eq!(call(&["grains.item", "kernel", "nothing"]).0, json!({"kernel": "Linux", "nothing": ""}));
    let (text, code) = call(&["cmd.run"]);
    assert!(
        code == 1 && text.to_string().contains("cmd is missing") && text.to_string().contains("cmd.run(cmd, cwd=None")
    );
    let (load, _) = call(&["status.loadavg"]);
    assert!(load["1-min"].is_number() && load["15-min"].is_number(), "{load}");
    let (memory, _) = call(&["status.meminfo"]);
    assert_eq!(memory["MemTotal"]["unit"], json!("kB"));
    let (disks, _) = call(&["status.diskusage", "/"]);
    assert!(disks["/"]["total"].as_u64() > Some(0), "{disks}");
    let (up, _) = call(&["status.uptime"]);
    assert!(up["seconds"].as_i64() > Some(0) && up["since_iso"].is_string(), "{up}");
    let (processes, _) = call(&["status.procs"]);
    assert!(processes["1"]["cmd"].is_string() && processes["1"]["user"].is_string(), "{}", processes["1"]);
    let (interfaces, _) = call(&["network.interfaces"]);
    assert_eq!(interfaces["lo"]["inet"][0]["address"], json!("127.0.0.1"));
    let (addresses, _) = call(&["network.ip_addrs", "include_loopback=true", "cidr=127.0.0.0/8"]);
    assert_eq!(addresses, json!(["127.0.0.1"]));
    let (names, _) = call(&["sys.list_functions", "test"]);
    assert!(names.as_array().is_some_and(|names| names.contains(&json!("test.ping")) && names.len() == 7), "{names}");
    assert!(call(&["sys.doc", "cmd.run"]).0["cmd.run"].as_str().is_some_and(|doc| doc.contains("cmd.run(cmd")));
}

#[test]
fn commands_run_as_they_are_told() {
    assert_eq!(call(&["cmd.run", "echo out; echo err >&2; exit 3"]), (json!("out\nerr"), 1));
    let (all, code) = call(&["cmd.run_all", "echo out; echo err >&2; exit 3"]);
    assert_eq!((&all["stdout"], &all["stderr"], &all["retcode"], code), (&json!("out"), &json!("err"), &json!(3), 1));
    assert!(all["pid"].as_u64() > Some(0));
    assert_eq!(call(&["cmd.run", "exit 3", "ignore_retcode=true"]).1, 0);
    assert_eq!(call(&["cmd.run", "pwd", "cwd=/"]).0, json!("/"));
    assert_eq!(call(&["cmd.run", "echo $A-$HOME", "env={A: b}", "clean_env=true"]).0, json!("b-"));
    assert_eq!(call(&["cmd.run", "cat", "stdin=typed"]).0, json!("typed"));
    assert_eq!(call(&["cmd.run", "cat"]).0, json!(""));
    assert_eq!(call(&["cmd.run", "echo $0", "shell=/bin/bash"]).0, json!("/bin/bash"));
    assert_eq!(call(&["cmd.run", "[echo, 'a  b']"]).0, json!("a  b"));
    assert_eq!(call(&["cmd.run_all", "kill -9 $$"]).0["retcode"], json!(-9));
    let (text, code) = call(&["cmd.run", "ls", "cwd=/nowhere"]);
    assert!(code == 1 && text.to_string().contains("/nowhere"), "{text}");
}

#[tokio::test]
async fn a_timeout_ends_the_command_and_its_children() {
    let root = tempfile::tempdir().expect("a folder");
    let child = root.path().join("child");
    // The child ignores the polite signal.
    let command = format!("(trap '' TERM; sleep 600) & echo $! > {}; echo begun; wait; sleep 600", child.display());
    let (text, code) = call(&["cmd.run", &command, "timeout=0.3"]);
    let text = text.as_str().expect("a text");
    assert!(code == 1 && text.starts_with("begun\n") && text.contains("Timed out after 0.3 seconds"), "{text}");
    let pid = std::fs::read_to_string(&child).expect("written");
    let status = format!("/proc/{}/status", pid.trim());
    let mut gone = false;
    for _ in 0..500 {
        gone = std::fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tZ"))
            || !Path::new(&status).exists();
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gone, "the child {pid} still runs");
}

#[test]
fn output_is_limited_and_says_what_was_cut() {
    let root = tempfile::tempdir().expect("a folder");
    std::fs::write(root.path().join("minion.yaml"), "output_bytes_max: 2048\nid: a\n").expect("written");
    let output = program()
        .args(["call", "-o", "json", "-c"])
        .arg(root.path().join("minion.yaml"))
        .args(["cmd.run_all", "seq 1 10000"])
        .output()
        .expect("ran");
    let value: Value = serde_json::from_slice(&output.stdout).expect("json");
    let text = value["local"]["stdout"].as_str().expect("a text");
    assert!(text.starts_with("1\n2\n") && text.ends_with("10000"), "{text}");
    assert!(text.len() < 2300 && text.contains("46846 bytes were cut here: output_bytes_max is 2048"), "{text}");
}
