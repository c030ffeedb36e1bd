//! `loadBalancer`: how an endpoint is picked. Source: Istio `LoadBalancerSettings`.

use std::sync::Arc;

use meshwork_model::hash::{HashCookie, HashPolicy, HashSource};
use meshwork_model::mesh::BalancingTerms;
use meshwork_model::problem::Code;
use meshwork_model::proxy::{Balancing, HashFunction, HashKeys, LeastRequest, Maglev, RingHash, SlowStart};

use crate::ingest::istio::{duration, field_name};
use crate::ingest::reader::{Fields, Report};

/// The largest ring, and table. Source: Envoy `RingHashLbConfig`, `MaglevLbConfig`.
const MAX_RING: i64 = 8 << 20;
const MAX_TABLE: i64 = 5_000_011;

/// Reads it; `None` where it says nothing of picking.
pub(super) fn read(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<BalancingTerms> {
    let warmup = warmup(&mut fields, report);
    let simple = simple(&mut fields, report);
    let place = fields.place_of("consistentHash");
    let path = fields.path_of("consistentHash");
    let hash = fields.mapping(report, "consistentHash").and_then(|fields| consistent_hash(fields, report));
    locality(&mut fields, report);
    fields.close(report);
    if hash.is_some() && simple.is_some() {
        let message = "of `simple` and `consistentHash` there is one";
        report.error_of(Code::Conflict, &path, place, message, "Leave the other out");
    }
    if let Some((method, hash)) = hash {
        return Some(BalancingTerms { method: Some(method), hash: Some(hash) });
    }
    let method = match (simple, warmup) {
        (None, None) => return None,
        (Some(Balancing::RoundRobin(_)), Some(slow_start)) => Balancing::RoundRobin(slow_start),
        (None | Some(Balancing::LeastRequest(_)), slow_start) => Balancing::LeastRequest(LeastRequest {
            choices: 2,
            bias: 1.0,
            is_full_scan: false,
            slow_start: slow_start.unwrap_or(SlowStart::NONE),
        }),
        (Some(method), _) => method,
    };
    Some(BalancingTerms { method: Some(method), hash: None })
}

fn simple(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Balancing> {
    let text = fields.text(report, "simple")?;
    if text.value == "PASSTHROUGH" {
        let message = "a service's endpoints are picked by the proxy: PASSTHROUGH is not honoured";
        report.warning(&text.path, text.place, message, "Leave it out");
        return None;
    }
    let methods = [
        ("UNSPECIFIED", None),
        ("ROUND_ROBIN", Some(Balancing::ROUND_ROBIN)),
        ("LEAST_REQUEST", Some(Balancing::LEAST_REQUEST)),
        ("LEAST_CONN", Some(Balancing::LEAST_REQUEST)),
        ("RANDOM", Some(Balancing::Random)),
    ];
    text.one_of(report, &methods, &[])?
}

/// Reads `warmup`, or the older `warmupDurationSecs`.
fn warmup(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<SlowStart> {
    for name in ["warmup", "warmupDurationSecs"] {
        if let Some(item) = fields.optional(name) {
            let message =
                "only Envoy loads new endpoints slowly: our own proxy and gRPC give them their share at once";
            report.warning(&item.path, item.node.place, message, "");
        }
    }
    let older = duration(fields, report, "warmupDurationSecs");
    let older = older.map(|window| SlowStart { window, ..SlowStart::NONE });
    let Some(mut fields) = fields.mapping(report, "warmup") else { return older };
    fields.required(report, "duration");
    let window = duration(&mut fields, report, "duration");
    let least = fields.number(report, "minimumPercent", 0.0..=100.0);
    let aggression = fields.number(report, "aggression", 1.0..=1000.0);
    fields.close(report);
    Some(SlowStart {
        window: window?,
        aggression: aggression.unwrap_or(SlowStart::NONE.aggression),
        least_percent: least.unwrap_or(SlowStart::NONE.least_percent),
    })
}

fn consistent_hash(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<(Balancing, HashPolicy)> {
    let mut sources: Vec<HashSource> = Vec::new();
    if let Some(text) = fields.text(report, "httpHeaderName") {
        let name = field_name(&text, report);
        sources.extend(name.map(|name| HashSource::Header { name, rewrite: None }));
    }
    if let Some(cookie) = fields.mapping(report, "httpCookie") {
        sources.extend(self::cookie(cookie, report).map(HashSource::Cookie));
    }
    if fields.boolean(report, "useSourceIp") == Some(true) {
        sources.push(HashSource::SourceIp);
    }
    if let Some(text) = fields.text(report, "httpQueryParameterName") {
        sources.push(HashSource::Query(text.value.into()));
    }
    let method = method(&mut fields, report);
    let (place, path) = (fields.place(), fields.path_of("httpHeaderName"));
    fields.close(report);
    let mut sources = sources.into_iter();
    match (sources.next(), sources.next()) {
        (Some(source), None) => Some((method, HashPolicy { source, terminal: false })),
        (first, _) => {
            let code = if first.is_some() { Code::Conflict } else { Code::MissingField };
            let message =
                "of `httpHeaderName`, `httpCookie`, `useSourceIp` and `httpQueryParameterName` there is one";
            report.error_of(code, &path, place, message, "");
            None
        }
    }
}

fn cookie(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<HashCookie> {
    let name = fields.required_text(report, "name");
    let path: Arc<str> = fields.text(report, "path").map_or("", |text| text.value).into();
    let ttl = duration(&mut fields, report, "ttl").map(|ttl| ttl.as_secs());
    let mut attributes: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for item in fields.list(report, "attributes").unwrap_or_default() {
        let Some(mut attribute) = item.fields(report) else { continue };
        let name = attribute.required_text(report, "name");
        let value = attribute.text(report, "value").map_or("", |text| text.value);
        attribute.close(report);
        attributes.extend(name.map(|name| (name.value.into(), value.into())));
    }
    fields.close(report);
    Some(HashCookie { name: name?.value.into(), path, ttl, attributes })
}

fn method(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Balancing {
    let older = fields.integer(report, "minimumRingSize", 1..=MAX_RING).and_then(|n| u64::try_from(n).ok());
    let ring = |least: Option<u64>| {
        let keys = HashKeys::default();
        let RingHash { least: usual, most, .. } = RingHash::default();
        Balancing::RingHash(RingHash {
            least: least.unwrap_or(usual),
            most,
            function: HashFunction::XxHash,
            keys,
        })
    };
    if let Some(mut maglev) = fields.optional("maglev").and_then(|item| item.fields(report)) {
        let size = maglev.integer(report, "tableSize", 1..=MAX_TABLE).and_then(|n| u64::try_from(n).ok());
        maglev.close(report);
        let usual = Maglev::default();
        return Balancing::Maglev(Maglev { size: size.unwrap_or(usual.size), ..usual });
    }
    if let Some(mut hash) = fields.mapping(report, "ringHash") {
        let least = hash.integer(report, "minimumRingSize", 1..=MAX_RING);
        hash.close(report);
        return ring(least.and_then(|n| u64::try_from(n).ok()).or(older));
    }
    ring(older)
}

/// Endpoints are not picked by where they run yet.
fn locality(fields: &mut Fields<'_>, report: &mut Report<'_>) {
    let Some(mut locality) = fields.mapping(report, "localityLbSetting") else { return };
    // What is off is so anyway.
    locality.boolean(report, "enabled");
    let names = &["distribute", "failover", "failoverPriority"];
    locality.unheeded(report, names, "All endpoints are alike, wherever they run");
    locality.close(report);
}
