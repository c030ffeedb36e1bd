//! HTTP/2 and gRPC: on either side, and on both.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use meshwork_identity::IdentitySource;
use meshwork_model::proxy::{Action, Cluster, Direction, Permission, Resource, UpstreamProtocol};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn over_h2(mut cluster: Cluster) -> Resource {
    cluster.protocol = UpstreamProtocol::Http2;
    Resource::Cluster(cluster)
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = soon(TcpStream::connect(address)).await.expect("connects");
    let (requests, connection) = soon(h2::client::handshake(stream)).await.expect("speaks");
    tokio::spawn(connection);
    requests
}

fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://shop.example{path}");
    Request::builder().method(method).uri(uri).body(()).expect("valid")
}

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn finish(response: h2::client::ResponseFuture) -> Result<Got, h2::Error> {
    let (parts, mut body) = soon(response).await?.into_parts();
    let mut got = Got { status: parts.status, headers: parts.headers, body: Vec::new(), trailers: None };
    (got.body, got.trailers) = read(&mut body).await?;
    Ok(got)
}

async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = soon(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, soon(body.trailers()).await?))
}

/// Sends with respect for the window.
async fn write(stream: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room =
            soon(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await.expect("open").expect("open");
        stream.send_data(bytes.split_to(room.min(bytes.len())), false).expect("sends");
    }
    stream.send_data(Bytes::new(), true).expect("ends");
}

async fn call(
    requests: &SendRequest<Bytes>,
    request: Request<()>,
    body: &'static [u8],
) -> Result<Got, h2::Error> {
    let mut requests = soon(requests.clone().ready()).await?;
    let (response, mut stream) = requests.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        write(&mut stream, Bytes::from_static(body)).await;
    }
    finish(response).await
}

/// An origin that answers each request with its own body, and gRPC trailers where it was a call.
struct Echo {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<http::request::Parts>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (tell, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, tell.clone()));
            }
        });
        Self { address, asked }
    }

    async fn serve(stream: TcpStream, tell: mpsc::UnboundedSender<http::request::Parts>) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let (parts, mut body) = request.into_parts();
                let is_grpc = parts.headers.get("content-type").is_some_and(|v| v == "application/grpc");
                let reset = parts.uri.path() == "/reset";
                let _ = tell.send(parts);
                if reset {
                    respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
                    return;
                }
                let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    stream.reserve_capacity(data.len());
                    let _ = stream.send_data(data, false);
                }
                if is_grpc {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    let _ = stream.send_trailers(trailers);
                } else {
                    let _ = stream.send_data(Bytes::new(), true);
                }
            });
        }
    }
}

#[tokio::test]
async fn an_h2_client_reaches_an_http1_origin() {
    let mut origin = Origin::answering(OK).await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[origin.address])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let requests = connect(sut.address("web")).await;
    let got = call(&requests, request("GET", "/x/../y?z"), b"").await.expect("answered");
    assert_eq!((got.status, &got.body[..]), (StatusCode::OK, &b"ok"[..]));
    let asked = origin.next().await;
    assert_eq!(asked.head.lines().next(), Some("GET /y?z HTTP/1.1"));
    assert_eq!(asked.header("host"), Some("shop.example"));
    call(&requests, request("POST", "/"), b"hello").await.expect("answered");
    let asked = origin.next().await;
    assert_eq!((asked.header("transfer-encoding"), asked.body.as_str()), (Some("chunked"), "hello"));
    let mut crumbs = request("GET", "/");
    for crumb in ["a=1", "b=2"] {
        crumbs.headers_mut().append("cookie", HeaderValue::from_static(crumb));
    }
    call(&requests, crumbs, b"").await.expect("answered");
    assert_eq!(origin.next().await.header("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn an_http1_client_reaches_an_h2_origin() {
    let mut origin = Echo::start().await;
    let sut = Sut::start(vec![over_h2(cluster("a", &[origin.address])), web(vec![route("/", &[("a", 1)])])]);
    let mut client = sut.client().await;
    let got = client.call("POST /e HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!((got.status(), got.body.as_str()), (200, "hello"));
    let asked = soon(origin.asked.recv()).await.expect("asked");
    assert_eq!(
        (asked.uri.authority().map(http::uri::Authority::as_str), asked.uri.path()),
        (Some("shop"), "/e")
    );
    let got = client.call("GET /reset HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (503, Some("MW0310")));
    client.send("HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!(client.receive_head().await.status(), 200);
    let got = client
        .call("GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (501, Some("MW0105")));
}

#[tokio::test]
async fn large_bodies_pass_in_many_streams_at_once() {
    let origin = Echo::start().await;
    let sut = Sut::start(vec![over_h2(cluster("a", &[origin.address])), web(vec![route("/", &[("a", 1)])])]);
    let requests = connect(sut.address("web")).await;
    let body: Vec<u8> = (0..700_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let body: &'static [u8] = body.leak();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let requests = requests.clone();
        calls.spawn(async move {
            let mut requests = requests.ready().await.expect("ready");
            let (response, mut stream) = requests.send_request(request("POST", "/"), false).expect("sent");
            let ((), got) = tokio::join!(write(&mut stream, Bytes::from_static(body)), finish(response));
            assert!(got.expect("answered").body == body);
        });
    }
    soon(calls.join_all()).await;
}

#[tokio::test]
async fn a_grpc_call_passes_with_its_trailers_through_two_proxies() {
    let mesh = Mesh::new();
    let origin = Echo::start().await;
    let catalog = inbound(mesh.identity("catalog"), origin.address);
    let web = outbound(mesh.identity("web"), catalog.address("inbound"));
    let requests = connect(web.address("web")).await;
    let mut grpc = request("POST", "/shop.Catalog/List");
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    grpc.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let got = call(&requests, grpc, b"\0\0\0\0\x02hi").await.expect("answered");
    assert_eq!(&got.body[..], b"\0\0\0\0\x02hi");
    assert_eq!(got.trailers.expect("trailers")["grpc-status"], "0");
    let edges = web.registry.fold();
    let edge = edges.iter().find(|e| e.requests() == 1).expect("recorded");
    assert_eq!((edge.key.protocol, edge.key.mtls), (meshwork_telemetry::Protocol::Grpc, true));
}

#[tokio::test]
async fn a_grpc_call_that_is_refused_gets_a_status_in_trailers_only() {
    let mesh = Mesh::new();
    let origin = Echo::start().await;
    let catalog = inbound(mesh.identity("catalog"), origin.address);
    let stranger = outbound(mesh.identity("stranger"), catalog.address("inbound"));
    let requests = connect(stranger.address("web")).await;
    let mut grpc = request("POST", "/shop.Catalog/List");
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let got = call(&requests, grpc, b"\0\0\0\0\0").await.expect("answered");
    assert_eq!((got.status, got.headers["grpc-status"].as_bytes()), (StatusCode::OK, &b"7"[..]));
    assert_eq!(got.headers["x-meshwork-reason"], "MW0401");
    let plain = call(&requests, request("GET", "/"), b"").await.expect("answered");
    assert_eq!(plain.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_bidirectional_stream_flows_message_by_message() {
    let origin = Echo::start().await;
    let sut = Sut::start(vec![over_h2(cluster("a", &[origin.address])), web(vec![route("/", &[("a", 1)])])]);
    let mut requests = connect(sut.address("web")).await.ready().await.expect("ready");
    let (response, mut stream) = requests.send_request(request("POST", "/"), false).expect("sent");
    stream.send_data(Bytes::from_static(b"0"), false).expect("sends");
    let (_, mut body) = soon(response).await.expect("answered before the end of the request").into_parts();
    for round in 0..5 {
        assert_eq!(soon(body.data()).await.expect("flows").expect("flows"), round.to_string());
        stream.send_data(Bytes::from((round + 1).to_string()), false).expect("sends");
    }
    stream.send_data(Bytes::new(), true).expect("ends");
    assert_eq!(soon(body.data()).await.expect("flows").expect("flows"), "5");
    assert_eq!(read(&mut body).await.expect("ends"), (vec![], None));
}

#[tokio::test]
async fn a_client_that_resets_its_stream_lets_the_origin_go() {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let mut requests = connect(sut.address("web")).await.ready().await.expect("ready");
    let (response, mut stream) = requests.send_request(request("GET", "/"), true).expect("sent");
    let mut origin = stage.accept().await;
    origin.receive().await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert_eq!(origin.rest().await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn an_origin_that_dies_in_the_middle_resets_the_stream() {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let mut requests = connect(sut.address("web")).await.ready().await.expect("ready");
    let (response, _stream) = requests.send_request(request("GET", "/"), true).expect("sent");
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let (_, mut body) = soon(response).await.expect("begins").into_parts();
    assert_eq!(soon(body.data()).await.expect("half").expect("half"), "half");
    drop(origin);
    assert!(soon(body.data()).await.expect("an error").is_err());
}

#[tokio::test]
async fn draining_finishes_streams_and_says_goaway() {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let requests = connect(sut.address("web")).await;
    let mut ready = requests.clone().ready().await.expect("ready");
    let (response, _stream) = ready.send_request(request("GET", "/"), true).expect("sent");
    let mut origin = stage.accept().await;
    origin.receive().await;
    let answering = async {
        while requests.clone().ready().await.is_ok() && sut.proxy.ready() {
            tokio::task::yield_now().await;
        }
        origin.send(OK).await;
        assert_eq!(finish(response).await.expect("answered").body, b"ok");
        drop((requests, ready));
    };
    tokio::join!(answering, soon(sut.proxy.drain(SOON)));
}

fn inbound(identity: Arc<IdentitySource>, application: SocketAddr) -> Sut {
    let only_web = vec![rbac(Action::Allow, Permission::Any, is("web"))];
    let filter = http(vec![route("/", &[("app", 1)])], only_web);
    let listener = listener("inbound", Direction::Inbound, chain(filter, inbound_tls(&["h2", "http/1.1"])));
    Sut::start_as(Some(identity), vec![over_h2(cluster("app", &[application])), listener])
}

fn outbound(identity: Arc<IdentitySource>, endpoint: SocketAddr) -> Sut {
    let cluster = by_mtls(cluster("catalog", &[endpoint]), "catalog", &["h2"]);
    let listener =
        listener("web", Direction::Outbound, chain(http(vec![route("/", &[("catalog", 1)])], vec![]), None));
    Sut::start_as(Some(identity), vec![over_h2(cluster), listener])
}

#[tokio::test]
async fn what_is_said_of_a_trace_passes_over_h2() {
    const FIELDS: [(&str, &str); 5] = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "congo=t61rcWkgMzE"),
        ("baggage", "userId=alice"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
        ("x-b3-traceid", "80f198ee56343ba8"),
    ];
    let mut origin = Echo::start().await;
    let sut = Sut::start(vec![over_h2(cluster("a", &[origin.address])), web(vec![route("/", &[("a", 1)])])]);
    let requests = connect(sut.address("web")).await;
    let mut traced = request("GET", "/");
    for (name, value) in FIELDS {
        traced.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    call(&requests, traced, b"").await.expect("answered");
    let asked = soon(origin.asked.recv()).await.expect("asked");
    for (name, value) in FIELDS {
        assert_eq!(asked.headers.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
    }
}
