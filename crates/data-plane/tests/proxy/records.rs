//! What requests leave behind: metrics, access log, and the admin interface that shows them.

use std::sync::Arc;

use meshwork_data_plane::Options;
use meshwork_model::format::Template;
use meshwork_model::proxy::{
    self, Action, Direction, FilterChain, Gate, HttpFilter, HttpFilterKind, HttpRbac, Permission, Principal,
    Rbac, Resource, RouteSource, Rule, StringMatch,
};
use meshwork_telemetry::{AccessLog, EdgeSnapshot, Registry, Sink};

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn every_request_is_counted_once_whatever_became_of_it() {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![route("/a", &[("a", 1)])]),
    ]);
    let mut client = sut.client().await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send(OK).await;
    client.receive().await;
    client.call("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.receive().await;
    drop(client);
    origin.rest().await.expect("let go");
    let total = || sut.registry.fold().iter().map(EdgeSnapshot::requests).sum::<u64>();
    soon(async {
        while total() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(sut.proxy);
    let edges = sut.registry.fold();
    let to_a = edges.iter().find(|e| e.key.destination.name.as_ref() == "a").expect("an edge");
    assert_eq!((to_a.requests(), to_a.key.source.name.as_ref()), (2, "sut"));
    assert_eq!(edges.iter().map(EdgeSnapshot::requests).sum::<u64>(), 3);
}

#[tokio::test]
async fn the_access_log_tells_of_each_request() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let registry = Registry::new(std::time::SystemTime::UNIX_EPOCH);
    let access_log = AccessLog::open(&Sink::File(path.clone()), &registry).expect("opens");
    let origin = Origin::answering(OK).await;
    let options = Options { workers: 1, access_log, ..Options::default() };
    let resources =
        vec![Resource::Cluster(cluster("a", &[origin.address])), web(vec![route("/", &[("a", 1)])])];
    let sut = Sut::start_with(options, None, resources);
    sut.client().await.call("GET /x?y HTTP/1.1\r\nHost: shop\r\nX-Request-Id: r1\r\n\r\n").await;
    sut.client().await.call("GET / HTTP/1.1\r\n\r\n").await;
    drop(sut);
    let lines = soon(async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() == 2 {
                break text;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let find = |text: &str| lines.lines().find(|line| line.contains(text)).expect(text).to_owned();
    let line = find("\"/x?y\"");
    for part in
        ["\"GET\"", "\"shop\"", "200", "\"r1\"", "\"config_version\":\"1\"", &origin.address.to_string()]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(find("\"response_code\":400").contains("MW0101"));
}

/// Lines of a file, once there are so many.
async fn lines(path: &std::path::Path, many: usize) -> Vec<String> {
    soon(async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() == many && text.ends_with('\n') {
                break text.lines().map(ToOwned::to_owned).collect();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// A DENY policy that is only tried, an AUDIT policy, and ALLOW ones of which one is tried.
fn tried(name: &str, action: Action, permission: Permission) -> Arc<Rbac> {
    let rule = Rule {
        name: format!("ns[shop]-policy[{name}]-rule[0]").into(),
        permissions: vec![permission],
        principals: vec![Principal::Any],
    };
    Arc::new(Rbac { action, rules: vec![rule] })
}

#[tokio::test]
async fn what_policies_would_say_is_counted_and_logged() {
    let dir = tempfile::tempdir().expect("a directory");
    let (json, own) = (dir.path().join("access.log"), dir.path().join("own.log"));
    let registry = Registry::new(std::time::SystemTime::UNIX_EPOCH);
    let access_log = AccessLog::open(&Sink::File(json.clone()), &registry).expect("opens");
    let origin = Origin::answering(OK).await;
    let options = Options { workers: 1, access_log, ..Options::default() };
    let admin = || Permission::Path(StringMatch::Prefix("/admin".into()));
    let rbac = |rbac| HttpFilter::new(HttpFilter::RBAC, HttpFilterKind::Rbac(rbac));
    let filters = vec![
        rbac(HttpRbac { rules: Some(tried("seen", Action::Log, admin())), ..HttpRbac::default() }),
        rbac(HttpRbac {
            rules: None,
            shadow: Some(tried("no-admin", Action::Deny, admin())),
            shadow_prefix: "istio_dry_run_deny_".into(),
        }),
        rbac(HttpRbac {
            rules: None,
            shadow: Some(tried("asked", Action::Deny, admin())),
            shadow_prefix: "istio_ext_authz_opa_".into(),
        }),
    ];
    let table = RouteSource::Inline(Arc::new(table("t", vec![route("/", &[("a", 1)])])));
    let mut http = http_connection(table, filters);
    let text = "%DYNAMIC_METADATA(meshwork.policy:dry_run)% %DYNAMIC_METADATA(meshwork.policy:audit)%\n";
    let body = proxy::FormatBody::Text(Template::parse(text).expect("valid"));
    let format = proxy::Format { body, omit_empty: false, content_type: None };
    let file = proxy::LogSink::File(own.to_str().expect("text").into());
    http.access_logs = vec![proxy::AccessLog { sink: file, format, filter: None }];
    let filter = proxy::NetworkFilter::Http(Arc::new(http));
    let listener = listener("web", Direction::Unspecified, chain(filter, None));
    let sut =
        Sut::start_with(options, None, vec![Resource::Cluster(cluster("a", &[origin.address])), listener]);
    let mut client = sut.client().await;
    assert_eq!(client.call("GET /admin HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    assert_eq!(client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    let told = lines(&json, 2).await;
    let denied = "\"policy_dry_run\":\"ns[shop]-policy[no-admin]=denied\"";
    let audit = "\"policy_audit\":\"ns[shop]-policy[seen]-rule[0]\"";
    assert!(told[0].contains(denied) && told[0].contains(audit), "{told:?}");
    assert!(told[1].contains("no-admin]=allowed") && !told[1].contains("policy_audit"), "{told:?}");
    let own = lines(&own, 2).await;
    assert_eq!(own[0], "ns[shop]-policy[no-admin]=denied ns[shop]-policy[seen]-rule[0]");
    assert_eq!(own[1], "ns[shop]-policy[no-admin]=allowed -");
    let metrics = sut.registry.prometheus_text();
    for verdict in ["denied", "allowed"] {
        let series = "meshwork_policy_dry_run_total{policy=\"ns[shop]-policy[no-admin]\",verdict=\"";
        assert!(metrics.contains(&format!("{series}{verdict}\"}} 1\n")), "{metrics}");
    }
    assert!(!metrics.contains("policy[asked]"), "that a provider is asked is no trial");
}

#[tokio::test]
async fn what_policies_would_say_of_bytes_is_counted_and_logged() {
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("access.log");
    let registry = Registry::new(std::time::SystemTime::UNIX_EPOCH);
    let access_log = AccessLog::open(&Sink::File(json.clone()), &registry).expect("opens");
    let stage = Stage::open().await;
    let options = Options { workers: 1, access_log, ..Options::default() };
    // What is asked of a request is never true of bytes: the tried policy lets nothing pass, and the one that decides
    // lets all pass.
    let get = Permission::Path(StringMatch::Exact("/".into()));
    let gates = vec![
        Gate::Rbac(tried("seen", Action::Log, Permission::Any)),
        Gate::Tried(tried("none", Action::Deny, Permission::Any), "istio_dry_run_deny_".into()),
        Gate::Tried(tried("get", Action::Allow, get), "istio_dry_run_allow_".into()),
    ];
    let filter = proxy::NetworkFilter::Tcp(Arc::new(proxy::TcpProxy::to("a")));
    let chain = FilterChain { gates, ..chain(filter, None) };
    let sut = Sut::start_with(
        options,
        None,
        vec![Resource::Cluster(cluster("a", &[stage.address()])), listener("web", Direction::Inbound, chain)],
    );
    let mut client = sut.client().await;
    client.send("x").await;
    let mut origin = stage.accept().await;
    assert_eq!(origin.next_bytes().await, "x");
    origin.send("y").await;
    drop(origin);
    assert_eq!(client.rest().await.expect("whole"), b"y");
    drop(client);
    let told = lines(&json, 1).await;
    let trials = "\"policy_dry_run\":\"ns[shop]-policy[none]=denied,ns[shop]-policy[get]=denied\"";
    assert!(told[0].contains(trials), "{told:?}");
    assert!(told[0].contains("\"policy_audit\":\"ns[shop]-policy[seen]-rule[0]\""), "{told:?}");
    let metrics = sut.registry.prometheus_text();
    for policy in ["none", "get"] {
        let series = format!("{{policy=\"ns[shop]-policy[{policy}]\",verdict=\"denied\"}} 1\n");
        assert!(metrics.contains(&series), "{metrics}");
    }
    let port = sut.address("web").port();
    let plain = format!("{{destination_port=\"{port}\",source_ip=\"127.0.0.1\"}}");
    assert!(metrics.contains(&format!("meshwork_plaintext_connections_total{plain} 1\n")), "{metrics}");
}

#[tokio::test]
async fn bytes_are_let_pass_by_no_rule_that_asks_for_something_of_a_request() {
    let stage = Stage::open().await;
    let get = Permission::Path(StringMatch::Exact("/".into()));
    let filter = proxy::NetworkFilter::Tcp(Arc::new(proxy::TcpProxy::to("a")));
    let gates = vec![Gate::Rbac(tried("get", Action::Allow, get))];
    let chain = FilterChain { gates, ..chain(filter, None) };
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        listener("web", Direction::Inbound, chain),
    ]);
    let mut client = sut.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.rest().await.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn requests_without_mtls_are_counted_by_where_they_come_from() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let filter = || http(vec![route("/", &[("a", 1)])], vec![]);
    let matches =
        |transport| proxy::ChainMatch { transport: Some(transport), ..proxy::ChainMatch::default() };
    let of_mesh = FilterChain {
        name: "mtls".into(),
        matches: matches(proxy::Transport::Tls),
        ..chain(filter(), inbound_tls(&["http/1.1"]))
    };
    let plain = FilterChain {
        name: "plaintext".into(),
        matches: matches(proxy::Transport::Plaintext),
        ..chain(filter(), None)
    };
    let permissive =
        proxy::Listener::new("inbound|8080", Some(LOOPBACK), Direction::Inbound, vec![of_mesh, plain]);
    let sut = Sut::start_as(
        Some(mesh.identity("catalog")),
        vec![Resource::Cluster(cluster("a", &[origin.address])), Resource::Listener(permissive)],
    );
    let mut client = Client::connect(sut.address("inbound|8080")).await;
    for _ in 0..3 {
        assert_eq!(client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    }
    let caller = Sut::start_as(
        Some(mesh.identity("web")),
        vec![
            Resource::Cluster(by_mtls(
                cluster("a", &[sut.address("inbound|8080")]),
                "catalog",
                &["http/1.1"],
            )),
            web(vec![route("/", &[("a", 1)])]),
        ],
    );
    assert_eq!(caller.client().await.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    // The caller has its answer a moment before that is counted.
    let counted = "meshwork_mtls_requests_total{destination_port=\"8080\"} 1\n";
    soon(async {
        while !sut.registry.prometheus_text().contains(counted) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    let metrics = sut.registry.prometheus_text();
    let from = "{destination_port=\"8080\",source_ip=\"127.0.0.1\"}";
    for (name, labels, count) in [
        ("meshwork_plaintext_connections_total", from, 1),
        ("meshwork_plaintext_connections_open", from, 1),
        ("meshwork_plaintext_requests_total", from, 3),
        ("meshwork_mtls_connections_total", "{destination_port=\"8080\"}", 1),
        ("meshwork_mtls_requests_total", "{destination_port=\"8080\"}", 1),
    ] {
        assert!(metrics.contains(&format!("{name}{labels} {count}\n")), "{name}: {metrics}");
    }
}

#[tokio::test]
async fn why_an_endpoint_was_not_believed_is_logged_with_both_identities() {
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("access.log");
    let registry = Registry::new(std::time::SystemTime::UNIX_EPOCH);
    let access_log = AccessLog::open(&Sink::File(json.clone()), &registry).expect("opens");
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let filter = http(vec![route("/", &[("a", 1)])], vec![]);
    let catalog = Sut::start_as(
        Some(mesh.identity("catalog")),
        vec![
            Resource::Cluster(cluster("a", &[origin.address])),
            listener("inbound", Direction::Inbound, chain(filter, inbound_tls(&["http/1.1"]))),
        ],
    );
    let expected = by_mtls(cluster("a", &[catalog.address("inbound")]), "payments", &["http/1.1"]);
    let options = Options { workers: 1, access_log, ..Options::default() };
    let resources = vec![Resource::Cluster(expected), web(vec![route("/", &[("a", 1)])])];
    let sut = Sut::start_with(options, Some(mesh.identity("web")), resources);
    assert_eq!(sut.client().await.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 503);
    let told = lines(&json, 1).await;
    let words = "\"upstream_transport_failure_reason\":\"the certificate is that of \
                 spiffe://mesh.local/ns/shop/sa/catalog, expected spiffe://mesh.local/ns/shop/sa/payments\"";
    assert!(told[0].contains(words) && told[0].contains("MW0303"), "{told:?}");
}

#[tokio::test]
async fn a_log_that_the_config_asks_for_is_written_with_the_id_that_was_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.log");
    let file = path.to_str().expect("text").into();
    let mut origin = Origin::answering(OK).await;
    let table = RouteSource::Inline(Arc::new(table("t", vec![route("/", &[("a", 1)])])));
    let mut http = http_connection(table, vec![]);
    http.generate_request_id = true;
    let text = Template::parse("%REQ(x-request-id)% %RESPONSE_CODE% %ROUTE_NAME% %UPSTREAM_CLUSTER%\n")
        .expect("valid");
    let format = proxy::Format { body: proxy::FormatBody::Text(text), omit_empty: false, content_type: None };
    http.access_logs = vec![proxy::AccessLog { sink: proxy::LogSink::File(file), format, filter: None }];
    let filter = proxy::NetworkFilter::Http(Arc::new(http));
    let listener = listener("web", Direction::Unspecified, chain(filter, None));
    let sut = Sut::start(vec![Resource::Cluster(cluster("a", &[origin.address])), listener]);
    sut.client().await.call("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let id = origin.next().await.header("x-request-id").expect("made").to_owned();
    drop(sut);
    let line = soon(async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(line.await, format!("{id} 200 route a\n"));
}

#[tokio::test]
async fn the_admin_interface_shows_readiness_config_and_metrics() {
    let options = Options { workers: 1, admin: Some(LOOPBACK), ..Options::default() };
    let origin = Origin::answering(OK).await;
    let sut = Sut::start_with(options, None, vec![]);
    let address = sut.proxy.admin_address().expect("bound");
    let page = async |path: &str| {
        let mut client = Client::connect(address).await;
        client.call(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    };
    assert_eq!(page("/ready").await.status(), 503);
    sut.apply(vec![Resource::Cluster(cluster("a", &[origin.address])), web(vec![route("/", &[("a", 1)])])]);
    assert_eq!(page("/ready").await.status(), 200);
    sut.client().await.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(page("/config_dump").await.body.contains("\"static_listeners\""));
    assert!(page("/listeners").await.body.starts_with("web::127.0.0.1:"));
    assert!(page("/clusters").await.body.contains("a::added_via_api::false"));
    for path in ["/metrics", "/stats/prometheus"] {
        assert!(page(path).await.body.contains("istio_requests_total{"), "{path}");
    }
    for path in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/logging"] {
        assert_eq!(page(path).await.status(), 405, "{path} by GET");
    }
    assert_eq!(page("/nothing").await.status(), 404);
    for (host, status) in [
        ("127.0.0.1:15000", 200),
        ("[::1]:15000", 200),
        ("[::1]", 200),
        ("10.0.0.1", 200),
        ("localhost:15000", 200),
        ("evil.example", 403),
        ("evil.example:15000", 403),
        ("localhost.evil.example", 403),
    ] {
        let mut client = Client::connect(address).await;
        let answer = client.call(&format!("GET /config_dump HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status(), status, "{host}");
    }
    let order = async |path: &str, field: &str| {
        let mut client = Client::connect(address).await;
        client
            .call(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{field}Content-Length: 0\r\n\r\n"))
            .await
    };
    assert_eq!(order("/healthcheck/fail", "Origin: http://evil.example\r\n").await.status(), 403);
    assert_eq!(order("/healthcheck/fail", "").await.status(), 200);
    assert_eq!(page("/ready").await.status(), 503);
    assert_eq!(order("/healthcheck/ok", "").await.status(), 200);
    assert_eq!(page("/ready").await.status(), 200);
}
