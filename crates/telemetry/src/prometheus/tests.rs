use super::*;
use std::path::Path;
use std::time::{Duration, SystemTime};

use meshwork_model::proxy::{ServiceName, Workload};
use meshwork_model::reason::Reason;

use crate::edge::{EdgeKey, Reporter};
use crate::histogram::DURATION_BOUNDS;
use crate::registry::Registry;
use crate::shard::Request;

fn workload(name: &str, version: &str) -> Workload {
    Workload { name: name.into(), namespace: "shop".into(), app: name.into(), version: version.into() }
}

fn to(service: &str, protocol: Protocol) -> EdgeKey {
    EdgeKey {
        reporter: Reporter::Source,
        source: workload("web", "v1"),
        source_principal: "spiffe://mesh.local/ns/shop/sa/web".into(),
        service: Some(ServiceName { name: service.into(), namespace: "shop".into() }),
        destination: workload(service, "v2"),
        destination_principal: format!("spiffe://mesh.local/ns/shop/sa/{service}").into(),
        protocol,
        mtls: true,
    }
}

/// A proxy with one edge of each protocol, and a caller without identity whose name needs escapes.
fn proxy() -> std::sync::Arc<Registry> {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let shard = registry.shard();
    let catalog = shard.edge(&to("catalog", Protocol::Http));
    let request = Request { status: 200, bytes_in: 0, bytes_out: 1024, ..Request::default() };
    for micros in [100, 101, 900, 1_000, 40_000] {
        shard.record_request(catalog, &Request { duration: Duration::from_micros(micros), ..request });
    }
    let denied = Request { status: 403, reason: Some(Reason::Denied), ..request };
    shard.record_request(catalog, &denied);
    shard.connection_opened(catalog);
    let payments = shard.edge(&to("payments", Protocol::Grpc));
    shard.record_request(payments, &Request { grpc_status: Some(0), ..request });
    let unavailable = Request { grpc_status: Some(14), reason: Some(Reason::ConnectFailed), ..request };
    shard.record_request(payments, &unavailable);
    let ledger = shard.edge(&to("ledger", Protocol::Tcp));
    shard.tcp_opened(ledger);
    shard.tcp_bytes(ledger, 7, 9);
    shard.tcp_closed(ledger, Duration::from_secs(2), None);
    shard.connection_opened(ledger);
    shard.connection_closed(ledger);
    let source = Workload { name: "a\"b\\c\nd".into(), ..Workload::default() };
    let odd = shard.edge(&EdgeKey { reporter: Reporter::Destination, source, ..EdgeKey::default() });
    shard.record_request(odd, &Request { reason: Some(Reason::DownstreamGone), ..Request::default() });
    registry
}

/// A bucket's line with the called workload and the bound alone; its `_count` shows the other labels.
fn shortened(line: &str) -> String {
    let label = |name: &str| line.split([',', '{', '}']).find(|l| l.starts_with(name)).unwrap_or_default();
    match line.split_once("_bucket{") {
        Some((name, _)) => {
            let value = line.rsplit(' ').next().unwrap_or_default();
            format!("{name}_bucket{{…{},…,{}}} {value}\n", label("destination_workload="), label("le="))
        }
        None => format!("{line}\n"),
    }
}

/// Compares with `testdata/metrics.txt`; `UPDATE=1` renews it.
#[test]
fn the_text_is_as_it_was() {
    let text: String = proxy().prometheus_text().lines().map(shortened).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/metrics.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &text).expect("the golden file is writable");
    }
    let expected = std::fs::read_to_string(&golden).expect("the golden file is readable");
    assert!(text == expected, "the text differs from {}; UPDATE=1 renews it:\n{text}", golden.display());
}

#[test]
fn every_exported_bound_is_a_bound_of_the_histogram() {
    for (text, nanos) in DURATION_LE {
        assert!(DURATION_BOUNDS.contains(&nanos), "{text} ms");
        let millis: f64 = text.parse().expect("a number");
        assert_eq!(Duration::from_secs_f64(millis / 1e3), Duration::from_nanos(nanos), "{text} ms");
    }
}

#[test]
fn outcomes_without_room_are_told_by_their_class() {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let shard = registry.shard();
    let edge = shard.edge(&EdgeKey::default());
    for status in 400..440 {
        shard.record_request(edge, &Request { status, ..Request::default() });
    }
    let text = registry.prometheus_text();
    let class = |line: &&str| line.contains("response_code=\"4xx\",response_flags=\"-\"");
    assert_eq!(text.lines().filter(class).count(), 1, "{text}");
}

#[test]
fn buckets_are_cumulative_and_end_at_the_count() {
    let text = proxy().prometheus_text();
    let catalog = |line: &&str| {
        line.starts_with("istio_request_duration_milliseconds_bucket")
            && line.contains("workload=\"catalog\"")
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
    let buckets: Vec<_> = text.lines().filter(catalog).map(value).collect();
    assert_eq!(buckets.len(), DURATION_LE.len() + 1);
    assert!(buckets.is_sorted());
    assert_eq!(buckets[..4], [2, 3, 3, 5], "0.1, 0.25, 0.5 and 1 ms, closed above");
    assert_eq!(buckets[DURATION_LE.len()], 6);
}
