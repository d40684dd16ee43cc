//! The command line as it is typed: what parses, what is refused, and what every command says about itself.

use super::*;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("saltern").chain(line.split(' ')))
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_operators_type_is_taken() {
    for line in [
        "key list",
        "key list --state unaccepted -o table",
        "key accept web-*",
        "key accept --all",
        "key accept --fingerprint 4f1c09aa --include-decided",
        "key reject --all -y",
        "key delete web-a --yes",
        "key show *",
        "run * test.ping",
        "run * test.ping --out=json --static",
        "run -L web-a,web-b cmd.run uptime timeout=5 -t 30",
        "run -G os:Debian test.ping -v --summary",
        "run -E web-(a|b) test.ping --async --show-jid",
        "run * test.arg -1 -2.5",
        "run * cmd.run -- -l",
        "run * test.ping --queue 7d",
        "run * test.ping --ttl 90s --request-id 07070707070707070707070707070707",
        "job list --limit 5 --before 20261123000630290107",
        "job active",
        "job show 20261123000630290107",
        "job why 20261123000630290107 web-a",
        "job kill 20261123000630290107",
        "job pause 20261123000630290107",
        "job resume 20261123000630290107",
        "run * -b 10% --batch-wait 5 --failhard test.ping",
        "run * --batch-size 3 --batch-wait 2m --subset 20 test.ping",
        "mine get -G roles:web network.ip_addrs",
        "minion list --state disconnected",
        "minion show web-a -o yaml",
        "cluster status",
        "cluster join-token --ttl 10m --uses 2",
        "config get",
        "config get job_ttl_ms",
        "config set job_ttl_ms 120000",
        "event watch --tag salt/job/* --count 3",
        "demo --masters 3 --minions 8 --regions eu,us,ap --once -o json",
        "completion bash",
        "--server unix:///a --server https://m2 cluster status --color never",
        "cluster status --server /a,/b --token-file /t --ca-file /c",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    for (line, kind, part) in [
        ("key accept", ErrorKind::MissingRequiredArgument, "--all"),
        ("run * -b 0 test.ping", ErrorKind::ValueValidation, "10%"),
        ("run * -b 101% test.ping", ErrorKind::ValueValidation, "up to 100%"),
        ("run * --failhard test.ping", ErrorKind::MissingRequiredArgument, "--batch"),
        ("run * --batch-wait 5 test.ping", ErrorKind::MissingRequiredArgument, "--batch"),
        ("run * --subset 0 test.ping", ErrorKind::ValueValidation, "--subset"),
        ("key accept web-a --all", ErrorKind::ArgumentConflict, "--all"),
        ("key list --state sleepy", ErrorKind::InvalidValue, "pending"),
        ("run *", ErrorKind::MissingRequiredArgument, "FUNCTION"),
        ("run -G -E x test.ping", ErrorKind::ArgumentConflict, "--grain"),
        ("run * test.ping -t 0", ErrorKind::ValueValidation, "timeout"),
        ("run * test.ping --ttl 1h --queue 7d", ErrorKind::ArgumentConflict, "--queue"),
        ("run * test.ping --ttl soon", ErrorKind::ValueValidation, "90s"),
        ("job show 123", ErrorKind::ValueValidation, "20 digits"),
        ("minion show Web-A", ErrorKind::ValueValidation, "a-z"),
        ("cluster status --server http://m1", ErrorKind::ValueValidation, "TLS"),
        ("cluster status --ca-fingerprint abc", ErrorKind::ValueValidation, "64 hexadecimal"),
        ("cluster join-token --uses 0", ErrorKind::ValueValidation, "uses"),
        ("cluster status -o xml", ErrorKind::InvalidValue, "ndjson"),
        ("keys list", ErrorKind::InvalidSubcommand, "key"),
    ] {
        let error = parse(line).map(|_| ()).expect_err(line);
        assert_eq!(error.kind(), kind, "{line}: {error}");
        assert!(error.to_string().contains(part), "{line}: {error}");
    }
}

#[test]
fn every_command_shows_an_example() {
    fn look(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_none() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{path} has no example:\n{help}");
        }
        assert!(command.get_about().is_some(), "{path} does not say what it is");
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            look(inner, &path);
        }
    }
    look(&Cli::command(), "");
}

#[test]
fn every_end_has_its_code() {
    let refused = |code| CliError::Client(ClientError::Refused { failure: Failure::new(code, "no") });
    for (error, code) in [
        (CliError::Usage("x".into()), 64),
        (CliError::Client(ClientError::Unreachable { tried: vec![] }), 69),
        (CliError::Client(ClientError::Forbidden { tried: vec![] }), 77),
        (refused(FailureCode::NoQuorum), 75),
        (refused(FailureCode::Unknown), 75),
        (refused(FailureCode::Denied), 77),
        (refused(FailureCode::NoMatch), 2),
        (refused(FailureCode::NotFound), 1),
        (refused(FailureCode::Invalid), 64),
        (CliError::Input { path: "x".into(), cause: "no".into() }, 66),
        (CliError::Archive { path: "x".into(), error: saltern_wire::archive::ArchiveError::Foreign }, 65),
        (CliError::Output(io::ErrorKind::BrokenPipe.into()), 141),
        (CliError::Output(io::ErrorKind::StorageFull.into()), 74),
    ] {
        assert_eq!(error.exit_code(), code, "{error}");
    }
}
