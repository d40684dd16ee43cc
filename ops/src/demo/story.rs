//! What a working cluster does, before anything dies.

use super::Voice;
use crate::fleet::bring_up::Cluster;
use crate::fleet::jobs;
use anyhow::Context;
use saltern_wire::api::{JobView, KeyView};
use saltern_wire::key::KeyState;
use saltern_wire::mine::MineEntry;
use saltern_wire::target::TargetKind;
use std::time::Duration;

/// How long one command of the story may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells it.
pub async fn tell(cluster: &mut Cluster, voice: &mut Voice) -> anyhow::Result<()> {
    keys(cluster, voice).await?;
    ping(cluster, voice).await?;
    command(cluster, voice).await?;
    grain(cluster, voice).await?;
    mine(cluster, voice).await
}

async fn keys(cluster: &mut Cluster, voice: &mut Voice) -> anyhow::Result<()> {
    voice.say("");
    voice.say("The keys were accepted on master-1. Each master says what it holds:");
    let minions = cluster.fleet.minions.len();
    for number in 0..cluster.fleet.masters.len() {
        let name = cluster.fleet.masters[number].name.clone();
        let all =
            move |keys: &Vec<KeyView>| keys.iter().filter(|key| key.state == KeyState::Accepted).count() == minions;
        let seen = cluster.wait(number, &format!("{name} to hold every key"), "/v1/keys", all).await?;
        voice.say(&format!("  {name}: {} accepted", seen.len()));
    }
    Ok(())
}

async fn ping(cluster: &Cluster, voice: &mut Voice) -> anyhow::Result<()> {
    voice.say("");
    voice.say("$ saltern run '*' test.ping          (through master-2)");
    let view = run(cluster, 1, TargetKind::Glob, "*", "test.ping", &[]).await?;
    show(&view, voice);
    Ok(())
}

async fn command(cluster: &Cluster, voice: &mut Voice) -> anyhow::Result<()> {
    voice.say("");
    voice.say("$ saltern run minion-1 cmd.run 'uname -sr'");
    let view = run(cluster, 0, TargetKind::Glob, "minion-1", "cmd.run", &["uname -sr".into()]).await?;
    show(&view, voice);
    Ok(())
}

async fn grain(cluster: &Cluster, voice: &mut Voice) -> anyhow::Result<()> {
    voice.say("");
    voice.say("$ saltern run -G 'kernel:Linux' grains.get id          (through the last master)");
    let last = cluster.fleet.masters.len() - 1;
    let view = run(cluster, last, TargetKind::Grain, "kernel:Linux", "grains.get", &["id".into()]).await?;
    show(&view, voice);
    Ok(())
}

async fn mine(cluster: &mut Cluster, voice: &mut Voice) -> anyhow::Result<()> {
    voice.say("");
    voice.say(
        "$ saltern mine get '*' network.ip_addrs          (each minion reported to its own master; asked of master-2)",
    );
    let minions = cluster.fleet.minions.len();
    let asked = other(cluster);
    let path = "/v1/mine?kind=glob&target=%2A&function=network.ip_addrs";
    let all = move |entries: &Vec<MineEntry>| entries.len() == minions;
    let entries = cluster.wait(asked, "the mine data of every minion", path, all).await?;
    for entry in entries.iter().take(2) {
        voice.say(&format!("{}:\n    {}", entry.minion, entry.value));
    }
    if entries.len() > 2 {
        voice.say(&format!("… and {} more", entries.len() - 2));
    }
    Ok(())
}

/// The second master, or the only one.
fn other(cluster: &Cluster) -> usize {
    usize::from(cluster.fleet.masters.len() > 1)
}

async fn run(
    cluster: &Cluster,
    number: usize,
    kind: TargetKind,
    expression: &str,
    function: &str,
    arguments: &[saltern_wire::Value],
) -> anyhow::Result<JobView> {
    let mut client = cluster.client(number.min(cluster.fleet.masters.len() - 1));
    let job = jobs::job(kind, expression, function, arguments);
    let view = jobs::run(&mut client, &job, PATIENCE).await.with_context(|| format!("{function} on {expression}"))?;
    anyhow::ensure!(
        view.missing.is_empty(),
        "{function} on {expression}: {} did not return: {}",
        view.missing[0].minion,
        view.missing[0].reason
    );
    Ok(view)
}

fn show(view: &JobView, voice: &mut Voice) {
    for (minion, returned) in &view.returns {
        let value = match returned.value.as_str() {
            Some(text) => text.to_owned(),
            None if returned.value == serde_json::Value::Bool(true) => "True".to_owned(),
            None => returned.value.to_string(),
        };
        voice.say(&format!("{minion}:\n    {value}"));
    }
}

/// How to go on by hand, while the cluster is running.
pub fn how_to_go_on(cluster: &Cluster, voice: &mut Voice) {
    let cli = cluster.fleet.binaries().cli.display().to_string();
    voice.say("");
    voice.say("The cluster goes on without its old leader. In another terminal:");
    voice.say(&format!("  export SALTERN_SERVER={}", cluster.fleet.server_list()));
    voice.say(&format!("  {cli} cluster status"));
    voice.say(&format!("  {cli} run '*' cmd.run uptime"));
    voice.say(&format!("  {cli} job list"));
    voice.say("Ctrl-C stops everything and removes the folder.");
}
