//! What an agent holds and who asks, as JSON: for its own user and root, on the same socket by HTTP.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_util::rt::TokioIo;
use meshwork_identity::{Bundle, Renewal};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::body::Body;

use super::caller::Caller;
use super::socket::SocketError;
use super::workloads::State;
use super::{Host, Standing};

/// Where it is asked for.
pub(super) const PATH: &str = "/meshwork/agent/status";
/// The longest answer that is read: thousands of identities and callers.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Answers with what the agent holds.
pub(super) fn answer(host: &Host, caller: &Caller) -> http::Response<Body> {
    let own = rustix::process::geteuid().as_raw();
    let may = caller.selectors.uid == 0 || caller.selectors.uid == own;
    let (status, value) = if may {
        (StatusCode::OK, describe(host, caller))
    } else {
        let error = format!("only root and the user {own}, whose the agent is, may see what it holds");
        (StatusCode::FORBIDDEN, json!({ "error": error }))
    };
    let mut response = http::Response::new(Body::new(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// All but who asks for it.
fn describe(host: &Host, asker: &Caller) -> Value {
    let (svid, trust) = (host.enrolled.identity.svid(), host.enrolled.identity.trust());
    let workloads =
        host.workloads.all().into_iter().map(|(id, state, users)| workload(id.as_str(), &state, users));
    let callers = host.counts.callers();
    let others = callers.iter().filter(|known| !std::ptr::eq(Arc::as_ptr(known), asker));
    json!({
        "identity": {
            "id": svid.id().as_str(),
            "expiresAt": timestamp(svid.not_after()),
            "serial": svid.serial(),
            "root": trust.root_of(svid.chain()),
            "renewal": renewal(&host.enrolled.identity.renewal()),
        },
        "trust": {
            "trustDomain": trust.own().trust_domain(),
            "roots": trust.own().fingerprints(),
            "federated": trust.federated().map(Bundle::trust_domain).collect::<Vec<_>>(),
        },
        "registrations": host.registrations.borrow().as_ref().map(|registrations| registrations.len()),
        "workloads": workloads.collect::<Vec<_>>(),
        "callers": others.map(|known| one(host, known)).collect::<Vec<_>>(),
    })
}

/// How renewing the agent's own certificate goes.
fn renewal(renewal: &Renewal) -> Value {
    let failure = renewal.failure.as_ref();
    json!({
        "due": renewal.due.and_then(timestamp),
        "last": renewal.last.and_then(timestamp),
        "failure": failure.map(|(at, why)| json!({"at": timestamp(*at), "why": why})),
    })
}

fn workload(id: &str, state: &State, users: usize) -> Value {
    match state {
        State::Ready(svid) => json!({
            "id": id, "users": users, "state": "ready",
            "expiresAt": timestamp(svid.not_after()), "serial": svid.serial(),
        }),
        State::Pending => json!({"id": id, "users": users, "state": "pending"}),
        State::Failed(why) => json!({"id": id, "users": users, "state": "failed", "error": &**why}),
    }
}

fn one(host: &Host, caller: &Arc<Caller>) -> Value {
    let identities: Vec<String> = match host.standing(caller) {
        Standing::Somebody(found) => found.iter().map(|registration| registration.id.to_string()).collect(),
        Standing::Unknown | Standing::Nobody(_) => Vec::new(),
    };
    json!({
        "pid": caller.peer.pid,
        "uid": caller.selectors.uid,
        "gid": caller.selectors.gid,
        "executable": caller.selectors.executable.as_deref(),
        "sha256": caller.selectors.sha256.as_deref(),
        "since": timestamp(caller.since),
        "identities": identities,
        "streamsOfUser": host.counts.streams(caller.selectors.uid),
    })
}

fn timestamp(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|time| format!("{time:.0}"))
}

/// Asks the agent that answers on a socket what it holds.
///
/// # Errors
/// Nobody answers there, it is no agent, or it says no.
pub async fn fetch(socket: &Path) -> Result<Value, SocketError> {
    let answer = |problem: String| SocketError::Answer { path: socket.to_owned(), problem };
    let nobody = |source| SocketError::Nobody { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(nobody)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| answer(error.to_string()))?;
    let request = Request::get(PATH).header(header::HOST, "agent").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| answer(error.to_string()))?;
    // It ends when the answer has been read.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| answer(error.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|error| answer(error.to_string()))?.to_bytes();
    let value: Value = serde_json::from_slice(&body).map_err(|error| answer(error.to_string()))?;
    match value.get("error").and_then(Value::as_str) {
        None if status.is_success() => Ok(value),
        said => Err(answer(said.map_or_else(|| status.to_string(), str::to_owned))),
    }
}
