//! Paths: how they are matched, and what becomes of them.

use std::sync::Arc;

use meshwork_model::mesh::{PathMatch, PathModifier, RouteKind};
use meshwork_model::proxy::{self, PathRewrite, Redirect, RedirectPath};
use meshwork_model::regex::Rewrite;
use meshwork_xds::Dialect;

/// The tests of the path, of which one is enough.
pub(super) fn tests(path: &PathMatch, kind: RouteKind, dialect: Dialect) -> Vec<proxy::PathMatch> {
    use proxy::PathMatch::{Exact, Prefix, Regex, SegmentPrefix};
    match path {
        PathMatch::Exact(path) => vec![Exact(Arc::clone(path))],
        PathMatch::Prefix(path) if &**path == "/" => vec![Prefix(Arc::clone(path))],
        // A call's path always has a method behind the service.
        PathMatch::Prefix(path) if kind == RouteKind::Grpc => vec![Prefix(format!("{path}/").into())],
        // gRPC's core knows no prefix by segment.
        PathMatch::Prefix(path) if dialect == Dialect::Grpc => {
            vec![Exact(Arc::clone(path)), Prefix(format!("{path}/").into())]
        }
        PathMatch::Prefix(path) => vec![SegmentPrefix(Arc::clone(path))],
        PathMatch::Text(path) => vec![Prefix(Arc::clone(path))],
        PathMatch::Regex(regex) => vec![Regex(regex.clone())],
    }
}

/// What becomes of a path that a rule matched so; `None` leaves it.
pub(super) fn rewrite(modifier: &PathModifier, matched: &PathMatch) -> Option<PathRewrite> {
    match modifier {
        PathModifier::Full(path) => match matched {
            // What was matched is the whole path.
            PathMatch::Exact(_) | PathMatch::Regex(_) => Some(PathRewrite::Matched(Arc::clone(path))),
            PathMatch::Prefix(_) | PathMatch::Text(_) => by_regex("/.*", path),
        },
        PathModifier::Prefix(path) => by_segment(path.trim_end_matches('/'), matched),
        PathModifier::Text(text) => Some(PathRewrite::Matched(Arc::clone(text))),
        PathModifier::Regex(rewrite) => Some(PathRewrite::Regex(rewrite.clone())),
    }
}

/// The slash behind the prefix stays one slash, whatever stands in place of the prefix. Source: Gateway API,
/// `HTTPPathModifier.replacePrefixMatch`.
fn by_segment(with: &str, matched: &PathMatch) -> Option<PathRewrite> {
    match matched {
        // Of the root the slash itself is the prefix.
        PathMatch::Prefix(prefix) if &**prefix == "/" => {
            (!with.is_empty()).then(|| PathRewrite::Matched(format!("{with}/").into()))
        }
        // `/a` by nothing makes `/b` of `/a/b` and `/` of `/a`: no text in place of `/a` does both.
        PathMatch::Prefix(prefix) if with.is_empty() => by_regex(&format!("^{}/*", quoted(prefix)), "/"),
        _ if with.is_empty() => Some(PathRewrite::Matched("/".into())),
        _ => Some(PathRewrite::Matched(with.into())),
    }
}

fn by_regex(pattern: &str, with: &str) -> Option<PathRewrite> {
    Rewrite::new(pattern, &with.replace('\\', r"\\")).ok().map(PathRewrite::Regex)
}

/// A text as an expression that finds it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

/// Where a client is sent that called a port, by TLS or in plaintext.
pub(super) fn redirect(
    redirect: &Redirect,
    path: Option<&PathModifier>,
    matched: &PathMatch,
    kind: RouteKind,
    called: (u16, bool),
) -> Redirect {
    let path = match path {
        None => redirect.path.clone(),
        Some(PathModifier::Full(path)) => RedirectPath::Path(Arc::clone(path)),
        Some(modifier) => rewrite(modifier, matched).map_or(RedirectPath::Same, RedirectPath::Rewrite),
    };
    let port = if kind == RouteKind::Virtual { redirect.port } else { redirect_port(redirect, called) };
    Redirect { path, port, ..redirect.clone() }
}

/// The port that is written; `None` where none is, or where it is the one that the client called anyway.
///
/// A redirect to another scheme leads to that scheme's port, one without leads to the port that was called. The port of
/// a scheme is left out where the host is written anew, or has none: a client that calls port 80 names no port. Source:
/// Gateway API, `HTTPRequestRedirectFilter.port`; in a mesh the listener's port is the service's.
fn redirect_port(redirect: &Redirect, (called, is_tls): (u16, bool)) -> Option<u16> {
    let usual = |is_tls| if is_tls { 443 } else { 80 };
    let of_scheme = usual(redirect.scheme.as_ref().map_or(is_tls, |scheme| &**scheme == "https"));
    let meant = redirect.port.unwrap_or(if redirect.scheme.is_some() { of_scheme } else { called });
    let is_left_out = meant == of_scheme && (redirect.host.is_some() || called == usual(is_tls));
    (!is_left_out).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_model::head::RequestHead;
    use meshwork_model::rewrite;

    fn head(authority: &str, path: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_authority(authority.as_bytes());
        head.set_path_and_query(path.as_bytes());
        head
    }

    /// The path that a proxy makes of one.
    fn made(modifier: &PathModifier, prefix: &str, asked: &str) -> String {
        let matched = PathMatch::Prefix(prefix.into());
        let test = &tests(&matched, RouteKind::Http, Dialect::Meshwork)[0];
        match super::rewrite(modifier, &matched) {
            None => asked.to_owned(),
            Some(rewrite) => {
                String::from_utf8(rewrite::path(&rewrite, test, &head("h", asked))).expect("text")
            }
        }
    }

    #[test]
    fn a_prefix_is_replaced_by_segment() {
        let check = |prefix: &str, with: &str, asked: &str, expected: &str| {
            let made = made(&PathModifier::Prefix(with.into()), prefix, asked);
            assert_eq!(made, expected, "{prefix} by {with} in {asked}");
        };
        check("/foo", "/xyz", "/foo/bar", "/xyz/bar");
        check("/foo", "/xyz/", "/foo/bar", "/xyz/bar");
        check("/foo", "/xyz", "/foo", "/xyz");
        check("/foo", "/xyz", "/foo/", "/xyz/");
        check("/foo", "/xyz", "/foo?q=/foo", "/xyz?q=/foo");
        check("/foo", "/", "/foo/bar", "/bar");
        check("/foo", "/", "/foo/", "/");
        check("/foo", "/", "/foo", "/");
        check("/foo", "/", "/foo?q", "/?q");
        check("/f.o", "/", "/f.o/bar", "/bar");
        check("/", "/xyz", "/bar", "/xyz/bar");
        check("/", "/", "/bar", "/bar");
    }

    #[test]
    fn a_whole_path_is_replaced_and_the_query_stays() {
        let full = |with: &str, asked: &str| made(&PathModifier::Full(with.into()), "/foo", asked);
        assert_eq!(full("/one", "/foo/bar?q"), "/one?q");
        assert_eq!(full(r"/a\1", "/foo"), r"/a\1");
    }

    #[test]
    fn a_redirect_leads_to_the_port_that_is_meant() {
        let check = |written: Redirect, called: u16, authority: &str, expected: &str| {
            let matched = PathMatch::Prefix("/".into());
            let made = redirect(&written, None, &matched, RouteKind::Http, (called, false));
            let test = &tests(&matched, RouteKind::Http, Dialect::Meshwork)[0];
            let location = rewrite::location(&made, test, &head(authority, "/a"));
            assert_eq!(String::from_utf8_lossy(&location), expected, "{written:?} {called} {authority}");
        };
        let same = Redirect::default();
        let https = Redirect { scheme: Some("https".into()), ..same.clone() };
        let elsewhere = Redirect { host: Some("example.org".into()), ..same.clone() };
        check(same.clone(), 80, "echo", "http://echo/a");
        check(same.clone(), 8080, "echo:8080", "http://echo:8080/a");
        check(same.clone(), 8080, "echo", "http://echo:8080/a");
        check(https.clone(), 80, "echo", "https://echo/a");
        check(https.clone(), 80, "echo:80", "https://echo/a");
        check(https.clone(), 8080, "echo:8080", "https://echo:443/a");
        check(
            Redirect { host: elsewhere.host.clone(), ..https.clone() },
            8080,
            "e:8080",
            "https://example.org/a",
        );
        check(elsewhere.clone(), 80, "echo", "http://example.org/a");
        check(elsewhere.clone(), 8080, "echo:8080", "http://example.org:8080/a");
        check(Redirect { port: Some(8083), ..elsewhere }, 80, "echo", "http://example.org:8083/a");
        check(Redirect { port: Some(8083), ..same }, 80, "echo", "http://echo:8083/a");
        check(Redirect { port: Some(443), ..https }, 80, "echo", "https://echo/a");
        let port = |written: Redirect, called| redirect_port(&written, (called, true));
        assert_eq!(port(Redirect::default(), 443), None);
        assert_eq!(port(Redirect::default(), 8443), Some(8443));
        assert_eq!(port(Redirect { scheme: Some("http".into()), ..Redirect::default() }, 443), None);
    }
}
