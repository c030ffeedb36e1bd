use super::*;
use crate::flag::Flag;

/// A request to look at: `GET https://shop:80/a?b=c`, answered with 404.
struct Example {
    request: RequestHead,
    response: ResponseHead,
    trailers: Fields,
}

fn example() -> Example {
    let mut request = RequestHead::default();
    request.https = true;
    request.set_method(b"GET");
    request.set_authority(b"shop:80");
    request.set_path_and_query(b"/a?b=c");
    request.fields.push(b"user-agent", b"curl/8 \"x\"\n\xff");
    request.fields.push(b"x-two", b"1");
    request.fields.push(b"x-two", b"2");
    request.fields.push(b"x-empty", b"");
    let mut response = ResponseHead { status: 404, ..ResponseHead::default() };
    response.fields.push(b"server", b"envoy");
    let mut trailers = Fields::default();
    trailers.push(b"grpc-status", b"7");
    Example { request, response, trailers }
}

impl Facts for Example {
    fn request(&self) -> Option<&RequestHead> {
        Some(&self.request)
    }

    fn response(&self) -> Option<&ResponseHead> {
        Some(&self.response)
    }

    fn trailers(&self) -> Option<&Fields> {
        Some(&self.trailers)
    }

    fn request_length(&self) -> Option<u64> {
        Some(12)
    }

    fn text(&self, which: Text, out: &mut Vec<u8>) -> bool {
        let text = match which {
            Text::Protocol => "HTTP/1.1",
            Text::Details => "no healthy upstream",
            Text::Tls(Side::Downstream, Tls::PeerUriSans) => "spiffe://a,spiffe://b",
            _ => return false,
        };
        out.extend_from_slice(text.as_bytes());
        true
    }

    fn number(&self, which: Number) -> Option<u64> {
        match which {
            Number::Status => Some(404),
            Number::GrpcStatus => Some(7),
            _ => None,
        }
    }

    fn address(&self, which: Address) -> Option<SocketAddr> {
        match which {
            Address::Remote => Some(([10, 0, 0, 1], 4711).into()),
            Address::UpstreamHost => "[fd00::1]:80".parse().ok(),
            _ => None,
        }
    }

    fn time(&self, which: Time) -> Option<Duration> {
        // 2024-02-29 23:04:05.006789 UTC, a Thursday.
        (which == Time::Start).then(|| Duration::new(1_709_247_845, 6_789_000))
    }

    fn point(&self, which: Point) -> Option<Duration> {
        match which {
            Point::ResponseBegin => Some(Duration::from_micros(2500)),
            Point::End | Point::AnswerEnd => Some(Duration::from_micros(10_900)),
            _ => None,
        }
    }

    fn flags(&self) -> Flags {
        [Flag::UpstreamRetryLimitExceeded, Flag::NoHealthyUpstream].into_iter().collect()
    }

    fn metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> Wrote {
        let path: Vec<_> = path.iter().map(|name| &**name).collect();
        match (namespace, &path[..]) {
            ("jwt", ["sub"]) => {
                out.extend_from_slice(b"alice");
                Wrote::Text
            }
            ("jwt", []) => {
                out.extend_from_slice(b"{\"sub\":\"alice\"}");
                Wrote::Json
            }
            _ => Wrote::Nothing,
        }
    }
}

/// What is known of nothing.
struct Nothing;

impl Facts for Nothing {}

fn check(format: &str, expected: &str) {
    let template = Template::parse(format).unwrap_or_else(|why| panic!("{format}: {why}"));
    let mut out = b"before ".to_vec();
    template.write(&example(), &mut out);
    assert_eq!(String::from_utf8_lossy(&out), format!("before {expected}"), "{format}");
}

#[test]
fn fields_are_found_by_name() {
    check("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:authority)%", "GET /a?b=c shop:80");
    check("%REQ(host)% %REQ(:SCHEME)% %REQ(Content-Length)%", "shop:80 https 12");
    check("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/a?b=c");
    check("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):4%", "/a?b");
    check("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH):4%", "/a");
    check("%REQ(x-two)%|%REQ(x-empty)%|%REQ(x-none)%", "1||-");
    check("%RESP(server)% %RESP(:status)% %RESP(content-length)%", "envoy 404 -");
    check("%TRAILER(grpc-status)%", "7");
}

#[test]
fn what_is_no_command_stays() {
    check("", "");
    check("plain", "plain");
    check("100%%", "100%");
    check("%%REQ(:METHOD)%%", "%REQ(:METHOD)%");
    assert_eq!(Template::parse("100%%").unwrap().as_constant(), Some("100%"));
    assert_eq!(Template::parse("").unwrap().as_constant(), Some(""));
    assert_eq!(Template::parse("%PROTOCOL%").unwrap().as_constant(), None);
}

#[test]
fn other_commands_read_other_facts() {
    check("%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%", "HTTP/1.1 404 UH,URX");
    check("%RESPONSE_FLAGS_LONG%", "NoHealthyUpstream,UpstreamRetryLimitExceeded");
    check("%RESPONSE_CODE_DETAILS%", "no_healthy_upstream");
    check("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "no healthy upstream");
    check("%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%", "10 2 8 -");
    check("%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%", "2500");
    check("%COMMON_DURATION(US_RX_BEG:DS_TX_END)%", "8");
    check("%COMMON_DURATION(DS_TX_END:US_RX_BEG)%", "-");
    check("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1:4711 10.0.0.1");
    check("%DOWNSTREAM_REMOTE_PORT% %UPSTREAM_HOST% %UPSTREAM_LOCAL_ADDRESS%", "4711 [fd00::1]:80 -");
    check("%DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_URI_SAN%", "spiffe://a,spiffe://b -");
    check("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)%", "PermissionDenied PERMISSION_DENIED");
    check("%GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%", "7 7");
    check("%DYNAMIC_METADATA(jwt:sub)% %DYNAMIC_METADATA(jwt:sub):2% %DYNAMIC_METADATA(x)%", "alice al -");
    check("%DYNAMIC_METADATA(jwt)%", r#"{"sub":"alice"}"#);
}

#[test]
fn times_are_written_as_asked() {
    check("%START_TIME%", "2024-02-29T23:04:05.006Z");
    check(
        "%START_TIME(%Y/%m/%d %H:%M:%S.%3f %s.%6f %f)%",
        "2024/02/29 23:04:05.006 1709247845.006789 006789000",
    );
    check("%START_TIME(%a %A %b %B %e %j %I %p %y %C)%", "Thu Thursday Feb February 29 060 11 PM 24 20");
    check("%START_TIME(%F %T %D %R %Z %z %% %u %w)%", "2024-02-29 23:04:05 02/29/24 23:04 UTC +0000 % 4 4");
    check("%START_TIME(%Y-%m-%dT%H:%M:%E3S%Ez)%", "2024-02-29T23:04:05.006+00:00");
    check("%EMIT_TIME%", "-");
}

#[test]
fn dates_are_those_of_the_calendar() {
    let format = TimeFormat::parse("%F %j %a").unwrap();
    for (days, expected) in [
        (0, "1970-01-01 001 Thu"),
        (58, "1970-02-28 059 Sat"),
        (59, "1970-03-01 060 Sun"),
        (364, "1970-12-31 365 Thu"),
        (11_016, "2000-02-29 060 Tue"),
        (11_322, "2000-12-31 366 Sun"),
        (47_540, "2100-02-28 059 Sun"),
        (47_541, "2100-03-01 060 Mon"),
    ] {
        let mut out = Vec::new();
        format.write(Duration::from_secs(days * 86_400 + 86_399), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn wrong_formats_are_refused() {
    let check = |format: &str, part: &str| {
        let why = Template::parse(format).expect_err(format);
        assert!(why.contains(part), "{format}: {why}");
    };
    check("%", "at byte 0");
    check("ok %REQ(:METHOD", "at byte 3");
    check("%req(x)%", "at byte 0");
    check("%REQ(x):y%", "at byte 0");
    check("%NO_SUCH_THING%", "NO_SUCH_THING");
    check("%REQ%", "needs the name");
    check("%REQ(a?b?c)%", "one alternative");
    check("%REQ(a b)%", "no name of a header");
    check("%PROTOCOL(x)%", "no argument");
    check("%PROTOCOL:3%", "length");
    check("%START_TIME(%n)%", "line break");
    check("%START_TIME(%Q)%", "%Q");
    check("%COMMON_DURATION(DS_RX_BEG:NEVER)%", "NEVER");
    check("%COMMON_DURATION(US_CX_BEG:US_CX_END)%", "US_CX_BEG");
    check("%UPSTREAM_TLS_VERSION%", "UPSTREAM_TLS_VERSION is not supported");
    check("%DOWNSTREAM_TLS_SESSION_ID%", "DOWNSTREAM_TLS_SESSION_ID is not supported");
    check("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:h)%", "`h`");
    check("%GRPC_STATUS(X)%", "`X`");
    check("%ENVIRONMENT(HOME)%", "ENVIRONMENT");
    check("%FILTER_STATE(x)%", "FILTER_STATE");
}

#[test]
fn missing_values_may_be_left_out() {
    let template = Template::parse("a%REQ(none)%b%RESPONSE_FLAGS%").unwrap();
    let write = |omitting: bool| {
        let mut out = Vec::new();
        if omitting {
            template.write_omitting(&Nothing, &mut out);
        } else {
            template.write(&Nothing, &mut out);
        }
        String::from_utf8(out).unwrap()
    };
    assert_eq!((write(false), write(true)), ("a-b-".to_owned(), "ab-".to_owned()));
}

#[test]
fn texts_of_json_are_escaped() {
    let check = |raw: &[u8], expected: &str| {
        let mut out = [b"\"", raw].concat();
        escape(&mut out, 1);
        assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}"));
    };
    check(b"plain", "plain");
    check("a \"b\" \\ é\t\u{7f}\u{1}".as_bytes(), "a \\\"b\\\" \\\\ é\\t\u{7f}\\u0001");
    check(b"\xff\"\n", "\\u00ff\\u0022\\u000a");
}

#[test]
fn structured_logs_keep_types_and_order() {
    let text = |format: &str| Json::Text(Template::parse(format).unwrap());
    let json = Json::object([
        ("status".into(), text("%RESPONSE_CODE%")),
        ("agent".into(), text("%REQ(user-agent)%")),
        ("none".into(), text("%REQ(none)%")),
        ("both".into(), text("%RESPONSE_CODE% %REQ(none)%")),
        ("fixed".into(), Json::Constant("1.5".into())),
        ("meta".into(), text("%DYNAMIC_METADATA(jwt)%")),
        ("list".into(), Json::List(vec![text("%REQ(none)%"), text("%PROTOCOL%"), Json::List(Vec::new())])),
        ("in".into(), Json::object([("none".into(), text("%REQ(none)%"))])),
        ("empty".into(), text("")),
    ]);
    let write = |omit| {
        let mut out = b">".to_vec();
        json.write(&example(), omit, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        write(false),
        ">{\"agent\":\"curl/8 \\u0022x\\u0022\\u000a\\u00ff\",\"both\":\"404 -\",\"empty\":\"\",\"fixed\":1.5,\"in\":{\"none\":null},\
         \"list\":[null,\"HTTP/1.1\",[]],\"meta\":{\"sub\":\"alice\"},\"none\":null,\"status\":404}"
    );
    assert_eq!(
        write(true),
        ">{\"agent\":\"curl/8 \\u0022x\\u0022\\u000a\\u00ff\",\"both\":\"404 \",\"empty\":\"\",\"fixed\":1.5,\
         \"list\":[\"HTTP/1.1\",[]],\"meta\":{\"sub\":\"alice\"},\"status\":404}"
    );
}

#[test]
fn a_template_is_written_as_it_was_read_and_equal_to_what_says_the_same() {
    for format in ["", "plain", "100%%", "%REQ(x-two)%", "a %REQ(x-two?:path):3% 5%% %PROTOCOL%"] {
        assert_eq!(Template::parse(format).unwrap().as_written(), format);
    }
    assert_eq!(Template::constant("5%").as_written(), "5%%");
    assert_eq!(Template::parse("%REQ(X-Two)%"), Template::parse("%REQ(x-two)%"));
}
