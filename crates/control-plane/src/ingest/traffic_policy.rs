//! TrafficPolicy: what neither Gateway API nor Istio can say of traffic. Source: `meshwork.dev/v1alpha1`; Gateway API
//! GEP-713, direct attachment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{
    Config, Key, RouteKind, RouteRule, TrafficPolicy, TrafficTarget, TrafficTargetKind,
};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{
    CheckIntervals, Fault, GrpcCheck, HealthCheck, HealthCheckKind, HttpCheck, TcpCheck, TokenBucket,
};

use super::istio::{at_most, duration};
use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{GATEWAY_GROUP, Reference, Referred};
use super::resilience::{fault, retry_budget};

/// The most targets of one policy.
const MAX_TARGETS: usize = 16;
/// The most tokens: more is no limit.
const MAX_TOKENS: i64 = 1_000_000_000;
/// What other meshes and gateways have beside these.
const NOT_YET: &[&str] =
    &["circuitBreaker", "hedging", "loadBalancer", "rateLimit", "responseCache", "retry", "timeout"];
/// Envoy's times of a health check where nothing is said.
const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<TrafficPolicy> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let targets = targets(&mut spec, metadata, report, references);
    let policy = TrafficPolicy {
        rate_limit: only_of_services(&mut spec, "localRateLimit", &targets, report)
            .and_then(|fields| rate_limit(fields, report)),
        check: only_of_services(&mut spec, "healthCheck", &targets, report)
            .and_then(|fields| health_check(fields, report))
            .map(Arc::new),
        fault: fault(&mut spec, report),
        retry_budget: only_of_services(&mut spec, "retryBudget", &targets, report)
            .map(|fields| retry_budget(fields, "minRetries", report)),
        targets,
        age,
    };
    spec.not_yet(report, NOT_YET, "A DestinationRule or a route says this");
    spec.close(report);
    Some(policy).filter(|policy| !policy.targets.is_empty())
}

/// Puts faults into the rules of the routes that policies are attached to, where those say none themselves.
pub(crate) fn attach_faults(config: &mut Config) {
    let policies = config.traffic_policies.clone();
    let mut policies: Vec<(&Key, &TrafficPolicy)> = policies.iter().collect();
    policies.sort_by_key(|(key, policy)| (policy.age, *key));
    let mut seen: BTreeSet<&TrafficTarget> = BTreeSet::new();
    let of_routes =
        policies.iter().flat_map(|(_, policy)| policy.targets.iter().map(move |target| (target, policy)));
    let mut faults: Vec<(&TrafficTarget, &Arc<Fault>)> = of_routes
        .filter(|(target, _)| target.kind != TrafficTargetKind::Service && seen.insert(target))
        .filter_map(|(target, policy)| Some((target, policy.fault.as_ref()?)))
        .collect();
    // What is said of one rule goes before what is said of all.
    faults.sort_by_key(|(target, _)| target.section.is_none());
    for (target, fault) in faults {
        let kind =
            if target.kind == TrafficTargetKind::HttpRoute { RouteKind::Http } else { RouteKind::Grpc };
        let Some(route) = config.routes.get_mut(&(kind, target.key.clone())) else { continue };
        let named = |rule: &&mut RouteRule| target.section.as_ref().is_none_or(|name| *name == rule.name);
        for rule in route.rules.iter_mut().filter(named) {
            rule.fault.get_or_insert_with(|| Arc::clone(fault));
        }
    }
}

fn targets(
    spec: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Vec<TrafficTarget> {
    spec.required(report, "targetRefs");
    let items = spec.list(report, "targetRefs").unwrap_or_default();
    at_most(&items, MAX_TARGETS, report);
    let mut targets = Vec::new();
    for item in items.iter().take(MAX_TARGETS) {
        let Some(target) = target(item, metadata, report) else { continue };
        let referred = Referred::Attached { target: target.clone(), policy: metadata.key.clone() };
        references.push(Reference::new(report, item, referred));
        targets.push(target);
    }
    targets
}

fn target(item: &Item<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<TrafficTarget> {
    let mut fields = item.fields(report)?;
    let group = fields.text(report, "group").map_or("", |text| text.value);
    let kind = fields.required_text(report, "kind");
    let name = fields.required_text(report, "name");
    let section = fields.text(report, "sectionName").map(|text| text.value.into());
    fields.close(report);
    let kind = kind?;
    let found = match (group, kind.value) {
        ("" | "core", "Service") => TrafficTargetKind::Service,
        (GATEWAY_GROUP, "HTTPRoute") => TrafficTargetKind::HttpRoute,
        (GATEWAY_GROUP, "GRPCRoute") => TrafficTargetKind::GrpcRoute,
        _ => {
            let message = format!("a TrafficPolicy is not attached to a {}", kind.value);
            let fix = format!(
                "Use a Service (`group: \"\"`), or an HTTPRoute or a GRPCRoute (`group: {GATEWAY_GROUP}`)"
            );
            kind.error_of(Code::Unsupported, report, message, fix);
            return None;
        }
    };
    let key = Key::new(Arc::clone(&metadata.key.namespace), name?.value);
    Some(TrafficTarget { kind: found, key, section })
}

/// A field that only a service can have: it acts on endpoints, or before them.
fn only_of_services<'n>(
    spec: &mut Fields<'n>,
    name: &'static str,
    targets: &[TrafficTarget],
    report: &mut Report<'_>,
) -> Option<Fields<'n>> {
    let fields = spec.mapping(report, name)?;
    if targets.iter().any(|target| target.kind != TrafficTargetKind::Service) {
        let message = format!("`{name}` is for services, and one of the targets is a route");
        report.error_of(Code::Conflict, &spec.path_of(name), fields.place(), message, "Target the Service");
    }
    Some(fields)
}

/// `requests` in each `per`, and `burst` at once.
fn rate_limit(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<TokenBucket> {
    fields.required(report, "requests");
    let requests = fields.integer(report, "requests", 1..=MAX_TOKENS);
    let per = match fields.optional("per") {
        Some(_) => duration(&mut fields, report, "per"),
        None => Some(Duration::from_secs(1)),
    };
    let burst = fields.integer(report, "burst", 1..=MAX_TOKENS);
    let place = fields.place_of("per");
    let path = fields.path_of("per");
    fields.close(report);
    let per = per?;
    // Envoy fills its buckets no faster. Source: Envoy `TokenBucket.fill_interval`.
    if per < Duration::from_millis(50) {
        report.error(
            &path,
            place,
            "tokens come back every 50ms at most",
            "Use a longer time, and more requests",
        );
        return None;
    }
    let requests = u32::try_from(requests?).ok()?;
    let most = burst.and_then(|burst| u32::try_from(burst).ok()).unwrap_or(requests);
    Some(TokenBucket { most, per_second: f64::from(requests) / per.as_secs_f64() })
}

fn health_check(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<HealthCheck> {
    let kinds = ["http", "grpc", "tcp"];
    let there = kinds.into_iter().filter(|&name| fields.optional(name).is_some()).count();
    let (place, path) = (fields.place(), fields.path_of("http"));
    if there != 1 {
        let code = if there == 0 { Code::MissingField } else { Code::Conflict };
        report.error_of(code, &path, place, "of `http`, `grpc` and `tcp` there is one", "");
    }
    let http = fields.mapping(report, "http").and_then(|fields| http(fields, report));
    let grpc = fields.mapping(report, "grpc").map(|mut fields| {
        let service = fields.text(report, "service").map_or("", |text| text.value).into();
        fields.close(report);
        HealthCheckKind::Grpc(GrpcCheck { service, ..GrpcCheck::default() })
    });
    let tcp = fields.mapping(report, "tcp").map(|fields| {
        fields.close(report);
        HealthCheckKind::Tcp(TcpCheck::default())
    });
    let kind = http.or(grpc).or(tcp);
    let interval = duration(&mut fields, report, "interval").unwrap_or(INTERVAL);
    let timeout = duration(&mut fields, report, "timeout").unwrap_or(TIMEOUT);
    let mut threshold = |name| {
        let threshold = fields.integer(report, name, 1..=1000);
        threshold.and_then(|n| u32::try_from(n).ok())
    };
    let (unhealthy, healthy) = (threshold("unhealthyThreshold"), threshold("healthyThreshold"));
    fields.close(report);
    if interval < Duration::from_millis(100) || timeout.is_zero() {
        report.error(&path, place, "endpoints are asked every 100ms at most, and have time to answer", "");
        return None;
    }
    Some(HealthCheck {
        kind: kind?,
        timeout,
        intervals: every(interval),
        unhealthy_threshold: unhealthy.unwrap_or(3),
        healthy_threshold: healthy.unwrap_or(2),
        reuse_connection: true,
        alpn: None,
        transport: None,
    })
}

/// The same interval always: an endpoint is asked whether anybody calls it or not.
fn every(interval: Duration) -> CheckIntervals {
    CheckIntervals {
        usual: interval,
        no_traffic: interval,
        no_traffic_healthy: interval,
        unhealthy: interval,
        unhealthy_edge: interval,
        healthy_edge: interval,
        initial_jitter: Duration::ZERO,
        jitter: Duration::ZERO,
        jitter_percent: 0,
    }
}

fn http(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<HealthCheckKind> {
    let path = fields.required_text(report, "path");
    let host = fields.text(report, "host").map_or("", |text| text.value);
    let mut expected = Vec::new();
    for item in fields.list(report, "expectedStatuses").unwrap_or_default() {
        let status = item.integer(report, 100..=599).and_then(|status| u16::try_from(status).ok());
        expected.extend(status.map(|status| (status, status + 1)));
    }
    if expected.is_empty() {
        expected.push((200, 300));
    }
    fields.close(report);
    let path = path?;
    if !path.value.starts_with('/') {
        path.error(report, "a path starts with \"/\"", "");
        return None;
    }
    Some(HealthCheckKind::Http(HttpCheck {
        host: host.into(),
        path: path.value.into(),
        method: "GET".into(),
        send: Arc::default(),
        receive: Vec::new(),
        response_bytes: 0,
        add: Vec::new(),
        remove: Vec::new(),
        expected,
        retriable: Vec::new(),
        // What the cluster speaks is put in when it is made.
        http2: false,
        service_name: None,
    }))
}
