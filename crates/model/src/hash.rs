//! What of a request decides which endpoint a hash leads it to. Source: Envoy `RouteAction.HashPolicy`.

use std::sync::Arc;

use crate::head::RequestHead;
use crate::regex::Rewrite;
use crate::xxhash::xxhash64;

/// A part of the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Whether what follows counts only where nothing has been hashed so far.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashSource {
    /// All values of a header field, rewritten, whatever their order.
    Header {
        /// Lowercase name, or a pseudo-header's.
        name: Arc<str>,
        /// What is hashed in place of each.
        rewrite: Option<Rewrite>,
    },
    /// A cookie's value.
    Cookie(HashCookie),
    /// The client's address.
    SourceIp,
    /// The first value of a parameter of the query.
    Query(Arc<str>),
}

/// A cookie that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: Arc<str>,
    /// The path that one is set for; may be empty.
    pub path: Arc<str>,
    /// How many seconds one lives that is set for clients that bring none; 0 for as long as their session. `None` sets none.
    pub ttl: Option<u64>,
    /// More attributes, some without value.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// The hash of a request; `client` is its address as text. `set_cookie` makes the value of a cookie that the client does
/// not bring and is to be sent.
pub fn hash_of(
    policies: &[HashPolicy],
    head: &RequestHead,
    client: &str,
    mut set_cookie: impl FnMut(&HashCookie) -> String,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        let part = match &policy.source {
            HashSource::Header { name, rewrite } => header(head, name, rewrite.as_ref()),
            HashSource::Cookie(cookie) => match cookie_value(head, &cookie.name) {
                Some(value) => Some(xxhash64(value, 0)),
                None => cookie.ttl.map(|_| xxhash64(set_cookie(cookie).as_bytes(), 0)),
            },
            HashSource::SourceIp => Some(xxhash64(client.as_bytes(), 0)),
            HashSource::Query(name) => {
                query_parameter(head.path_and_query(), name.as_bytes()).map(|value| xxhash64(value, 0))
            }
        };
        if let Some(part) = part {
            hash = Some(hash.map_or(0, |before| before.rotate_left(1)) ^ part);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

fn header(head: &RequestHead, name: &str, rewrite: Option<&Rewrite>) -> Option<u64> {
    let one =
        |value: &[u8]| rewrite.map_or_else(|| value.to_vec(), |rewrite| rewrite.apply(value).into_owned());
    let mut values: Vec<Vec<u8>> = match name {
        ":path" => vec![one(head.path_and_query())],
        ":authority" | "host" => vec![one(head.authority())],
        ":method" => vec![one(head.method())],
        name => head.fields.all(name.as_bytes()).map(one).collect(),
    };
    if values.is_empty() {
        return None;
    }
    values.sort();
    Some(values.iter().fold(0, |seed, value| xxhash64(value, seed)))
}

/// The value of a cookie that a request brings, without quotes; not an empty one.
pub fn cookie_value<'h>(head: &'h RequestHead, name: &str) -> Option<&'h [u8]> {
    let lines = head.fields.all(b"cookie");
    let mut cookies = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    let value = cookies.find_map(|cookie| {
        let at = cookie.iter().position(|byte| *byte == b'=')?;
        (cookie[..at].trim_ascii_start() == name.as_bytes()).then_some(&cookie[at + 1..])
    })?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(bare.unwrap_or(value)).filter(|value| !value.is_empty())
}

/// The first value of a parameter of the query, as it stands there; one without `=` is empty.
pub fn query_parameter<'p>(path_and_query: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let at = path_and_query.iter().position(|byte| *byte == b'?')?;
    path_and_query[at + 1..].split(|byte| *byte == b'&').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=');
        let (key, value) = at.map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
        (key == name && !pair.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_path_and_query(path.as_bytes());
        for (name, value) in fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn parts_are_combined_as_envoy_does() {
        let policy = |source, terminal| HashPolicy { source, terminal };
        let header = |name: &str| HashSource::Header { name: name.into(), rewrite: None };
        let request = head("/?q=x", &[("a", "foo"), ("b", "bar")]);
        let (foo, bar) = (xxhash64(b"foo", 0), xxhash64(b"bar", 0));
        let check = |policies: &[HashPolicy], expected| {
            assert_eq!(hash_of(policies, &request, "1.2.3.4", |_| String::new()), expected, "{policies:?}");
        };
        check(&[], None);
        check(&[policy(header("none"), false)], None);
        check(&[policy(header("a"), false)], Some(foo));
        check(&[policy(header("a"), false), policy(header("b"), false)], Some(foo.rotate_left(1) ^ bar));
        check(&[policy(header("a"), true), policy(header("b"), false)], Some(foo));
        check(&[policy(header("none"), true), policy(header("b"), false)], Some(bar));
        check(&[policy(HashSource::Query("q".into()), false)], Some(xxhash64(b"x", 0)));
        check(&[policy(HashSource::SourceIp, false)], Some(xxhash64(b"1.2.3.4", 0)));
    }

    #[test]
    fn cookies_are_found_and_set_where_there_are_none() {
        let ttl = |ttl| HashCookie { name: "s".into(), path: "".into(), ttl, attributes: Vec::new() };
        let check = |fields: &[(&str, &str)], cookie: HashCookie, expected: Option<&str>| {
            let policy = HashPolicy { source: HashSource::Cookie(cookie), terminal: false };
            let got = hash_of(&[policy], &head("/", fields), "", |_| "made".to_owned());
            assert_eq!(got, expected.map(|text| xxhash64(text.as_bytes(), 0)), "{fields:?}");
        };
        check(&[("cookie", "a=b; s=1; c=d")], ttl(None), Some("1"));
        check(&[("cookie", "s=\"1\"")], ttl(None), Some("1"));
        check(&[("cookie", "xs=1")], ttl(None), None);
        check(&[("cookie", "s=")], ttl(None), None);
        check(&[], ttl(Some(0)), Some("made"));
    }

    #[test]
    fn the_first_of_a_querys_parameters_counts() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(query_parameter(path.as_bytes(), b"q"), expected.map(str::as_bytes), "{path}");
        };
        check("/", None);
        check("/?q=1&q=2", Some("1"));
        check("/?a=b&q", Some(""));
        check("/?q=%41", Some("%41"));
        check("/?qq=1", None);
    }
}
