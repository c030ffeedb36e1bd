//! What a route makes of a request's path and host, and where it redirects to.
//!
//! Source: Envoy `RouteAction.prefix_rewrite`, `regex_rewrite`, `host_rewrite_literal`, `RedirectAction`.

use crate::format::Facts;
use crate::head::RequestHead;
use crate::proxy::{HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath, Route, RouteTerms};

const FORWARDED_HOST: &[u8] = b"x-forwarded-host";
/// What the client asked for, as told to applications. Source: Envoy `x-envoy-original-path`, `x-envoy-original-host`.
const ORIGINAL_PATH: &[u8] = b"x-envoy-original-path";
const ORIGINAL_HOST: &[u8] = b"x-envoy-original-host";

/// Makes of a request's head what a route forwards to its cluster at this place; `tells` is whether applications are told
/// what was asked for.
///
/// Order: the cluster's changes and host, those of route, virtual host and table, the host, the path.
/// Source: Envoy `finalizeRequestHeaders`.
pub fn request(route: &Route, at: usize, head: &mut RequestHead, facts: &dyn Facts, tells: bool) {
    let Some(terms) = route.terms.as_deref() else { return };
    if let Some(cluster) = terms.clusters.get(at) {
        cluster.changes.request.iter().for_each(|level| level.change_request(head, facts));
        if let Some(host) = &cluster.host {
            head.set_authority(host.as_bytes());
        }
    }
    terms.changes.request.iter().for_each(|level| level.change_request(head, facts));
    if let Some(host) = terms.host.as_ref().and_then(|host| self::host(host, head)) {
        set_host(Some(terms), head, &host, tells);
    }
    if let Some(path) = &terms.path {
        let path = self::path(path, &route.matches.path, head);
        if tells {
            let before = head.path_and_query().to_vec();
            head.fields.set(ORIGINAL_PATH, &before);
        }
        head.set_path_and_query(&path);
    }
}

/// Sets the host, and tells which one it was.
pub fn set_host(terms: Option<&RouteTerms>, head: &mut RequestHead, host: &[u8], tells: bool) {
    let before = head.authority().to_vec();
    let appends = terms.is_some_and(|terms| terms.appends_forwarded_host) && !before.is_empty();
    match head.fields.find(FORWARDED_HOST) {
        Some(said) if appends && last_of(said) != before => {
            let said = [said, &before].join(&b","[..]);
            head.fields.set(FORWARDED_HOST, &said);
        }
        None if appends => head.fields.push(FORWARDED_HOST, &before),
        _ => {}
    }
    if tells {
        head.fields.set(ORIGINAL_HOST, &before);
    }
    head.set_authority(host);
}

fn last_of(list: &[u8]) -> &[u8] {
    list.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
}

/// The path and query that a rewrite makes of a request's; `matched` is what its route matched.
pub fn path(rewrite: &PathRewrite, matched: &PathMatch, head: &RequestHead) -> Vec<u8> {
    let whole = head.path_and_query();
    let bare = without_query(whole);
    match rewrite {
        PathRewrite::Matched(text) => {
            [text.as_bytes(), &whole[matched_length(matched, bare).min(whole.len())..]].concat()
        }
        PathRewrite::Regex(rewrite) => [&*rewrite.apply(bare), &whole[bare.len()..]].concat(),
    }
}

/// The host that a rewrite gives, as far as the request alone decides that.
pub fn host(rewrite: &HostRewrite, head: &RequestHead) -> Option<Vec<u8>> {
    let host = match rewrite {
        HostRewrite::Literal(text) => text.as_bytes().to_vec(),
        HostRewrite::Header(name) => head.fields.find(name.as_bytes())?.to_vec(),
        HostRewrite::Path(rewrite) => rewrite.apply(without_query(head.path_and_query())).into_owned(),
        HostRewrite::Endpoint => return None,
    };
    Some(host).filter(|host| !host.is_empty())
}

/// Where a request is redirected to.
pub fn location(redirect: &Redirect, matched: &PathMatch, head: &RequestHead) -> Vec<u8> {
    let asked: &[u8] = if head.https { b"https" } else { b"http" };
    let scheme = redirect.scheme.as_deref().map_or(asked, str::as_bytes);
    let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
    let forwarded = head.fields.find(b"x-forwarded-proto").unwrap_or(asked);
    let host = match &redirect.host {
        Some(host) => host.as_bytes(),
        None if redirect.keeps_port => head.authority(),
        None => host_of(head.authority(), !port.is_empty(), scheme, forwarded),
    };
    let whole = head.path_and_query();
    let query = whole.iter().position(|byte| *byte == b'?').map_or(&[][..], |at| &whole[at..]);
    let mut path = match &redirect.path {
        RedirectPath::Same => whole.to_vec(),
        RedirectPath::Path(text) if text.contains('?') => text.as_bytes().to_vec(),
        RedirectPath::Path(text) => [text.as_bytes(), query].concat(),
        RedirectPath::Rewrite(rewrite) => self::path(rewrite, matched, head),
    };
    if !path.starts_with(b"/") {
        path.insert(0, b'/');
    }
    let has_query = matches!(&redirect.path, RedirectPath::Path(text) if text.contains('?'));
    if redirect.strip_query && !has_query {
        path.truncate(path.iter().position(|byte| *byte == b'?').unwrap_or(path.len()));
    }
    [scheme, b"://", host, port.as_bytes(), &path].concat()
}

/// The host that was asked for; its port goes where another comes, and where it was only that of the scheme that was
/// asked for.
fn host_of<'h>(authority: &'h [u8], has_port: bool, scheme: &[u8], asked: &[u8]) -> &'h [u8] {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    let bracket = authority.iter().rposition(|byte| *byte == b']');
    let Some(at) = colon.filter(|at| bracket.is_none_or(|bracket| bracket < *at)) else { return authority };
    let is_usual = match asked {
        b"https" => &authority[at..] == b":443",
        _ => &authority[at..] == b":80",
    };
    if has_port || scheme != asked && is_usual { &authority[..at] } else { authority }
}

fn without_query(path: &[u8]) -> &[u8] {
    &path[..path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len())]
}

fn matched_length(matched: &PathMatch, bare: &[u8]) -> usize {
    match matched {
        PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::SegmentPrefix(text) => text.len(),
        PathMatch::Regex(_) | PathMatch::Connect => bare.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regex::{Regex, Rewrite};

    fn head(authority: &str, path: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_authority(authority.as_bytes());
        head.set_path_and_query(path.as_bytes());
        head
    }

    #[test]
    fn what_was_matched_is_replaced() {
        let check = |matched: PathMatch, rewrite: PathRewrite, asked: &str, expected: &str| {
            let got = path(&rewrite, &matched, &head("h", asked));
            assert_eq!(String::from_utf8_lossy(&got), expected, "{matched:?} {rewrite:?} {asked}");
        };
        let matched = |text: &str| PathRewrite::Matched(text.into());
        let regex = |find: &str, put: &str| PathRewrite::Regex(Rewrite::new(find, put).expect("valid"));
        check(PathMatch::Prefix("/a".into()), matched("/b"), "/a/c?d", "/b/c?d");
        check(PathMatch::Prefix("/a/".into()), matched("/"), "/a/c", "/c");
        check(PathMatch::Exact("/a".into()), matched("/b"), "/a?q=/a", "/b?q=/a");
        check(PathMatch::Regex(Regex::new("/a.*").expect("valid")), matched("/b"), "/ac?d", "/b?d");
        check(PathMatch::Prefix("/".into()), regex("^/s/([^/]+)(/.*)$", r"\2/i/\1"), "/s/x/y?z", "/y/i/x?z");
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let same = Redirect::default();
        let check = |redirect: &Redirect, authority: &str, path: &str, expected: &str| {
            let got = location(redirect, &PathMatch::Prefix("/a".into()), &head(authority, path));
            assert_eq!(String::from_utf8_lossy(&got), expected, "{redirect:?} {authority} {path}");
        };
        let https = Redirect { scheme: Some("https".into()), ..same.clone() };
        check(&https, "h:80", "/a?b", "https://h/a?b");
        check(&https, "h:8080", "/a", "https://h:8080/a");
        check(&https, "[::1]:80", "/a", "https://[::1]/a");
        check(&https, "[::1]", "/a", "https://[::1]/a");
        check(&Redirect { port: Some(81), ..same.clone() }, "h:8080", "/a", "http://h:81/a");
        check(&Redirect { host: Some("x".into()), ..same.clone() }, "h:8080", "/a", "http://x/a");
        let to = |path: &str| Redirect { path: RedirectPath::Path(path.into()), ..same.clone() };
        check(&to("/n"), "h", "/a?b", "http://h/n?b");
        check(&to("/n?c"), "h", "/a?b", "http://h/n?c");
        check(&Redirect { strip_query: true, ..to("/n") }, "h", "/a?b", "http://h/n");
        check(&Redirect { strip_query: true, ..to("/n?c") }, "h", "/a?b", "http://h/n?c");
        let prefix = RedirectPath::Rewrite(PathRewrite::Matched("/n".into()));
        check(&Redirect { path: prefix, ..same.clone() }, "h", "/a/b?c", "http://h/n/b?c");
    }
}
