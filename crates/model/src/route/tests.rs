use super::*;
use crate::fraction::Fraction;
use crate::proxy::{Domain, Redirect, RouteAction, Secure};
use crate::regex::Regex;
use std::sync::Arc;

fn head(authority: &str, method: &str, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_authority(authority.as_bytes());
    head.set_method(method.as_bytes());
    head.set_path_and_query(path.as_bytes());
    for (name, value) in fields {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn is_taken(path: PathMatch, head: &RequestHead) -> bool {
    matches(
        &RouteMatch::new(path, vec![]),
        head,
        Path { bare: head.path(), is_connect: head.method() == b"CONNECT" },
        Asked::default(),
    )
}

fn host(name: &str, domain: Domain) -> VirtualHost {
    let matches = RouteMatch::new(PathMatch::Prefix(Arc::from("/")), vec![]);
    VirtualHost::new(name, vec![domain], vec![Route::new(name, matches, RouteAction::Local)])
}

#[test]
fn the_most_specific_domain_wins() {
    let table = RouteTable::new(
        "t",
        vec![
            host("any", Domain::Any),
            host("prefix", Domain::Prefix(Arc::from("www."))),
            host("suffix", Domain::Suffix(Arc::from(".example.com"))),
            host("longer", Domain::Suffix(Arc::from(".b.example.com"))),
            host("exact", Domain::Exact(Arc::from("www.example.com"))),
        ],
    );
    let check = |authority: &str, expected: &str| {
        let route = select(&table, &head(authority, "GET", "/", &[]), Asked::default()).expect("a route");
        assert_eq!(&*route.name, expected, "{authority}");
    };
    check("WWW.example.com", "exact");
    check("a.example.com", "suffix");
    check("a.b.example.com", "longer");
    check(".example.com", "any");
    check("www.other", "prefix");
    check("www.", "any");
    check("", "any");
}

#[test]
fn paths_match_by_byte_or_by_segment() {
    let check = |test: PathMatch, path: &str, expected: bool| {
        assert_eq!(is_taken(test.clone(), &head("", "GET", path, &[])), expected, "{test:?} {path}");
    };
    check(PathMatch::Exact("/a".into()), "/a?b=c", true);
    check(PathMatch::Exact("/a".into()), "/a/", false);
    check(PathMatch::Prefix("/a".into()), "/ab", true);
    check(PathMatch::SegmentPrefix("/a".into()), "/a", true);
    check(PathMatch::SegmentPrefix("/a".into()), "/a/b", true);
    check(PathMatch::SegmentPrefix("/a".into()), "/a?x", true);
    check(PathMatch::SegmentPrefix("/a".into()), "/ab", false);
    check(PathMatch::Connect, "/", false);
}

#[test]
fn only_its_own_match_takes_connect() {
    let connect = head("a:443", "CONNECT", "", &[]);
    assert!(is_taken(PathMatch::Connect, &connect));
    assert!(!is_taken(PathMatch::Prefix("".into()), &connect));
    assert!(!is_taken(PathMatch::Exact("".into()), &connect));
}

#[test]
fn headers_match_by_any_of_their_values() {
    let preview = |test, invert| HeaderMatch { name: "x-preview".into(), test, invert };
    let yes = || HeaderTest::Value(StringMatch::Exact("yes".into()));
    let one = head("h", "GET", "/", &[("x-preview", "yes")]);
    let two = head("h", "GET", "/", &[("x-preview", "yes"), ("x-preview", "no")]);
    let none = head("h", "GET", "/", &[]);
    assert!(matches_header(&preview(yes(), false), &one));
    assert!(matches_header(&preview(yes(), false), &two), "one value is enough");
    assert!(!matches_header(&preview(yes(), true), &two), "and none may pass an inverted test");
    assert!(!matches_header(&preview(yes(), false), &none));
    assert!(!matches_header(&preview(yes(), true), &none), "what is missing fails inverted tests, too");
    let or_missing = |test: HeaderTest| HeaderTest::OrMissing(Box::new(test));
    assert!(matches_header(&preview(or_missing(yes()), true), &none));
    assert!(matches_header(
        &preview(or_missing(HeaderTest::Value(StringMatch::Exact("".into()))), false),
        &none
    ));
    assert!(!matches_header(&preview(HeaderTest::Present, false), &none));
    assert!(matches_header(&preview(HeaderTest::Present, true), &none));
    assert!(matches_header(&preview(HeaderTest::Present, false), &two));
    let method = HeaderMatch {
        name: ":method".into(),
        test: HeaderTest::Value(StringMatch::Exact("GET".into())),
        invert: false,
    };
    assert!(matches_header(&method, &one));
}

#[test]
fn what_ends_at_the_codec_is_asked_for_like_any_field() {
    let mut asked = head("", "POST", "/", &[]);
    let check = |name: &str, text: &str, asked: &RequestHead, expected: bool| {
        let text = StringMatch::Exact(text.into());
        assert_eq!(matches_each_value(name, std::slice::from_ref(&text), asked), expected, "{name} {text:?}");
        let test = HeaderMatch { name: name.into(), test: HeaderTest::Value(text), invert: false };
        assert_eq!(matches_header(&test, asked), expected, "{test:?}");
    };
    check("upgrade", "websocket", &asked, false);
    check("content-length", "12", &asked, false);
    check("transfer-encoding", "chunked", &asked, false);
    asked.note_codec(Some(12), true, b"WebSocket");
    check("transfer-encoding", "chunked", &asked, true);
    check("upgrade", "websocket", &asked, true);
    check("content-length", "12", &asked, true);
    check("content-length", "1", &asked, false);
    // Who asks what would become of a request writes them as any other.
    check("upgrade", "websocket", &head("", "GET", "/", &[("upgrade", "websocket")]), true);
}

#[test]
fn clusters_are_taken_by_weight() {
    let cluster = |name: &str, weight| WeightedCluster { name: name.into(), weight };
    let forward = Forward {
        clusters: vec![cluster("v1", 90), cluster("none", 0), cluster("v2", 10)],
        timeout: None,
        resilience: crate::proxy::Resilience::default(),
    };
    let mut counts = [0; 3];
    for random in 0..1000 {
        counts[select_cluster(&forward, random).0] += 1;
    }
    assert_eq!(counts, [900, 0, 100]);
}

#[test]
fn numbers_match_by_range() {
    let check = |value: &str, expected: bool| {
        let test = HeaderTest::Range { start: -5, end: 10 };
        let test = HeaderMatch { name: "n".into(), test, invert: false };
        assert_eq!(matches_header(&test, &head("", "GET", "/", &[("n", value)])), expected, "{value}");
    };
    check("-5", true);
    check("9", true);
    check("10", false);
    check("-6", false);
    check("1.5", false);
    check("", false);
    check("99999999999999999999", false);
}

#[test]
fn texts_match_in_any_case_where_asked() {
    let check = |test: StringMatch, value: &str, expected: bool| {
        let test = StringMatch::AnyCase(Box::new(test));
        assert_eq!(matches_text(&test, value.as_bytes()), expected, "{test:?} {value}");
    };
    check(StringMatch::Exact("ab".into()), "aB", true);
    check(StringMatch::Exact("ab".into()), "abc", false);
    check(StringMatch::Prefix("ab".into()), "ABC", true);
    check(StringMatch::Prefix("ab".into()), "a", false);
    check(StringMatch::Suffix("bc".into()), "aBC", true);
    check(StringMatch::Contains("b".into()), "aBc", true);
    check(StringMatch::Contains("x".into()), "aBc", false);
}

#[test]
fn ports_of_authorities_count_unless_they_are_passed_over() {
    let mut table = RouteTable::new(
        "t",
        vec![
            host("bare", Domain::Exact("a.b".into())),
            host("port", Domain::Exact("a.b:8080".into())),
            host("six", Domain::Exact("[::1]".into())),
        ],
    );
    let check = |table: &RouteTable, authority: &str, expected: Option<&str>| {
        assert_eq!(table.host(authority.as_bytes()).map(|host| &*host.name), expected, "{authority}");
    };
    check(&table, "a.b", Some("bare"));
    check(&table, "A.B:8080", Some("port"));
    check(&table, "a.b:81", None);
    check(&table, &"x".repeat(1000), None);
    table.ignores_port = true;
    check(&table, "a.b:81", Some("bare"));
    check(&table, "[::1]:80", Some("six"));
    check(&table, "[::1]", Some("six"));
}

#[test]
fn all_tests_of_a_route_have_to_hold() {
    let base = || RouteMatch::new(PathMatch::Prefix("/".into()), vec![]);
    let check = |test: RouteMatch, path: &str, fields: &[(&str, &str)], asked: Asked, expected: bool| {
        let table = RouteTable::new(
            "t",
            vec![VirtualHost::new(
                "h",
                vec![Domain::Any],
                vec![Route::new("r", test.clone(), RouteAction::Local)],
            )],
        );
        let found = select(&table, &head("h", "GET", path, fields), asked);
        assert_eq!(found.is_some(), expected, "{test:?} {path} {asked:?}");
    };
    let no = Asked::default();
    let regex = RouteMatch { path: PathMatch::Regex(Regex::new("/a/[0-9]+").expect("valid")), ..base() };
    check(regex.clone(), "/a/12?q", &[], no, true);
    check(regex, "/a/12/b", &[], no, false);
    let any_case = RouteMatch { path: PathMatch::Exact("/Ab".into()), any_case: true, ..base() };
    check(any_case.clone(), "/aB", &[], no, true);
    check(RouteMatch { any_case: false, ..any_case }, "/aB", &[], no, false);
    let parameters = RouteMatch { path: PathMatch::Exact("/a".into()), ignores_parameters: true, ..base() };
    check(parameters, "/a;v=1?q", &[], no, true);
    let query =
        |name: &str, test| RouteMatch { query: vec![QueryMatch { name: name.into(), test }], ..base() };
    check(query("q", None), "/?q", &[], no, true);
    check(query("q", None), "/?r", &[], no, false);
    check(query("q", Some(StringMatch::Exact("1".into()))), "/?q=1&q=2", &[], no, true);
    check(query("q", Some(StringMatch::Exact("2".into()))), "/?q=1&q=2", &[], no, false);
    let grpc = RouteMatch { only_grpc: true, ..base() };
    check(grpc.clone(), "/", &[("content-type", "application/grpc")], no, true);
    check(grpc, "/", &[("content-type", "text/plain")], no, false);
    let half = RouteMatch { fraction: Some(Fraction { numerator: 50, denominator: 100 }), ..base() };
    check(half.clone(), "/", &[], Asked { random: 149, ..no }, true);
    check(half, "/", &[], Asked { random: 150, ..no }, false);
    let shown = RouteMatch { shows_certificate: Some(true), is_verified: Some(false), ..base() };
    check(shown.clone(), "/", &[], Asked { shows_certificate: true, ..no }, true);
    check(shown, "/", &[], Asked { shows_certificate: true, is_verified: true, ..no }, false);
}

#[test]
fn plaintext_is_redirected_where_tls_is_required() {
    let check = |only_external: bool, fields: &[(&str, &str)], expected: &str| {
        let redirect =
            RouteAction::Redirect(Redirect { scheme: Some("https".into()), ..Redirect::default() });
        let route = Route::new("secure", RouteMatch::new(PathMatch::Prefix("/".into()), vec![]), redirect);
        let mut host = host("plain", Domain::Any);
        host.secure = Some(Box::new(Secure { only_external, route }));
        let table = RouteTable::new("t", vec![host]);
        let found = select(&table, &head("h", "GET", "/", fields), Asked::default()).expect("one");
        assert_eq!(&*found.name, expected, "{fields:?}");
    };
    check(false, &[], "secure");
    check(false, &[("x-forwarded-proto", "http")], "secure");
    check(false, &[("x-forwarded-proto", "https")], "plain");
    check(false, &[("x-envoy-internal", "true")], "secure");
    check(true, &[("x-envoy-internal", "true")], "plain");
}

#[test]
fn a_header_may_select_among_clusters() {
    let terms = RouteTerms { random_header: Some("n".into()), ..RouteTerms::default() };
    let check = |fields: &[(&str, &str)], expected: u64| {
        assert_eq!(cluster_number(Some(&terms), &head("h", "GET", "/", fields), 7), expected, "{fields:?}");
    };
    check(&[("n", "42")], 42);
    check(&[("n", "x")], 7);
    check(&[("n", "1"), ("n", "2")], 7);
    check(&[], 7);
}

#[test]
fn what_is_passed_over_is_told_with_the_first_test_that_fails() {
    #[derive(Default)]
    struct Told(Vec<String>);
    impl<'t> Trace<'t> for Told {
        fn host(&mut self, host: &'t VirtualHost) {
            self.0.push(host.name.to_string());
        }

        fn missed(&mut self, route: &'t Route, why: Miss<'t>) {
            let why = match why {
                Miss::Path(_) => "path".to_owned(),
                Miss::Fraction => "fraction".to_owned(),
                Miss::Certificate => "certificate".to_owned(),
                Miss::Header(header) => header.name.to_string(),
                Miss::Grpc => "grpc".to_owned(),
                Miss::Query(query) => query.name.to_string(),
            };
            self.0.push(format!("{}: {why}", route.name));
        }
    }
    let test = |name: &str, change: &dyn Fn(&mut RouteMatch)| {
        let mut matches = RouteMatch::new(PathMatch::Prefix("/a".into()), vec![]);
        change(&mut matches);
        Route::new(name, matches, RouteAction::Local)
    };
    let header = HeaderMatch { name: "x-a".into(), test: HeaderTest::Present, invert: false };
    let query = QueryMatch { name: "q".into(), test: None };
    let routes = vec![
        test("1", &|test| test.path = PathMatch::Exact("/b".into())),
        test("2", &|test| test.fraction = Some(Fraction { numerator: 0, denominator: 100 })),
        test("3", &|test| test.is_verified = Some(true)),
        test("4", &|test| test.headers = vec![header.clone()]),
        test("5", &|test| test.only_grpc = true),
        test("6", &|test| test.query = vec![query.clone()]),
        test("7", &|_| ()),
        test("8", &|_| ()),
    ];
    let table = RouteTable::new("t", vec![VirtualHost::new("h", vec![Domain::Any], routes)]);
    let mut told = Told::default();
    let head = head("a", "GET", "/a/x", &[]);
    let route = select_traced(&table, &head, Asked::default(), &mut told).expect("a route");
    assert_eq!(&*route.name, "7");
    assert_eq!(told.0, ["h", "1: path", "2: fraction", "3: certificate", "4: x-a", "5: grpc", "6: q"]);
}
