//! The client: sends the requests of a task, and says what came of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::server::{self, State};
use crate::wire;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(40);

/// How many answers are told in full.
const MAX_ANSWERS: usize = 20;

/// The method that is called where gRPC's path is not given.
const GRPC_METHOD: &str = "/meshwork.test.Echo/Call";

/// One line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Task {
    /// Whom to call: `name` or `name:port`.
    #[serde(default)]
    host: String,
    /// Whether the name is looked up first, and the address called in its place.
    #[serde(default)]
    by_address: bool,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    path: Option<String>,
    /// Further fields; `Host` in place of the host that is called.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    protocol: Protocol,
    /// How often; once where it is left out.
    #[serde(default)]
    count: Option<u64>,
    /// For how many milliseconds, in place of `count`.
    #[serde(default)]
    for_ms: Option<u64>,
    /// Between two requests.
    #[serde(default)]
    gap_ms: u64,
    /// Asks for nothing but how many requests came here under a name.
    #[serde(default)]
    seen: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Http,
    H2c,
    Grpc,
}

/// What came of one request.
#[derive(Default, Serialize)]
struct Answer {
    /// Of HTTP; 0 where none came.
    status: u16,
    /// Of gRPC.
    grpc: Option<i64>,
    headers: BTreeMap<String, Vec<String>>,
    /// What the echo says; null where somebody else answered.
    echo: Value,
    body: String,
    error: Option<String>,
    took_ms: u64,
}

/// Does what a task says.
pub(crate) async fn perform(task: Task, state: &State) -> Value {
    if let Some(tag) = &task.seen {
        return server::counted(state, tag);
    }
    let start = Instant::now();
    let length = task.for_ms.map(Duration::from_millis);
    let count = if length.is_some() { u64::MAX } else { task.count.unwrap_or(1) };
    let mut told = Vec::new();
    let (mut pods, mut statuses) = (HashMap::<String, u64>::new(), HashMap::<String, u64>::new());
    for _ in 0..count {
        if length.is_some_and(|length| start.elapsed() >= length) {
            break;
        }
        let answer = exchange(&task).await;
        let status = match (&answer.error, answer.grpc) {
            (Some(_), _) => "error".to_owned(),
            (None, Some(grpc)) => format!("grpc {grpc}"),
            (None, None) => answer.status.to_string(),
        };
        *statuses.entry(status).or_default() += 1;
        if let Some(pod) = answer.echo["pod"].as_str() {
            *pods.entry(pod.to_owned()).or_default() += 1;
        }
        if told.len() < MAX_ANSWERS {
            told.push(answer);
        }
        tokio::time::sleep(Duration::from_millis(task.gap_ms)).await;
    }
    json!({ "answers": told, "pods": pods, "statuses": statuses })
}

async fn exchange(task: &Task) -> Answer {
    let start = Instant::now();
    let answer = tokio::time::timeout(DEADLINE, attempt(task)).await;
    let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {DEADLINE:?}")));
    let mut answer = answer.unwrap_or_else(|e| Answer { error: Some(format!("{e:#}")), ..Answer::default() });
    answer.took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    answer.echo = serde_json::from_str(&answer.body).unwrap_or_default();
    answer
}

async fn attempt(task: &Task) -> anyhow::Result<Answer> {
    let (name, port) = match task.host.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().context("the port")?),
        None => (task.host.as_str(), 80),
    };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((name, port)).await.context("the name")?.collect();
    let address = found.iter().find(|a| a.is_ipv4()).or(found.first()).context("the name has no address")?;
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let asked = task.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = match asked {
        Some((_, host)) => host.clone(),
        None if task.by_address => address.to_string(),
        None => task.host.clone(),
    };
    match task.protocol {
        Protocol::Http => http1(task, &host, stream).await,
        Protocol::H2c | Protocol::Grpc => http2(task, &host, stream).await,
    }
}

fn fields(task: &Task) -> impl Iterator<Item = (&String, &String)> {
    task.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
}

async fn http1(task: &Task, host: &str, mut stream: TcpStream) -> anyhow::Result<Answer> {
    let method = task.method.as_deref().unwrap_or("GET");
    let path = task.path.as_deref().unwrap_or("/");
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in fields(task) {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    if !task.body.is_empty() {
        let _ = write!(request, "Content-Length: {}\r\n", task.body.len());
    }
    let _ = write!(request, "\r\n{}", task.body);
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = Vec::new();
    let bodyless = |start: &str| {
        let status = start.split(' ').nth(1).unwrap_or_default();
        method != "HEAD" && !matches!(status, "204" | "304")
    };
    let message = wire::read(&mut stream, &mut buffer, bodyless).await?.context("no answer")?;
    let status = message.start.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let mut answer =
        Answer { status, body: String::from_utf8_lossy(&message.body).into(), ..Answer::default() };
    for (name, value) in message.fields {
        answer.headers.entry(name).or_default().push(value);
    }
    Ok(answer)
}

async fn http2(task: &Task, host: &str, stream: TcpStream) -> anyhow::Result<Answer> {
    let is_grpc = task.protocol == Protocol::Grpc;
    let (client, connection) = h2::client::handshake(stream).await?;
    let driven = tokio::spawn(connection);
    let path = task.path.as_deref().unwrap_or(if is_grpc { GRPC_METHOD } else { "/" });
    let method = task.method.as_deref().unwrap_or(if is_grpc { "POST" } else { "GET" });
    let mut request = Request::builder().method(method).uri(format!("http://{host}{path}"));
    if is_grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    for (name, value) in fields(task) {
        request = request.header(name, value);
    }
    let body = if is_grpc { wire::frame(task.body.as_bytes()) } else { Bytes::from(task.body.clone()) };
    let mut client = client.ready().await?;
    let (response, mut send) = client.send_request(request.body(())?, body.is_empty())?;
    if !body.is_empty() {
        send.send_data(body, true)?;
    }
    let (head, mut incoming) = response.await?.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), ..Answer::default() };
    note(&mut answer, &head.headers);
    let mut body = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data?;
        incoming.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    if let Some(trailers) = incoming.trailers().await? {
        note(&mut answer, &trailers);
    }
    let body = if is_grpc { wire::unframe(&body) } else { &body };
    answer.body = String::from_utf8_lossy(body).into();
    if is_grpc {
        let status = answer.headers.get("grpc-status").and_then(|v| v.first()?.parse().ok());
        answer.grpc = Some(status.context("no status of gRPC's")?);
    }
    driven.abort();
    Ok(answer)
}

fn note(answer: &mut Answer, fields: &HeaderMap) {
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        answer.headers.entry(name.as_str().to_owned()).or_default().push(value);
    }
}
