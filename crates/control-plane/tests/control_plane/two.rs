//! Two control planes on one etcd: what is written at one is served by both, and one outlives the other.

use std::process::{Child, Command, Stdio};

use tokio::net::UnixStream;

use super::*;

/// An etcd of the test's own; `None` where the host has none.
struct Server {
    process: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            format!("http://{}", listener.local_addr().expect("bound"))
        };
        let (url, peers) = (free(), free());
        let mut command = Command::new("etcd");
        command.args(["--log-level", "error", "--data-dir"]).arg(dir.path());
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        Some(Self { process, url, _dir: dir })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A control plane without a config folder.
async fn on(server: &Server, ca: &Path) -> Mesh {
    let dir = tempfile::tempdir().expect("a directory");
    let etcd = vec![server.url.clone()];
    let start = Instant::now();
    // etcd takes a moment to answer.
    while Store::open_shared(&dir.path().join("state"), &etcd).is_err() {
        assert!(start.elapsed() < DEADLINE, "etcd does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let options =
        Options { config: None, etcd: etcd.clone(), ca: Some(ca.to_owned()), ..options(dir.path()) };
    let (ready, task) = start_with(options).await;
    Mesh { dir, etcd, ready, task }
}

/// Applies a text by the socket; gives the answer.
async fn apply(mesh: &Mesh, text: &str) -> String {
    let mut stream = UnixStream::connect(mesh.dir.path().join("state/api.sock")).await.expect("connected");
    let body = json!({"sources": [{"name": "shop.yaml", "text": text}]}).to_string();
    let head = format!(
        "POST /apis/meshwork.dev/v1alpha1/apply HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_control_planes_are_one_mesh_and_one_outlives_the_other() {
    let Some(server) = Server::start() else { return };
    let ca = tempfile::tempdir().expect("a directory");
    let ca = ca.path().join("ca");
    let here = on(&server, &ca).await;
    let there = on(&server, &ca).await;

    // Both write at once, and nobody loses anything.
    let write = async |mesh: &Mesh, writer: &str| {
        for i in 0..10 {
            let answer = apply(mesh, &service(&format!("{writer}-{i}"))).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    };
    tokio::join!(write(&here, "a"), write(&there, "b"));
    for name in ["cart", "catalog", "web"] {
        assert!(apply(&there, &service(name)).await.starts_with("HTTP/1.1 200"));
    }
    let listed = async |mesh: &Mesh| {
        let list: Value = serde_json::from_str(&mesh.ask("/api/v1/services").await).expect("JSON");
        list["items"].as_array().map_or(0, Vec::len)
    };
    for mesh in [&here, &there] {
        let start = Instant::now();
        while listed(mesh).await < 23 {
            assert!(start.elapsed() < DEADLINE, "{} of 23", listed(mesh).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    // A workload of one is an endpoint for those of the other.
    let web = here.enrol("web", "web").await;
    let cart = there.enrol("cart", "cart").await;
    let web_client = Client::connect(&here, &web, "web", 41000);
    web_client.until_carts(0).await;
    let cart_client = Client::connect(&there, &cart, "cart", 41001);
    web_client.until_carts(1).await;

    // One is killed; its workload reconnects to the other, and was there all the time.
    there.task.abort();
    drop(cart_client);
    let cart_client = Client::connect(&here, &cart, "cart", 41001);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        web_client.until_carts(1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Now it is this one's: when it ends, the endpoint goes.
    drop(cart_client);
    web_client.until_carts(0).await;
    assert_eq!(listed(&here).await, 23);
    assert!(apply(&here, &service("later")).await.starts_with("HTTP/1.1 200"));
}
