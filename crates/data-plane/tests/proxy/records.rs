//! What requests leave behind: metrics, access log, and the admin interface that shows them.

use std::sync::Arc;

use meshwork_data_plane::Options;
use meshwork_model::format::Template;
use meshwork_model::proxy::{self, Direction, Resource, RouteSource};
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
