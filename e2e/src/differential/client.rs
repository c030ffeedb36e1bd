//! The client: sends what a step says and tells what came back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio_rustls::rustls::pki_types::ServerName;

use super::certs::Certs;
use super::origin::{header_map, pairs, read_http2};
use super::step::{Fields, TlsClient};
use super::wire::{Body, Head, Stream, Wire, body_value, bytes_of, fields_value};
use super::{protobuf, tls};

/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that steps share, by name.
pub(super) type Connections = BTreeMap<String, Connection>;

/// A connection to a program.
pub(super) struct Connection {
    kind: Kind,
    tls: Option<Value>,
}

enum Kind {
    Wire(Wire),
    Http2(h2::client::SendRequest<Bytes>),
}

/// Does a step once and tells what came of it: `answer`, or `error`.
pub(super) async fn perform(
    step: &Fields,
    address: SocketAddr,
    certs: &Arc<Certs>,
    connections: &mut Connections,
) -> Value {
    let shared = step.connection.as_ref().and_then(|name| connections.remove(name));
    let work = async {
        let mut connection = match shared {
            Some(connection) => connection,
            None => Connection::open(step, address, certs).await?,
        };
        let mut outcome = connection.exchange(step).await?;
        if let Some(tls) = &connection.tls {
            outcome["tls"] = tls.clone();
        }
        Ok::<_, io::Error>((connection, outcome))
    };
    let patience = if step.gives_up.is_zero() { PATIENCE } else { step.gives_up };
    match tokio::time::timeout(patience, work).await {
        Ok(Ok((connection, outcome))) => {
            if let Some(name) = &step.connection {
                connections.insert(name.clone(), connection);
            }
            outcome
        }
        // Raw bytes: a connection may be reset before it is of use.
        Ok(Err(error)) if step.tcp.is_some() && named(&error) == "closed" => json!({ "bytes": "" }),
        Ok(Err(error)) => json!({ "error": named(&error) }),
        Err(_) => json!({ "error": "no answer in time" }),
    }
}

/// An error as both programs are to have it. Whether a closed connection shows as its end or as a reset is a race.
fn named(error: &io::Error) -> String {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof => {
            "closed".to_owned()
        }
        io::ErrorKind::InvalidData => "handshake failed".to_owned(),
        _ => error.to_string(),
    }
}

impl Connection {
    async fn open(step: &Fields, address: SocketAddr, certs: &Arc<Certs>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = &step.from {
            let ip = from.parse().map_err(io::Error::other)?;
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        let mut stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&bytes_of(&step.prefix)).await?;
        stream.write_all(&unhex(&step.prefix_hex)).await?;
        let (stream, tls): (Box<dyn Stream>, _) = match &step.tls {
            Some(tls) => secured(stream, tls, certs).await?,
            None => (Box::new(stream), None),
        };
        if step.http == 2 {
            let (send, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
            tokio::spawn(async move {
                // Its end shows in the streams.
                let _ = connection.await;
            });
            return Ok(Self { kind: Kind::Http2(send), tls });
        }
        Ok(Self { kind: Kind::Wire(Wire::new(stream)), tls })
    }

    async fn exchange(&mut self, step: &Fields) -> io::Result<Value> {
        match &mut self.kind {
            Kind::Http2(send) => http2(step, send).await,
            Kind::Wire(wire) if step.tcp.is_some() => raw(step, wire).await,
            Kind::Wire(wire) => http1(step, wire).await,
        }
    }
}

async fn secured(
    stream: tokio::net::TcpStream,
    step: &TlsClient,
    certs: &Arc<Certs>,
) -> io::Result<(Box<dyn Stream>, Option<Value>)> {
    let name = step.sni.clone().unwrap_or_else(|| "unnamed.test".to_owned());
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = tls::connector(step, certs).connect(name, stream).await?;
    let session = stream.get_ref().1;
    let facts = json!({
        "certificate": certs.name_of(session.peer_certificates()),
        "alpn": session.alpn_protocol().map(String::from_utf8_lossy),
        "version": session.protocol_version().map(|version| format!("{version:?}")),
    });
    Ok((Box::new(stream), Some(facts)))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).unwrap_or_default();
    digits.chunks(2).map(byte).collect()
}

/// Raw bytes. Whether a connection that the program closes ends or is reset is a race, so it is not told.
async fn raw(step: &Fields, wire: &mut Wire) -> io::Result<Value> {
    // The peer may have closed already.
    let _ = wire.stream.write_all(&bytes_of(step.tcp.as_deref().unwrap_or_default())).await;
    let _ = wire.stream.flush().await;
    let mut body = Body::default();
    if let Some(reads) = step.reads {
        let _ = wire.at_least(reads).await;
        body.data = wire.ahead.split().to_vec();
    } else {
        let _ = wire.stream.shutdown().await;
        let _ = wire.read_to_end(&mut body).await;
    }
    Ok(json!({ "bytes": body_value(&body.data) }))
}

/// A step's method and target.
pub(super) fn target(step: &Fields) -> (String, String) {
    let default = if step.body.is_some() || step.body_bytes.is_some() { "POST" } else { "GET" };
    match (&step.grpc, &step.request) {
        (Some(grpc), _) => ("POST".to_owned(), grpc.method.clone()),
        (None, Some(line)) => {
            let (method, path) = line.split_once(' ').unwrap_or((default, line));
            (method.to_owned(), path.to_owned())
        }
        (None, None) => (default.to_owned(), "/".to_owned()),
    }
}

fn body_of(step: &Fields) -> Option<Vec<u8>> {
    if let Some(grpc) = &step.grpc {
        let input = protobuf::method(&grpc.method).map(|method| method.input());
        return Some(protobuf::frame(input, &grpc.message));
    }
    step.body_bytes.map(|bytes| vec![b'b'; bytes]).or_else(|| step.body.clone().map(String::into_bytes))
}

fn host(step: &Fields) -> &str {
    step.host.as_deref().unwrap_or("shop.example")
}

/// The bytes of an HTTP/1.1 request.
fn request_bytes(step: &Fields) -> Vec<u8> {
    if let Some(raw) = &step.raw {
        return bytes_of(raw);
    }
    let (method, path) = target(step);
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !host(step).is_empty() {
        let _ = write!(head, "host: {}\r\n", host(step));
    }
    for (name, value) in &step.headers.0 {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let body = body_of(step);
    let chunked = step.chunked || !step.trailers.0.is_empty();
    if chunked {
        head.push_str("transfer-encoding: chunked\r\n");
    } else if let Some(body) = &body {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    let mut bytes = bytes_of(&head);
    bytes.extend_from_slice(b"\r\n");
    let body = body.unwrap_or_default();
    if chunked {
        if !body.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in &step.trailers.0 {
            bytes.extend_from_slice(&bytes_of(&format!("{name}: {value}\r\n")));
        }
        bytes.extend_from_slice(b"\r\n");
    } else {
        bytes.extend_from_slice(&body);
    }
    bytes
}

async fn http1(step: &Fields, wire: &mut Wire) -> io::Result<Value> {
    let bytes = request_bytes(step);
    // A program that refuses early may close while the rest is written; its answer counts.
    let _ = wire.stream.write_all(&bytes).await;
    let _ = wire.stream.flush().await;
    let mut answers = Vec::new();
    for _ in 0..step.answers {
        let is_head = bytes.starts_with(b"HEAD ");
        answers.push(answer(wire, is_head, bytes.starts_with(b"CONNECT ")).await?);
    }
    let mut outcome = match answers.len() {
        1 => json!({ "answer": answers.remove(0) }),
        _ => json!({ "answers": answers }),
    };
    if let Some(sends) = &step.then_sends {
        wire.stream.write_all(&bytes_of(sends)).await?;
        wire.at_least(step.reads.unwrap_or(sends.len())).await?;
        outcome["tunnel"] = body_value(&wire.ahead.split());
    }
    if step.then_closed {
        let mut rest = Body::default();
        let ended = tokio::time::timeout(Duration::from_secs(5), wire.read_to_end(&mut rest)).await;
        outcome["then"] = json!(if ended.is_ok() { "closed" } else { "open" });
        outcome["rest"] = body_value(&rest.data);
    }
    Ok(outcome)
}

async fn answer(wire: &mut Wire, is_head: bool, is_connect: bool) -> io::Result<Value> {
    let mut interim = Vec::new();
    loop {
        let head = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status: u16 = head.line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        if matches!(status, 100..=199) && status != 101 {
            interim.push(status);
            continue;
        }
        let is_head = is_head || is_connect && status == 200;
        let body = wire.answer_body(&head, status, is_head).await;
        let mut value = answer_value(status, &head, &body);
        value["version"] = json!(head.line.split(' ').next());
        if !interim.is_empty() {
            value["interim"] = json!(interim);
        }
        return Ok(value);
    }
}

fn answer_value(status: u16, head: &Head, body: &Body) -> Value {
    let mut value = json!({
        "status": status, "headers": fields_value(&head.fields), "body": body_value(&body.data),
    });
    if !body.trailers.is_empty() {
        value["trailers"] = fields_value(&body.trailers);
    }
    if !body.complete {
        value["incomplete"] = json!(true);
    }
    value
}

async fn http2(step: &Fields, send: &mut h2::client::SendRequest<Bytes>) -> io::Result<Value> {
    let ready = send.clone().ready().await;
    let mut send = match ready {
        Ok(send) => send,
        Err(error) => return Ok(json!({ "error": h2_name(&error) })),
    };
    let (method, path) = target(step);
    let scheme = if step.tls.is_some() { "https" } else { "http" };
    let uri = http::Uri::builder().scheme(scheme).authority(host(step)).path_and_query(path);
    let uri =
        if method == "CONNECT" { http::Uri::try_from(host(step)) } else { Ok(uri.build().expect("a URI")) };
    let mut request = http::Request::builder().method(method.as_str()).uri(uri.expect("a URI"));
    for (name, value) in &step.headers.0 {
        request = request.header(name, value);
    }
    if step.grpc.is_some() {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let request = request.version(http::Version::HTTP_2).body(()).expect("a request");
    let body = body_of(step);
    let trailers = &step.trailers.0;
    let ends = body.is_none() && trailers.is_empty();
    let (response, mut sending) = match send.send_request(request, ends) {
        Ok(sent) => sent,
        Err(error) => return Ok(json!({ "error": h2_name(&error) })),
    };
    if !ends {
        // A program that refuses early resets the stream; its answer counts.
        let _ = sending.send_data(body.unwrap_or_default().into(), trailers.is_empty());
        if !trailers.is_empty() {
            let _ = sending.send_trailers(header_map(trailers));
        }
    }
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return Ok(json!({ "error": h2_name(&error) })),
    };
    let (parts, mut incoming) = response.into_parts();
    let body = read_http2(&mut incoming).await;
    let head = Head { line: String::new(), fields: pairs(&parts.headers) };
    let mut value = answer_value(parts.status.as_u16(), &head, &body);
    if step.grpc.is_some() {
        let output = protobuf::method(&target(step).1).map(|method| method.output());
        if let Some(messages) = protobuf::unframe(output.as_ref(), &body.data) {
            value["body"] = messages;
        }
    }
    Ok(json!({ "answer": value }))
}

fn h2_name(error: &h2::Error) -> String {
    if error.is_io() {
        return "closed".to_owned();
    }
    let what = if error.is_go_away() { "connection" } else { "stream" };
    format!("{what} reset: {:?}", error.reason())
}
