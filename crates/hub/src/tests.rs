use super::*;
use std::time::SystemTime;

use meshwork_model::proxy::{ServiceName, Workload};
use meshwork_telemetry::{EdgeKey, Registry, Request as Recorded, ResourceAttributes, otlp, push_otlp};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

fn workload(name: &str) -> Workload {
    Workload { name: name.into(), namespace: "shop".into(), app: name.into(), version: "".into() }
}

/// A registry in which `web` called `cart` so many times.
fn called(requests: u64) -> Arc<Registry> {
    let registry = Registry::new(SystemTime::now());
    let shard = registry.shard();
    let edge = shard.edge(&EdgeKey {
        source: workload("web"),
        service: Some(ServiceName { name: "cart".into(), namespace: "shop".into() }),
        destination: workload("cart"),
        mtls: true,
        ..EdgeKey::default()
    });
    shard.connection_opened(edge);
    for _ in 0..requests {
        let duration = Duration::from_millis(4);
        shard.record_request(edge, &Recorded { status: 200, duration, ..Recorded::default() });
    }
    registry
}

fn resource(instance: &str) -> ResourceAttributes {
    ResourceAttributes { service: "web".into(), namespace: "shop".into(), instance: instance.into() }
}

async fn serve(hub: &Arc<Hub>) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder().add_service(hub.service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Endpoint::from_shared(format!("http://{address}")).expect("a URI").connect_lazy()
}

#[tokio::test]
async fn what_proxies_count_arrives_as_edges() {
    let hub = Hub::new(Duration::from_mins(1), Instant::now);
    let channel = serve(&hub).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let every = Duration::from_millis(20);
    let until = async { drop(stopped.await) };
    let connect = {
        let channel = channel.clone();
        move || channel.clone()
    };
    let pushing = push_otlp(called(25), resource("web-1"), connect, every, until);
    let pushing = tokio::spawn(pushing);
    let arrived = async {
        while hub.edges(Instant::now()).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("a push arrives");
    let flush = std::future::ready(());
    push_otlp(called(17), resource("web-2"), || channel.clone(), Duration::from_hours(1), flush).await;
    drop(stop);
    pushing.await.expect("ends");
    let edges = hub.edges(Instant::now());
    assert_eq!(edges.len(), 1);
    let edge = &edges[0];
    assert_eq!((edge.from.as_str(), edge.to.as_str(), edge.requests), ("web", "cart", 42));
    assert_eq!((edge.mtls, edge.connections, edge.mtls_connections), (true, 2, 2));
    assert!((edge.p50_ms - 4.0).abs() <= 0.8, "{}", edge.p50_ms);
}

#[test]
fn an_edge_survives_json() {
    let hub = Hub::new(Duration::from_mins(1), Instant::now);
    for message in otlp::requests(&called(3), &resource("web-1"), SystemTime::now()) {
        hub.ingest(&message);
    }
    // serde_json reads floats to within a last bit, so those that were measured give way to ones that are exact.
    let measured = hub.edges(Instant::now()).remove(0);
    let edge = Edge { per_second: 12.5, p50_ms: 4.25, p99_ms: 4.5, ..measured };
    let json = serde_json::to_string(&edge).expect("serializes");
    assert_eq!(serde_json::from_str::<Edge>(&json).expect("parses"), edge);
}

/// A peer's bytes: messages with random damage, as far as they still decode.
#[test]
fn damaged_messages_harm_nobody() {
    let hub = Hub::new(Duration::from_mins(1), Instant::now);
    let messages = otlp::requests(&called(3), &resource("web-1"), SystemTime::now());
    let whole = messages[0].encode_to_vec();
    let mut decoded = 0;
    for seed in 0..3000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        if let Ok(message) = ExportMetricsServiceRequest::decode(&*bytes) {
            decoded += 1;
            hub.ingest(&message);
        }
        if seed % 100 == 0 {
            hub.edges(Instant::now());
        }
    }
    assert!(decoded > 100, "{decoded} messages still decode");
    let share = |edge: &Edge| (0.0..=1.0).contains(&edge.success) && edge.per_second.is_finite();
    assert!(hub.edges(Instant::now()).iter().all(share));
}
