//! A master that cannot start says why in one line, with the exit code for it, and leaves nothing behind.

use saltern_jepsen::real::{Wish, World};
use saltern_ops::fleet::binaries::Binaries;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn master(arguments: &[&str], config: &Path) -> Output {
    let binaries = Binaries::find().expect("the programs are built");
    let mut command = Command::new(binaries.master);
    command.args(arguments).arg("-c").arg(config).env("SALTERN_LOG", "off");
    command.output().expect("it starts")
}

/// Checks that `output` is one line on stderr that holds every one of `parts`, with this exit code.
fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert_eq!(told.trim().lines().count(), 1, "one line: {told}");
    for part in parts {
        assert!(told.contains(part), "{part:?} is named: {told}");
    }
}

#[test]
fn a_wrong_configuration_is_one_line_and_leaves_no_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let config = folder.path().join("master.yaml");
    let cases = [
        ("interfase: 127.0.0.1\n", vec!["interfase", "master.yaml"]),
        ("interface: not-an-address\n", vec!["not-an-address", "master.yaml"]),
        ("publish_port: 99999\n", vec!["99999", "master.yaml"]),
        ("publish_port: 4506\n", vec!["4506", "publish_port"]),
    ];
    for (line, parts) in cases {
        std::fs::write(&config, format!("data_dir: {}\n{line}", data.display())).expect("a file");
        assert_refused(&master(&["init"], &config), 78, &parts);
        assert!(!data.exists(), "{line} left a data folder");
    }
    std::fs::write(&config, format!("interface: 127.0.0.1\ndata_dir: {}\n", config.display())).expect("a file");
    assert_refused(&master(&["init"], &config), 78, &["master.yaml"]);
    std::fs::write(&config, format!("interface: 127.0.0.1\ndata_dir: {}\n", data.display())).expect("a file");
    assert_refused(&master(&["run"], &config), 78, &["init", "join"]);
    assert!(!data.exists(), "run left a data folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_port_and_a_used_folder_are_named() -> anyhow::Result<()> {
    let mut world = World::masters_of(Wish { masters: 1, ..Wish::default() }).await?;
    let folder = world.cluster.fleet.masters[0].folder.clone();
    let running = std::fs::read_to_string(folder.join("master.yaml"))?;

    // The same folder, other ports.
    let ports = world.cluster.fleet.ports();
    let mut moved = running.clone();
    for port in [ports.publish, ports.session, ports.mesh, ports.api] {
        moved = moved.replace(&format!("_port: {port}\n"), &format!("_port: {}\n", port + 300));
    }
    let second = folder.join("second.yaml");
    std::fs::write(&second, moved.replace("master.sock", "second.sock"))?;
    assert_refused(&master(&["run"], &second), 75, &["data", "in use"]);
    assert!(world.cluster.fleet.first_dead().is_none(), "the first master goes on");

    // The same ports, after the first master has ended: somebody else listens on each in turn.
    let address = world.cluster.fleet.masters[0].address;
    world.kill_master(0)?;
    for port in [ports.publish, ports.session, ports.mesh, ports.api] {
        let taken = TcpListener::bind((address, port))?;
        assert_refused(&master(&["run"], &folder.join("master.yaml")), 78, &[&port.to_string()]);
        drop(taken);
    }
    world.start_master(0)?;
    world.cluster.wait_for_voters(1).await?;
    Ok(())
}
