//! From an empty folder to a cluster that runs commands: initialised, joined, minions accepted and connected.
//!
//! Every step waits for what the masters say, with one deadline, and fails with the name and log of the process that ended or
//! the condition that did not come true.

use crate::client::Client;
use crate::client::server::Server;
use crate::edge::SystemEntropy;
use crate::fleet::{Fleet, FleetError, Plan};
use saltern_wire::api::{
    ClusterStatus, JoinTokenRequest, JoinTokenView, KeyChanges, KeyDecision, KeySelection, KeyView, MinionList,
    Presence,
};
use saltern_wire::key::KeyState;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(25);

/// How long one condition may take to come true. Two busy cores start a whole cluster in a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a cluster does not come up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// A process or file failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A master refused.
    #[error("{what}: {cause}")]
    Refused {
        /// What was asked.
        what: String,
        /// What it said.
        cause: String,
    },
    /// A process ended.
    #[error("{0}")]
    Ended(String),
    /// A condition did not come true.
    #[error("waited {seconds} s for {what} in vain; last seen: {seen}")]
    Waited {
        /// For what.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// What was seen instead.
        seen: String,
    },
}

/// A cluster of real processes that works.
pub struct Cluster {
    /// The processes.
    pub fleet: Fleet,
    /// What minions pin.
    pub ca_fingerprint: String,
}

/// What is happening while a cluster comes up.
pub type Narrate<'a> = &'a mut (dyn FnMut(&str) + Send);

impl Cluster {
    /// Brings `plan` up: masters joined and voting, keys accepted through the first master, every minion connected.
    pub async fn bring_up(plan: Plan, narrate: Narrate<'_>) -> Result<Self, UpError> {
        let mut cluster = Self::bring_up_masters(plan, narrate).await?;
        cluster.add_minions(narrate).await?;
        Ok(cluster)
    }

    /// Brings the masters of `plan` up and leaves its minions for later.
    pub async fn bring_up_masters(plan: Plan, narrate: Narrate<'_>) -> Result<Self, UpError> {
        let mut fleet = Fleet::lay_out(plan)?;
        narrate("making the cluster: saltern-master init");
        let ca_fingerprint = fleet.init()?;
        fleet.start_master(0)?;
        let mut cluster = Self { fleet, ca_fingerprint };
        cluster.wait_for_status("the first master to lead", |status| status.quorum && status.leader.is_some()).await?;
        let others = cluster.fleet.masters.len() - 1;
        if others > 0 {
            let token = cluster.join_token(u32::try_from(others).unwrap_or(u32::MAX)).await?;
            for number in 1..=others {
                narrate(&format!("joining {}: saltern-master join TOKEN", cluster.fleet.masters[number].name));
                cluster.fleet.join(number, &token)?;
                cluster.fleet.start_master(number)?;
            }
        }
        narrate("waiting until every master votes");
        cluster.wait_for_voters(others + 1).await?;
        Ok(cluster)
    }

    /// Starts every minion of the plan, accepts their keys through the first master, and waits until they are connected.
    pub async fn add_minions(&mut self, narrate: Narrate<'_>) -> Result<(), UpError> {
        let count = self.fleet.minions.len();
        narrate(&format!("starting {count} minions"));
        for number in 0..count {
            self.fleet.write_minion(number, &self.ca_fingerprint)?;
            self.fleet.start_minion(number)?;
        }
        narrate("waiting for their keys");
        let wanted = count;
        self.wait(0, "every key to be pending", "/v1/keys", move |keys: &Vec<KeyView>| {
            keys.iter().filter(|key| key.state == KeyState::Pending).count() == wanted
        })
        .await?;
        narrate("accepting them on master-1: saltern key accept --all");
        self.accept_all(0).await?;
        narrate("waiting until every minion is connected and has told its grains");
        for number in 0..self.fleet.masters.len() {
            self.wait_for_connected(number, count).await?;
        }
        self.wait_for_grains(0).await
    }

    /// A client of one master only, over its unix socket.
    pub fn client(&self, number: usize) -> Client {
        self.client_of(&[number])
    }

    /// A client that goes on to the next of these masters by itself.
    pub fn client_of(&self, numbers: &[usize]) -> Client {
        let server = |number: &usize| Server::Unix(self.fleet.masters[*number].socket());
        Client::new(numbers.iter().map(server).collect(), Arc::new(SystemEntropy), None)
    }

    /// A join token for `uses` masters.
    pub async fn join_token(&self, uses: u32) -> Result<String, UpError> {
        let request = JoinTokenRequest { ttl_ms: 600_000, uses };
        let answer = self.client(0).post::<_, JoinTokenView>("/v1/cluster/join-token", &request).await;
        let refused = |error: crate::client::ClientError| UpError::Refused {
            what: "asking for a join token".into(),
            cause: error.to_string(),
        };
        answer.map(|answer| answer.value.token).map_err(refused)
    }

    /// Accepts every pending key through one master.
    pub async fn accept_all(&self, number: usize) -> Result<KeyChanges, UpError> {
        let decision = KeyDecision { select: KeySelection::All, include_decided: false };
        let answer = self.client(number).post::<_, KeyChanges>("/v1/keys/accept", &decision).await;
        answer
            .map(|answer| answer.value)
            .map_err(|error| UpError::Refused { what: "accepting keys".into(), cause: error.to_string() })
    }

    /// Waits until `count` masters vote, as the first one sees it, and all of them answer with a quorum.
    pub async fn wait_for_voters(&mut self, count: usize) -> Result<(), UpError> {
        let votes = move |status: &ClusterStatus| {
            let voting = status.members.iter().filter(|member| member.role == "leader" || member.role == "follower");
            voting.filter(|member| member.reachable).count() == count
        };
        for number in 0..self.fleet.masters.len() {
            if self.fleet.masters[number].process.is_some() {
                let what = format!("{count} masters to vote, as master {} sees it", number + 1);
                let seen = self.wait(number, &what, "/v1/cluster/status", move |status: &ClusterStatus| {
                    votes(status) && status.quorum
                });
                seen.await?;
            }
        }
        Ok(())
    }

    /// Waits until one master that was started serves again: it has a quorum, and has caught up as far as a majority
    /// confirms. Fails at once if it has ended; other members may be down.
    pub async fn wait_for_serving(&mut self, number: usize, within: Duration) -> Result<ClusterStatus, UpError> {
        let name = self.fleet.masters[number].name.clone();
        let mut seen = String::from("nothing");
        let look = async {
            loop {
                let process = self.fleet.masters[number].process.as_mut();
                match process.map(|process| process.ended()) {
                    None => return Err(UpError::Ended(format!("{name} is not started"))),
                    Some(Some(ended)) => return Err(UpError::Ended(ended)),
                    Some(None) => {}
                }
                match self.client(number).get::<ClusterStatus>("/v1/cluster/status", "consistent=true").await {
                    Ok(answer) if answer.value.quorum && answer.stale_ms.is_none() => return Ok(answer.value),
                    Ok(answer) => seen = format!("{:?}", answer.value),
                    Err(error) => seen = error.to_string(),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(within, look).await {
            Ok(found) => found,
            Err(_) => Err(UpError::Waited { what: format!("{name} to serve"), seconds: within.as_secs(), seen }),
        }
    }

    /// Waits until one master counts `count` connected minions.
    pub async fn wait_for_connected(&mut self, number: usize, count: usize) -> Result<(), UpError> {
        let what = format!("{count} minions to be connected");
        let all = move |list: &MinionList| {
            list.minions.iter().filter(|minion| minion.presence == Presence::Connected).count() == count
        };
        self.wait(number, &what, "/v1/minions", all).await.map(drop)
    }

    /// Waits until one master knows the grains of every minion.
    pub async fn wait_for_grains(&mut self, number: usize) -> Result<(), UpError> {
        for minion in 0..self.fleet.minions.len() {
            let id = self.fleet.minions[minion].id.clone();
            let known =
                |view: &saltern_wire::api::MinionView| view.grains.as_ref().is_some_and(|map| map.contains_key("os"));
            self.wait(number, &format!("the grains of {id}"), &format!("/v1/minions/{id}"), known).await?;
        }
        Ok(())
    }

    async fn wait_for_status(&mut self, what: &str, met: impl Fn(&ClusterStatus) -> bool) -> Result<(), UpError> {
        self.wait(0, what, "/v1/cluster/status", met).await.map(drop)
    }

    /// Asks one master for `path` until `met`, and returns what it said then.
    pub async fn wait<T>(
        &mut self,
        number: usize,
        what: &str,
        path: &str,
        met: impl Fn(&T) -> bool,
    ) -> Result<T, UpError>
    where
        T: serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let mut seen = String::from("nothing");
        let look = async {
            loop {
                if let Some(ended) = self.fleet.first_dead() {
                    return Err(UpError::Ended(ended));
                }
                // A client a look: one that has walked backs off, and a master that starts is not there at first.
                match self.client(number).get::<T>(path, "").await {
                    Ok(answer) if met(&answer.value) => return Ok(answer.value),
                    Ok(answer) => seen = format!("{:?}", answer.value),
                    Err(error) => seen = error.to_string(),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(found) => found,
            Err(_) => Err(UpError::Waited { what: what.into(), seconds: PATIENCE.as_secs(), seen }),
        }
    }
}
