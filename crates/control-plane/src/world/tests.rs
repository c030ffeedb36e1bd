mod changes;

use std::time::Duration;

use super::*;
use crate::lease::{RESTART_GRACE, STREAM_GRACE};
use meshwork_model::mesh::{Inbound, Labels, MeshDefaults};
use meshwork_model::proxy::Locality;
use meshwork_xds::{Node, Rejection};
use serde_json::json;

const CONFIG: &str = "
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";
const CART_ENDPOINTS: &str = "outbound|80||cart.shop.svc.cluster.local";

fn world() -> World {
    let sources = [("a.yaml".to_owned(), CONFIG.to_owned())].into();
    let loaded = crate::ingest::read_texts(sources);
    assert_eq!(loaded.problems, []);
    let enrolment = |name: &str| Enrolment {
        workload: Key::new("shop", name),
        service_account: name.to_owned(),
        labels: Labels::from([("app".to_owned(), name.to_owned())]),
    };
    World::new("mesh.local", loaded.config, vec![enrolment("web"), enrolment("cart")])
}

#[test]
fn a_config_that_takes_the_mesh_for_another_is_told() {
    let problems = |said: &str| {
        let defaults = MeshDefaults { trust_domain: Some(said.into()), ..MeshDefaults::default() };
        let world = World::new("mesh.local", Config { defaults, ..Config::default() }, Vec::new());
        world.problems().iter().map(Problem::to_string).collect::<Vec<_>>()
    };
    assert_eq!(problems("mesh.local"), [""; 0]);
    assert_eq!(
        problems("other.local"),
        [
            "MeshConfig meshwork-system/default: spec.trustDomain: the mesh's trust domain is `mesh.local`, not \
          `other.local`; It is said when the control plane is started"
        ]
    );
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::workload("mesh.local", "shop", account).expect("valid")
}

fn stream(number: u64, account: &str, name: &str, user_agent: &str) -> Stream {
    let metadata = json!({
        "NAME": name,
        "INBOUND": [{"port": 8080, "bind": "127.0.0.1:41000", "application": "127.0.0.1:9000"}],
        "OUTBOUND": [{"port": 80, "bind": "127.0.0.1:42000", "service": "cart.shop"}],
    });
    let node = Node {
        id: format!("sidecar~{name}.shop"),
        user_agent: user_agent.to_owned(),
        metadata,
        ..Node::default()
    };
    Stream { number, peer: identity(account), node }
}

fn sidecar(number: u64, name: &str) -> Stream {
    stream(number, name, name, "meshwork")
}

/// How many endpoints of the cart a proxy has; no version tells, so the bytes are decoded.
fn carts(snapshots: &watch::Receiver<Arc<Snapshot>>) -> usize {
    let snapshot = snapshots.borrow();
    let encoded = snapshot.resource(Kind::Endpoints, CART_ENDPOINTS).expect("there");
    match meshwork_xds::decode(encoded.type_url(), &encoded.bytes).expect("valid") {
        meshwork_model::proxy::Resource::Endpoints(endpoints) => endpoints.endpoints.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_found_while_its_stream_lives_and_a_moment_longer() {
    let world = world();
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    assert_eq!(carts(&web), 0);
    let cart = sidecar(2, "cart");
    let _snapshots = world.connect(&cart).expect("admitted");
    world.publish();
    assert_eq!(carts(&web), 1);
    world.disconnect(&cart);
    world.expire(Instant::now());
    world.publish();
    assert_eq!(carts(&web), 1);
    tokio::time::advance(STREAM_GRACE).await;
    world.expire(Instant::now());
    world.publish();
    assert_eq!(carts(&web), 0);
    assert_eq!(world.proxies(|key, _| key.name.to_string()), ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_reconnects_is_never_missed() {
    let world = world();
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    let _old = world.connect(&sidecar(2, "cart")).expect("admitted");
    let _new = world.connect(&sidecar(3, "cart")).expect("admitted");
    world.disconnect(&sidecar(2, "cart"));
    tokio::time::advance(Duration::from_mins(1)).await;
    world.expire(Instant::now());
    world.publish();
    assert_eq!(carts(&web), 1);
    assert!(world.proxies(|_, proxy| proxy.connected).into_iter().all(|connected| connected));
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_no_endpoint_away_before_proxies_could_reconnect() {
    let world = world();
    let inbound = |port| Inbound {
        port,
        bind: ([127, 0, 0, 1], 41000).into(),
        application: ([127, 0, 0, 1], 9000).into(),
        protocol: None,
    };
    let lease = |name: &str, account: &str| Workload {
        key: Key::new("shop", name),
        identity: identity(account),
        labels: Labels::from([("app".to_owned(), "cart".to_owned())]),
        inbound: vec![inbound(8080)],
        outbound: Vec::new(),
        capture: None,
        gateway: None,
        unready: None,
        locality: Locality::default(),
    };
    // One of somebody who is not enrolled, or not any more with that identity, is not restored.
    world.restore(vec![lease("cart", "cart"), lease("thief", "cart"), lease("web", "cart")], Instant::now());
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    assert_eq!(carts(&web), 1);
    tokio::time::advance(RESTART_GRACE.saturating_sub(Duration::from_millis(1))).await;
    world.expire(Instant::now());
    world.publish();
    assert_eq!(carts(&web), 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(world.next_expiry(), Some(Instant::now()));
    world.expire(Instant::now());
    world.publish();
    assert_eq!(carts(&web), 0);
}

#[tokio::test]
async fn a_node_is_who_it_proved_to_be() {
    let world = world();
    let check = |account: &str, name: &str, expected: &str| {
        let denied = world.connect(&stream(1, account, name, "meshwork")).expect_err("denied");
        assert!(denied.0.contains(expected), "{denied}");
    };
    check("web", "cart", "another identity");
    check("web", "nobody", "no workload shop/nobody is enrolled");
    check("web", "", "is enrolled");
    assert_eq!(world.counters().denied_streams, 3);
    assert!(world.mesh().workloads.is_empty());
}

#[tokio::test]
async fn only_proxies_whose_config_changed_are_told() {
    let world = world();
    let mut web = world.connect(&sidecar(1, "web")).expect("admitted");
    world.publish();
    web.mark_unchanged();
    world.publish();
    assert!(!web.has_changed().expect("open"));
    let other = "
apiVersion: v1
kind: Service
metadata: { name: other, namespace: shop }
spec: { selector: { app: other }, ports: [{ name: http, port: 80 }] }
";
    let read = |text: String| crate::ingest::read_texts([("a.yaml".to_owned(), text)].into()).config;
    world.apply(read(format!("{CONFIG}---\n{other}")), Vec::new(), 1);
    world.publish();
    assert!(!web.has_changed().expect("open"));
    world.apply(read(CONFIG.replace("name: http", "name: tcp")), Vec::new(), 2);
    world.publish();
    assert!(web.has_changed().expect("open"));
}

#[tokio::test]
async fn a_proxyless_client_gets_what_it_asks_for() {
    let world = world();
    let client = stream(1, "web", "web", "gRPC C-core");
    let snapshots = world.connect(&client).expect("admitted");
    assert!(snapshots.borrow().is_empty());
    world.wanted(&client, Kind::Listener, &["cart.shop:80".to_owned(), "*".to_owned()]);
    assert!(snapshots.borrow().resource(Kind::Listener, "cart.shop:80").is_some());
    assert!(snapshots.borrow().resource(Kind::Cluster, CART_ENDPOINTS).is_some());
}

#[tokio::test]
async fn acknowledgements_and_refusals_are_kept_by_resource() {
    let world = world();
    let web = sidecar(1, "web");
    let snapshots = world.connect(&web).expect("admitted");
    let current = || world.proxies(|_, proxy| (proxy.is_current(), proxy.refused.len()));
    assert_eq!(current(), [(false, 0)]);
    for kind in Kind::ALL {
        let snapshot = snapshots.borrow().clone();
        let versions =
            snapshot.of_kind(kind).map(|e| (Arc::clone(&e.name), Arc::clone(&e.version))).collect();
        world.report(&web, Event::Accepted { kind, versions, removed: Vec::new() });
    }
    assert_eq!(current(), [(true, 0)]);
    let rejection = Rejection { kind: Kind::Cluster, name: CART_ENDPOINTS.to_owned(), why: "no".to_owned() };
    world.report(
        &web,
        Event::Refused { kind: Kind::Cluster, message: "no".to_owned(), rejections: vec![rejection] },
    );
    assert_eq!(current(), [(false, 1)]);
    world.report(
        &web,
        Event::Accepted {
            kind: Kind::Cluster,
            versions: vec![(CART_ENDPOINTS.into(), "v".into())],
            removed: Vec::new(),
        },
    );
    assert_eq!(world.proxies(|_, proxy| proxy.refused.len()), [0]);
    assert_eq!((world.counters().acknowledged, world.counters().refused), (6, 1));
}

#[tokio::test]
async fn a_call_of_what_there_is_not_is_told() {
    let world = world();
    let mut web = sidecar(1, "web");
    web.node.metadata["OUTBOUND"][0]["service"] = json!("crat.shop");
    let _snapshots = world.connect(&web).expect("admitted");
    let problems: Vec<String> = world.problems().iter().map(Problem::to_string).collect();
    assert_eq!(
        problems,
        [
            "Workload shop/web: it calls shop/crat:80, and no Service has that port; Add the Service, or correct the \
          sidecar's --outbound"
        ]
    );
}

#[tokio::test]
async fn a_workload_that_its_named_service_does_not_select_is_told() {
    let world = world();
    let labels = Labels::from([(SERVICE_LABEL.to_owned(), "cart".to_owned())]);
    let workload = Key::new("shop", "web");
    world.enrolled(Enrolment { workload, service_account: "web".to_owned(), labels });
    let _snapshots = world.connect(&sidecar(1, "web")).expect("admitted");
    let problems: Vec<String> = world.problems().iter().map(Problem::to_string).collect();
    assert_eq!(
        problems,
        [
            "Workload shop/web: its label meshwork.dev/service names the Service shop/cart, which is written and does not \
          select it; Add `meshwork.dev/service: cart` to the Service's selector, or give the workload's token the labels \
          in it"
        ]
    );
}

#[tokio::test]
async fn a_new_enrolment_relabels_a_connected_workload() {
    let world = world();
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    let _cart = world.connect(&sidecar(2, "cart")).expect("admitted");
    world.enrolled(Enrolment {
        workload: Key::new("shop", "cart"),
        service_account: "cart".to_owned(),
        labels: Labels::new(),
    });
    world.publish();
    assert_eq!(carts(&web), 0);
    assert!(world.is_enrolled(&identity("cart")) && !world.is_enrolled(&identity("thief")));
}

fn probed(number: u64, name: &str, port: u16) -> Stream {
    let mut stream = sidecar(number, name);
    stream.node.metadata["HEALTH"] = json!("probed");
    stream.node.metadata["INBOUND"][0]["bind"] = json!(format!("127.0.0.1:{port}"));
    stream
}

#[tokio::test(start_paused = true)]
async fn a_probed_workload_is_called_once_it_says_that_it_is_ready() {
    let world = world();
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    let cart = probed(2, "cart", 41000);
    let _snapshots = world.connect(&cart).expect("admitted");
    let check = |health: Option<Health>, expected: usize, problem: &str| {
        if let Some(health) = health {
            world.health(&cart, health);
        }
        world.publish();
        assert_eq!(carts(&web), expected);
        let problems: Vec<String> = world.problems().iter().map(Problem::to_string).collect();
        assert!(problems.concat().contains(problem), "{problems:?}");
        assert_eq!(problems.is_empty(), problem.is_empty(), "{problems:?}");
    };
    check(None, 0, "Workload shop/cart: it is not ready and takes no requests: its readiness probe");
    check(Some(Health::Ready), 1, "");
    check(Some(Health::Unready("503".into())), 0, "takes no requests: 503");
    check(Some(Health::Ready), 1, "");
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_keeps_what_was_said_and_a_restart_behind_other_ports_does_not() {
    let world = world();
    let ready = || world.mesh().workloads[&Key::new("shop", "cart")].unready.is_none();
    let _first = world.connect(&probed(1, "cart", 41000)).expect("admitted");
    world.health(&probed(1, "cart", 41000), Health::Ready);
    let _again = world.connect(&probed(2, "cart", 41000)).expect("admitted");
    assert!(ready());
    // What an old stream still says counts nothing.
    world.health(&probed(1, "cart", 41000), Health::Unready("late".into()));
    assert!(ready());
    let _other = world.connect(&probed(3, "cart", 41001)).expect("admitted");
    assert!(!ready());
    let _unprobed = world.connect(&sidecar(4, "cart")).expect("admitted");
    assert!(ready());
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_leaves_is_gone_at_once_and_its_stream_ends() {
    let world = world();
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    let cart = sidecar(2, "cart");
    let mut snapshots = world.connect(&cart).expect("admitted");
    world.publish();
    assert_eq!(carts(&web), 1);
    world.health(&cart, Health::Leaving);
    world.publish();
    assert_eq!(carts(&web), 0);
    snapshots.mark_unchanged();
    assert!(snapshots.changed().await.is_err());
    world.disconnect(&cart);
    assert_eq!(world.next_expiry(), None);
    let _back = world.connect(&sidecar(3, "cart")).expect("admitted");
    world.publish();
    assert_eq!(carts(&web), 1);
}

#[tokio::test]
async fn only_our_own_proxies_speak_for_their_workload() {
    let world = world();
    let _cart = world.connect(&sidecar(1, "cart")).expect("admitted");
    let ready = || world.mesh().workloads[&Key::new("shop", "cart")].unready.is_none();
    let check = |stream: &Stream| {
        world.health(stream, Health::Unready("lies".into()));
        world.health(stream, Health::Leaving);
        assert!(ready());
    };
    // Another workload that says that it is this one, and one that never connected.
    check(&stream(1, "web", "web", "meshwork"));
    check(&sidecar(7, "cart"));
    let mut envoy = stream(2, "cart", "cart", "envoy");
    envoy.node.metadata["SDS_DIR"] = json!("/run/sds");
    let _envoy = world.connect(&envoy).expect("admitted");
    check(&envoy);
}

#[tokio::test(start_paused = true)]
async fn an_implied_service_outlives_its_workloads_but_not_their_enrolment() {
    let world = world();
    let enrolment = |labels: &[(&str, &str)]| Enrolment {
        workload: Key::new("shop", "web"),
        service_account: "web".to_owned(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    };
    let ports = || {
        let mesh = world.mesh();
        mesh.service(&Key::new("shop", "front"))
            .map(|(_, s)| s.ports.iter().map(|p| p.port).collect::<Vec<_>>())
    };
    world.enrolled(enrolment(&[(SERVICE_LABEL, "front")]));
    assert_eq!(ports(), None);
    let web = sidecar(1, "web");
    let _snapshots = world.connect(&web).expect("admitted");
    assert_eq!(ports(), Some(vec![8080]));
    world.disconnect(&web);
    tokio::time::advance(STREAM_GRACE).await;
    world.expire(Instant::now());
    assert!(world.mesh().workloads.is_empty());
    assert_eq!(ports(), Some(vec![8080]));
    world.enrolled(enrolment(&[]));
    let _snapshots = world.connect(&sidecar(2, "web")).expect("admitted");
    assert_eq!(ports(), None);
}

/// Has the client of a stream accept all that it has been given.
fn accept(world: &World, stream: &Stream, snapshots: &watch::Receiver<Arc<Snapshot>>) {
    let snapshot = snapshots.borrow().clone();
    for kind in Kind::ALL {
        let versions =
            snapshot.of_kind(kind).map(|e| (Arc::clone(&e.name), Arc::clone(&e.version))).collect();
        world.report(stream, Event::Accepted { kind, versions, removed: Vec::new() });
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_is_accepted_when_what_it_changes_is() {
    let world = world();
    let (web, envoy) = (sidecar(1, "web"), {
        let mut envoy = stream(2, "cart", "cart", "envoy");
        envoy.node.metadata["SDS_DIR"] = json!("/run/sds");
        envoy.node.metadata["OUTBOUND"] = json!([]);
        envoy
    });
    let of_web = world.connect(&web).expect("admitted");
    let of_envoy = world.connect(&envoy).expect("admitted");
    world.publish();
    let check = |expected: [(&str, u64); 2]| {
        let mut statuses = world.statuses(|_, _, status| (status.stage.word(), status.revision));
        statuses.reverse();
        assert_eq!(statuses, expected);
    };
    check([("pending", 0), ("pending", 0)]);
    accept(&world, &web, &of_web);
    accept(&world, &envoy, &of_envoy);
    let read = |text: &str| crate::ingest::read_texts([("a.yaml".to_owned(), text.to_owned())].into()).config;
    world.apply(read(&format!("{CONFIG}---\n{}", CONFIG.replace("cart", "other"))), Vec::new(), 1);
    check([("applied", 0), ("acknowledged", 0)]);
    // Nobody uses that service.
    world.publish();
    check([("applied", 1), ("acknowledged", 1)]);
    world.apply(read(&CONFIG.replace("name: http", "name: grpc")), Vec::new(), 2);
    world.publish();
    check([("pending", 1), ("pending", 1)]);
    tokio::time::advance(Duration::from_secs(3)).await;
    let stale = world.statuses(|_, _, status| status.stale);
    assert_eq!(stale, [Duration::from_secs(3); 2]);
    accept(&world, &web, &of_web);
    check([("applied", 2), ("pending", 1)]);
    let rejection = Rejection { kind: Kind::Listener, name: "inbound|8080".to_owned(), why: "no".to_owned() };
    let refused =
        Event::Refused { kind: Kind::Listener, message: "no".to_owned(), rejections: vec![rejection] };
    world.report(&envoy, refused);
    check([("applied", 2), ("refused", 1)]);
    world.disconnect(&web);
    check([("disconnected", 2), ("refused", 1)]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_go_at_once_and_config_when_it_is_quiet() {
    let world = Arc::new(world());
    let web = world.connect(&sidecar(1, "web")).expect("admitted");
    let publishing = Arc::clone(&world);
    let task = tokio::spawn(async move { crate::keep::publish(&publishing).await });
    let _cart = world.connect(&sidecar(2, "cart")).expect("admitted");
    tokio::task::yield_now().await;
    assert_eq!(carts(&web), 1);
    let read = |text: &str| crate::ingest::read_texts([("a.yaml".to_owned(), text.to_owned())].into()).config;
    let names = |protocol: &str| read(&CONFIG.replace("name: http", &format!("name: {protocol}")));
    let has_table = || web.borrow().resource(Kind::Routes, CART_ENDPOINTS).is_some();
    world.apply(names("tcp"), Vec::new(), 1);
    tokio::time::sleep(dirty::QUIET / 2).await;
    assert!(has_table());
    tokio::time::sleep(dirty::QUIET).await;
    assert!(!has_table());
    task.abort();
}
