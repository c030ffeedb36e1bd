use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let sources = [("a.yaml".to_owned(), "kind: [".to_owned())].into();
    let world = World::new("mesh.local", meshwork_model::mesh::Config::default(), Vec::new());
    world.refuse(crate::ingest::read_texts(sources).problems);
    let hub = Hub::new(std::time::Duration::from_mins(1), Instant::now);
    let api = Api { world: Arc::new(world), hub, discovery: address, own: address };
    tokio::spawn(serve(listener, api));
    address
}

async fn get(address: SocketAddr, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn every_path_answers() {
    let address = start().await;
    let check = async |path: &str, status: &str, expected: &str| {
        let answer = get(address, "localhost", path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains(expected), "{path}: {answer}");
    };
    for line in ROUTES.lines() {
        let path = line.split_whitespace().next().expect("a path");
        check(path, "200", "").await;
    }
    check("/", "200", "/api/v1/problems").await;
    check("/ready", "200", "ready").await;
    check("/metrics", "200", "\nmeshwork_control_plane_configs_refused_total 1\n").await;
    check("/api/v1/problems", "200", "\"severity\":\"error\",\"file\":\"a.yaml\",\"line\":1").await;
    check("/api/v1/proxies", "200", "[]").await;
    check("/api/v1/edges", "200", "[]").await;
    check("/api/v1/topology", "200", "\"trust_domain\":\"mesh.local\"").await;
    check("/api/v1/diagram", "200", "flowchart").await;
    check("/api/v1/config", "200", "\"services\":[]").await;
    check("/api/v2", "404", "nothing here").await;
}

#[tokio::test]
async fn a_page_of_another_host_is_not_answered() {
    let address = start().await;
    for (host, status) in [
        ("127.0.0.1:15040", "200"),
        ("[::1]:15040", "200"),
        ("[::1]", "200"),
        ("localhost", "200"),
        ("evil.example:15040", "403"),
        ("localhost.evil.example", "403"),
        ("", "403"),
    ] {
        let answer = get(address, host, "/ready").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
}
