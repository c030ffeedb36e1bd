use super::*;
use crate::proxy::{Clients, EscapedSlashes, PathNormalization, RouteSource};

/// A proxy at 192.0.2.1.
struct Sample;

impl Own for Sample {
    fn address(&mut self) -> IpAddr {
        [192, 0, 2, 1].into()
    }

    fn request_id(&mut self) -> [u8; 36] {
        [b'0'; 36]
    }

    fn trace_parent(&mut self) -> [u8; 55] {
        [b'0'; 55]
    }

    fn client_cert(&mut self) -> String {
        "URI=spiffe://mesh/web".to_owned()
    }
}

fn came() -> Came {
    Came {
        address: ([127, 0, 0, 1], 1).into(),
        port: 80,
        is_tls: false,
        direction: Direction::Outbound,
        is_proven: false,
        is_scheme_said: false,
    }
}

fn config() -> HttpConnection {
    HttpConnection::new("test", RouteSource::Named("r".into()))
}

fn head(fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"GET");
    head.set_authority(b"h.test:80");
    head.set_path_and_query(b"/a//b");
    for (name, value) in fields {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    head
}

#[test]
fn a_trace_is_begun_only_where_config_asks_and_nobody_did() {
    for (tracing, given, expected) in [
        (true, None, true),
        (false, None, false),
        (true, Some(("traceparent", "00-x")), true),
        (true, Some(("b3", "0")), false),
        (true, Some(("x-b3-traceid", "1")), false),
        (true, Some(("tracestate", "a=b")), true),
    ] {
        let config = HttpConnection { tracing, ..config() };
        let mut head = head(given.as_slice());
        prepare(&mut head, &config, &came(), &mut Sample).expect("fit");
        assert_eq!(head.fields.find(TRACE_PARENT).is_some(), expected, "{tracing} {given:?}");
        if let Some((name, value)) = given {
            assert_eq!(head.fields.all(name.as_bytes()).collect::<Vec<_>>(), [value.as_bytes()]);
        }
    }
}

#[test]
fn what_proxies_tell_each_other_is_for_requests_of_our_own() {
    let check = |is_internal, is_edge, expected: &[&str]| {
        let names =
            ["x-envoy-internal", "x-envoy-max-retries", "x-envoy-decorator-operation", "x-envoy-other"];
        let mut head = head(&names.map(|name| (name, "true")));
        clean(&mut head, is_internal, is_edge);
        let left: Vec<_> = head.fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
        assert_eq!(left, expected, "{is_internal} {is_edge}");
    };
    check(false, true, &["x-envoy-other"]);
    check(false, false, &["x-envoy-decorator-operation", "x-envoy-other"]);
    check(
        true,
        false,
        &["x-envoy-max-retries", "x-envoy-decorator-operation", "x-envoy-other", "x-envoy-internal"],
    );
}

#[test]
fn a_referer_is_an_address_or_a_path() {
    for referer in ["http://a/b", "https://a:80/b?c", "nonsense", "", "/a:b", "http://a/b,http://a/b"] {
        assert!(is_referer(referer.as_bytes()), "{referer}");
    }
    for referer in ["x:y", "https://a b/", "http://a/b#c", "a\"b"] {
        assert!(!is_referer(referer.as_bytes()), "{referer}");
    }
}

#[test]
fn at_the_edge_nobody_says_who_they_are() {
    let edge = HttpConnection { clients: Clients { is_edge: true, ..Clients::default() }, ..config() };
    let check = |config: &HttpConnection, came: Came, client: &str, said: [Option<&str>; 2], https: bool| {
        let mut head = head(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        let told = prepare(&mut head, config, &came, &mut Sample).expect("fit");
        assert_eq!((told.ip().to_string().as_str(), head.https), (client, https), "{head:?}");
        let fields = ["x-forwarded-for", "x-forwarded-proto"].map(|name| head.fields.find(name.as_bytes()));
        assert_eq!(fields, said.map(|said| said.map(str::as_bytes)), "{head:?}");
    };
    let believed = [Some("10.0.0.1"), Some("https")];
    check(&config(), came(), "10.0.0.1", believed, true);
    check(&edge, came(), "127.0.0.1", [Some("10.0.0.1,192.0.2.1"), Some("http")], false);
    let far = Came { address: ([203, 0, 113, 7], 1).into(), is_tls: true, ..came() };
    check(&edge, far, "203.0.113.7", [Some("10.0.0.1,203.0.113.7"), Some("https")], true);
}

#[test]
fn nobody_switches_to_http_2() {
    for (protocols, expected) in
        [("websocket", true), ("foo, bar", true), ("h2c", false), (" H2C ", false), ("", false)]
    {
        assert_eq!(asks_to_switch(protocols.as_bytes()), expected, "{protocols}");
    }
}

#[test]
fn a_certificate_is_told_by_who_saw_it() {
    let check = |forward, is_proven, expected: Option<&str>| {
        let client_cert = ClientCert { forward, uri: true, ..ClientCert::default() };
        let config = HttpConnection { client_cert, ..config() };
        let alike = ["x_forwarded_client_cert", "x-forwarded_client-cert"];
        let mut head = head(&[("x-forwarded-client-cert", "own"), (alike[0], "own"), (alike[1], "own")]);
        let came = Came { direction: Direction::Inbound, is_proven, ..came() };
        prepare(&mut head, &config, &came, &mut Sample).expect("fit");
        assert_eq!(head.fields.find(CLIENT_CERT), expected.map(str::as_bytes), "{forward:?} {is_proven}");
        let is_kept = forward == ForwardClientCert::AlwaysForwardOnly;
        for name in alike {
            assert_eq!(head.fields.find(name.as_bytes()).is_some(), is_kept, "{forward:?} {name}");
        }
    };
    check(ForwardClientCert::Set, true, Some("URI=spiffe://mesh/web"));
    check(ForwardClientCert::Set, false, None);
    check(ForwardClientCert::Append, true, Some("own,URI=spiffe://mesh/web"));
    check(ForwardClientCert::ForwardOnly, true, Some("own"));
    check(ForwardClientCert::Sanitize, true, None);
    check(ForwardClientCert::AlwaysForwardOnly, false, Some("own"));
}

#[test]
fn what_has_no_form_goes_no_further() {
    let paths = |escaped_slashes| PathNormalization { rfc3986: true, merge_slashes: true, escaped_slashes };
    let check = |config: &HttpConnection, path: &str, expected: Result<&str, Unfit>| {
        let mut head = head(&[("a_b", "c")]);
        head.set_path_and_query(path.as_bytes());
        let got = prepare(&mut head, config, &came(), &mut Sample);
        let got = got.map(|_| String::from_utf8_lossy(head.path_and_query()).into_owned());
        assert_eq!(got, expected.map(str::to_owned), "{path}");
    };
    let strict = HttpConnection { paths: paths(EscapedSlashes::Reject), ..config() };
    check(&strict, "/a//../b", Ok("/a/b"));
    check(&strict, "/a%2fb", Err(Unfit::Refused("the path has an escaped slash")));
    let sending = HttpConnection { paths: paths(EscapedSlashes::Redirect), ..config() };
    check(&sending, "/a%2fb", Err(Unfit::Moved(b"/a/b".to_vec())));
    let mut names = config();
    names.limits.underscores = Underscores::Reject;
    check(&names, "/", Err(Unfit::Refused("a header's name has an underscore")));
}
