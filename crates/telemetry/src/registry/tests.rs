use super::*;
use std::thread;
use std::time::Duration;

use meshwork_model::proxy::Workload;
use meshwork_model::reason::Reason;

use crate::edge::{MAX_EDGES, Protocol};
use crate::shard::Request;

fn edge(name: &str, protocol: Protocol) -> EdgeKey {
    let source = Workload { name: name.into(), ..Workload::default() };
    EdgeKey { source, protocol, ..EdgeKey::default() }
}

fn ok() -> Request {
    Request {
        status: 200,
        duration: Duration::from_millis(2),
        bytes_in: 3,
        bytes_out: 5,
        ..Request::default()
    }
}

#[test]
fn a_fold_sums_the_shards() {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let (one, two) = (registry.shard(), registry.shard());
    for shard in [&one, &two] {
        let web = shard.edge(&edge("web", Protocol::Http));
        shard.record_request(web, &ok());
        shard.connection_opened(web);
    }
    let web = one.edge(&edge("web", Protocol::Http));
    one.connection_closed(web);
    one.record_request(web, &Request { status: 403, reason: Some(Reason::Denied), ..ok() });
    let fold = registry.fold();
    assert_eq!(fold.len(), 1);
    assert_eq!(fold[0].requests(), 3);
    assert_eq!(fold[0].outcomes.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((fold[0].connections_opened, fold[0].connections_open()), (2, 1));
    assert_eq!((fold[0].request_bytes.sum(), fold[0].response_bytes.sum()), (9, 15));
    assert_eq!(fold[0].duration.sum(), 6_000_000);
}

#[test]
fn tcp_connections_count_by_how_they_ended() {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let shard = registry.shard();
    let ledger = shard.edge(&edge("checkout", Protocol::Tcp));
    for reason in [None, Some(Reason::ConnectFailed)] {
        shard.tcp_opened(ledger);
        shard.tcp_bytes(ledger, 10, 20);
        shard.tcp_closed(ledger, Duration::from_secs(1), reason);
    }
    shard.tcp_opened(ledger);
    let sum = &registry.fold()[0];
    assert_eq!((sum.tcp_opened, sum.tcp_received, sum.tcp_sent, sum.requests()), (3, 20, 40, 2));
}

#[test]
fn an_id_is_good_on_every_shard() {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let id = registry.shard().edge(&edge("web", Protocol::Http));
    registry.shard().record_request(id, &ok());
    assert_eq!(registry.fold()[0].requests(), 1);
}

#[test]
fn requests_past_the_edge_limit_are_counted_as_other() {
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    let shard = registry.shard();
    for i in 0..MAX_EDGES + 10 {
        let id = shard.edge(&edge(&format!("w{i}"), Protocol::Http));
        shard.record_request(id, &ok());
    }
    let fold = registry.fold();
    assert_eq!(fold.len(), MAX_EDGES + 1);
    assert_eq!(fold[MAX_EDGES].requests(), 10);
    assert_eq!(fold[MAX_EDGES].key.source.name.as_ref(), "other");
}

/// Writers on their own shards and a reader beside them: the reader sees counters that never fall, the end is exact.
#[test]
fn folding_beside_writers_loses_nothing() {
    const WRITERS: u64 = 4;
    const REQUESTS: u64 = 50_000;
    let registry = Registry::new(SystemTime::UNIX_EPOCH);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            let shard = registry.shard();
            scope.spawn(move || {
                for i in 0..REQUESTS {
                    let web = shard.edge(&edge(if i % 2 == 0 { "web" } else { "cart" }, Protocol::Http));
                    let status = if i % 10 == 0 { 503 } else { 200 };
                    shard.record_request(web, &Request { status, ..ok() });
                }
            });
        }
        let mut before = 0;
        while before < WRITERS * REQUESTS {
            let seen = registry.fold().iter().map(EdgeSnapshot::requests).sum();
            assert!(seen >= before, "{seen} after {before}");
            before = seen;
            thread::yield_now();
        }
    });
    let fold = registry.fold();
    assert_eq!(fold.iter().map(EdgeSnapshot::requests).sum::<u64>(), WRITERS * REQUESTS);
    assert_eq!(fold.iter().map(|e| e.duration.count()).sum::<u64>(), WRITERS * REQUESTS);
}
