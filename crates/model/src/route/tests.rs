use super::*;
use crate::proxy::RouteAction;
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

fn host(name: &str, domain: Domain) -> VirtualHost {
    let matches = RouteMatch { path: PathMatch::Prefix(Arc::from("/")), headers: vec![] };
    let route = Route { name: Arc::from(name), matches, action: RouteAction::Local };
    VirtualHost { name: Arc::from(name), domains: vec![domain], routes: vec![route] }
}

#[test]
fn the_most_specific_domain_wins() {
    let table = RouteTable {
        name: Arc::from("t"),
        hosts: vec![
            host("any", Domain::Any),
            host("prefix", Domain::Prefix(Arc::from("www."))),
            host("suffix", Domain::Suffix(Arc::from(".example.com"))),
            host("longer", Domain::Suffix(Arc::from(".b.example.com"))),
            host("exact", Domain::Exact(Arc::from("www.example.com"))),
        ],
    };
    let check = |authority: &str, expected: &str| {
        let route = select(&table, &head(authority, "GET", "/", &[])).expect("a route");
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
        assert_eq!(matches_path(&test, &head("", "GET", path, &[])), expected, "{test:?} {path}");
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
    assert!(matches_path(&PathMatch::Connect, &connect));
    assert!(!matches_path(&PathMatch::Prefix("".into()), &connect));
    assert!(!matches_path(&PathMatch::Exact("".into()), &connect));
}

#[test]
fn headers_match_by_all_their_values() {
    let preview = |test, invert| HeaderMatch { name: "x-preview".into(), test, invert };
    let yes = || HeaderTest::Value(StringMatch::Exact("yes".into()));
    let one = head("h", "GET", "/", &[("x-preview", "yes")]);
    let two = head("h", "GET", "/", &[("x-preview", "yes"), ("x-preview", "no")]);
    let none = head("h", "GET", "/", &[]);
    assert!(matches_header(&preview(yes(), false), &one));
    assert!(!matches_header(&preview(yes(), false), &two));
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
fn clusters_are_taken_by_weight() {
    let cluster = |name: &str, weight| WeightedCluster { name: name.into(), weight };
    let forward = Forward {
        clusters: vec![cluster("v1", 90), cluster("none", 0), cluster("v2", 10)],
        timeout: None,
        resilience: crate::proxy::Resilience::default(),
    };
    let mut counts = [0; 3];
    for random in 0..1000 {
        let taken = select_cluster(&forward, random);
        counts[forward.clusters.iter().position(|c| c == taken).expect("one of them")] += 1;
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
