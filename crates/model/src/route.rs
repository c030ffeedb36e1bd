//! `select`: which route a request takes, and to which cluster.

use std::borrow::Cow;
use std::iter;

use crate::hash::query_parameter;
use crate::head::{Fields, RequestHead};
use crate::proxy::{
    Forward, HeaderMatch, HeaderTest, PathMatch, QueryMatch, Route, RouteMatch, RouteTable, RouteTerms,
    StringMatch, VirtualHost, WeightedCluster,
};

/// What of a request is in none of its bytes, and decides its route all the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Any number, uniformly drawn: the same for the choice of route and cluster, as with Envoy.
    pub random: u64,
    /// Whether the client showed a certificate.
    pub shows_certificate: bool,
    /// Whether that was verified.
    pub is_verified: bool,
}

/// Selects the virtual host and the route of a request.
///
/// Hosts: an exact domain, then the longest `*.x`, then the longest `x.*`, then `*`. Routes: the first that
/// matches. Source: Envoy `VirtualHost.domains`.
///
/// Returns `None` where nothing matches.
pub fn select<'t>(table: &'t RouteTable, head: &RequestHead, asked: Asked) -> Option<&'t Route> {
    select_traced(table, head, asked, &mut ())
}

/// As [`select`]; what is looked at is told.
pub fn select_traced<'t>(
    table: &'t RouteTable,
    head: &RequestHead,
    asked: Asked,
    trace: &mut impl Trace<'t>,
) -> Option<&'t Route> {
    let host = table.host(head.authority())?;
    trace.host(host);
    if let Some(secure) = &host.secure
        && is_insecure(head)
        && !(secure.only_external && head.fields.find(b"x-envoy-internal") == Some(b"true"))
    {
        return Some(&secure.route);
    }
    let path = Path::of(head);
    host.routes.iter().find(|route| match miss(&route.matches, head, path, asked) {
        None => true,
        Some(why) => {
            trace.missed(route, why);
            false
        }
    })
}

/// Is told what a search for a route looks at. That of `()` is nothing, and costs nothing.
pub trait Trace<'t> {
    /// The virtual host whose routes are tried.
    fn host(&mut self, _host: &'t VirtualHost) {}

    /// A route that does not take the request, and why.
    fn missed(&mut self, _route: &'t Route, _why: Miss<'t>) {}
}

impl Trace<'_> for () {}

/// The first test that a request does not pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Miss<'t> {
    /// Its path is another.
    Path(&'t PathMatch),
    /// It is not among the share that is taken.
    Fraction,
    /// It comes with a client certificate, or without one.
    Certificate,
    /// A header field.
    Header(&'t HeaderMatch),
    /// It is no gRPC call.
    Grpc,
    /// A parameter of the query.
    Query(&'t QueryMatch),
}

/// What the first proxy said counts, and what the request says where there was none.
fn is_insecure(head: &RequestHead) -> bool {
    head.fields.find(b"x-forwarded-proto").map_or(!head.https, |scheme| scheme != b"https")
}

/// Selects one cluster by weight, and says which of them it is; `random` is any number, uniformly drawn.
pub fn select_cluster(forward: &Forward, random: u64) -> (usize, &WeightedCluster) {
    if let [cluster] = &*forward.clusters {
        return (0, cluster);
    }
    let total: u64 = forward.clusters.iter().map(|c| u64::from(c.weight)).sum();
    let mut left = random % total.max(1);
    for (at, cluster) in forward.clusters.iter().enumerate() {
        let weight = u64::from(cluster.weight);
        if left < weight {
            return (at, cluster);
        }
        left -= weight;
    }
    let last = forward.clusters.len() - 1;
    (last, &forward.clusters[last])
}

/// The number that selects among clusters: what the route's header field says, where it is there once and a number.
pub fn cluster_number(terms: Option<&RouteTerms>, head: &RequestHead, random: u64) -> u64 {
    let Some(name) = terms.and_then(|terms| terms.random_header.as_ref()) else { return random };
    let mut values = head.fields.all(name.as_bytes());
    let said = values.next().filter(|_| values.next().is_none());
    said.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok()).unwrap_or(random)
}

/// A request's path, looked at once for all routes.
#[derive(Clone, Copy)]
struct Path<'h> {
    /// Without query.
    bare: &'h [u8],
    is_connect: bool,
}

impl<'h> Path<'h> {
    fn of(head: &'h RequestHead) -> Self {
        Self { bare: head.path(), is_connect: head.method() == b"CONNECT" }
    }
}

/// Whether a request passes a test that stands alone, outside a table.
pub fn takes(test: &RouteMatch, head: &RequestHead, asked: Asked) -> bool {
    matches(test, head, Path::of(head), asked)
}

/// Whether a request passes all tests of a route.
fn matches(test: &RouteMatch, head: &RequestHead, path: Path<'_>, asked: Asked) -> bool {
    miss(test, head, path, asked).is_none()
}

/// The first test of a route that a request does not pass. The cheap ones come first.
fn miss<'t>(test: &'t RouteMatch, head: &RequestHead, path: Path<'_>, asked: Asked) -> Option<Miss<'t>> {
    if !matches_path(test, path) {
        return Some(Miss::Path(&test.path));
    }
    if test.fraction.is_some_and(|fraction| !fraction.hits(asked.random)) {
        return Some(Miss::Fraction);
    }
    if test.shows_certificate.is_some_and(|shows| shows != asked.shows_certificate)
        || test.is_verified.is_some_and(|is_verified| is_verified != asked.is_verified)
    {
        return Some(Miss::Certificate);
    }
    let header = || test.headers.iter().find(|h| !matches_header(h, head)).map(Miss::Header);
    let grpc = || (test.only_grpc && !head.is_grpc()).then_some(Miss::Grpc);
    let query = || test.query.iter().find(|query| !matches_query(query, head)).map(Miss::Query);
    header().or_else(grpc).or_else(query)
}

fn matches_path(test: &RouteMatch, path: Path<'_>) -> bool {
    if test.path == PathMatch::Connect || path.is_connect {
        return test.path == PathMatch::Connect && path.is_connect;
    }
    let mut bare = path.bare;
    if test.ignores_parameters {
        bare = &bare[..bare.iter().position(|byte| *byte == b';').unwrap_or(bare.len())];
    }
    let same = |part: &[u8], text: &str| {
        if test.any_case { part.eq_ignore_ascii_case(text.as_bytes()) } else { part == text.as_bytes() }
    };
    let starts = |text: &str| bare.get(..text.len()).is_some_and(|start| same(start, text));
    match &test.path {
        PathMatch::Exact(text) => same(bare, text),
        PathMatch::Prefix(text) => starts(text),
        PathMatch::SegmentPrefix(text) => starts(text) && matches!(bare.get(text.len()), None | Some(b'/')),
        PathMatch::Regex(regex) => regex.matches(bare),
        PathMatch::Connect => false,
    }
}

fn matches_query(query: &QueryMatch, head: &RequestHead) -> bool {
    let value = query_parameter(head.path_and_query(), query.name.as_bytes());
    value.is_some_and(|value| query.test.as_ref().is_none_or(|test| matches_text(test, value)))
}

/// Whether a request passes the test of one header field; of several values, one that passes is enough, and none may
/// where the test is inverted. Source: Envoy `HeaderMatcher`.
pub fn matches_header(test: &HeaderMatch, head: &RequestHead) -> bool {
    match &*test.name {
        ":method" => matches_values(test, iter::once(head.method())),
        ":path" => {
            let path = Some(head.path_and_query()).filter(|path| !path.is_empty());
            matches_values(test, path.into_iter())
        }
        ":authority" | "host" => matches_values(test, iter::once(head.authority())),
        ":scheme" => matches_values(test, iter::once(if head.https { b"https".as_slice() } else { b"http" })),
        name => match said_to_codec(name, head) {
            Some(said) => matches_values(test, iter::once(&*said)),
            None => matches_field(test, &head.fields),
        },
    }
}

/// What a field says that ends at the codec, and stands no more among the others.
fn said_to_codec<'h>(name: &str, head: &'h RequestHead) -> Option<Cow<'h, [u8]>> {
    match name {
        "content-length" => head.length().map(|length| length.to_string().into_bytes().into()),
        "transfer-encoding" => head.is_chunked().then_some(Cow::Borrowed(&b"chunked"[..])),
        "upgrade" => Some(head.upgrade()).filter(|said| !said.is_empty()).map(Cow::Borrowed),
        _ => None,
    }
}

/// Whether a response passes the test of one header field, or of its `:status`.
pub fn matches_response(test: &HeaderMatch, status: u16, fields: &Fields) -> bool {
    match &*test.name {
        ":status" => matches_values(test, iter::once(status.to_string().as_bytes())),
        _ => matches_field(test, fields),
    }
}

/// Whether a header section passes the test of one of its fields.
pub fn matches_field(test: &HeaderMatch, fields: &Fields) -> bool {
    matches_values(test, fields.all(test.name.as_bytes()))
}

/// Whether a request has a header field, each of whose values passes one of the tests.
pub fn matches_each_value(name: &str, tests: &[StringMatch], head: &RequestHead) -> bool {
    let passes = |value: &[u8]| tests.iter().any(|test| matches_text(test, value));
    if name == "host" {
        return passes(head.authority());
    }
    if let Some(said) = said_to_codec(name, head) {
        return passes(&said);
    }
    let mut values = head.fields.all(name.as_bytes()).peekable();
    values.peek().is_some() && values.all(passes)
}

fn matches_values<'v>(test: &HeaderMatch, values: impl Iterator<Item = &'v [u8]>) -> bool {
    let mut values = values.peekable();
    let passes = match (&test.test, values.peek()) {
        (HeaderTest::Present, first) => first.is_some(),
        (HeaderTest::OrMissing(within), None) => holds(within, b""),
        (_, None) => return false,
        (within, Some(_)) => values.any(|value| holds(within, value)),
    };
    passes != test.invert
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
