//! `select`: which route a request takes, and to which cluster.

use crate::head::RequestHead;
use crate::proxy::{
    Domain, Forward, HeaderMatch, HeaderTest, PathMatch, Route, RouteMatch, RouteTable, StringMatch,
    VirtualHost, WeightedCluster,
};

/// Selects the virtual host and the route of a request.
///
/// Hosts: an exact domain, then the longest `*.x`, then the longest `x.*`, then `*`. Routes: the first that
/// matches. Source: Envoy `VirtualHost.domains`.
///
/// Returns `None` where nothing matches.
pub fn select<'t>(table: &'t RouteTable, head: &RequestHead) -> Option<&'t Route> {
    let host = select_host(table, head.authority())?;
    host.routes.iter().find(|route| matches(&route.matches, head))
}

/// Selects one cluster by weight; `random` is any number, uniformly drawn.
pub fn select_cluster(forward: &Forward, random: u64) -> &WeightedCluster {
    let total: u64 = forward.clusters.iter().map(|c| u64::from(c.weight)).sum();
    let mut left = random % total.max(1);
    for cluster in &forward.clusters {
        let weight = u64::from(cluster.weight);
        if left < weight {
            return cluster;
        }
        left -= weight;
    }
    &forward.clusters[forward.clusters.len() - 1]
}

fn select_host<'t>(table: &'t RouteTable, authority: &[u8]) -> Option<&'t VirtualHost> {
    let ranked =
        table.hosts.iter().flat_map(|host| host.domains.iter().map(move |d| (rank(d, authority), host)));
    ranked.filter_map(|(rank, host)| Some((rank?, host))).max_by_key(|(rank, _)| *rank).map(|(_, host)| host)
}

/// How well a domain fits: the kind first, then the pattern's length.
fn rank(domain: &Domain, authority: &[u8]) -> Option<(u8, usize)> {
    match domain {
        Domain::Exact(text) => authority.eq_ignore_ascii_case(text.as_bytes()).then_some((3, text.len())),
        Domain::Suffix(text) => {
            let at = authority.len().checked_sub(text.len())?;
            (at > 0 && authority[at..].eq_ignore_ascii_case(text.as_bytes())).then_some((2, text.len()))
        }
        Domain::Prefix(text) => {
            let start = authority.get(..text.len())?;
            (authority.len() > text.len() && start.eq_ignore_ascii_case(text.as_bytes()))
                .then_some((1, text.len()))
        }
        Domain::Any => Some((0, 0)),
    }
}

/// Whether a request passes all tests of a route.
pub fn matches(test: &RouteMatch, head: &RequestHead) -> bool {
    matches_path(&test.path, head) && test.headers.iter().all(|h| matches_header(h, head))
}

fn matches_path(test: &PathMatch, head: &RequestHead) -> bool {
    let (is_connect, path) = (head.method() == b"CONNECT", head.path());
    match test {
        PathMatch::Connect => is_connect,
        _ if is_connect => false,
        PathMatch::Exact(text) => path == text.as_bytes(),
        PathMatch::Prefix(text) => path.starts_with(text.as_bytes()),
        PathMatch::SegmentPrefix(text) => {
            path.strip_prefix(text.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        }
    }
}

/// Whether a request passes the test of one header field.
pub fn matches_header(test: &HeaderMatch, head: &RequestHead) -> bool {
    let held = match &*test.name {
        ":method" => holds(&test.test, head.method()),
        ":path" => holds(&test.test, head.path_and_query()),
        ":authority" => holds(&test.test, head.authority()),
        name => matches_field(&test.test, name.as_bytes(), head),
    };
    held != test.invert
}

fn matches_field(test: &HeaderTest, name: &[u8], head: &RequestHead) -> bool {
    let mut values = head.fields.all(name);
    let Some(first) = values.next() else { return false };
    match values.next() {
        None => holds(test, first),
        // Several values are one list. Source: RFC 9110 §5.3. Rare, so it may allocate.
        Some(_) => holds(test, &head.fields.all(name).collect::<Vec<_>>().join(&b","[..])),
    }
}

fn holds(test: &HeaderTest, value: &[u8]) -> bool {
    match test {
        HeaderTest::Present => true,
        HeaderTest::Value(text) => matches_text(text, value),
    }
}

/// Whether a value passes the test of a text.
pub fn matches_text(test: &StringMatch, value: &[u8]) -> bool {
    match test {
        StringMatch::Exact(text) => value == text.as_bytes(),
        StringMatch::Prefix(text) => value.starts_with(text.as_bytes()),
        StringMatch::Suffix(text) => value.ends_with(text.as_bytes()),
        StringMatch::Contains(text) => {
            text.is_empty() || value.windows(text.len()).any(|window| window == text.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests;
