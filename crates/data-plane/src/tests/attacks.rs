//! Requests that are written so that a rule does not see what the origin would: each is refused, or reaches the origin in
//! the very form that was judged.

use std::sync::Arc;

use meshwork_model::proxy::{
    Action, Domain, EscapedSlashes, Forward, HeaderMatch, HeaderTest, HttpConnection, HttpFilter,
    NetworkFilter, PathMatch, PathNormalization, PathRewrite, Permission, Principal, Rbac, Resilience,
    Resource, Route, RouteAction, RouteMatch, RouteSource, RouteTable, RouteTerms, Rule, StringMatch,
    VirtualHost, WeightedCluster,
};

use super::OK;
use crate::testing::config::{ORIGIN, cluster, http_connection, listener};
use crate::testing::{Message, play};

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The proxy answered it with this status.
    Refused(u16),
    /// The origin was asked for this target.
    Forwarded(String),
}

use Outcome::{Forwarded, Refused};

fn rule(name: &str, permissions: Vec<Permission>, principal: Principal) -> Rule {
    Rule { name: name.into(), permissions, principals: vec![principal] }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

/// `/admin`, and what is below it, is for nobody.
fn no_admin() -> Vec<Rbac> {
    let paths = [exact("/admin"), StringMatch::Prefix("/admin/".into())];
    let rule = rule("admin", paths.map(Permission::Path).into(), Principal::Any);
    vec![Rbac { action: Action::Deny, rules: vec![rule] }]
}

/// What our control plane writes for every listener of HTTP.
const PATHS: PathNormalization =
    PathNormalization { rfc3986: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Reject };

/// Sends bytes to a proxy with these rules; the request as the origin saw it, where it did.
fn ask(rules: Vec<Rbac>, bytes: &[u8]) -> (Outcome, Option<Message>) {
    let mut http = HttpConnection { paths: PATHS, ..http_connection(None) };
    http.filters = HttpFilter::rules(rules.into_iter().map(Arc::new));
    ask_at(http, bytes)
}

/// Sends bytes to a proxy; the request as the origin saw it, where it did.
fn ask_at(http: HttpConnection, bytes: &[u8]) -> (Outcome, Option<Message>) {
    let listener = listener(NetworkFilter::Http(Arc::new(http)), None);
    let mut outcome = None;
    play(vec![Resource::Cluster(cluster(&[ORIGIN])), listener], async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(bytes).await;
        if !origin.is_called().await {
            // Over HTTP/2 nobody here reads the answer: that nobody was asked is what counts.
            let status = if bytes.starts_with(b"PRI ") { 0 } else { status(&client.receive().await) };
            outcome = Some((Refused(status), None));
            return;
        }
        let mut upstream = origin.accept().await;
        let request = upstream.receive().await;
        upstream.send(OK).await;
        let target = request.head.split(' ').nth(1).expect("a target").to_owned();
        outcome = Some((Forwarded(target), Some(request)));
    });
    outcome.expect("an outcome")
}

fn status(message: &Message) -> u16 {
    message.status().expect("a status")
}

fn get(target: &str) -> Outcome {
    ask(no_admin(), format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).0
}

fn same(target: &str) -> Outcome {
    Forwarded(target.to_owned())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of spellings")]
fn every_spelling_of_a_denied_path_is_denied_refused_or_another_path() {
    // In the one form they are the denied path.
    for target in [
        "/admin",
        "/admin?",
        "/admin?x=/y",
        "/%61dmin",
        "/%61%64%6D%69%6e",
        "/./admin",
        "/.//admin",
        "//admin",
        "///admin",
        "/a/../admin",
        "/a/b/../../admin",
        "/../admin",
        "/../../admin",
        "/%2e/admin",
        "/a/%2e%2E/admin",
        "/a/.%2e/admin",
        "/a/%2e./%61dmin",
        "/a/..;/admin",
        "/a/..;x=y;z/admin",
        "/a/..%3b/admin",
        "/.;/admin",
        "/admin/",
        "/admin//",
        "/admin/.",
        "/admin/x/..",
        "/admin/x",
        "/admin/../admin/",
        "/\\admin",
        "\\/admin/../admin",
        "/a\\..\\admin",
        "/a/..\\admin",
        "/admin\\x",
        "http://a/admin",
        "HTTP://a/admin",
        "http://a//admin",
        "http://a/x/../admin",
        "http://a/%61dmin?x",
    ] {
        let expected = if target.starts_with('\\') { Refused(400) } else { Refused(403) };
        assert_eq!(get(target), expected, "{target}");
    }
    // What some read as it and others do not.
    for target in [
        "/admin%2f",
        "/admin%2Fx",
        "/%2fadmin",
        "/a%2f..%2fadmin",
        "/admin%5c",
        "/%5Cadmin",
        "/admin%00",
        "/admin%00.css",
        "/admin#",
        "/admin#x",
        "/x#/../admin",
        "\\admin",
        "admin",
        "*",
        "/admin\t",
        "/ admin",
        "/admin ",
        "http://a?/admin",
        "http://a\\/admin",
        "http://u@a/admin",
        "http://b/admin",
        "http:/admin",
    ] {
        assert_eq!(get(target), Refused(400), "{target:?}");
    }
    // Other paths, whatever they look like: what is judged is what the origin gets.
    for target in [
        "/ADMIN",
        "/Admin",
        "/admin;x",
        "/admin;/x",
        "/;/admin",
        "/admin.",
        "/admin..",
        "/admin%20",
        "/admin%09",
        "/admin%0A",
        "/%20admin",
        "/%2561dmin",
        "/%252e%252e/admin",
        "/%C0%AFadmin",
        "/a/%C0%AE%C0%AE/admin",
        "/%E0%80%AFadmin",
        "/%EF%BC%8Fadmin",
        "/%u0061dmin",
        "/x%u002fadmin",
        "/%6gdmin",
        "/administrator",
        "/x?/admin",
        "/x?/../admin",
        "/...;/admin",
        "/.../admin",
    ] {
        assert_eq!(get(target), same(target), "{target}");
    }
}

#[test]
fn a_path_that_could_be_read_twice_reaches_the_origin_in_the_form_that_was_judged() {
    for (target, form) in [
        ("/x/../%62", "/b"),
        ("/x//y", "/x/y"),
        // An origin that merges slashes takes it for `/`.
        ("//", "/"),
        ("///", "/"),
        // Slashes are merged last: `..` goes up from an empty segment, as in a browser.
        ("/x//..//admin", "/x/admin"),
        ("/x/./y/", "/x/y/"),
        ("/caf%c3%a9%3a", "/caf%C3%A9%3A"),
        // What is no escape does not become one, with what is decoded behind it.
        ("/x/%2%65%2%65/admin", "/x/%252e%252e/admin"),
        ("/x/%%32%65%%32%65/admin", "/x/%252e%252e/admin"),
        ("/%%361dmin", "/%2561dmin"),
        ("/x/..%%32fadmin", "/x/..%252fadmin"),
        ("/x\\y", "/x/y"),
        ("/x|y", "/x%7Cy"),
        ("/x\"y", "/x%22y"),
        ("http://a", "/"),
        ("http://a/x/../y?z=../", "/y?z=../"),
    ] {
        assert_eq!(get(target), same(form), "{target}");
        assert_eq!(get(form), same(form), "{target}");
    }
}

#[test]
fn a_rewritten_path_leads_nowhere_but_where_its_route_does() {
    let check = |target: &str, expected: Outcome| {
        let action = RouteAction::Forward(Forward {
            clusters: vec![WeightedCluster { name: "a".into(), weight: 1 }],
            timeout: None,
            resilience: Resilience::default(),
        });
        let terms = RouteTerms { path: Some(PathRewrite::Matched("/b/".into())), ..RouteTerms::default() };
        let matches = RouteMatch::new(PathMatch::Prefix("/a".into()), vec![]);
        let route = Route { terms: Some(Box::new(terms)), ..Route::new("route", matches, action) };
        let host = VirtualHost::new("all", vec![Domain::Any], vec![route]);
        let routes = RouteSource::Inline(Arc::new(RouteTable::new("table", vec![host])));
        let http = HttpConnection { routes, paths: PATHS, ..http_connection(None) };
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(ask_at(http, request.as_bytes()).0, expected, "{target}");
    };
    check("/a", same("/b/"));
    check("/ac?d=/../", same("/b/c?d=/../"));
    check("/a...", same("/b/..."));
    for target in ["/a..", "/a../admin", "/a./x", "/a..;x/admin"] {
        check(target, Refused(400));
    }
}

/// A request over HTTP/2, with its fields as they are: no library writes such.
fn over_h2(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |text: &str, block: &mut Vec<u8>| {
        // Source: RFC 7541 §5.2; none of them is longer than one byte can say.
        block.push(u8::try_from(text.len()).expect("short").min(126));
        block.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        // Source: RFC 7541 §6.2.2, with a new name.
        block.push(0);
        text(name, &mut block);
        text(value, &mut block);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let length = u8::try_from(block.len()).expect("short");
    // HEADERS with END_STREAM and END_HEADERS.
    bytes.extend_from_slice(&[0, 0, length, 1, 5, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    bytes
}

fn over_h2_get(path: &str, authority: &str, more: &[(&str, &str)]) -> Outcome {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", authority)];
    ask(no_admin(), &over_h2(&[&pseudo, more].concat())).0
}

#[test]
fn http_2_is_read_as_http_1_is() {
    for (path, expected) in [
        ("/x", same("/x")),
        ("/x/../y", same("/y")),
        ("/admin", Refused(0)),
        ("/%61dmin", Refused(0)),
        ("/x/..;/admin", Refused(0)),
        ("/admin%2f", Refused(0)),
        ("/admin%00", Refused(0)),
        ("/ADMIN", same("/ADMIN")),
        ("admin", Refused(0)),
        ("x/../admin", Refused(0)),
        ("\\admin", Refused(0)),
        ("*", Refused(0)),
        ("", Refused(0)),
        ("?/admin", Refused(0)),
        ("http://a/admin", Refused(0)),
        ("/a dmin", Refused(0)),
        // No byte that HTTP/1.1 would not carry.
        ("/\u{e9}", Refused(0)),
        ("/\u{7f}", Refused(0)),
        ("/admin\0", Refused(0)),
    ] {
        assert_eq!(over_h2_get(path, "a", &[]), expected, "{path:?}");
    }
    // A fragment is no part of what is asked for.
    assert_eq!(over_h2_get("/admin#x", "a", &[]), Refused(0));
    assert_eq!(over_h2_get("/x#/../admin", "a", &[]), same("/x"));
    for authority in ["u@a", "a:pw@b", "a b", "a%2eb", "a/b", "a;b", "a:0", "a:x", ""] {
        assert_eq!(over_h2_get("/x", authority, &[]), Refused(0), "{authority:?}");
    }
    assert_eq!(over_h2_get("/x", "a", &[("host", "a")]), same("/x"));
    assert_eq!(over_h2_get("/x", "a", &[("host", "b")]), Refused(0));
    assert_eq!(over_h2_get("/x", "a", &[("host", "a"), ("host", "b")]), Refused(0));
    assert_eq!(over_h2_get("/x", "a", &[(":path", "/y")]), Refused(0));
    assert_eq!(over_h2_get("/x", "a", &[("X-Role", "a")]), Refused(0));
    assert_eq!(over_h2_get("/x", "a", &[("connection", "x-role")]), Refused(0));
}

#[test]
fn a_request_names_one_host() {
    let check = |head: &str, expected: Outcome| {
        assert_eq!(ask(no_admin(), format!("{head}\r\n\r\n").as_bytes()).0, expected, "{head:?}");
    };
    check("GET /x HTTP/1.1\r\nHost: a", same("/x"));
    check("GET http://a/x HTTP/1.1\r\nHost: A", same("/x"));
    check("GET http://a:80/x HTTP/1.1\r\nHost: a", same("/x"));
    for bad in [
        "GET /x HTTP/1.1",
        "GET /x HTTP/1.1\r\nHost:",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: b",
        "GET /x HTTP/1.1\r\nHost: a\r\nhost: a",
        "GET /x HTTP/1.1\r\nHost : a",
        "GET /x HTTP/1.1\r\nHost: a b",
        "GET /x HTTP/1.1\r\nHost: a, b",
        "GET /x HTTP/1.1\r\nHost: u@a",
        "GET /x HTTP/1.1\r\nHost: a:pw@b",
        "GET /x HTTP/1.1\r\nHost: a%2eb",
        "GET /x HTTP/1.1\r\nHost: a/x",
        "GET /x HTTP/1.1\r\nHost: a:",
        "GET /x HTTP/1.1\r\nHost: a:99999",
        "GET /x HTTP/1.1\r\nHost: a\r\n b",
        "GET http://a/x HTTP/1.1\r\nHost: b",
        "GET http://a/x HTTP/1.1\r\nHost: a:81",
        "GET http://a.:80/x HTTP/1.1\r\nHost: a",
    ] {
        check(bad, Refused(400));
    }
}

/// Denies requests one of whose roles is `bad`.
fn no_bad_role() -> Vec<Rbac> {
    let bad = HeaderMatch { name: "x-role".into(), test: HeaderTest::Value(exact("bad")), invert: false };
    let rule = rule("bad", vec![Permission::Any], Principal::Header(bad));
    vec![Rbac { action: Action::Deny, rules: vec![rule] }]
}

/// Allows requests all of whose roles are `good` or `fine`.
fn only_good_roles() -> Vec<Rbac> {
    let each = Principal::EachValue { name: "x-role".into(), tests: vec![exact("good"), exact("fine")] };
    let rule = rule("good", vec![Permission::Any], each);
    vec![Rbac { action: Action::Allow, rules: vec![rule] }]
}

#[test]
fn of_several_values_one_keeps_out_and_all_let_in() {
    let check = |lines: &str, denied: u16, allowed: bool| {
        let request = format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let status = |rules| match ask(rules, request.as_bytes()).0 {
            Forwarded(_) => 200,
            Refused(status) => status,
        };
        assert_eq!(status(no_bad_role()), denied, "{lines:?}");
        assert_eq!(status(only_good_roles()) == 200, allowed, "{lines:?}");
    };
    check("x-role: good\r\n", 200, true);
    check("X-ROLE: good\r\nx-Role:fine\r\n", 200, true);
    check("x-role: \t good \t\r\n", 200, true);
    check("", 200, false);
    check("x-role: bad\r\n", 403, false);
    check("x-role:bad\r\n", 403, false);
    check("X-ROLE: bad  \r\n", 403, false);
    check("x-role: good\r\nx-role: bad\r\n", 403, false);
    check("x-role: bad\r\nx-role: good\r\n", 403, false);
    check("x-role: good\r\nx-a: b\r\nx-role: other\r\n", 200, false);
    check("x-role: good\r\nx-role:\r\n", 200, false);
    check("x-role:\r\n", 200, false);
    // Values are compared as they are: a list in one line is one value, and nothing in it is a pattern.
    check("x-role: good,bad\r\n", 200, false);
    check("x-role: good, fine\r\n", 200, false);
    check("x-role: goo.\r\n", 200, false);
    check("x-role: *\r\n", 200, false);
    check("x-role: GOOD\r\n", 200, false);
    // Another name, which rules of our control plane refuse beside one that they ask about.
    check("x_role: good\r\n", 200, false);
    // What is no field is no request.
    check("x-role : bad\r\n", 400, false);
    check("x-role\r\n", 400, false);
    check("x-role: good\r\n bad\r\n", 400, false);
    check("x-role: good\rbad\r\n", 400, false);
    check("x-role: good\0\r\n", 400, false);
    check(" x-role: bad\r\n", 400, false);
    check("x-role: good\nx-role: bad\r\n", 400, false);
}

#[test]
fn what_ends_at_the_codec_is_judged_all_the_same() {
    let without = |name: &str, text: &str| {
        let test = HeaderMatch { name: name.into(), test: HeaderTest::Value(exact(text)), invert: false };
        let rule = rule("no", vec![Permission::Header(test)], Principal::Any);
        vec![Rbac { action: Action::Deny, rules: vec![rule] }]
    };
    let upgrade = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    assert_eq!(ask(without("upgrade", "websocket"), upgrade).0, Refused(403));
    assert_eq!(ask(without("upgrade", "other"), upgrade).0, same("/x"));
    let body = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(ask(without("content-length", "1"), body).0, Refused(403));
    assert_eq!(ask(without("content-length", "2"), body).0, same("/x"));
    let chunks = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    assert_eq!(ask(without("transfer-encoding", "chunked"), chunks).0, Refused(403));
}

#[test]
fn white_space_around_a_value_is_none_of_it_over_http_2_either() {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")];
    for (value, forwarded) in [
        ("good", Some("good")),
        (" \tgood ", Some("good")),
        ("good bad", Some("good bad")),
        ("bad", None),
        ("bad ", None),
        ("\tbad", None),
    ] {
        let bytes = over_h2(&[&pseudo[..], &[("x-role", value)]].concat());
        let (outcome, seen) = ask(no_bad_role(), &bytes);
        assert_eq!(outcome, if forwarded.is_some() { same("/x") } else { Refused(0) }, "{value:?}");
        assert_eq!(seen.as_ref().and_then(|seen| seen.header("x-role")), forwarded, "{value:?}");
    }
}

#[test]
fn a_field_of_the_connection_is_neither_judged_nor_forwarded() {
    let request = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: x-role\r\nx-role: good\r\n\r\n";
    assert_eq!(ask(only_good_roles(), request).0, Refused(403));
    let (outcome, seen) =
        ask(no_bad_role(), &String::from_utf8_lossy(request).replace("good", "bad").into_bytes());
    assert_eq!(outcome, same("/x"));
    let seen = seen.expect("a request");
    assert_eq!((seen.header("x-role"), seen.header("connection")), (None, None));
}
