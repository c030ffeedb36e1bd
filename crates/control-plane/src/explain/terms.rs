//! What is said of routes and clusters besides where they lead, in short.

use std::time::Duration;

use meshwork_model::proxy::{
    AbortBy, Balancing, Cluster, DelayBy, Discovery, Domain, FaultAbort, FaultDelay, Health, HttpConnection,
    LocalRateLimit, MirrorTo, RetryPolicy, Route, RouteAction, RouteMatch, Thresholds,
};

use super::words;

pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Unknown | Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Draining => "draining",
        Health::Timeout => "not heard of",
        Health::Degraded => "degraded",
    }
}

pub(super) fn domain(domain: &Domain) -> String {
    match domain {
        Domain::Exact(text) => text.to_string(),
        Domain::Suffix(text) => format!("*{text}"),
        Domain::Prefix(text) => format!("{text}*"),
        Domain::Any => "any host".to_owned(),
    }
}

/// What a route takes.
pub(super) fn takes(matches: &RouteMatch) -> String {
    let mut all = vec![format!("the path {}", words::route_path(&matches.path))];
    all.extend(matches.headers.iter().map(|test| format!("a test of {}", test.name)));
    all.extend(matches.query.iter().map(|test| format!("a test of ?{}", test.name)));
    if matches.only_grpc {
        all.push("gRPC only".to_owned());
    }
    all.join(", ")
}

/// Time-outs, retries, copies.
pub(super) fn of_route(route: &Route, http: &HttpConnection) -> Vec<String> {
    let mut all = Vec::new();
    if let RouteAction::Forward(forward) = &route.action {
        all.push(match forward.timeout {
            Some(timeout) => format!("{} from its end to the answer's end", time(timeout)),
            None => "no time-out".to_owned(),
        });
        if let Some(retry) = &forward.resilience.retry {
            all.push(retries(retry));
        }
    }
    if let Some(idle) = http.stream_idle_timeout.filter(|idle| !idle.is_zero()) {
        all.push(format!("ended where nothing moves for {}", time(idle)));
    }
    let Some(terms) = &route.terms else { return all };
    for mirror in &terms.mirrors {
        let to = match &mirror.cluster {
            MirrorTo::Cluster(name) => name.to_string(),
            MirrorTo::Header(name) => format!("the cluster that the header {name} names"),
        };
        all.push(format!(
            "a copy of {}/{} of them to {to}",
            mirror.fraction.numerator, mirror.fraction.denominator
        ));
    }
    if terms.changes != <_>::default() {
        all.push("headers are changed".to_owned());
    }
    if terms.random_header.is_some() {
        all.push("a header's number chooses among clusters".to_owned());
    }
    all
}

fn retries(retry: &RetryPolicy) -> String {
    let on: Vec<&str> = retry.on.names().collect();
    let each = retry.per_try_timeout.map(|limit| format!(", {} each", time(limit))).unwrap_or_default();
    format!("{} more tries on {}{each}", retry.retries, on.join(", "))
}

/// How long some have to wait on purpose.
pub(super) fn delay(delay: &FaultDelay) -> String {
    let long = match delay.by {
        DelayBy::Fixed(delay) => time(delay),
        DelayBy::Header => "as long as the request says".to_owned(),
    };
    format!("{}/{} of them wait {long}", delay.share.numerator, delay.share.denominator)
}

/// What some are answered with on purpose.
pub(super) fn abort(abort: &FaultAbort) -> String {
    let with = match abort.by {
        AbortBy::Http(status) => status.to_string(),
        AbortBy::Grpc(status) => format!("gRPC {status}"),
        AbortBy::Header => "what the request says".to_owned(),
    };
    format!("{}/{} of them are answered {with}", abort.share.numerator, abort.share.denominator)
}

pub(super) fn rate_limit(limit: &LocalRateLimit) -> String {
    match &limit.bucket {
        Some(bucket) => {
            format!(
                "at most {} requests at once and {} a second, else {}",
                bucket.most, bucket.per_second, limit.status
            )
        }
        None => "a rate limit by descriptors".to_owned(),
    }
}

/// How one endpoint is picked.
pub(super) fn balancing(cluster: &Cluster) -> String {
    let by = match cluster.balancing {
        Balancing::RoundRobin(_) => "in turn",
        Balancing::Random => "by chance",
        Balancing::LeastRequest(_) => "by the fewest requests under way",
        Balancing::RingHash(_) => "by a hash of the request, on a ring",
        Balancing::Maglev(_) => "by a hash of the request, in a table",
    };
    let local = if cluster.spread.by_locality { ", localities by weight" } else { "" };
    let subsets = if cluster.spread.subsets.is_some() { ", among a subset" } else { "" };
    format!("{by}{local}{subsets}")
}

/// Limits, checks, outliers.
pub(super) fn of_cluster(cluster: &Cluster) -> Vec<String> {
    let mut all = vec![format!("{} to connect", time(cluster.connect_timeout))];
    let (limits, none) = (&cluster.breakers.normal, Thresholds::NONE);
    for (what, limit, usual) in [
        ("connections", limits.connections, none.connections),
        ("waiting requests", limits.pending, none.pending),
        ("requests", limits.requests, none.requests),
        ("retries", limits.retries, none.retries),
    ] {
        if limit != usual {
            all.push(format!("at most {limit} {what}"));
        }
    }
    if cluster.outliers.is_some() {
        all.push(
            "endpoints whose answers are bad are left out for a while: only the proxy knows which".to_owned(),
        );
    }
    for check in &cluster.checks {
        all.push(format!("endpoints are asked every {} whether they are well", time(check.intervals.usual)));
    }
    all
}

/// Where the endpoints of a cluster are, where that is not config's to say.
pub(super) fn elsewhere(cluster: &Cluster) -> Option<String> {
    match &cluster.discovery {
        Discovery::Dns(dns) => {
            let names: Vec<String> =
                dns.hosts.iter().map(|one| format!("{}:{}", one.host.host, one.host.port)).collect();
            Some(format!("endpoints are what DNS says of {}", names.join(", ")))
        }
        Discovery::OriginalDestination => {
            Some("endpoints are the address that the program connects to".to_owned())
        }
        Discovery::Static(_) | Discovery::Eds(_) => None,
    }
}

/// A time in the largest unit that says it whole.
fn time(time: Duration) -> String {
    format!("{time:?}")
}
