//! Runs the built program as a shell would, with nobody at its stdin and nothing of this machine in its environment.

use std::process::Stdio;
use std::time::Duration;

/// Longest that a command may take here; the slowest waits out a frozen master.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// What a command left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Asserts the exit code and the whole of stdout.
    pub fn is(&self, code: i32, out: &str) -> &Self {
        assert_eq!((self.code, self.out.as_str()), (code, out), "stderr:\n{}", self.err);
        self
    }

    /// Asserts that stderr says something.
    pub fn says(&self, part: &str) -> &Self {
        assert!(self.err.contains(part), "stderr does not say {part:?}:\n{}", self.err);
        self
    }
}

/// Runs `saltern` with these arguments and variables.
pub async fn saltern_with(variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_saltern"));
    command.env_clear().envs(variables.iter().copied()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} did not end")).expect("it starts");
    Ended {
        code: output.status.code().expect("it was not killed"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs `saltern` with these arguments.
pub async fn saltern(arguments: &[&str]) -> Ended {
    saltern_with(&[], arguments).await
}

#[tokio::test]
async fn usage_errors_end_with_64_and_help_with_0() {
    saltern(&["key", "accept"]).await.is(64, "").says("--all");
    saltern(&["nonsense"]).await.is(64, "").says("nonsense");
    saltern(&["run", "-C", "web* and", "test.ping"]).await.is(64, "").says("ends after \"and\" at position 6");
    saltern(&["run", "*", "test.ping", "a=1", "a=2"]).await.is(64, "").says("\"a\" is given twice");
    saltern(&["cluster", "status", "--server=https://m1"]).await.is(64, "").says("--ca-fingerprint");
    let help = saltern(&["run", "--help"]).await;
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    assert!(help.out.contains("saltern run '*' test.ping"), "{}", help.out);
    let version = saltern(&["--version"]).await;
    version.is(0, &format!("saltern {}\n", env!("CARGO_PKG_VERSION")));
    let script = saltern(&["completion", "bash"]).await;
    assert!(script.code == 0 && script.out.contains("_saltern()"), "{}", script.out);
}

#[tokio::test]
async fn a_master_that_is_not_there_is_named_with_the_remedy() {
    let ended = saltern(&["cluster", "status", "--server=unix:///nonexistent/a", "--server=/nonexistent/b"]).await;
    ended.is(69, "").says("no master is reachable").says("unix:///nonexistent/a: ").says("unix:///nonexistent/b: ");
    ended.says("SALTERN_SERVER");
    saltern_with(&[("SALTERN_SERVER", "/nonexistent/a,/nonexistent/b")], &["key", "list"])
        .await
        .is(69, "")
        .says("unix:///nonexistent/b: ");
}
