//! A played master: an HTTP server on a unix socket (or any stream) that answers by a script and remembers what it was asked.

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `METHOD /path?query`.
    pub line: String,
    /// The header that names a write.
    pub request: Option<String>,
    /// The bearer token.
    pub bearer: Option<String>,
    /// The JSON body, null if there is none.
    pub body: Value,
}

/// What the script answers.
pub enum Reply {
    /// A status and a JSON body.
    Json(u16, Value),
    /// Server-sent events, then what comes after them.
    Events(Vec<Value>, Then),
    /// Nothing, ever: the master is frozen.
    Silence,
    /// The connection is closed without a word: the master dies.
    Hangup,
}

/// How a stream goes on after its events.
pub enum Then {
    /// It breaks in the middle.
    Break,
    /// It stays open and silent.
    Silence,
    /// It ends.
    End,
}

/// A running master; it ends when it is dropped.
pub struct Master {
    /// Its socket.
    pub path: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: AbortOnDropHandle<()>,
}

impl Master {
    /// Listens at `folder/name`.
    pub fn start(folder: &Path, name: &str, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let path = folder.join(name);
        let listener = tokio::net::UnixListener::bind(&path).expect("the socket is free");
        let play = Play::new(script);
        let asked = play.asked.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                tokio::spawn(play.clone().serve(stream));
            }
        });
        Self { path, asked, _task: AbortOnDropHandle::new(task) }
    }

    /// The option that names it.
    pub fn server(&self) -> String {
        format!("--server=unix://{}", self.path.display())
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panicked").clone()
    }
}

/// A script with its memory.
#[derive(Clone)]
pub struct Play {
    script: Arc<dyn Fn(&Asked) -> Reply + Send + Sync>,
    /// What was asked so far.
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl Play {
    /// A script that remembers nothing yet.
    pub fn new(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), asked: Arc::default() }
    }

    /// Serves one connection to its end.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let service = service_fn(move |request| self.clone().answer(request));
        // A client that goes away is none of the master's business.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<UnsyncBoxBody<Bytes, io::Error>>, io::Error> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        let line = format!("{} {}", request.method(), request.uri());
        let (named, bearer) = (header("saltern-request"), header("authorization"));
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
        let asked = Asked { line, request: named, bearer, body };
        self.asked.lock().expect("nobody panicked").push(asked.clone());
        match (self.script)(&asked) {
            Reply::Json(status, value) => {
                let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
                Ok(Response::builder().status(status).body(body).expect("a response"))
            }
            Reply::Events(events, then) => {
                let text = |event: Value| Ok(Frame::data(Bytes::from(format!("data: {event}\n\n"))));
                let events = futures::stream::iter(events.into_iter().map(text).collect::<Vec<_>>());
                let rest = match then {
                    Then::Break => futures::stream::iter([Err(io::Error::other("dies"))]).boxed(),
                    Then::Silence => futures::stream::pending().boxed(),
                    Then::End => futures::stream::empty().boxed(),
                };
                // A pause lets the events reach the client before the connection breaks.
                let pause = futures::stream::once(tokio::time::sleep(std::time::Duration::from_millis(50)));
                let pause = pause.filter_map(|()| async { None });
                Ok(Response::new(StreamBody::new(events.chain(pause).chain(rest)).boxed_unsync()))
            }
            Reply::Silence => std::future::pending().await,
            Reply::Hangup => Err(io::Error::other("dies")),
        }
    }
}

/// A value as the API answers it.
pub fn answer(value: Value) -> Reply {
    Reply::Json(200, json!({"revision": 7, "as_of": 1_795_392_390_290_128_u64, "master": "m1", "value": value}))
}

/// A refusal with its status.
pub fn refuse(code: &str, message: &str) -> Reply {
    let status = match code {
        "invalid" => 400,
        "denied" => 401,
        "not_found" | "no_match" => 404,
        _ => 503,
    };
    Reply::Json(status, json!({"error": {"code": code, "message": message}}))
}
