//! Route tables: a line for what a route takes and where it leads, and one for each thing that is said besides.

use std::fmt::Write as _;

use meshwork_model::mutation::{Append, Mutations};
use meshwork_model::proxy::{
    Domain, Forward, HeadChanges, HeaderTest, HttpFilter, MirrorTo, PathMatch, RetryOn, RetryPolicy, Route,
    RouteAction, RouteFilter, RouteFilterKind, RouteMatch, RouteTable, RouteTerms, StringMatch,
};

pub(super) fn routes(table: &RouteTable) -> String {
    let mut text = String::new();
    for host in table.hosts() {
        if host.domains != [Domain::Any] {
            let _ = writeln!(text, "  for {:?}", host.domains);
        }
        for one in &host.routes {
            let _ = writeln!(text, "  {}", route(one));
        }
    }
    text
}

fn route(route: &Route) -> String {
    let mut text = matches(&route.matches);
    let _ = write!(text, " [{}] > ", route.name);
    match &route.action {
        RouteAction::Forward(forward) => text.push_str(&self::forward(forward, route.terms.as_deref())),
        RouteAction::Direct(direct) => {
            let _ = write!(text, "{} {:?}", direct.status, direct.body);
        }
        RouteAction::Redirect(redirect) => {
            let _ = write!(text, "{redirect:?}");
        }
        RouteAction::Local => text.push_str("local"),
    }
    if let Some(terms) = &route.terms {
        text.push_str(&self::terms(terms));
    }
    text
}

fn matches(matches: &RouteMatch) -> String {
    let mut text = match &matches.path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) => format!("{path}*"),
        PathMatch::SegmentPrefix(path) => format!("{path} or below"),
        PathMatch::Regex(regex) => format!("{regex:?}"),
        PathMatch::Connect => "CONNECT".to_owned(),
    };
    if matches.any_case {
        text.push_str(" in any case");
    }
    for header in &matches.headers {
        let not = if header.invert { "not " } else { "" };
        match &header.test {
            HeaderTest::Value(StringMatch::Exact(value)) => {
                let _ = write!(text, ", {not}{} = {value}", header.name);
            }
            other => {
                let _ = write!(text, ", {not}{} {other:?}", header.name);
            }
        }
    }
    for query in &matches.query {
        match &query.test {
            Some(StringMatch::Exact(value)) => {
                let _ = write!(text, ", ?{} = {value}", query.name);
            }
            other => {
                let _ = write!(text, ", ?{} {other:?}", query.name);
            }
        }
    }
    text
}

fn forward(forward: &Forward, terms: Option<&RouteTerms>) -> String {
    let timeout = forward.timeout.map_or("no timeout".to_owned(), |t| format!("{t:?}"));
    let retry = forward.resilience.retry.as_deref();
    let mut text = format!("{timeout}, {} retries", retry.map_or(0, |retry| retry.retries));
    if let Some(retry) = retry {
        let usual = RetryPolicy::unreached(retry.retries);
        if let Some(limit) = retry.per_try_timeout {
            let _ = write!(text, " of {limit:?} each");
        }
        if retry.on != usual.on
            || retry.status_codes != usual.status_codes
            || retry.back_off != usual.back_off
        {
            let on: Vec<_> =
                RetryOn::NAMES.iter().filter(|(_, on)| retry.on.has(*on)).map(|(name, _)| *name).collect();
            let _ = write!(text, " on {} {:?} after {:?}", on.join(","), retry.status_codes, retry.back_off);
        }
    }
    for (at, cluster) in forward.clusters.iter().enumerate() {
        let _ = write!(text, "\n    {} {}", cluster.weight, cluster.name);
        if let Some(of_cluster) = terms.and_then(|terms| terms.clusters.get(at)) {
            text.push_str(&changes(&of_cluster.changes, "      "));
        }
    }
    text
}

fn terms(terms: &RouteTerms) -> String {
    let mut text = changes(&terms.changes, "    ");
    if let Some(path) = &terms.path {
        let _ = write!(text, "\n    path {path:?}");
    }
    if let Some(host) = &terms.host {
        let _ = write!(text, "\n    host {host:?}");
    }
    if let Some(status) = terms.unknown_cluster_status {
        let _ = write!(text, "\n    {status} for what is not there");
    }
    for hash in &terms.hash {
        let _ = write!(text, "\n    hash {hash:?}");
    }
    for mirror in &terms.mirrors {
        let MirrorTo::Cluster(cluster) = &mirror.cluster else { panic!("{mirror:?}") };
        let (share, host) = (mirror.fraction, if mirror.keeps_host { "" } else { " as a shadow" });
        let _ = write!(text, "\n    copy of {}/{} to {cluster}{host}", share.numerator, share.denominator);
    }
    text.extend(terms.filters.iter().map(filter));
    text
}

fn filter(filter: &RouteFilter) -> String {
    match &filter.kind {
        Some(RouteFilterKind::Fault(fault)) if *filter.name == *HttpFilter::FAULT => {
            format!("\n    {fault:?}")
        }
        Some(RouteFilterKind::Cors(cors)) if *filter.name == *HttpFilter::CORS => format!("\n    {cors:?}"),
        _ => format!("\n    {filter:?}"),
    }
}

fn changes(changes: &HeadChanges, indent: &str) -> String {
    let request = changes.request.iter().map(|one| mutations("request", one, indent));
    let response = changes.response.iter().map(|one| mutations("response", one, indent));
    request.chain(response).collect()
}

fn mutations(of: &str, mutations: &Mutations, indent: &str) -> String {
    let mut text = String::new();
    for name in &mutations.remove {
        let _ = write!(text, "\n{indent}{of} without {name}");
    }
    for change in &mutations.add {
        let how = match change.append {
            Append::Add => "and",
            Append::Set => "with",
            other => panic!("{other:?}"),
        };
        let _ = write!(text, "\n{indent}{of} {how} {}: {}", change.name, change.value.as_written());
    }
    text
}
