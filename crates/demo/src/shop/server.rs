//! An HTTP/1.1 server for the shop's programs, and when they stop.
//!
//! Each request's body is read whole, up to a limit, before the program sees it.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Largest request body: an order has some hundred bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Connections served at once; a sidecar pools some dozens.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// How long requests under way may take after the program was told to stop.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// A response of a shop program.
pub(super) type Answer = Response<Full<Bytes>>;

/// Answers requests.
pub(super) trait Handle: Send + Sync + 'static {
    /// Answers one.
    fn handle(&self, request: Request<Bytes>) -> impl Future<Output = Answer> + Send;
}

/// Tells when to stop; clones tell the same.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A stop, and what triggers it: sending `true`, or being dropped.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Completes when the program shall stop.
    pub(crate) async fn wait(&mut self) {
        // A sender that is gone asks to stop too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Serves until told to stop, then lets requests under way finish.
pub(super) async fn serve(listener: TcpListener, mut stop: Stop, program: impl Handle) {
    let program = Arc::new(program);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.wait() => break,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&program), stop.clone()));
                }
                Err(error) => refused_accept(&error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    drain(connections).await;
}

/// Waits a little where the kernel has no descriptor left, so that the loop does not spin.
pub(super) async fn refused_accept(error: &std::io::Error) {
    tracing::warn!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits for connections to end, for [`DRAIN`] at most.
pub(super) async fn drain(mut connections: JoinSet<()>) {
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut off with the process.
    let _ = tokio::time::timeout(DRAIN, ended).await;
}

async fn serve_connection(stream: TcpStream, program: Arc<impl Handle>, mut stop: Stop) {
    // Small answers go out at once; where the kernel refuses, they go out later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let program = Arc::clone(&program);
        async move { Ok::<_, Infallible>(serve_request(request, &*program).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection ended: {error}");
    }
}

async fn serve_request(request: Request<Incoming>, program: &impl Handle) -> Answer {
    let (parts, body) = request.into_parts();
    match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
        Ok(body) => program.handle(Request::from_parts(parts, body.to_bytes())).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, &format!("cannot read the request: {error}")),
    }
}

/// An answer with a JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => answer(status, "application/json", body),
        Err(error) => {
            tracing::error!("an answer has no JSON form: {error}");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Bytes::from_static(b"{}"))
        }
    }
}

/// An answer that says what went wrong, as `{"error": …}`.
pub(super) fn failure(status: StatusCode, why: &str) -> Answer {
    json(status, &serde_json::json!({ "error": why }))
}

/// An answer for a path or method that the program does not have.
pub(super) fn not_found(request: &Request<Bytes>) -> Answer {
    failure(StatusCode::NOT_FOUND, &format!("no {} {} here", request.method(), request.uri().path()))
}

/// An answer with a body.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
