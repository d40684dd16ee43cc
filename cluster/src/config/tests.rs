//! What an operator reads when the configuration is wrong, and what wins when it is right.

use super::*;
use std::fs;

fn load(yaml: &str) -> Result<Config, ConfigError> {
    let layer = layer::from_yaml(Path::new("/etc/saltern/master.yaml"), yaml)?;
    Config::finish(layer, "M1.Example.org")
}

fn refused(yaml: &str) -> String {
    let error = load(yaml).expect_err(yaml);
    assert_eq!(error.exit_code(), 78, "{yaml}");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = load("# only a comment\n").expect("defaults");
    assert_eq!(config.id, "m1.example.org");
    assert_eq!(config.advertise, "M1.Example.org");
    assert_eq!(config.endpoints().session.to_string(), "M1.Example.org:4506");
    assert_eq!(config.bind(config.publish_port).to_string(), "0.0.0.0:4505");
    assert_eq!(config.timing, Timing { heartbeat_ms: 50, election_ms_min: 200, election_ms_max: 250 });
    assert_eq!(config.api_token_file, PathBuf::from("/var/lib/saltern/master/api.token"));
    assert_eq!(config.seeds, Settings::default());
}

#[test]
fn salts_keys_mean_what_they_mean_there() {
    let yaml = "id: m1\ninterface: 127.0.0.1\npublish_port: 5505\nret_port: 5506\nkeep_jobs_seconds: 60\n\
                auto_accept: true\nlog_level: warning\nprofile: geo\nheartbeat_ms: 400\n\
                connections_per_address_max: 5000\nminions_max: 9000\n";
    let config = load(yaml).expect("good");
    assert_eq!(config.endpoints().fanout.to_string(), "127.0.0.1:5505");
    assert_eq!((config.seeds.keep_jobs_seconds, config.seeds.auto_accept), (60, true));
    assert_eq!(config.timing, Timing { heartbeat_ms: 400, election_ms_min: 1500, election_ms_max: 1900 });
    assert_eq!(config.log_level.directive(), "warn");
    assert_eq!((config.connections_per_address_max, config.minions_max), (Some(5000), Some(9000)));
}

#[test]
fn a_folder_makes_a_plan_of_backups_and_nothing_else_does() {
    let plan = |folder: &str, seconds, keep| {
        Some(BackupPlan { folder: folder.into(), every: Duration::from_secs(seconds), keep })
    };
    assert_eq!(load("id: m1\n").expect("good").backup, None);
    assert_eq!(load("id: m1\nbackup_folder: /b\n").expect("good").backup, plan("/b", 3600, 24));
    let yaml = "id: m1\nbackup_folder: /b\nbackup_every_seconds: 60\nbackup_keep: 3\n";
    assert_eq!(load(yaml).expect("good").backup, plan("/b", 60, 3));
    for (yaml, words) in [
        ("id: m1\nbackup_keep: 3\n", "without `backup_folder`"),
        ("id: m1\nbackup_folder: /b\nbackup_keep: 0\n", "at least 1"),
        ("id: m1\nbackup_folder: /b\nbackup_every_seconds: 0\n", "at least 1"),
    ] {
        let text = refused(yaml);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn other_masters_may_be_told_another_way() {
    let mesh = |lines: &str| load(&format!("id: m1\nadvertise: m1.net\n{lines}")).expect("good").endpoints().mesh;
    assert_eq!(mesh("mesh_port: 5510\n").to_string(), "m1.net:5510");
    assert_eq!(mesh("mesh_advertise: relay.net\nmesh_port: 5510\n").to_string(), "relay.net:5510");
    assert_eq!(mesh("mesh_advertise: 10.0.0.9:6510\n").to_string(), "10.0.0.9:6510");
    assert_eq!(mesh("mesh_advertise: 'fd00::9'\n").to_string(), "[fd00::9]:4510");
    let config = load("id: m1\nadvertise: m1.net\nmesh_advertise: relay.net\n").expect("good");
    assert_eq!(config.endpoints().api.to_string(), "m1.net:4511", "the rest is where it was");
}

#[test]
fn errors_name_file_line_and_remedy_in_one_line() {
    for (yaml, line, words) in [
        ("id: m1\npublsh_port: 4505\n", 2, "did you mean `publish_port`?"),
        ("id: m1\n\nwhatever: 1\n", 3, "unknown key `whatever`; there are id, interface"),
        ("interface: localhost\n", 1, "\"localhost\" is not an IP address to listen on"),
        ("id: m1\nadvertise: host:80\n", 2, "has a port"),
        ("id: m1\nmesh_advertise: host:0\n", 2, "has port 0"),
        ("id: m1\nmesh_advertise: 'a host'\n", 2, "the host is no name"),
        ("id: m1\npublish_port: 70000\n", 2, "70000 is not a port"),
        ("publish_port: 0\n", 1, "0 is not a port"),
        ("id: Not A Name\n", 1, "is not a name"),
        ("profile: moon\n", 1, "moon"),
        ("id: [m1\n", 2, ""),
    ] {
        let text = refused(yaml);
        assert!(text.starts_with("/etc/saltern/master.yaml:"), "{text}");
        assert!(text.contains(&format!("master.yaml:{line}: ")) || words.is_empty(), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn contradictions_are_refused() {
    for (yaml, words) in [
        ("publish_port: 4506\n", "publish_port and ret_port are both 4506"),
        ("advertise: '::'\n", "cannot reach the host ::"),
        ("mesh_advertise: '[::]:4510'\n", "set `mesh_advertise` to a real address"),
        ("heartbeat_ms: 500\n", "an election takes at least two heartbeats"),
    ] {
        let text = refused(yaml);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn flags_win_over_environment_over_drop_ins_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("master.yaml");
    fs::write(&config, "id: file\nregion: file\nzone: file\npublish_port: 1001\n").expect("written");
    fs::create_dir(folder.path().join("master.d")).expect("made");
    fs::write(folder.path().join("master.d/20-b.yaml"), "id: b\nregion: b\n").expect("written");
    fs::write(folder.path().join("master.d/10-a.yaml"), "id: a\nregion: a\nzone: a\n").expect("written");
    fs::write(folder.path().join("master.d/README"), "not: yaml: at all").expect("written");
    let environment = [("SALTERN_MASTER_ID", "env"), ("SALTERN_MASTER_RET_PORT", "1002"), ("PATH", "/bin")];
    let environment = environment.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let flags =
        Flags { config: Some(config), id: Some("flag".into()), api_port: Some("1003".into()), ..Flags::default() };
    let config = Config::load(&flags, environment, "host").expect("good");
    assert_eq!((config.id.as_str(), config.region.as_str(), config.zone.as_str()), ("flag", "b", "a"));
    assert_eq!((config.publish_port, config.ret_port, config.api_port), (1001, 1002, 1003));
}

#[test]
fn every_place_is_named_when_it_is_wrong() {
    let absent = Flags { config: Some("/nowhere/master.yaml".into()), ..Flags::default() };
    let error = Config::load(&absent, [], "host").expect_err("no such file");
    assert!(error.to_string().starts_with("/nowhere/master.yaml: "), "{error}");
    assert_eq!(error.exit_code(), 78);

    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("master.yaml");
    fs::write(&config, "").expect("written");
    let here = Flags { config: Some(config), ..Flags::default() };
    let variable = |name: &str, text: &str| Config::load(&here, [(name.into(), text.into())], "host");
    let error = variable("SALTERN_MASTER_PUBLSH_PORT", "1").expect_err("unknown").to_string();
    assert!(error.contains("SALTERN_MASTER_PUBLSH_PORT") && error.contains("publish_port"), "{error}");
    let error = variable("SALTERN_MASTER_PUBLISH_PORT", "many").expect_err("no number");
    assert!(error.to_string().contains("many"), "{error}");
    assert_eq!(error.exit_code(), 78);

    let flags = Flags { mesh_port: Some("99999".into()), ..here.clone() };
    let error = Config::load(&flags, [], "host").expect_err("no port");
    assert_eq!(error.to_string(), "--mesh-port: 99999 is not a port: use 1 to 65535");
    assert_eq!(error.exit_code(), 64);
    let flags = Flags { id: Some("7".into()), ..here };
    assert_eq!(Config::load(&flags, [], "host").expect("digits are a name").id, "7");
}

#[test]
fn a_remedy_repeats_the_flags_as_they_were_given() {
    let flags = Flags {
        config: Some("/etc/m.yaml".into()),
        data_dir: Some("/srv/m".into()),
        ret_port: Some("4600".into()),
        ..Flags::default()
    };
    let line = "saltern-master rejoin --config /etc/m.yaml --ret-port 4600 --data-dir /srv/m";
    assert_eq!(flags.with_command("rejoin"), line);
    assert_eq!(Flags::default().with_command("run"), "saltern-master run");
}
