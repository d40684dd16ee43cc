//! `saltern-master drain` and `undrain`: ask the master that runs on this machine, through its socket.

use super::Failed;
use crate::config::Config;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use saltern_wire::api::member::{MemberAnswer, MemberChange, MemberRequest};
use saltern_wire::api::{Answer, Failure, FailureBody};
use saltern_wire::limits::API_BODY_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// How long the running master may take for one answer: it says itself when it gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks at a drain that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a master that was asked to end may take.
const END_WITHIN: Duration = Duration::from_secs(15);

/// Why this machine's master was not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Nobody answers on the socket.
    #[error("no master answers on {socket}: {cause}; is saltern-master running, with this configuration?")]
    Unreached {
        /// Which socket.
        socket: PathBuf,
        /// What was noticed.
        cause: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(Failure),
    /// It takes longer than was allowed.
    #[error("after {seconds} s it is not done: {waits_for}. It goes on; ask again, or see `saltern cluster status`")]
    Late {
        /// How long was waited.
        seconds: u64,
        /// For what.
        waits_for: String,
    },
}

impl DrainError {
    /// sysexits.h: 69 if nobody answers, 75 if it goes on, else the refusal's own.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreached { .. } => 69,
            Self::Refused(failure) => failure.code.exit_code(),
            Self::Late { .. } => 75,
        }
    }
}

/// Moves the minions and the leadership of this machine's master away, at most `within`, and ends it unless it is to `stay`.
pub async fn drain(config: &Config, stay: bool, within: Duration) -> Result<(), Failed> {
    let road = Road { socket: &config.socket };
    let mut answer = road.change(config, MemberChange::Drain, false).await?;
    for step in &answer.plan.steps {
        println!("{step}");
    }
    let mut told = None;
    let waited = async {
        while !answer.complete {
            if answer.waits_for != told {
                told.clone_from(&answer.waits_for);
                println!("{}", told.as_deref().unwrap_or("under way"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            answer = road.change(config, MemberChange::Drain, true).await?;
        }
        Ok::<_, DrainError>(())
    };
    match tokio::time::timeout(within, waited).await {
        Ok(done) => done?,
        Err(_) => {
            let waits_for = told.unwrap_or_else(|| "it is under way".into());
            return Err(DrainError::Late { seconds: within.as_secs(), waits_for }.into());
        }
    }
    if stay {
        println!("{} is drained and goes on as a member; take it back with: saltern-master undrain", config.id);
        return Ok(());
    }
    road.ask::<_, ()>("/v1/master/stop", &()).await?;
    let ended = async {
        while UnixStream::connect(&config.socket).await.is_ok() {
            tokio::time::sleep(LOOK_EVERY / 5).await;
        }
    };
    let late = |_| DrainError::Late { seconds: END_WITHIN.as_secs(), waits_for: "it has not ended yet".into() };
    tokio::time::timeout(END_WITHIN, ended).await.map_err(late)?;
    println!("{} is drained and has ended; after its next start take it back with: saltern-master undrain", config.id);
    Ok(())
}

/// Lets this machine's master take minions again.
pub async fn undrain(config: &Config) -> Result<(), Failed> {
    let answer = Road { socket: &config.socket }.change(config, MemberChange::Undrain, false).await?;
    match answer.plan.steps.first() {
        Some(step) => println!("{step}"),
        None => println!("{} is not draining: nothing to do", config.id),
    }
    Ok(())
}

/// The way to the running master.
struct Road<'a> {
    socket: &'a Path,
}

impl Road<'_> {
    async fn change(&self, config: &Config, change: MemberChange, dry_run: bool) -> Result<MemberAnswer, DrainError> {
        let request = MemberRequest { change, master: config.id.clone(), directory: None, dry_run };
        self.ask("/v1/cluster/members", &request).await
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, DrainError> {
        let unreached = |cause: String| DrainError::Unreached { socket: self.socket.into(), cause };
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(path, body)).await;
        let bytes =
            asked.map_err(|_| unreached("no answer in time".into()))?.map_err(|cause| unreached(cause.to_string()))?;
        if let Ok(Answer { value, .. }) = serde_json::from_slice::<Answer<T>>(&bytes) {
            return Ok(value);
        }
        match serde_json::from_slice::<FailureBody>(&bytes) {
            Ok(FailureBody { error }) => Err(DrainError::Refused(error)),
            Err(error) => {
                Err(unreached(format!("it answers with something else ({error}); is it of the same version?")))
            }
        }
    }

    async fn exchange<B: Serialize>(&self, path: &str, body: &B) -> anyhow::Result<Bytes> {
        let stream = UnixStream::connect(self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::post(path)
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let body = Limited::new(response.into_body(), API_BODY_BYTES_MAX).collect().await;
            Ok::<_, anyhow::Error>(body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes())
        };
        // The connection lives as long as this exchange; what it brought is waiting in the answer.
        tokio::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.into()),
            },
        }
    }
}
