//! hyper as a judge: what is accepted here, hyper accepts too, as the same messages with the same ends. What is refused
//! here may be anything to hyper.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use meshwork_http1::{
    FieldSpan, Framing, Limits, RequestKind, Target, Version, parse_request, parse_response,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Runtime;

use super::random::{ROUNDS, Random, rounds, valid};
use super::targets::decode;

/// A message as both must read it: fields and trailers by name in lower case, each with its values in order.
#[derive(Clone, Debug, PartialEq)]
struct Message {
    line: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

/// Sorted by name; values of one name stay in order.
fn sorted(lines: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by(|(a, _), (b, _)| a.cmp(b));
    lines
}

fn named(name: &[u8], value: &[u8]) -> (String, Vec<u8>) {
    (String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec())
}

fn our_fields(bytes: &[u8], spans: &[FieldSpan]) -> Vec<(String, Vec<u8>)> {
    sorted(spans.iter().map(|span| named(span.name.of(bytes), span.value.of(bytes))))
}

fn their_fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    sorted(headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())))
}

/// The body that our decoder finds; `None` where it is broken, or not there yet.
fn our_body(framing: Framing, bytes: &[u8]) -> Option<(Message, usize)> {
    let body = match framing {
        Framing::UntilClose => {
            super::targets::Body { data: bytes.to_vec(), trailers: vec![], end: bytes.len() }
        }
        framing => decode(framing, &Limits::default(), bytes, bytes.len().max(1)).ok()??,
    };
    let trailers = sorted(body.trailers.iter().map(|(name, value, _)| named(name, value)));
    Some((Message { line: String::new(), fields: vec![], body: body.data, trailers }, body.end))
}

/// The requests of a connection as we read them, up to the first one that is refused, or after which it ends.
fn our_requests(mut bytes: &[u8]) -> Vec<Message> {
    let (mut found, mut spans) = (Vec::new(), Vec::new());
    while let Ok(Some(request)) = parse_request(bytes, &mut spans, &Limits::default()) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let target = match request.target {
            Target::Authority(authority) => text(authority.of(bytes)),
            Target::Absolute { .. } => {
                // hyper takes no asterisk from a target without a path.
                text(request.path_and_query(bytes)).replace('*', "/")
            }
            Target::Origin(_) | Target::Asterisk => text(request.path_and_query(bytes)),
        };
        // Browsers send some of these in queries, so they pass here; RFC 3986 has none of them, and so has hyper.
        if target.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
            break;
        }
        let line = format!("{} {target}", text(request.method.of(bytes)));
        let fields = our_fields(bytes, &spans);
        let Some((body, end)) = our_body(request.body, &bytes[request.head_len..]) else { break };
        found.push(Message { line, fields, ..body });
        if !request.keep_alive || request.upgrade.is_some() || request.version == Version::Http10 {
            break;
        }
        bytes = &bytes[request.head_len + end..];
    }
    found
}

/// The requests as hyper's server reads them, each with its whole body.
async fn their_requests(bytes: &[u8]) -> Vec<Message> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&found);
    let (mut client, server) = duplex(1 << 20);
    let service = service_fn(move |request: Request<Incoming>| {
        let record = Arc::clone(&record);
        async move {
            let (head, body) = request.into_parts();
            let target = match head.uri.path_and_query() {
                Some(path) => path.to_string(),
                None => head.uri.to_string(),
            };
            if let Ok(body) = body.collect().await {
                let trailers = body.trailers().map(their_fields).unwrap_or_default();
                record.lock().unwrap().push(Message {
                    line: format!("{} {target}", head.method),
                    fields: their_fields(&head.headers),
                    body: body.to_bytes().to_vec(),
                    trailers,
                });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(server), service);
    let _ = connection.await;
    drop(client);
    found.lock().unwrap().drain(..).collect()
}

/// The final answer as we read it.
fn our_answer(mut bytes: &[u8], to: RequestKind) -> Option<Message> {
    let mut spans = Vec::new();
    loop {
        let response = parse_response(bytes, &mut spans, &Limits::default(), to).ok()??;
        match response.status {
            101 => return None,
            100..200 => bytes = &bytes[response.head_len..],
            status => {
                let fields = our_fields(bytes, &spans);
                let (body, _) = our_body(response.body, &bytes[response.head_len..])?;
                return Some(Message { line: status.to_string(), fields, ..body });
            }
        }
    }
}

/// The final answer as hyper's client reads it.
async fn their_answer(bytes: &[u8], method: &str) -> Option<Message> {
    let (client, mut server) = duplex(1 << 20);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::<Bytes>::new());
    let asked = sender.send_request(request.unwrap());
    let answered = async {
        let mut buffer = [0; 1024];
        let _ = server.read(&mut buffer).await;
        let _ = server.write_all(bytes).await;
        let _ = server.shutdown().await;
        server
    };
    let (answer, _server) = tokio::join!(asked, answered);
    let message = async {
        let (head, body) = answer.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().map(their_fields).unwrap_or_default();
        let fields = their_fields(&head.headers);
        Some(Message {
            line: head.status.as_u16().to_string(),
            fields,
            body: body.to_bytes().to_vec(),
            trailers,
        })
    };
    let message = message.await;
    driver.abort();
    message
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn requests_that_are_accepted_mean_the_same_to_hyper() {
    let (runtime, corpus, mut accepted) = (runtime(), valid("http1-request"), 0);
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let bytes = if seed % 4 == 0 { random.mutated(&corpus) } else { random.requests() };
        let ours = our_requests(&bytes);
        if ours.is_empty() {
            continue;
        }
        accepted += ours.len();
        let theirs = runtime.block_on(their_requests(&bytes));
        let same = theirs.get(..ours.len());
        assert_eq!(same, Some(&ours[..]), "seed {seed}: {}\n{theirs:#?}", bytes.escape_ascii());
    }
    assert!(accepted > 2000, "only {accepted} requests were accepted");
}

#[test]
fn answers_that_are_accepted_mean_the_same_to_hyper() {
    let (runtime, corpus, mut accepted) = (runtime(), valid("http1-response"), 0);
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let bytes = if seed % 4 == 0 { random.mutated(&corpus) } else { random.response() };
        let (to, method) =
            if random.once_in(5) { (RequestKind::Head, "HEAD") } else { (RequestKind::Other, "GET") };
        let Some(ours) = our_answer(&bytes, to) else { continue };
        accepted += 1;
        let theirs = runtime.block_on(their_answer(&bytes, method));
        assert_eq!(theirs.as_ref(), Some(&ours), "seed {seed}: {method} {}", bytes.escape_ascii());
    }
    assert!(accepted > 1000, "only {accepted} answers were accepted");
}
