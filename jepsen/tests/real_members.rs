//! A cluster whose members come and go while it works: from one voter to three and five, and back to three and one.
//!
//! Writes go on all the while, and every one that was acknowledged is there at the end. On the way a master is removed while it
//! runs and one while it is dead, one comes back with an empty disk under its old id, two operators change the masters at once,
//! and masters are drained and stopped in the middle of a job that runs.

use anyhow::{Context, ensure};
use saltern_jepsen::real::{SETTLE, World, assert_exact, said};
use saltern_ops::client::{Client, ClientError};
use saltern_ops::fleet::bring_up::Cluster;
use saltern_ops::fleet::burst::Burst;
use saltern_ops::fleet::process::Ending;
use saltern_ops::fleet::{Fleet, Plan, jobs};
use saltern_wire::JobId;
use saltern_wire::api::member::{MemberAnswer, MemberChange, MemberRequest, SecretsView};
use saltern_wire::api::{ClusterStatus, FailureCode, KeyView, MinionList, Presence};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Masters that there are at most.
const MASTERS: usize = 5;

/// Minions that carry the writes' jobs.
const MINIONS: usize = 2;

/// How long a removed master may take to end by itself, and a drained one to stop.
const END: Duration = Duration::from_secs(30);

/// Pause between two writes of the load: many an election is crossed, and a busy machine keeps up.
const WRITE_EVERY: Duration = Duration::from_millis(40);

/// A world that grows and shrinks.
struct Story {
    world: World,
    /// Masters that run and are members, by their place in the fleet.
    members: Vec<usize>,
}

impl Story {
    /// One master that leads, and the folders of four more.
    async fn begin() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("saltern-test-").tempdir()?;
        let plan = Plan {
            masters: MASTERS,
            minions: MINIONS,
            folder: folder.path().to_path_buf(),
            environment: saltern_jepsen::real::faults::environment(),
            ..Plan::default()
        };
        let mut fleet = Fleet::lay_out(plan)?;
        let ca_fingerprint = fleet.init()?;
        fleet.start_master(0)?;
        let cluster = Cluster { fleet, ca_fingerprint };
        let mut story = Self { world: World { cluster, folder }, members: vec![0] };
        story.voters(1).await?;
        Ok(story)
    }

    /// Starts the minions and accepts them through the first master, which is the only one.
    async fn add_minions(&mut self) -> anyhow::Result<()> {
        let cluster = &mut self.world.cluster;
        for number in 0..MINIONS {
            cluster.fleet.write_minion(number, &cluster.ca_fingerprint)?;
            cluster.fleet.start_minion(number)?;
        }
        cluster.wait(0, "every key to be pending", "/v1/keys", |keys: &Vec<KeyView>| keys.len() == MINIONS).await?;
        cluster.accept_all(0).await?;
        cluster.wait_for_connected(0, MINIONS).await?;
        Ok(())
    }

    /// What the minions logged, for messages.
    fn told_by_minions(&self) -> String {
        let processes = self.world.cluster.fleet.minions.iter().filter_map(|minion| minion.process.as_ref());
        processes.map(|process| process.said()).collect::<Vec<_>>().join("\n---\n")
    }

    /// A client of every member.
    fn client(&self) -> Client {
        self.world.cluster.client_of(&self.members)
    }

    /// Lets these masters join, and waits until all members vote.
    async fn join(&mut self, numbers: &[usize]) -> anyhow::Result<()> {
        let token = self.world.cluster.join_token(u32::try_from(numbers.len())?).await?;
        for number in numbers {
            self.world.cluster.fleet.join(*number, &token)?;
            self.world.start_master(*number)?;
            self.members.push(*number);
        }
        self.voters(self.members.len()).await
    }

    /// Waits until `count` masters vote and answer, as every member sees it.
    async fn voters(&mut self, count: usize) -> anyhow::Result<()> {
        let votes = move |status: &ClusterStatus| {
            let voters = status.members.iter().filter(|member| matches!(member.role.as_str(), "leader" | "follower"));
            status.quorum && voters.filter(|member| member.reachable).count() == count
        };
        for number in self.members.clone() {
            let what = format!("{count} masters to vote, as master {} sees it", number + 1);
            self.world.cluster.wait(number, &what, "/v1/cluster/status", votes).await?;
        }
        Ok(())
    }

    /// Runs `saltern cluster …` at the members and expects it to succeed.
    fn cluster(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let words: Vec<&str> = ["cluster"].iter().chain(arguments).copied().collect();
        let output = self.world.saltern(&self.members, &words)?;
        ensure!(output.status.code() == Some(0), "saltern {words:?}: {}", said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn name(&self, number: usize) -> String {
        self.world.cluster.fleet.masters[number].name.clone()
    }

    async fn leader(&self) -> anyhow::Result<usize> {
        self.world.leader(self.members[0]).await
    }

    /// The process of a master that is to have ended by itself.
    async fn ends(&mut self, number: usize) -> anyhow::Result<Ending> {
        let process = self.world.cluster.fleet.masters[number].process.as_mut().context("it was started")?;
        let ending = process.wait(END).await.with_context(|| format!("master {} goes on running", number + 1))?;
        self.world.cluster.fleet.masters[number].process = None;
        Ok(ending)
    }

    /// Removes a member that runs: it ends by itself and says why; it cannot be started again.
    async fn remove_running(&mut self, number: usize) -> anyhow::Result<()> {
        let name = self.name(number);
        self.members.retain(|member| *member != number);
        self.cluster(&["remove", &name, "--yes"])?;
        let ending = self.ends(number).await?;
        require_removed(&ending)?;
        self.world.start_master(number)?;
        let again = self.ends(number).await?;
        require_removed(&again)?;
        // Whoever repeats it has what he wants.
        let said = self.cluster(&["remove", &name, "--yes"])?;
        ensure!(said.contains("nothing to do"), "{said}");
        self.voters(self.members.len()).await
    }

    async fn secrets(&self) -> anyhow::Result<SecretsView> {
        Ok(self.client().get::<SecretsView>("/v1/cluster/secrets", "").await?.value)
    }
}

fn require_removed(ending: &Ending) -> anyhow::Result<()> {
    let words = ending.said.join("\n");
    ensure!(ending.status.code() == Some(77), "it ended with {:?}: {words}", ending.status);
    ensure!(words.contains("was removed from its cluster") && words.contains("saltern-master join TOKEN"), "{words}");
    Ok(())
}

/// Writes until it is told to stop. Each acknowledged job is remembered.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<JobId>>,
}

impl Load {
    /// Writes through whichever of the masters answers, those that come later included.
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = world.cluster.client_of(&[0, 1, 2, 3, 4]);
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                // One whose outcome is unknown, or that was refused, is not counted on; nor is it missed.
                if let Ok(submitted) = jobs::submit(&mut client, &jobs::for_all("test.ping", &[])).await {
                    acknowledged.push(submitted.jid);
                }
                tokio::time::sleep(WRITE_EVERY).await;
            }
            acknowledged
        });
        Self { stop, task }
    }

    async fn end(self) -> anyhow::Result<Vec<JobId>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_load_and_every_acknowledged_write_stays() -> anyhow::Result<()> {
    let mut story = Story::begin().await?;
    story.add_minions().await.context("minions at the only master")?;
    let load = Load::start(&story.world);

    story.join(&[1, 2]).await.context("from one to three")?;
    two_operators_at_once(&mut story).await.context("two operators")?;
    story.join(&[3, 4]).await.context("from three to five")?;
    wiped_under_its_old_id(&mut story, 4).await.context("an empty disk under an old id")?;
    removed_while_dead(&mut story, 4).await.context("removed while dead")?;
    demoted_stays_a_learner(&mut story, 3).await.context("demoted")?;
    story.remove_running(3).await.context("from four to three")?;

    let leader = story.leader().await?;
    story.remove_running(leader).await.context("the leader is removed: from three to two")?;
    let leader = story.leader().await?;
    story.remove_running(leader).await.context("the leader is removed: from two to one")?;

    let acknowledged = load.end().await?;
    ensure!(acknowledged.len() > 20, "the load wrote {} times only", acknowledged.len());
    let last = story.members[0];
    let mut client = story.world.cluster.client(last);
    for jid in &acknowledged {
        let view = jobs::wait(&mut client, *jid, SETTLE).await.with_context(|| format!("{jid} was acknowledged"))?;
        ensure!(view.returns.len() == MINIONS, "{jid}: {view:?}\n{}", story.told_by_minions());
    }
    // The only one left refuses to be lost.
    let name = story.name(last);
    let refused = story.world.saltern(&story.members, &["cluster", "remove", &name, "--yes"])?;
    ensure!(refused.status.code() == Some(1) && said(&refused).contains("only master"), "{}", said(&refused));
    let secrets = story.secrets().await?;
    ensure!(secrets.epoch == secrets.wanted && secrets.epoch >= 4, "four masters were removed: {secrets:?}");
    ensure!(secrets.missing.is_empty(), "{secrets:?}");
    println!("{} writes acknowledged, all of them there; state secret {}", acknowledged.len(), secrets.epoch);
    Ok(())
}

/// Both plan upon the same directory; one wins, the other hears it and has changed nothing.
async fn two_operators_at_once(story: &mut Story) -> anyhow::Result<()> {
    let leader = story.leader().await?;
    let others: Vec<usize> = story.members.iter().copied().filter(|number| *number != leader).collect();
    let request = |story: &Story, number: usize, directory, dry_run| MemberRequest {
        change: MemberChange::Demote,
        master: story.name(number),
        directory,
        dry_run,
    };
    let mut planned = Vec::new();
    for number in &others {
        let body = request(story, *number, None, true);
        let answer = story.client().post::<_, MemberAnswer>("/v1/cluster/members", &body).await?;
        planned.push(answer.value.plan.directory);
    }
    ensure!(planned[0] == planned[1], "both look at the same masters: {planned:?}");
    let change = async |at: usize| {
        let body = request(story, others[at], Some(planned[at]), false);
        story.world.cluster.client(others[at]).post::<_, MemberAnswer>("/v1/cluster/members", &body).await
    };
    let (first, second) = tokio::join!(change(0), change(1));
    let lost = |outcome: &Result<_, ClientError>| match outcome {
        Err(ClientError::Refused { failure }) if failure.code == FailureCode::Conflict => Some(failure.message.clone()),
        _ => None,
    };
    let (winner, message) = match (&first, &second) {
        (Ok(_), lost_it) => (0, lost(lost_it)),
        (lost_it, Ok(_)) => (1, lost(lost_it)),
        (Err(first), Err(second)) => anyhow::bail!("nobody won: {first}; {second}"),
    };
    let message = message.with_context(|| format!("both won: {first:?}, {second:?}"))?;
    ensure!(message.contains("ask again"), "{message}");
    let status = story.client().get::<ClusterStatus>("/v1/cluster/status", "consistent=true").await?.value;
    let role =
        |number: usize| status.members.iter().find(|member| member.name == story.name(number)).map(|m| m.role.clone());
    ensure!(role(others[1 - winner]).as_deref() == Some("follower"), "the loser's change was made: {status:?}");
    let name = story.name(others[winner]);
    story.cluster(&["demote", &name, "--yes"]).context("repeating it is harmless")?;
    story.cluster(&["promote", &name, "--yes"])?;
    story.voters(3).await
}

/// Everything but the credentials is gone: it must neither vote nor bring its leader down, and comes back under a fresh id.
async fn wiped_under_its_old_id(story: &mut Story, number: usize) -> anyhow::Result<()> {
    story.world.kill_master(number)?;
    let data = story.world.cluster.fleet.masters[number].data();
    for name in ["log", "state", "snapshots"] {
        std::fs::remove_dir_all(data.join(name)).with_context(|| format!("{name} was there"))?;
    }
    for name in ["mark", "directory.json"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    story.world.start_master(number)?;
    let ending = story.ends(number).await?;
    let words = ending.said.join("\n");
    ensure!(ending.status.code() == Some(65) && words.contains("and nothing else"), "{:?}: {words}", ending.status);
    let mut rejoin = std::process::Command::new(&story.world.cluster.fleet.binaries().master);
    let config = story.world.cluster.fleet.masters[number].config();
    let output = rejoin.arg("rejoin").arg("-c").arg(config).output()?;
    ensure!(output.status.code() == Some(0), "{}", said(&output));
    story.world.start_master(number)?;
    story.voters(story.members.len()).await
}

/// It does not know that it was removed: nobody lets it vote, publish or read, it hears why, and ends.
async fn removed_while_dead(story: &mut Story, number: usize) -> anyhow::Result<()> {
    story.world.kill_master(number)?;
    story.members.retain(|member| *member != number);
    let name = story.name(number);
    story.cluster(&["remove", &name, "--yes"])?;
    story.voters(story.members.len()).await?;
    let term = story.client().get::<ClusterStatus>("/v1/cluster/status", "").await?.value.term;
    story.world.start_master(number)?;
    let ending = story.ends(number).await?;
    require_removed(&ending)?;
    let status = story.client().get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    ensure!(status.members.iter().all(|member| member.name != name), "{status:?}");
    ensure!(status.term == term, "it moved the term from {term} to {}", status.term);
    Ok(())
}

/// A master that an operator demoted is not promoted again by itself, and serves.
async fn demoted_stays_a_learner(story: &mut Story, number: usize) -> anyhow::Result<()> {
    let name = story.name(number);
    story.cluster(&["demote", &name, "--yes"])?;
    // Four sweeps of the leader: it would have promoted it by then.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let status = story.world.cluster.client(number).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    let member = status.members.iter().find(|member| member.name == name).context("it is listed")?;
    ensure!(member.role == "learner", "{member:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_are_drained_and_stopped_and_no_running_job_notices() -> anyhow::Result<()> {
    let mut world = World::up(3, 6).await?;
    let asked = 0;
    let spread = serde_json::json!(1_000);
    world.cluster.client(asked).put::<_, serde_json::Value>("/v1/config/drain_spread_ms", &spread).await?;
    let mut burst = world.burst("drain", 4.0)?;

    // One is drained as an operator does it, and stays.
    let drained = world.master_of(asked, "minion-1").await?;
    let survivors: Vec<usize> = (0..3).filter(|number| *number != drained).collect();
    let mut client = world.cluster.client_of(&survivors);
    burst.submit(&mut client).await?;
    started(&burst, 6).await?;
    let name = world.cluster.fleet.masters[drained].name.clone();
    let output = world.saltern(&survivors, &["cluster", "drain", &name, "--yes"])?;
    ensure!(output.status.code() == Some(0), "{}", said(&output));
    let elsewhere = |name: String| {
        move |list: &MinionList| {
            let at_home = |view: &saltern_wire::api::MinionView| {
                view.presence == Presence::Connected && view.master.as_deref().is_some_and(|master| master != name)
            };
            list.minions.len() == 6 && list.minions.iter().all(at_home)
        }
    };
    let what = format!("every minion to be connected elsewhere than {name}");
    world.cluster.wait(survivors[0], &what, "/v1/minions", elsewhere(name.clone())).await?;
    let leads = world.leader(survivors[0]).await?;
    ensure!(leads != drained, "a draining master leads");

    // Then the leader is asked to end, while the same job still runs.
    let output = world.saltern(&survivors, &["cluster", "undrain", &name, "--yes"])?;
    ensure!(output.status.code() == Some(0), "{}", said(&output));
    let process = world.cluster.fleet.masters[leads].process.as_mut().context("it runs")?;
    process.terminate();
    let ending = process.wait(END).await.context("it does not end")?;
    ensure!(ending.status.code() == Some(0), "{:?}: {}", ending.status, ending.said.join("\n"));
    world.cluster.fleet.masters[leads].process = None;
    let survivors: Vec<usize> = (0..3).filter(|number| *number != leads).collect();
    let mut client = world.cluster.client_of(&survivors);
    burst.submit(&mut client).await.context("writes go on")?;
    let tally = world.settle(&burst, &survivors).await?;
    assert_exact(&tally, 12, "a drain and a stop");
    ensure!(tally.interrupted == 0, "a job was interrupted: {tally:?}");

    // `saltern-master drain` asks the one that runs here, and ends it.
    world.start_master(leads)?;
    world.cluster.wait_for_voters(3).await?;
    let config = world.cluster.fleet.masters[leads].config();
    let output = std::process::Command::new(&world.cluster.fleet.binaries().master)
        .arg("drain")
        .arg("-c")
        .arg(&config)
        .output()?;
    ensure!(output.status.code() == Some(0), "{}", said(&output));
    let ending = world.cluster.fleet.masters[leads].process.as_mut().context("it ran")?.wait(END).await;
    ensure!(ending.is_some_and(|ending| ending.status.code() == Some(0)), "it ends with 0");
    Ok(())
}

/// Waits until the newest job of the burst runs on so many minions.
async fn started(burst: &Burst, minions: usize) -> anyhow::Result<()> {
    let newest = burst.submitted.len() - 1;
    let all = async {
        while burst.starts().keys().filter(|(job, _)| *job == newest).count() < minions {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SETTLE, all).await.context("the job does not start everywhere")
}
