//! The server: says in JSON what reached it, or does what the request's own fields ask of it.
//!
//! | field | what it does |
//! |---|---|
//! | `x-echo-status: 503` | answers with this status; over gRPC, with this status of gRPC's |
//! | `x-echo-every: 2` | …but only the first of each so many that ask for it here |
//! | `x-echo-delay: 500` | waits so many milliseconds first |
//! | `x-echo-set-header: a:1,b:2` | sets fields of the answer |
//! | `x-echo-tag: x` | is counted under this name |
//!
//! The path `/flap/500` is answered 200 for so many milliseconds, then 503 for as long, and so on: a probe's prey.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wire;

/// The most names that are counted.
const MAX_TAGS: usize = 10_000;

/// How HTTP/2 with prior knowledge begins. Source: RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Who serves, and what has come so far.
pub(crate) struct State {
    name: String,
    namespace: String,
    tags: Mutex<HashMap<String, u64>>,
    started: Instant,
}

impl State {
    pub(crate) fn new(name: &str, namespace: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            tags: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// How many requests came under a name.
    pub(crate) fn seen(&self, tag: &str) -> u64 {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).get(tag).copied().unwrap_or_default()
    }

    /// Whether this is one of the bad times of a path that flaps.
    fn is_down(&self, path: &str) -> bool {
        let period: Option<u128> = path.strip_prefix("/flap/").and_then(|period| period.parse().ok());
        period.is_some_and(|period| self.started.elapsed().as_millis() / period.max(1) % 2 == 1)
    }

    /// Counts a request and gives its number, from 0.
    fn count(&self, tag: &str) -> u64 {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.len() >= MAX_TAGS && !tags.contains_key(tag) {
            return 0;
        }
        let count = tags.entry(tag.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

/// What reached the server.
struct Seen {
    proto: &'static str,
    method: String,
    path: String,
    host: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.trim().parse().ok()
    }

    fn is_grpc(&self) -> bool {
        self.field("content-type").is_some_and(|t| t.starts_with("application/grpc"))
    }
}

/// What is answered; over gRPC, `status` is gRPC's, and 0 is well.
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
}

async fn answer(state: &State, seen: &Seen) -> Answer {
    if let Some(tag) = seen.field("x-echo-tag") {
        state.count(tag);
    }
    if let Some(delay) = seen.number("x-echo-delay") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let well = if seen.is_grpc() { 0 } else { 200 };
    let asked = seen.number("x-echo-status").and_then(|s| u16::try_from(s).ok());
    let status = asked.filter(|_| {
        let every = seen.number("x-echo-every").unwrap_or(1).max(1);
        state.count("x-echo-every").is_multiple_of(every)
    });
    let status = if state.is_down(&seen.path) { Some(503) } else { status };
    let set = seen.field("x-echo-set-header").unwrap_or_default();
    let pair = |pair: &str| pair.split_once(':').map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()));
    let fields = set.split(',').filter_map(pair).collect();
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &seen.fields {
        headers.entry(name).or_default().push(value);
    }
    let body = json!({
        "pod": state.name, "namespace": state.namespace, "proto": seen.proto, "method": seen.method,
        "path": seen.path, "host": seen.host, "headers": headers,
        "body": String::from_utf8_lossy(&seen.body),
    });
    Answer { status: status.unwrap_or(well), fields, body: body.to_string() }
}

/// Serves for ever.
///
/// # Errors
/// A listener is none of this runtime's.
pub(crate) async fn serve(listeners: Vec<TcpListener>, state: Arc<State>) -> std::io::Result<()> {
    for listener in listeners {
        tokio::spawn(accept(tokio::net::TcpListener::from_std(listener)?, Arc::clone(&state)));
    }
    std::future::pending().await
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<State>) {
    loop {
        // A connection that is gone before it is accepted, and what ends one early, show at the client.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, Arc::clone(&state)));
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut start = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut start).await?;
        if seen == start.len() || !PREFACE.starts_with(&start[..seen]) || seen == 0 {
            break;
        }
        stream.readable().await?;
        tokio::task::yield_now().await;
    }
    if start == PREFACE { http2(stream, state).await } else { http1(stream, &state).await }
}

async fn http1(mut stream: TcpStream, state: &State) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    while let Some(message) = wire::read(&mut stream, &mut buffer, |_| true).await? {
        let mut words = message.start.split(' ').map(str::to_owned);
        let seen = Seen {
            proto: "HTTP/1.1",
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            host: message.field("host").unwrap_or_default().to_owned(),
            fields: message.fields,
            body: message.body,
        };
        let answer = answer(state, &seen).await;
        let mut head = format!("HTTP/1.1 {} Echo\r\ncontent-type: application/json\r\n", answer.status);
        for (name, value) in &answer.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let bodyless = matches!(answer.status, 204 | 304);
        if !bodyless {
            let _ = write!(head, "content-length: {}\r\n", answer.body.len());
        }
        head.push_str("\r\n");
        if !bodyless && seen.method != "HEAD" {
            head.push_str(&answer.body);
        }
        stream.write_all(head.as_bytes()).await?;
        if seen.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

async fn http2(stream: TcpStream, state: Arc<State>) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        // What ends a stream early shows at the client.
        tokio::spawn(stream2(request, respond, Arc::clone(&state)));
    }
    Ok(())
}

async fn stream2(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: Arc<State>,
) -> anyhow::Result<()> {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data?;
        incoming.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut seen = Seen {
        proto: "HTTP/2",
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        host: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        fields: head.headers.iter().map(field).collect(),
        body,
    };
    if seen.is_grpc() {
        seen.body = wire::unframe(&seen.body).to_vec();
    }
    let answer = answer(&state, &seen).await;
    if seen.is_grpc() { grpc(&answer, &mut respond) } else { plain(&answer, &mut respond) }
}

fn plain(answer: &Answer, respond: &mut SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut response = Response::builder().status(answer.status).header("content-type", "application/json");
    for (name, value) in &answer.fields {
        response = response.header(name, value);
    }
    respond.send_response(response.body(())?, false)?.send_data(answer.body.clone().into(), true)?;
    Ok(())
}

/// Source: gRPC over HTTP/2, "Responses": one without a message is trailers alone.
fn grpc(answer: &Answer, respond: &mut SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut response = Response::builder().status(200).header("content-type", "application/grpc");
    for (name, value) in &answer.fields {
        response = response.header(name, value);
    }
    if answer.status != 0 {
        let response = response.header("grpc-status", answer.status).header("grpc-message", "as asked");
        respond.send_response(response.body(())?, true)?;
        return Ok(());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut send = respond.send_response(response.body(())?, false)?;
    send.send_data(wire::frame(answer.body.as_bytes()), false)?;
    send.send_trailers(trailers)?;
    Ok(())
}

/// A count of requests as a task's answer.
pub(crate) fn counted(state: &State, tag: &str) -> Value {
    json!({ "seen": state.seen(tag) })
}
