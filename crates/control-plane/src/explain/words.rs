//! Tests and what they were tried on, in words.

use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::head::RequestHead;
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{
    HeaderMatch, HeaderTest, MetadataMatch, PathMatch, Permission, Principal, QueryMatch, StringMatch,
    ValueMatch,
};
use meshwork_model::route::Miss;

/// Texts longer than this are cut: they are somebody's values.
const LONGEST: usize = 120;
/// The most alternatives of one test that are told.
const MOST: usize = 6;

/// What is tested, how it is, and how it should be.
pub(super) struct Tested {
    pub(super) subject: String,
    pub(super) is: String,
    pub(super) wanted: String,
}

impl Tested {
    fn new(subject: impl Into<String>, is: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self { subject: subject.into(), is: is.into(), wanted: wanted.into() }
    }

    /// Why it failed.
    pub(super) fn failed(&self) -> String {
        format!("{} is {}, wanted {}", self.subject, self.is, self.wanted)
    }

    /// What of it held.
    pub(super) fn held(&self) -> String {
        format!("{} is {}", self.subject, self.is)
    }
}

/// A text as it is shown: bytes that are no text are escaped.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let cut: String = text.chars().take(LONGEST).collect();
    let cut: String = cut
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(LONGEST).is_some() { format!("`{cut}…`") } else { format!("`{cut}`") }
}

/// A test of a text, as policies write it.
pub(super) fn text(test: &StringMatch) -> String {
    match test {
        StringMatch::Exact(text) => shown(text.as_bytes()),
        StringMatch::Prefix(text) if text.is_empty() => "anything".to_owned(),
        StringMatch::Prefix(text) => shown(format!("{text}*").as_bytes()),
        StringMatch::Suffix(text) => shown(format!("*{text}").as_bytes()),
        StringMatch::Contains(text) => shown(format!("*{text}*").as_bytes()),
        StringMatch::Regex(regex) => format!("like {}", shown(regex.pattern().as_bytes())),
        StringMatch::AnyCase(within) => format!("{} in any case", self::text(within)),
    }
}

fn header(test: &HeaderTest) -> String {
    match test {
        HeaderTest::Present => "that it is there".to_owned(),
        HeaderTest::Value(value) => text(value),
        HeaderTest::Range { start, end } => format!("a number from {start} and below {end}"),
        HeaderTest::OrMissing(within) => format!("{} (missing counts as empty)", header(within)),
    }
}

fn field(name: &str) -> String {
    match name {
        ":method" => "the method".to_owned(),
        ":authority" | "host" => "the host".to_owned(),
        ":path" => "path and query".to_owned(),
        ":scheme" => "the scheme".to_owned(),
        name => format!("the header {name}"),
    }
}

/// The values of a field, in words.
fn values(name: &str, head: Option<&RequestHead>) -> String {
    let Some(head) = head else { return "unknown: these are bytes".to_owned() };
    let own = match name {
        ":method" => Some(head.method()),
        ":authority" | "host" => Some(head.authority()),
        ":path" => Some(head.path_and_query()),
        ":scheme" => Some(if head.https { &b"https"[..] } else { b"http" }),
        _ => None,
    };
    // What ends at the codec stands no more among the fields.
    let said = match name {
        "content-length" => head.length().map(|length| format!("`{length}`")),
        "upgrade" => Some(head.upgrade()).filter(|said| !said.is_empty()).map(shown),
        _ => None,
    };
    let all: Vec<String> = match own {
        Some(value) => vec![shown(value)],
        None => head.fields.all(name.as_bytes()).map(shown).chain(said).collect(),
    };
    if all.is_empty() { "missing".to_owned() } else { all.join(" and ") }
}

fn of_header(test: &HeaderMatch, head: Option<&RequestHead>) -> Tested {
    let not = if test.invert { "anything but " } else { "" };
    Tested::new(field(&test.name), values(&test.name, head), format!("{not}{}", header(&test.test)))
}

fn path(test: &StringMatch, facts: &Facts<'_>) -> Tested {
    let is = facts.head.map_or("unknown: these are bytes".to_owned(), |head| shown(head.path()));
    Tested::new("the path", is, text(test))
}

fn address(subject: &str, is: Option<IpAddr>, wanted: &dyn std::fmt::Display) -> Tested {
    let is = is.map_or("unknown".to_owned(), |address| format!("`{}`", address.to_canonical()));
    Tested::new(subject, is, format!("`{wanted}`"))
}

/// The caller's identity.
fn caller(facts: &Facts<'_>) -> String {
    facts.peer.map_or("without an identity".to_owned(), |peer| shown(peer.as_str().as_bytes()))
}

fn metadata(test: &MetadataMatch, facts: &Facts<'_>) -> Tested {
    let keys: Vec<&str> = test.path.iter().map(|key| &**key).collect();
    let subject = match &keys[..] {
        ["payload", claim @ ..] => format!("the token's claim {}", claim.join(".")),
        keys => format!("what {} found as {}", test.filter, keys.join(".")),
    };
    let found = facts.metadata.and_then(|metadata| metadata.find(&test.filter, &test.path));
    let is = found.map_or("missing".to_owned(), |value| shown(value.to_string().as_bytes()));
    let not = if test.invert { "anything but " } else { "" };
    Tested::new(subject, is, format!("{not}{}", value(&test.value)))
}

fn value(test: &ValueMatch) -> String {
    match test {
        ValueMatch::Null => "`null`".to_owned(),
        ValueMatch::Exactly(number) => format!("`{number}`"),
        ValueMatch::Range { start, end } => format!("a number from {start} and below {end}"),
        ValueMatch::Text(test) => text(test),
        ValueMatch::Bool(wanted) => format!("`{wanted}`"),
        ValueMatch::Present(_) => "that it is there".to_owned(),
        ValueMatch::OneOf(within) => format!("a list with {}", value(within)),
        ValueMatch::Or(tests) => tests.iter().map(value).collect::<Vec<_>>().join(" or "),
    }
}

/// A test of what is asked for that consists of no others.
pub(super) fn permission(test: &Permission, facts: &Facts<'_>) -> Tested {
    match test {
        Permission::Path(test) => path(test, facts),
        Permission::Header(test) => of_header(test, facts.head),
        Permission::DestinationAddress(range) => {
            address("the address that was called", facts.destination, range)
        }
        Permission::DestinationPort(port) => {
            Tested::new("the port", facts.destination_port.to_string(), port.to_string())
        }
        Permission::DestinationPorts { start, end } => {
            let wanted = format!("from {start} and below {end}");
            Tested::new("the port", facts.destination_port.to_string(), wanted)
        }
        Permission::ServerName(test) => {
            let is = shown(facts.server_name.unwrap_or_default().as_bytes());
            Tested::new("the server name (SNI)", is, text(test))
        }
        Permission::Metadata(test) => metadata(test, facts),
        Permission::Any | Permission::All(_) | Permission::OneOf(_) | Permission::Not(_) => {
            Tested::new("what is asked for", "anything", "anything")
        }
    }
}

/// A test of who asks that consists of no others.
pub(super) fn principal(test: &Principal, facts: &Facts<'_>) -> Tested {
    match test {
        Principal::Authenticated(None) => Tested::new("the caller", caller(facts), "any identity"),
        Principal::Authenticated(Some(test)) => Tested::new("the caller", caller(facts), text(test)),
        Principal::DirectAddress(range) => address("who opened the connection", facts.direct, range),
        Principal::RemoteAddress(range) => address("the client", facts.remote, range),
        Principal::SourceAddress(range) => address("on whose behalf the connection is", facts.source, range),
        Principal::Header(test) => of_header(test, facts.head),
        Principal::EachValue { name, tests } => {
            let wanted: Vec<String> = tests.iter().take(MOST).map(text).collect();
            let wanted = format!("{}, each value", wanted.join(" or "));
            Tested::new(field(name), values(name, facts.head), wanted)
        }
        Principal::Path(test) => path(test, facts),
        Principal::Metadata(test) => metadata(test, facts),
        Principal::Any | Principal::All(_) | Principal::OneOf(_) | Principal::Not(_) => {
            Tested::new("the caller", caller(facts), "anybody")
        }
    }
}

/// What a route takes by its path.
pub(super) fn route_path(test: &PathMatch) -> String {
    match test {
        PathMatch::Exact(path) => format!("exactly {}", shown(path.as_bytes())),
        PathMatch::Prefix(path) => shown(format!("{path}*").as_bytes()),
        PathMatch::SegmentPrefix(path) => format!("{} or below", shown(path.as_bytes())),
        PathMatch::Regex(regex) => format!("like {}", shown(regex.pattern().as_bytes())),
        PathMatch::Connect => "CONNECT".to_owned(),
    }
}

/// Why a route does not take a request.
pub(super) fn miss(why: Miss<'_>, head: &RequestHead) -> String {
    match why {
        Miss::Path(test) => Tested::new("the path", shown(head.path()), route_path(test)).failed(),
        Miss::Fraction => "it takes a share of requests, and not this one".to_owned(),
        Miss::Certificate => "it asks for a client certificate, or for none".to_owned(),
        Miss::Header(test) => of_header(test, Some(head)).failed(),
        Miss::Grpc => "it takes gRPC calls only".to_owned(),
        Miss::Query(QueryMatch { name, test }) => {
            let wanted = test.as_ref().map_or("that it is there".to_owned(), text);
            format!("the query's {name} is another, wanted {wanted}")
        }
    }
}

/// Several reasons as one, cut where they are many.
pub(super) fn joined(mut reasons: Vec<String>) -> String {
    reasons.dedup();
    let more = reasons.len().saturating_sub(MOST);
    reasons.truncate(MOST);
    let text = reasons.join("; and ");
    if more > 0 { format!("{text}; and {more} more") } else { text }
}

/// `shop/cart` of `ns[shop]-policy[cart]-rule[0]`, and what stands behind it; `None` of what is no policy's.
pub(super) fn policy_of(rule: &Arc<str>) -> Option<(String, &str)> {
    let rest = rule.strip_prefix("ns[")?;
    let (namespace, rest) = rest.split_once("]-policy[")?;
    let (name, rest) = rest.split_once(']')?;
    Some((format!("{namespace}/{name}"), rest))
}
