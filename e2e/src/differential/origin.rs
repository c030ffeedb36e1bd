//! Origins that record what reaches them and answer as the case says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Origin, When};
use super::certs::Certs;
use super::template::address_of;
use super::wire::{Body, Head, Stream, Wire, body_value, bytes_of, fields_value};
use super::{protobuf, tls};
use crate::ports;

/// The connection preface of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A running origin.
pub(super) struct Running {
    pub(super) port: u16,
    pub(super) address: String,
    record: Arc<Record>,
}

struct Record {
    name: String,
    origin: Origin,
    certs: Arc<Certs>,
    acceptor: Option<TlsAcceptor>,
    seen: Mutex<Vec<Value>>,
    /// How often each answer was given.
    given: Mutex<Vec<usize>>,
}

impl Running {
    /// Starts it.
    pub(super) async fn start(name: &str, origin: &Origin, certs: &Arc<Certs>) -> Self {
        let record = Arc::new(Record {
            name: name.to_owned(),
            origin: origin.clone(),
            acceptor: origin.tls.as_ref().map(|tls| tls::acceptor(tls, certs)),
            certs: Arc::clone(certs),
            seen: Mutex::new(Vec::new()),
            given: Mutex::new(vec![0; origin.answers.len()]),
        });
        let address = address_of(origin);
        let port = if origin.closed {
            ports::free()
        } else {
            let listener = TcpListener::bind((address.as_str(), 0)).await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            tokio::spawn(accept(listener, Arc::clone(&record)));
            port
        };
        Self { port, address, record }
    }

    /// What came since the last call.
    pub(super) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut lock(&self.record.seen))
    }

    /// How much came since the last [`Running::take`].
    pub(super) fn count(&self) -> usize {
        lock(&self.record.seen).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, record: Arc<Record>) {
    while let Ok((stream, _)) = listener.accept().await {
        let record = Arc::clone(&record);
        tokio::spawn(async move {
            // What a peer does to its connection is not this side's failure.
            let _ = serve(stream, &record).await;
        });
    }
}

/// What is known of a connection before its first request, recorded with each.
#[derive(Clone, Default)]
struct Facts {
    proxy: Option<Value>,
    tls: Option<Value>,
}

async fn serve(stream: TcpStream, record: &Arc<Record>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut facts = Facts::default();
    let mut wire = Wire::new(Box::new(stream));
    if record.origin.proxy_protocol {
        facts.proxy = Some(proxy_header(&mut wire).await?);
    }
    if let Some(acceptor) = &record.acceptor {
        wire = secured(wire, acceptor, record, &mut facts).await?;
    }
    if let Some(tcp) = &record.origin.tcp {
        return raw(wire, tcp, record, &facts).await;
    }
    wire.at_least(PREFACE.len().min(4)).await?;
    if wire.ahead.starts_with(&PREFACE[..4]) {
        http2(wire, record, &facts).await
    } else {
        http1(wire, record, &facts).await
    }
}

async fn secured(wire: Wire, acceptor: &TlsAcceptor, record: &Record, facts: &mut Facts) -> io::Result<Wire> {
    let stream = match acceptor.accept(wire.rejoined()).await {
        Ok(stream) => stream,
        Err(error) => {
            lock(&record.seen).push(json!({ "handshake": "failed" }));
            return Err(error);
        }
    };
    let session = stream.get_ref().1;
    facts.tls = Some(json!({
        "sni": session.server_name(),
        "alpn": session.alpn_protocol().map(String::from_utf8_lossy),
        "client": record.certs.name_of(session.peer_certificates()),
        "version": session.protocol_version().map(|version| format!("{version:?}")),
    }));
    Ok(Wire::new(Box::new(stream)))
}

/// Reads a PROXY-protocol header; ports of clients differ from run to run and are left out.
async fn proxy_header(wire: &mut Wire) -> io::Result<Value> {
    wire.at_least(16).await?;
    if wire.ahead.starts_with(b"PROXY ") {
        while !wire.ahead.contains(&b'\n') && wire.more().await? {}
        let end = wire.ahead.iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::UnexpectedEof)?;
        let line = String::from_utf8_lossy(&wire.ahead.split_to(end + 1)).into_owned();
        let parts: Vec<&str> = line.split_whitespace().collect();
        return Ok(json!({ "version": 1, "parts": parts.get(..4).unwrap_or(&parts) }));
    }
    let head = wire.ahead.split_to(16);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    wire.at_least(length).await?;
    let rest = wire.ahead.split_to(length.min(wire.ahead.len()));
    let addresses = if head[13] >> 4 == 2 { 32 } else { 8 };
    let addresses = rest.get(..addresses).unwrap_or_default();
    let extensions = rest.get(addresses.len() + 4..).unwrap_or_default();
    Ok(json!({
        "version": 2, "command": head[12], "family": head[13], "addresses": addresses, "extensions": extensions,
    }))
}

async fn raw(mut wire: Wire, tcp: &super::answer::Tcp, record: &Record, facts: &Facts) -> io::Result<()> {
    wire.stream.write_all(&bytes_of(&tcp.greets)).await?;
    let mut body = Body::default();
    if tcp.echo {
        while wire.more().await? {
            let bytes = wire.ahead.split();
            body.data.extend_from_slice(&bytes);
            wire.stream.write_all(&bytes).await?;
        }
    } else if let Some(reads) = tcp.reads {
        wire.at_least(reads).await?;
        body.data = wire.ahead.split().to_vec();
    } else {
        // A reset ends it as well.
        let _ = wire.read_to_end(&mut body).await;
    }
    lock(&record.seen).push(described(facts, json!({ "bytes": body_value(&body.data) })));
    wire.stream.write_all(&bytes_of(&tcp.answers)).await?;
    if tcp.stays {
        let _ = wire.read_to_end(&mut body).await;
    }
    wire.stream.shutdown().await
}

fn described(facts: &Facts, mut value: Value) -> Value {
    for (name, fact) in [("tls", &facts.tls), ("proxy", &facts.proxy)] {
        if let Some(fact) = fact {
            value[name] = fact.clone();
        }
    }
    value
}

impl Record {
    fn saw(&self, facts: &Facts, head: &Head, body: &Body) {
        let mut value = json!({ "line": head.line, "headers": fields_value(&head.fields) });
        let path = head.line.split(' ').nth(1).unwrap_or_default();
        let is_grpc = head.field("content-type").is_some_and(|v| v.starts_with("application/grpc"));
        let input = protobuf::method(path).map(|method| method.input());
        let message = if is_grpc { protobuf::unframe(input.as_ref(), &body.data) } else { None };
        value["body"] = message.unwrap_or_else(|| body_value(&body.data));
        if !body.trailers.is_empty() {
            value["trailers"] = fields_value(&body.trailers);
        }
        if !body.complete {
            value["incomplete"] = json!(true);
        }
        lock(&self.seen).push(described(facts, value));
    }

    /// The answer that is due to a request.
    fn answer(&self, head: &Head) -> Answer {
        let mut given = lock(&self.given);
        let fitting = |(_, answer): &(usize, &Answer)| answer.when.as_ref().is_none_or(|w| fits(w, head));
        let fitting: Vec<(usize, &Answer)> = self.origin.answers.iter().enumerate().filter(fitting).collect();
        let due = fitting.iter().find(|(index, answer)| answer.times.is_none_or(|most| given[*index] < most));
        let Some((index, answer)) = due.or(fitting.last()) else { return Answer::default() };
        given[*index] += 1;
        (*answer).clone()
    }

    /// The answer's fields.
    fn fields(&self, answer: &Answer) -> Vec<(String, String)> {
        let mut fields = answer.headers.0.clone();
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-origin")) {
            fields.push(("x-origin".to_owned(), self.name.clone()));
        }
        fields
    }

    fn body(answer: &Answer, request: &Body, path: &str) -> Vec<u8> {
        if let Some(message) = &answer.grpc {
            let output = protobuf::method(path).map(|method| method.output());
            return if message.is_null() { Vec::new() } else { protobuf::frame(output, message) };
        }
        match answer.body_bytes {
            _ if answer.echo => request.data.clone(),
            Some(bytes) => vec![b'x'; bytes],
            None => answer.body.clone().into_bytes(),
        }
    }
}

fn fits(when: &When, head: &Head) -> bool {
    let mut parts = head.line.split(' ');
    let method = parts.next().unwrap_or_default();
    let path = parts.next().unwrap_or_default();
    when.method.as_ref().is_none_or(|wanted| wanted == method)
        && when.path.as_ref().is_none_or(|wanted| path.starts_with(wanted.as_str()))
        && when.header.as_ref().is_none_or(|wanted| {
            let (name, value) = wanted.split_once(": ").unwrap_or((wanted, ""));
            head.field(name) == Some(value)
        })
}

async fn http1(mut wire: Wire, record: &Record, facts: &Facts) -> io::Result<()> {
    while let Some(head) = wire.head().await? {
        if head.field("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = wire.request_body(&head).await;
        record.saw(facts, &head, &body);
        if !body.complete {
            return Ok(());
        }
        let answer = record.answer(&head);
        tokio::time::sleep(answer.delay).await;
        if answer.reset.is_some() {
            return Ok(());
        }
        write(&mut wire, record, &answer, &head, &body).await?;
        if answer.status == 101 || head.line.starts_with("CONNECT ") && answer.status == 200 {
            return tunnel(wire).await;
        }
        let closes = head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if answer.close || answer.cut || closes {
            return wire.stream.shutdown().await;
        }
    }
    Ok(())
}

/// Sends everything back.
async fn tunnel(mut wire: Wire) -> io::Result<()> {
    loop {
        let bytes = wire.ahead.split();
        wire.stream.write_all(&bytes).await?;
        if !wire.more().await? {
            return wire.stream.shutdown().await;
        }
    }
}

async fn write(
    wire: &mut Wire,
    record: &Record,
    answer: &Answer,
    head: &Head,
    request: &Body,
) -> io::Result<()> {
    if let Some(raw) = &answer.raw {
        return wire.stream.write_all(&bytes_of(raw)).await;
    }
    let path = head.line.split(' ').nth(1).unwrap_or_default();
    let body = Record::body(answer, request, path);
    let mut text = String::new();
    for status in &answer.interim {
        let _ = write!(text, "HTTP/1.1 {status} Interim\r\nx-interim: yes\r\n\r\n");
    }
    let _ = write!(text, "HTTP/1.1 {} Answer\r\n", answer.status);
    let fields = record.fields(answer);
    for (name, value) in &fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let has_body = !matches!(answer.status, 100..=199 | 204 | 304) && !head.line.starts_with("CONNECT ");
    let chunked = !answer.trailers.0.is_empty();
    let said = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if chunked {
        text.push_str("transfer-encoding: chunked\r\n");
    } else if has_body && !said {
        let _ = write!(text, "content-length: {}\r\n", body.len());
    }
    text.push_str("\r\n");
    wire.stream.write_all(text.as_bytes()).await?;
    wire.stream.flush().await?;
    tokio::time::sleep(answer.pause).await;
    if !has_body || head.line.starts_with("HEAD ") {
        return Ok(());
    }
    let sent = if answer.cut { &body[..body.len() / 2] } else { &body[..] };
    if chunked {
        let mut framed = format!("{:x}\r\n", sent.len()).into_bytes();
        framed.extend_from_slice(sent);
        framed.extend_from_slice(b"\r\n0\r\n");
        for (name, value) in &answer.trailers.0 {
            framed.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        framed.extend_from_slice(b"\r\n");
        wire.stream.write_all(&framed).await?;
    } else {
        wire.stream.write_all(sent).await?;
    }
    wire.stream.flush().await
}

async fn http2(wire: Wire, record: &Arc<Record>, facts: &Facts) -> io::Result<()> {
    let mut connection = h2::server::handshake(wire.rejoined()).await.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let (record, facts) = (Arc::clone(record), facts.clone());
        tokio::spawn(async move {
            // The peer may have reset the stream.
            let _ = stream(request, respond, &record, &facts).await;
        });
    }
    Ok(())
}

async fn stream(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: &Record,
    facts: &Facts,
) -> Result<(), h2::Error> {
    let (parts, mut incoming) = request.into_parts();
    let head = head_of(&parts);
    let body = read_http2(&mut incoming).await;
    record.saw(facts, &head, &body);
    let answer = record.answer(&head);
    tokio::time::sleep(answer.delay).await;
    if let Some(code) = &answer.reset {
        respond.send_reset(reason(code));
        return Ok(());
    }
    let mut response = http::Response::builder().status(answer.status);
    for (name, value) in record.fields(&answer) {
        response = response.header(name, value);
    }
    let is_grpc = answer.grpc.is_some() || answer.grpc_status.is_some();
    if is_grpc {
        response = response.header("content-type", "application/grpc");
    }
    let data = Record::body(&answer, &body, parts.uri.path());
    let response = response.body(()).expect("a response");
    let mut trailers = answer.trailers.0.clone();
    if is_grpc {
        let status = answer.grpc_status.unwrap_or(0);
        trailers.push(("grpc-status".to_owned(), status.to_string()));
    }
    let mut sending = respond.send_response(response, false)?;
    tokio::time::sleep(answer.pause).await;
    if answer.cut {
        sending.send_data(Bytes::from(data[..data.len() / 2].to_vec()), false)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        sending.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    sending.send_data(data.into(), trailers.is_empty())?;
    if !trailers.is_empty() {
        sending.send_trailers(header_map(&trailers))?;
    }
    Ok(())
}

fn head_of(parts: &http::request::Parts) -> Head {
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let mut fields = Vec::new();
    for (name, value) in [
        (":authority", parts.uri.authority().map(http::uri::Authority::as_str)),
        (":scheme", parts.uri.scheme_str()),
    ] {
        fields.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    fields.extend(pairs(&parts.headers));
    Head { line: format!("{} {path} HTTP/2", parts.method), fields }
}

/// A stream's body, as far as it came.
pub(super) async fn read_http2(incoming: &mut h2::RecvStream) -> Body {
    let mut body = Body::default();
    while let Some(data) = incoming.data().await {
        let Ok(data) = data else { return body };
        // A stream that has ended needs no more room.
        let _ = incoming.flow_control().release_capacity(data.len());
        body.data.extend_from_slice(&data);
    }
    match incoming.trailers().await {
        Ok(trailers) => {
            body.trailers = trailers.as_ref().map(pairs).unwrap_or_default();
            body.complete = true;
        }
        Err(_) => body.complete = false,
    }
    body
}

/// Fields as pairs.
pub(super) fn pairs(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| value.as_bytes().iter().map(|b| char::from(*b)).collect();
    fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Pairs as fields.
pub(super) fn header_map(pairs: &[(String, String)]) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in pairs {
        let name: http::HeaderName = name.to_ascii_lowercase().parse().expect("a field's name");
        map.append(name, http::HeaderValue::from_bytes(&bytes_of(value)).expect("a field's value"));
    }
    map
}

fn reason(code: &str) -> h2::Reason {
    match code {
        "REFUSED_STREAM" => h2::Reason::REFUSED_STREAM,
        "CANCEL" => h2::Reason::CANCEL,
        "PROTOCOL_ERROR" => h2::Reason::PROTOCOL_ERROR,
        _ => h2::Reason::INTERNAL_ERROR,
    }
}

/// All origins of a case on one side, by name.
pub(super) type Origins = BTreeMap<String, Running>;

impl Wire {
    /// The connection with what was read ahead in front.
    fn rejoined(self) -> Rejoined {
        Rejoined { ahead: self.ahead, stream: self.stream }
    }
}

struct Rejoined {
    ahead: bytes::BytesMut,
    stream: Box<dyn Stream>,
}

impl tokio::io::AsyncRead for Rejoined {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return std::pin::Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(length));
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Rejoined {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
