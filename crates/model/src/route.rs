//! `select`: which route a request takes, and to which cluster.

use std::borrow::Cow;

use crate::head::{Fields, RequestHead};
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

/// Whether a request passes the test of one header field. Source: Envoy `HeaderMatcher`.
pub fn matches_header(test: &HeaderMatch, head: &RequestHead) -> bool {
    let some = |text| Some(Cow::Borrowed(text));
    let value = match &*test.name {
        ":method" => some(head.method()),
        ":path" => Some(head.path_and_query()).filter(|path| !path.is_empty()).map(Cow::Borrowed),
        ":authority" | "host" => some(head.authority()),
        ":scheme" => some(if head.https { b"https" } else { b"http" }),
        name => field(&head.fields, name.as_bytes()),
    };
    matches_value(test, value.as_deref())
}

/// Whether a response passes the test of one header field, or of its `:status`.
pub fn matches_response(test: &HeaderMatch, status: u16, fields: &Fields) -> bool {
    match &*test.name {
        ":status" => matches_value(test, Some(status.to_string().as_bytes())),
        _ => matches_field(test, fields),
    }
}

/// Whether a header section passes the test of one of its fields.
pub fn matches_field(test: &HeaderMatch, fields: &Fields) -> bool {
    matches_value(test, field(fields, test.name.as_bytes()).as_deref())
}

/// A field's value; several are one list. Source: RFC 9110 §5.3.
fn field<'f>(fields: &'f Fields, name: &[u8]) -> Option<Cow<'f, [u8]>> {
    let mut values = fields.all(name);
    let first = values.next()?;
    match values.next() {
        None => Some(Cow::Borrowed(first)),
        // Rare, so it may allocate.
        Some(_) => Some(Cow::Owned(fields.all(name).collect::<Vec<_>>().join(&b","[..]))),
    }
}

fn matches_value(test: &HeaderMatch, value: Option<&[u8]>) -> bool {
    match (&test.test, value) {
        (HeaderTest::Present, value) => value.is_some() != test.invert,
        (HeaderTest::OrMissing(within), value) => holds(within, value.unwrap_or_default()) != test.invert,
        (_, None) => false,
        (within, Some(value)) => holds(within, value) != test.invert,
    }
}

fn holds(test: &HeaderTest, value: &[u8]) -> bool {
    match test {
        HeaderTest::Present => true,
        HeaderTest::Value(text) => matches_text(text, value),
        HeaderTest::Range { start, end } => {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.trim_ascii().parse().ok());
            number.is_some_and(|number| (*start..*end).contains(&number))
        }
        HeaderTest::OrMissing(within) => holds(within, value),
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
        StringMatch::Regex(regex) => regex.matches(value),
        StringMatch::AnyCase(test) => matches_any_case(test, value),
    }
}

fn matches_any_case(test: &StringMatch, value: &[u8]) -> bool {
    let same =
        |part: Option<&[u8]>, text: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(text.as_bytes()));
    match test {
        StringMatch::Exact(text) => same(Some(value), text),
        StringMatch::Prefix(text) => same(value.get(..text.len()), text),
        StringMatch::Suffix(text) => same(value.len().checked_sub(text.len()).map(|at| &value[at..]), text),
        StringMatch::Contains(text) => {
            text.is_empty() || value.windows(text.len()).any(|window| same(Some(window), text))
        }
        StringMatch::Regex(_) | StringMatch::AnyCase(_) => matches_text(test, value),
    }
}

#[cfg(test)]
mod tests;
