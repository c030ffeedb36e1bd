//! What a cluster limits, and how long things last there: lines only for what is out of the ordinary.

use std::fmt::{Debug, Write as _};

use meshwork_model::proxy::{
    Balancing, Breakers, ClientContext, Cluster, Connections, OutlierDetection, Spread, Thresholds,
};

pub(super) fn cluster(cluster: &Cluster) -> String {
    let mut text = String::new();
    match cluster.balancing {
        Balancing::RingHash(ring) => line(&mut text, "ring", &(ring.least..=ring.most)),
        Balancing::Maglev(maglev) => line(&mut text, "table", &maglev.size),
        Balancing::RoundRobin(slow) if !slow.window.is_zero() => line(&mut text, "slow start", &slow),
        Balancing::LeastRequest(least) if !least.slow_start.window.is_zero() => {
            line(&mut text, "slow start", &least.slow_start);
        }
        _ => {}
    }
    let limits = &cluster.breakers.normal;
    let usual = Thresholds::NONE;
    let each = [
        ("connections", limits.connections, usual.connections),
        ("pending", limits.pending, usual.pending),
        ("requests", limits.requests, usual.requests),
        ("retries", limits.retries, usual.retries),
    ];
    for (name, limit, _) in each.iter().filter(|(_, limit, usual)| limit != usual) {
        let _ = writeln!(text, "  at most {limit} {name}");
    }
    if let Some(budget) = limits.retry_budget {
        let _ = writeln!(text, "  retries: {} per cent of requests, or {}", budget.percent, budget.least);
    }
    assert_eq!(cluster.breakers.high, Breakers::NONE.high);
    connections(&mut text, &cluster.connections);
    if let Some(outliers) = &cluster.outliers {
        self::outliers(&mut text, outliers);
    }
    if cluster.spread != Spread::default() {
        line(&mut text, "all below per cent of healthy", &cluster.spread.panic_threshold);
    }
    for check in &cluster.checks {
        let _ = writeln!(
            text,
            "  asked every {:?}, {:?} for an answer, {} to be unwell, {} to be well: {:?}",
            check.intervals.usual,
            check.timeout,
            check.unhealthy_threshold,
            check.healthy_threshold,
            check.kind
        );
    }
    text
}

/// TLS with a host outside.
pub(super) fn context(tls: &ClientContext) -> String {
    let fixed = tls.common.validation.as_ref().map(|validation| &validation.fixed);
    let names = fixed.map(|fixed| &fixed.names);
    let certificates = tls.common.certificates.len();
    format!(
        "TLS for {}, names {names:?}, the sent name {}, {certificates} certificates of ours\n",
        tls.sni,
        if tls.validates_sni { "proved" } else { "not looked at" }
    )
}

fn line(text: &mut String, name: &str, value: &dyn Debug) {
    let _ = writeln!(text, "  {name}: {value:?}");
}

fn connections(text: &mut String, connections: &Connections) {
    let mut some = |name: &str, value: &dyn Debug, is_said: bool| {
        if is_said {
            line(text, name, value);
        }
    };
    some("idle", &connections.idle.unwrap_or_default(), connections.idle.is_some());
    some("lifetime", &connections.lifetime.unwrap_or_default(), connections.lifetime.is_some());
    some("requests each", &connections.requests.unwrap_or_default(), connections.requests.is_some());
    some("streams each", &connections.streams.unwrap_or_default(), connections.streams.is_some());
    some("keepalive", &connections.keepalive, connections.keepalive.is_some());
}

fn outliers(text: &mut String, outliers: &OutlierDetection) {
    let each = [
        ("5xx", outliers.consecutive_5xx),
        ("gateway errors", outliers.consecutive_gateway),
        ("local errors", outliers.consecutive_local),
    ];
    for (name, enforced) in each.iter().filter(|(_, enforced)| enforced.enforcing > 0) {
        let _ = writeln!(text, "  left out after {} {name}, {} %", enforced.count, enforced.enforcing);
    }
    let _ = writeln!(
        text,
        "  left out for {:?} to {:?}, looked at every {:?}, {} per cent at most{}",
        outliers.base_ejection,
        outliers.max_ejection,
        outliers.interval,
        outliers.max_ejection_percent,
        if outliers.split_local { ", failures to connect apart" } else { "" }
    );
    assert_eq!((outliers.success_rate.enforcing, outliers.failure_percentage.enforcing), (0, 0));
}
