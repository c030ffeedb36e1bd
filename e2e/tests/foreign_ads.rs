//! A control plane that knows nothing of us drives `meshwork proxy -c` and Envoy by one script, in both of ADS's forms.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::origin::Origin;
use e2e::program::Program;
use serde_json::{Value, json};

const PREFIX: &str = "type.googleapis.com/envoy";

/// A control plane, a program that it drives, and two origins.
struct World {
    dir: tempfile::TempDir,
    program: Program,
    is_ours: bool,
    control: Program,
    state: Value,
    origins: [Origin; 2],
    first: SocketAddr,
    second: SocketAddr,
    third: SocketAddr,
}

fn url(of: &str) -> String {
    let name = match of {
        "cds" => "config.cluster.v3.Cluster",
        "eds" => "config.endpoint.v3.ClusterLoadAssignment",
        "lds" => "config.listener.v3.Listener",
        "rds" => "config.route.v3.RouteConfiguration",
        "sds" => "extensions.transport_sockets.tls.v3.Secret",
        other => unreachable!("{other}"),
    };
    format!("{PREFIX}.{name}")
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn bootstrap(control: SocketAddr, admin: SocketAddr, api: &str) -> Value {
    let http2 = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{PREFIX}.extensions.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    let endpoint = json!({ "endpoint": { "address": address(control) } });
    json!({
        "node": { "id": "proxy-1", "cluster": "tests" },
        "admin": { "address": address(admin) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": api,
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }],
            },
            "cds_config": { "ads": {}, "resource_api_version": "V3" },
            "lds_config": { "ads": {}, "resource_api_version": "V3" },
        },
        "static_resources": { "clusters": [{
            "name": "control",
            "type": "STATIC",
            "connect_timeout": "5s",
            "typed_extension_protocol_options": http2,
            "load_assignment": {
                "cluster_name": "control",
                "endpoints": [{ "lb_endpoints": [endpoint] }],
            },
        }] },
    })
}

fn cluster(name: &str) -> Value {
    json!({
        "name": name, "type": "EDS", "connect_timeout": "5s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    })
}

fn endpoints(name: &str, at: SocketAddr) -> Value {
    let endpoint = json!({ "endpoint": { "address": address(at) } });
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] })
}

fn routes(name: &str, action: &str, what: &Value) -> Value {
    let route = json!({ "match": { "prefix": "/" }, action: what });
    json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] })
}

fn manager(source: &str, routes: &Value) -> Value {
    let router = format!("{PREFIX}.extensions.filters.http.router.v3.Router");
    json!({
        "name": "http",
        "typed_config": {
            "@type": format!("{PREFIX}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "front",
            source: routes,
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": { "@type": router } }],
        },
    })
}

fn listener(name: &str, at: SocketAddr, filters: &[Value]) -> Value {
    json!({ "name": name, "address": address(at), "filter_chains": [{ "filters": filters }] })
}

fn named_routes(name: &str) -> Value {
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    manager("rds", &json!({ "route_config_name": name, "config_source": source }))
}

fn direct(status: u16) -> Value {
    manager("route_config", &routes("inline", "direct_response", &json!({ "status": status })))
}

impl World {
    fn start(program: &str, api: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let origins = [
            Origin::start(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"),
            Origin::start(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb"),
        ];
        let (control_at, admin) = (e2e::free_address(), e2e::free_address());
        let (first, second, third) = (e2e::free_address(), e2e::free_address(), e2e::free_address());
        let state = json!({
            url("cds"): { "shop": cluster("shop") },
            url("eds"): { "shop": endpoints("shop", origins[0].address()) },
            url("lds"): { "first": listener("first", first, &[named_routes("front")]) },
            url("rds"): { "front": routes("front", "route", &json!({ "cluster": "shop" })) },
        });
        write(&dir.path().join("state.json"), &state);
        let script = e2e::root().join("e2e/peers/ads.py");
        let mut control = Program::start(
            "control",
            dir.path(),
            Command::new(e2e::peer("venv/bin/python"))
                .arg(script)
                .arg(control_at.port().to_string())
                .args([dir.path().join("state.json"), dir.path().join("events.jsonl")]),
        );
        control.listens(control_at);
        let file = dir.path().join("bootstrap.yaml");
        write(&file, &bootstrap(control_at, admin, api));
        let is_ours = program == "meshwork";
        let program = if is_ours {
            Program::meshwork(program, dir.path(), ["proxy", "-c", &file.to_string_lossy()])
        } else {
            Program::envoy(program, dir.path(), &file)
        };
        Self { dir, program, is_ours, control, state, origins, first, second, third }
    }

    /// Changes the control plane's mind.
    fn set(&mut self, kind: &str, name: &str, resource: Option<Value>) {
        let named = self.state[url(kind)].as_object_mut();
        match resource {
            Some(resource) => self.state[url(kind)][name] = resource,
            None => drop(named.and_then(|named| named.remove(name))),
        }
    }

    fn publish(&self) {
        write(&self.dir.path().join("state.json"), &self.state);
    }

    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("events.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn answers(&mut self, at: SocketAddr, status: u16, body: &str) {
        let what =
            format!("{} answers {status} {body} on {at}", if self.is_ours { "meshwork" } else { "envoy" });
        let (program, control) = (&mut self.program, &mut self.control);
        e2e::eventually(&what, || {
            assert!(program.alive() && control.alive(), "{} {}", program.output(), control.output());
            let got = e2e::http::get(at, "/");
            got.is_ok_and(|answer| answer.status == status && answer.text() == body)
        });
    }
}

/// Writes in one step, so that no half of it is read.
fn write(path: &Path, value: &Value) {
    let new: PathBuf = path.with_extension("new");
    std::fs::write(&new, value.to_string()).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

fn drive(program: &str, api: &str) {
    let mut world = World::start(program, api);
    let (first, second, third) = (world.first, world.second, world.third);
    world.answers(first, 200, "a");

    // Endpoints, then routes, change under a running listener.
    let other = world.origins[1].address();
    world.set("eds", "shop", Some(endpoints("shop", other)));
    world.publish();
    world.answers(first, 200, "b");
    world.set("rds", "front", Some(routes("front", "direct_response", &json!({ "status": 418 }))));
    world.publish();
    world.answers(first, 418, "");

    // A second listener comes, with a cluster and a route table of its own.
    world.set("cds", "more", Some(cluster("more")));
    world.set("eds", "more", Some(endpoints("more", world.origins[0].address())));
    world.set("rds", "back", Some(routes("back", "route", &json!({ "cluster": "more" }))));
    world.set("lds", "second", Some(listener("second", second, &[named_routes("back")])));
    world.publish();
    world.answers(second, 200, "a");

    bad_beside_good(&mut world, second, third);

    // What is taken away is gone; the rest stays.
    world.set("lds", "second", None);
    world.publish();
    e2e::eventually("the listener is gone", || TcpStream::connect(second).is_err());
    world.answers(first, 418, "");
    let nodes: Vec<_> = world.events().iter().map(|event| event["node"].clone()).collect();
    assert!(nodes.contains(&json!("proxy-1")), "{nodes:?}");
}

/// A listener that nobody can read comes beside a good one.
fn bad_beside_good(world: &mut World, second: SocketAddr, third: SocketAddr) {
    let mut table = routes("inline", "direct_response", &json!({ "status": 200 }));
    // No path without a slash at its end.
    table["virtual_hosts"][0]["routes"][0]["match"] = json!({ "path_separated_prefix": "/x/" });
    let bad = listener("second", second, &[manager("route_config", &table)]);
    world.set("lds", "second", Some(bad));
    world.set("lds", "third", Some(listener("third", third, &[direct(202)])));
    world.publish();
    e2e::eventually("the bad one is refused", || {
        let refused = |event: &Value| {
            event["event"] == "nack" && event["error"].as_str().is_some_and(|error| error.contains("second"))
        };
        world.events().iter().any(refused)
    });
    if world.is_ours {
        world.answers(third, 202, "");
        world.answers(second, 200, "a");
    }
    world.set("lds", "second", Some(listener("second", second, &[direct(201)])));
    world.publish();
    world.answers(second, 201, "");
    world.answers(third, 202, "");
}

#[test]
fn meshwork_is_driven_by_delta() {
    drive("meshwork", "DELTA_GRPC");
}

#[test]
fn meshwork_is_driven_by_the_state_of_the_world() {
    drive("meshwork", "GRPC");
}

#[test]
fn envoy_is_driven_by_delta() {
    drive("envoy", "DELTA_GRPC");
}

#[test]
fn envoy_is_driven_by_the_state_of_the_world() {
    drive("envoy", "GRPC");
}
