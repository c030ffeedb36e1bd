//! Client and server against each other under a seeded simulation, and the client's own rules.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use meshwork_model::proxy::{Direction, Endpoints, HttpConnection, RouteTable};

use super::*;
use crate::node::Dialect;
use crate::resource::Snapshot;
use crate::{SdsSource, encode, server};

fn cluster(name: &str, eds: &str, content: u64) -> Resource {
    Resource::Cluster(Cluster {
        connect_timeout: Duration::from_secs(1 + content),
        ..Cluster::new(name, Discovery::Eds(eds.into()))
    })
}

fn endpoints(name: &str, content: u64) -> Resource {
    let port = u16::try_from(content).unwrap() + 1;
    let endpoint = meshwork_model::proxy::Endpoint::new(([127, 0, 0, 1], port).into());
    Resource::Endpoints(Endpoints::new(name, vec![endpoint]))
}

fn listener(name: &str, routes: &str, content: u64) -> Resource {
    let http = HttpConnection::new(content.to_string(), RouteSource::Named(routes.into()));
    let http = HttpConnection { generate_request_id: true, ..http };
    let chains = vec![FilterChain::new("", NetworkFilter::Http(Arc::new(http)))];
    let address = Some(([127, 0, 0, 1], 0).into());
    Resource::Listener(Listener::new(name, address, Direction::Outbound, chains))
}

fn routes(name: &str, content: u64) -> Resource {
    let domains = vec![meshwork_model::proxy::Domain::Any];
    let host = meshwork_model::proxy::VirtualHost::new(content.to_string(), domains, Vec::new());
    Resource::Routes(RouteTable::new(name, vec![host]))
}

fn snapshot(resources: &[Resource]) -> Snapshot {
    let encode = |resource| Arc::new(encode(resource, Dialect::Meshwork, &SdsSource::Named));
    Snapshot::new(resources.iter().map(encode))
}

fn random_world(rng: &mut Rng) -> Vec<Resource> {
    let mut resources = Vec::new();
    for number in 0..5 {
        let (content, other) = (rng.u64(0..3), rng.u64(0..5));
        if rng.bool() {
            resources.push(cluster(&format!("c{number}"), &format!("e{other}"), content));
        }
        if rng.bool() {
            resources.push(listener(&format!("l{number}"), &format!("r{other}"), content));
        }
        if rng.u8(0..4) > 0 {
            resources.push(endpoints(&format!("e{number}"), content));
            resources.push(routes(&format!("r{number}"), content));
        }
    }
    resources
}

/// What a data plane would hold: names and contents.
#[derive(Default)]
struct Applied(BTreeMap<(Kind, String), Resource>);

/// Contents that the simulated data plane refuses.
fn is_bad(resource: &Resource) -> bool {
    match resource {
        Resource::Cluster(cluster) => cluster.connect_timeout == Duration::from_secs(3),
        Resource::Routes(table) => &*table.hosts()[0].name == "2",
        _ => false,
    }
}

impl Applied {
    fn apply(&mut self, update: &Update) -> Vec<Rejection> {
        for (kind, name) in &update.removed {
            assert!(self.0.remove(&(*kind, name.clone())).is_some(), "{name} is removed but was not there");
        }
        let mut rejections = Vec::new();
        for resource in &update.upserts {
            let (kind, name) = (resource.kind(), resource.name().to_owned());
            if is_bad(resource) {
                rejections.push(Rejection { kind, name, why: "bad".to_owned() });
            } else {
                self.0.insert((kind, name), resource.clone());
            }
        }
        rejections
    }
}

struct Simulation {
    rng: Rng,
    client: Session,
    applied: Applied,
    server: server::Session,
    snapshot: Snapshot,
    world: Vec<Resource>,
    to_server: VecDeque<Request>,
    to_client: VecDeque<server::Response>,
}

impl Simulation {
    fn new(seed: u64, protocol: Protocol) -> Self {
        let mut client = Session::new(Node::default()).speaking(protocol);
        Self {
            rng: Rng::with_seed(seed),
            to_server: client.connect().into(),
            client,
            applied: Applied::default(),
            server: server::Session::new(protocol),
            snapshot: Snapshot::default(),
            world: Vec::new(),
            to_client: VecDeque::new(),
        }
    }

    fn push(&mut self) {
        self.to_client.extend(self.server.push(&self.snapshot));
        for kind in Kind::ALL {
            let unanswered = self.to_client.iter().filter(|response| response.kind == kind).count();
            assert!(unanswered <= 1, "two unanswered responses of {kind:?}");
        }
    }

    fn publish(&mut self) {
        self.world = random_world(&mut self.rng);
        self.snapshot = snapshot(&self.world);
        self.push();
    }

    fn reconnect(&mut self) {
        self.to_server = self.client.connect().into();
        self.to_client.clear();
        self.server = server::Session::new(self.client.protocol());
    }

    fn deliver_to_server(&mut self) {
        if let Some(request) = self.to_server.pop_front() {
            self.server.receive(request).unwrap();
            self.push();
        }
    }

    fn deliver_to_client(&mut self) {
        let Some(response) = self.to_client.pop_front() else { return };
        let whole = (self.client.protocol() == Protocol::StateOfTheWorld).then_some(&response.version);
        let carried = |resource: &Arc<crate::Encoded>| Carried {
            name: resource.name.to_string(),
            version: whole.cloned().unwrap_or_else(|| resource.version.to_string()),
            type_url: resource.type_url().to_owned(),
            bytes: Raw(resource.bytes.clone()),
        };
        let received = self.client.receive(Response {
            kind: response.kind,
            nonce: response.nonce.clone(),
            version: response.version.clone(),
            resources: response.resources.iter().map(carried).collect(),
            removed: response.removed,
        });
        let rejections = self.applied.apply(&received.update);
        let finished = self.client.finish(received, rejections);
        assert_eq!(self.applied.apply(&finished.cleanup), []);
        self.to_server.extend(finished.requests);
    }

    fn step(&mut self) {
        match self.rng.u8(0..20) {
            0 => self.publish(),
            1 => self.reconnect(),
            2..=10 => self.deliver_to_server(),
            _ => self.deliver_to_client(),
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            self.deliver_to_server();
            self.deliver_to_client();
        }
        assert!(self.to_server.is_empty() && self.to_client.is_empty(), "never settles");
    }

    /// Of good resources the newest is applied; of bad ones an older version, or none.
    fn check(&self) {
        for resource in self.world.iter().filter(|resource| self.leads_to(resource)) {
            let applied = self.applied.0.get(&(resource.kind(), resource.name().to_owned()));
            if is_bad(resource) {
                assert_ne!(applied, Some(resource));
            } else {
                assert_eq!(applied, Some(resource));
            }
        }
        let whole = self.client.protocol() == Protocol::StateOfTheWorld;
        for (kind, name) in self.applied.0.keys() {
            // State of the world never says that a resource by name is gone.
            let may_stay = whole && is_by_name(*kind);
            assert!(may_stay || self.snapshot.resource(*kind, name).is_some(), "{name} should be gone");
            assert!(self.client.versions[kind].contains_key(name));
        }
    }

    /// Whether something that is applied names it.
    fn leads_to(&self, resource: &Resource) -> bool {
        let kind = resource.kind();
        !is_by_name(kind) || self.client.needed(kind).contains(resource.name())
    }
}

#[test]
fn whatever_happens_the_client_ends_with_the_servers_state() {
    for (seed, protocol) in (0..200).flat_map(|seed| PROTOCOLS.map(|protocol| (seed, protocol))) {
        println!("seed {seed}, {protocol:?}");
        let mut simulation = Simulation::new(seed, protocol);
        for _ in 0..200 {
            simulation.step();
        }
        simulation.settle();
        simulation.check();
    }
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Delta, Protocol::StateOfTheWorld];

fn carried(resource: &Resource) -> Carried {
    let encoded = encode(resource, Dialect::Meshwork, &SdsSource::Named);
    Carried {
        name: encoded.name.to_string(),
        version: encoded.version.to_string(),
        type_url: encoded.type_url().to_owned(),
        bytes: Raw(encoded.bytes),
    }
}

fn response(resources: Vec<Carried>) -> Response {
    let (nonce, version) = ("7".to_owned(), "v7".to_owned());
    Response { kind: Kind::Cluster, nonce, version, resources, removed: Vec::new() }
}

#[test]
fn the_good_ones_beside_a_bad_one_are_applied_and_the_bad_one_is_named() {
    let mut session = Session::new(Node::default());
    let garbled =
        Carried { bytes: Raw(Bytes::from_static(b"\xff\xff")), ..carried(&cluster("bad", "bad", 0)) };
    let received = session.receive(response(vec![carried(&cluster("good", "good", 0)), garbled]));
    assert_eq!(received.update.upserts, [cluster("good", "good", 0)]);
    let finished = session.finish(received, Vec::new());
    let answer = finished.requests.last().unwrap();
    assert_eq!(answer.nonce, "7");
    let refusal = answer.refusal.as_ref().unwrap();
    assert_eq!(refusal.rejections[0].name, "bad");
    assert!(refusal.message.starts_with("bad: "), "{}", refusal.message);
    let names: Vec<_> = session.versions(Kind::Cluster).map(|(name, _)| name).collect();
    assert_eq!(names, ["good"]);
}

#[test]
fn a_nack_names_the_field() {
    use prost::Message as _;
    let mut session = Session::new(Node::default());
    let message = crate::pb::cluster::Cluster {
        name: "bad".to_owned(),
        lrs_server: Some(crate::pb::core::ConfigSource::default()),
        load_assignment: Some(crate::pb::endpoint::ClusterLoadAssignment {
            cluster_name: "bad".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let bad = Carried { bytes: Raw(message.encode_to_vec().into()), ..carried(&cluster("bad", "bad", 0)) };
    let received = session.receive(response(vec![bad]));
    let finished = session.finish(received, Vec::new());
    let refusal = finished.requests.last().unwrap().refusal.clone().unwrap();
    assert_eq!(refusal.rejections[0].why, "lrs_server: `lrs_server` is not supported");
}

#[test]
fn a_resource_under_a_wrong_name_is_refused() {
    let mut session = Session::new(Node::default());
    let wrong = Carried { name: "other".to_owned(), ..carried(&cluster("one", "one", 0)) };
    let received = session.receive(response(vec![wrong]));
    assert_eq!(received.update.upserts, []);
    assert!(session.finish(received, Vec::new()).requests.last().unwrap().refusal.is_some());
}

#[test]
fn endpoints_are_asked_for_before_the_cluster_is_answered() {
    let mut session = Session::new(Node::default());
    let received = session.receive(response(vec![carried(&cluster("a", "eds-a", 0))]));
    let finished = session.finish(received, Vec::new());
    let kinds: Vec<_> = finished.requests.iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [Kind::Endpoints, Kind::Cluster]);
}

#[test]
fn a_new_stream_begins_with_what_the_client_has() {
    let mut session = Session::new(Node::default());
    let received = session.receive(response(vec![carried(&cluster("a", "eds-a", 0))]));
    session.finish(received, Vec::new());
    let requests = session.connect();
    let kinds: Vec<_> = requests.iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [Kind::Cluster, Kind::Endpoints, Kind::Listener]);
    let Names::Change { have, .. } = &requests[0].names else { panic!("delta only") };
    assert_eq!(have.keys().collect::<Vec<_>>(), ["a"]);
}

fn whole() -> Session {
    Session::new(Node::default()).speaking(Protocol::StateOfTheWorld)
}

fn take(session: &mut Session, response: Response) -> (Update, Finished) {
    let received = session.receive(response);
    let update = received.update.clone();
    (update, session.finish(received, Vec::new()))
}

#[test]
fn with_state_of_the_world_what_is_left_out_is_gone() {
    let mut session = whole();
    take(&mut session, response(vec![carried(&cluster("a", "a", 0)), carried(&cluster("b", "b", 0))]));
    let (update, finished) = take(&mut session, response(vec![carried(&cluster("b", "b", 1))]));
    assert_eq!(update.removed, [(Kind::Cluster, "a".to_owned())]);
    let wanted = Names::All(vec!["b".to_owned()]);
    assert!(finished.requests.iter().any(|r| r.kind == Kind::Endpoints && r.names == wanted), "{finished:?}");
}

#[test]
fn with_state_of_the_world_a_bad_one_keeps_its_last_good_version_and_the_nack_the_last_good_response() {
    let mut session = whole();
    take(&mut session, response(vec![carried(&cluster("a", "a", 0)), carried(&cluster("b", "b", 0))]));
    assert_eq!(session.accepted(Kind::Cluster), "v7");
    let garbled = Carried { bytes: Raw(Bytes::from_static(b"\xff")), ..carried(&cluster("b", "b", 0)) };
    let good = carried(&cluster("a", "a", 1));
    let next = Response { version: "v8".to_owned(), ..response(vec![good, garbled]) };
    let (update, finished) = take(&mut session, next);
    assert_eq!((update.upserts, update.removed), (vec![cluster("a", "a", 1)], Vec::new()));
    assert!(finished.requests.last().unwrap().refusal.is_some());
    assert_eq!(session.accepted(Kind::Cluster), "v7");
}

#[test]
fn with_state_of_the_world_a_resource_without_a_name_removes_nothing() {
    let mut session = whole();
    take(&mut session, response(vec![carried(&cluster("a", "a", 0))]));
    let nameless = Carried { name: String::new(), ..carried(&cluster("a", "a", 0)) };
    let (update, finished) = take(&mut session, response(vec![nameless]));
    assert_eq!((update.upserts, update.removed), (Vec::new(), Vec::new()));
    assert!(finished.requests.last().unwrap().refusal.is_some());
}

#[test]
fn what_static_resources_name_is_wanted_and_they_stay() {
    for protocol in PROTOCOLS {
        let statics = [cluster("a", "eds-a", 0)];
        let session = Session::new(Node::default()).speaking(protocol).wanting([Kind::Cluster]);
        let mut session = session.beside(&statics);
        let kinds: Vec<_> = session.connect().iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [Kind::Cluster, Kind::Endpoints]);
        let (update, finished) = take(&mut session, response(vec![carried(&cluster("a", "other", 0))]));
        assert!(update.is_empty() && finished.cleanup.is_empty());
        assert_eq!(finished.requests.last().unwrap().refusal, None);
    }
}

#[test]
fn what_was_kept_comes_back_with_what_it_names_and_nothing_else() {
    for protocol in PROTOCOLS {
        let mut session = Session::new(Node::default()).speaking(protocol);
        let all = [
            cluster("a", "e", 0),
            endpoints("e", 0),
            endpoints("stray", 0),
            listener("l", "r", 0),
            routes("r", 0),
        ];
        let mut kept: BTreeMap<Kind, Vec<Carried>> = BTreeMap::new();
        for resource in &all {
            kept.entry(resource.kind()).or_default().push(carried(resource));
        }
        let mut applied = Applied::default();
        session.restore(kept, |update| applied.apply(&update));
        let names: Vec<&str> = applied.0.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["a", "e", "l", "r"]);
        let kinds: Vec<_> = session.connect().iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Routes]);
    }
}
