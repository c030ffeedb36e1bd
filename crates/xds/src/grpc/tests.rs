//! Both shells over a real connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meshwork_model::proxy::{Cluster, Discovery, Endpoints, Resource};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};

use super::*;
use crate::client::{Health, Session};
use crate::resource::{Rejection, Update};
use crate::{Dialect, SdsSource, encode};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

fn cluster(name: &str, seconds: u64) -> Resource {
    Resource::Cluster(Cluster {
        connect_timeout: Duration::from_secs(seconds),
        ..Cluster::new(name, Discovery::Eds(name.into()))
    })
}

fn endpoints(name: &str) -> Resource {
    Resource::Endpoints(Endpoints::new(name, Vec::new()))
}

fn snapshot(resources: &[Resource]) -> Arc<Snapshot> {
    let encode = |resource| Arc::new(encode(resource, Dialect::Meshwork, &SdsSource::Named));
    Arc::new(Snapshot::new(resources.iter().map(encode)))
}

struct ControlPlane {
    snapshots: Mutex<watch::Sender<Arc<Snapshot>>>,
    events: Mutex<Vec<Event>>,
    health: watch::Sender<Vec<Health>>,
    gone: watch::Sender<usize>,
}

impl ControlPlane {
    fn new(resources: &[Resource]) -> Arc<Self> {
        let (gone, _) = watch::channel(0);
        let snapshots = Mutex::new(watch::Sender::new(snapshot(resources)));
        Arc::new(Self { snapshots, events: Mutex::default(), health: watch::Sender::default(), gone })
    }

    fn publish(&self, resources: &[Resource]) {
        let snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.send_replace(snapshot(resources));
    }

    /// Lets go of all streams.
    fn restart(&self, resources: &[Resource]) {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        *snapshots = watch::Sender::new(snapshot(resources));
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handler for ControlPlane {
    fn connect(&self, stream: &Stream) -> Result<watch::Receiver<Arc<Snapshot>>, Denied> {
        if stream.node.id == "stranger" {
            return Err(Denied("you are nobody here".to_owned()));
        }
        Ok(self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).subscribe())
    }
    fn wanted(&self, _: &Stream, _: Kind, _: &[String]) {}
    fn report(&self, _: &Stream, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
    fn health(&self, _: &Stream, health: Health) {
        if health == Health::Leaving {
            self.restart(&[]);
        }
        self.health.send_modify(|said| said.push(health));
    }
    fn disconnect(&self, _: &Stream) {
        self.gone.send_modify(|gone| *gone += 1);
    }
}

fn peer() -> PeerIdentity {
    PeerIdentity(SpiffeId::workload("mesh.local", "shop", "web").unwrap())
}

/// Serves until dropped; whoever connects is `shop/web`.
async fn serve(handler: Arc<ControlPlane>, identified: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let identify = move |mut request: tonic::Request<()>| {
        if identified {
            request.extensions_mut().insert(peer());
        }
        Ok(request)
    };
    let service = tonic::service::interceptor::InterceptedService::new(server(handler), identify);
    let task = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        drop(Server::builder().add_service(service).serve_with_incoming(incoming).await);
    });
    (address, task)
}

fn node(id: &str) -> Node {
    let metadata = serde_json::json!({"NAME": "web", "INBOUND": [{"port": 8080}]});
    Node { id: id.to_owned(), user_agent: "meshwork".to_owned(), metadata, ..Node::default() }
}

/// Says nothing of its health.
fn silent() -> watch::Receiver<Option<Health>> {
    watch::channel(None).1
}

fn names(update: &Update) -> Vec<String> {
    let upserts = update.upserts.iter().map(|resource| resource.name().to_owned());
    upserts.chain(update.removed.iter().map(|(_, name)| format!("-{name}"))).collect()
}

#[tokio::test]
async fn updates_arrive_and_refusals_come_back() {
    let handler = ControlPlane::new(&[cluster("a", 1), cluster("bad", 9), endpoints("a")]);
    let (address, task) = serve(Arc::clone(&handler), true).await;
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let (seen, mut updates) = tokio::sync::mpsc::channel(100);
    let apply = move |update: Update| {
        seen.try_send(names(&update)).unwrap();
        let bad = update.upserts.iter().filter(|resource| resource.name() == "bad");
        bad.map(|bad| Rejection { kind: bad.kind(), name: "bad".into(), why: "field x: no".into() }).collect()
    };
    let client = run_client(channel, Session::new(node("n")), silent(), apply, || ());
    let script = async {
        assert_eq!(updates.recv().await.unwrap(), ["a", "bad"]);
        assert_eq!(updates.recv().await.unwrap(), ["a"]);
        handler.publish(&[cluster("b", 1)]);
        // A cluster goes, and its endpoints with it.
        let mut rest = Vec::new();
        while !(rest.contains(&"b".to_owned()) && rest.contains(&"-a".to_owned())) {
            rest.extend(updates.recv().await.unwrap());
        }
        let refused = handler.events().into_iter().find_map(|event| match event {
            Event::Refused { rejections, .. } => Some(rejections),
            Event::Accepted { .. } => None,
        });
        let expected =
            Rejection { kind: Kind::Cluster, name: "bad".to_owned(), why: "field x: no".to_owned() };
        assert_eq!(refused, Some(vec![expected]));
    };
    tokio::select! {
        _ = client => panic!("a client that is let in never ends"),
        ended = tokio::time::timeout(DEADLINE, script) => ended.unwrap(),
    }
    let mut gone = handler.gone.subscribe();
    tokio::time::timeout(DEADLINE, gone.wait_for(|gone| *gone > 0)).await.unwrap().unwrap();
    task.abort();
}

#[tokio::test]
async fn a_stream_that_the_control_plane_ends_is_opened_anew_and_goes_on_where_it_was() {
    let handler = ControlPlane::new(&[cluster("a", 1)]);
    let (address, task) = serve(Arc::clone(&handler), true).await;
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let (seen, mut updates) = tokio::sync::mpsc::channel(100);
    let apply = move |update: Update| {
        seen.try_send(names(&update)).unwrap();
        Vec::new()
    };
    let client = run_client(channel, Session::new(node("n")), silent(), apply, || ());
    let script = async {
        assert_eq!(updates.recv().await.unwrap(), ["a"]);
        handler.restart(&[cluster("a", 1), cluster("b", 1)]);
        assert_eq!(updates.recv().await.unwrap(), ["b"], "only the difference");
    };
    tokio::select! {
        _ = client => panic!("a client that is let in never ends"),
        ended = tokio::time::timeout(DEADLINE, script) => ended.unwrap(),
    }
    task.abort();
}

#[tokio::test]
async fn health_is_told_on_every_stream_and_leaving_is_answered() {
    let handler = ControlPlane::new(&[cluster("a", 1)]);
    let (address, task) = serve(Arc::clone(&handler), true).await;
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let unready = Health::Unready("no answer".into());
    let (health, reports) = watch::channel(Some(unready.clone()));
    let client = run_client(channel, Session::new(node("n")), reports, |_| Vec::new(), || ());
    let script = async {
        let mut said = handler.health.subscribe();
        let mut until = async |expected: &[Health]| {
            tokio::time::timeout(DEADLINE, said.wait_for(|said| *said == expected)).await.unwrap().unwrap();
        };
        until(std::slice::from_ref(&unready)).await;
        health.send_replace(Some(Health::Ready));
        until(&[unready.clone(), Health::Ready]).await;
        handler.restart(&[cluster("a", 1)]);
        until(&[unready.clone(), Health::Ready, Health::Ready]).await;
        health.send_replace(Some(Health::Leaving));
        std::future::pending::<()>().await;
    };
    let ended = async {
        tokio::select! {
            ended = client => ended,
            () = script => unreachable!("it waits"),
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, ended).await.unwrap(), Ended::Left);
    assert_eq!(handler.health.borrow().last(), Some(&Health::Leaving));
    task.abort();
}

async fn refusal(node: Node, identified: bool) -> tonic::Status {
    use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Client;
    let (address, task) = serve(ControlPlane::new(&[]), identified).await;
    let mut client = Client::connect(address).await.unwrap();
    let first = Session::new(node.clone()).connect().remove(0);
    let request = wire::delta_request(first, Some(&node));
    let response = client.delta_aggregated_resources(tokio_stream::iter([request])).await;
    let status = match response {
        Err(status) => status,
        Ok(response) => response.into_inner().message().await.unwrap_err(),
    };
    task.abort();
    status
}

#[tokio::test]
async fn who_proves_no_identity_gets_no_stream() {
    assert_eq!(refusal(node("n"), false).await.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn a_client_that_is_denied_from_the_start_ends() {
    let (address, task) = serve(ControlPlane::new(&[]), true).await;
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let client = run_client(channel, Session::new(node("stranger")), silent(), |_| Vec::new(), || ());
    let ended = tokio::time::timeout(DEADLINE, client).await.unwrap();
    assert_eq!(ended, Ended::Denied(Denied("you are nobody here".to_owned())));
    task.abort();
}

#[tokio::test]
async fn who_is_denied_learns_why() {
    let status = refusal(node("stranger"), true).await;
    assert_eq!((status.code(), status.message()), (tonic::Code::PermissionDenied, "you are nobody here"));
}

#[test]
fn failures_are_told_in_words_that_help() {
    let abrupt = format!("h2 protocol error: {}https://docs.rs/rustls/x#unexpected-eof more", super::ABRUPT);
    assert_eq!(super::in_words(&abrupt), "h2 protocol error: the peer closed the connection more");
    let alert = super::in_words("connection error: received fatal alert: CertificateUnknown");
    assert!(alert.ends_with("join token"), "{alert}");
    assert_eq!(super::in_words("received fatal alert: InternalError"), "received fatal alert: InternalError");
    assert_eq!(super::in_words("a\u{1b}b"), "a b");
}
