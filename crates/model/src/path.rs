//! Paths and authorities in one form, judged by routes and policies and forwarded as judged.
//!
//! Source: Envoy `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`, whose normal form is that of
//! browsers (WHATWG URL, "path state"); `strip_matching_host_port` and its neighbours.

use crate::proxy::{EscapedSlashes, HostNormalization, PathNormalization, StrippedPort};

/// What becomes of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// It is in normal form.
    Normal,
    /// This is its normal form.
    Other(Vec<u8>),
    /// The client is sent there.
    Redirect(Vec<u8>),
    /// It has none.
    Refused(&'static str),
}

/// An authority without what config cuts off, where there is something of that; `own` is the port that the client connected
/// to. CONNECT keeps its port.
pub fn normal_host(
    authority: &[u8],
    rules: HostNormalization,
    own: u16,
    is_connect: bool,
) -> Option<Vec<u8>> {
    let end = authority.iter().rposition(|b| *b == b':');
    let end = end.filter(|colon| authority.iter().rposition(|b| *b == b']').is_none_or(|v6| v6 < *colon));
    let (mut host, mut port) = authority.split_at(end.unwrap_or(authority.len()));
    if rules.trailing_dot {
        host = host.strip_suffix(b".").unwrap_or(host);
    }
    let number =
        std::str::from_utf8(port.get(1..).unwrap_or_default()).ok().and_then(|port| port.parse::<u32>().ok());
    let is_cut = match rules.port {
        StrippedPort::None => false,
        StrippedPort::Own => number == Some(own.into()),
        StrippedPort::Any => number.is_some(),
    };
    if is_cut && !is_connect {
        port = b"";
    }
    (host.len() + port.len() < authority.len()).then(|| [host, port].concat())
}

/// What becomes of a path; the query stays as it is.
pub fn form(rules: PathNormalization, path_and_query: &[u8]) -> Form {
    let end = path_and_query.iter().position(|b| *b == b'?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    if !path.starts_with(b"/") || is_plain(path) {
        return Form::Normal;
    }
    let mut normal = path.to_vec();
    let mut is_moved = false;
    if rules.escaped_slashes != EscapedSlashes::Keep {
        normal = decode_slashes(&normal);
        let has_any = normal.len() < path.len();
        if has_any && rules.escaped_slashes == EscapedSlashes::Reject {
            return Form::Refused("the path has an escaped slash");
        }
        is_moved = has_any && rules.escaped_slashes == EscapedSlashes::Redirect;
    }
    if rules.rfc3986 {
        let Some(canonical) = canonical(&normal) else { return Form::Refused("the path has no normal form") };
        normal = canonical;
    }
    if rules.merge_slashes {
        normal = merge_slashes(&normal);
    }
    // A client that is sent there would take the first segment for a host.
    if is_moved && matches!(normal.get(..2), Some(b"//" | b"/\\")) {
        return Form::Refused("the path begins with an escaped slash");
    }
    normal.extend_from_slice(query);
    if is_moved {
        Form::Redirect(normal)
    } else if normal == path_and_query {
        Form::Normal
    } else {
        Form::Other(normal)
    }
}

/// A path of config, or a part of one, with escapes as requests have them once they are in normal form: `%61` is `a`, `%c3`
/// is `%C3`, and so is what it stands for.
pub fn with_normal_escapes(text: &str) -> String {
    let normal = decode_unreserved(text.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
    normal.unwrap_or_else(|| text.to_owned())
}

/// Whether a path climbs: one of its segments is `.` or `..`, with or without parameters.
pub fn has_dot_segment(path_and_query: &[u8]) -> bool {
    let end = path_and_query.iter().position(|b| *b == b'?').unwrap_or(path_and_query.len());
    let is_dots = |segment: &[u8]| matches!(without_parameters(segment), b"." | b"..");
    path_and_query[..end].split(|b| matches!(b, b'/' | b'\\')).any(is_dots)
}

/// Whether nothing in the path could need a change: the common case, found in one pass.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|b| {
        let plain =
            !matches!(b, b'%' | b'\\') && !is_unfit(*b) && (before != b'/' || !matches!(b, b'/' | b'.'));
        before = *b;
        plain
    })
}

fn decode_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(byte @ (b'/' | b'\\')) = escape(rest) {
            out.push(byte);
            rest = &rest[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// The form in which a browser would ask for a path; `None` where it has a zero in it.
fn canonical(path: &[u8]) -> Option<Vec<u8>> {
    let path = decode_unreserved(&dots_without_parameters(path))?;
    // Once more: what was an escape may be a dot now. Envoy leaves it, and an origin could go the way that nobody judged.
    Some(remove_dot_segments(&dots_without_parameters(&path)))
}

fn dots_without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|b| *b == b'/').map(without_parameters);
    segments.collect::<Vec<_>>().join(&b"/"[..])
}

/// `..;a=b` is `..` to some origins, so it is to us; and so is `..%3Ba=b`.
fn without_parameters(segment: &[u8]) -> &[u8] {
    let (dots, rest) = segment.split_at(segment.iter().take_while(|b| **b == b'.').count());
    let is_cut = rest.first() == Some(&b';') || escape(rest) == Some(b';');
    if is_cut && matches!(dots, b"." | b"..") { dots } else { segment }
}

/// Decodes escapes of unreserved characters, escapes what no URL may have, and turns `\` around. Other escapes are written
/// in uppercase, for their case means nothing. Source: RFC 3986 §6.2.2.1.
///
/// A `%` that begins no escape stays, and begins none: of `%2%65` would come `%2e`, a dot that nobody has judged; it becomes
/// `%252e`.
fn decode_unreserved(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    // Where a `%` stands that begins no escape.
    let mut bare: Vec<usize> = Vec::new();
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        match (escape(rest), first) {
            (Some(0), _) => return None,
            (Some(byte), _) => {
                if is_unreserved(byte) {
                    out.push(byte);
                } else {
                    out.extend_from_slice(&escaped(byte));
                }
                rest = &rest[3..];
                continue;
            }
            (None, b'\\') => out.push(b'/'),
            (None, b'%') => {
                bare.push(out.len());
                out.push(b'%');
            }
            (None, byte) if is_unfit(*byte) => out.extend_from_slice(&escaped(*byte)),
            _ => out.push(*first),
        }
        rest = tail;
    }
    bare.retain(|at| escape(&out[*at..]).is_some());
    Some(if bare.is_empty() { out } else { escape_percents(&out, &bare) })
}

/// Escapes each `%` at these places, in their order.
fn escape_percents(path: &[u8], places: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 2 * places.len());
    let mut from = 0;
    for at in places {
        out.extend_from_slice(&path[from..*at]);
        out.extend_from_slice(&escaped(b'%'));
        from = at + 1;
    }
    out.extend_from_slice(&path[from..]);
    out
}

/// What no URL may have but as an escape.
fn is_unfit(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80..)
}

fn escaped(byte: u8) -> [u8; 3] {
    let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit)];
    [b'%', hex(byte >> 4), hex(byte & 15)]
}

/// The byte that the escape means with which some bytes begin.
pub(crate) fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// One slash for each run. Envoy leaves two of a path that has nothing else in it: to origins that merge slashes
/// themselves it is `/`, which nobody judged.
fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|b, a| *a == b'/' && *b == b'/');
    merged
}

/// Source: RFC 3986 §5.2.4, for paths that begin with `/`.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if is_last {
            out.push(b'/');
        }
    }
    if out.is_empty() { b"/".to_vec() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: PathNormalization =
        PathNormalization { rfc3986: false, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
    const SAFE: PathNormalization =
        PathNormalization { rfc3986: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Reject };

    fn check(rules: PathNormalization, path: &str, expected: &str) {
        let got = match form(rules, path.as_bytes()) {
            Form::Normal => path.to_owned(),
            Form::Other(normal) => String::from_utf8(normal).expect("ASCII"),
            Form::Redirect(normal) => format!("307 {}", String::from_utf8(normal).expect("ASCII")),
            Form::Refused(_) => "400".to_owned(),
        };
        assert_eq!(got, expected, "{path}");
    }

    /// What Envoy 1.40 made of them, but for the case of escapes.
    #[test]
    fn paths_have_the_form_that_browsers_ask_for() {
        let rules = PathNormalization { rfc3986: true, ..NONE };
        for (path, expected) in [
            ("/", "/"),
            ("/a/b?c=/../d", "/a/b?c=/../d"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("//", "//"),
            ("/a//../b", "/a/b"),
            ("/%61", "/a"),
            ("/%2e%2E/x", "/x"),
            ("/a%2fb", "/a%2Fb"),
            ("/a\\..\\b", "/b"),
            ("/a%zz%4%", "/a%zz%4%"),
            ("/a/%2%65%2%65/b", "/a/%252e%252e/b"),
            ("/a/..%%32fb", "/a/..%252fb"),
            ("/%%30%30", "/%2500"),
            ("/%3a%3B", "/%3A%3B"),
            ("/caf%c3%A9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a%00b", "400"),
            ("/%2500", "/%2500"),
            ("/a/%2e%2e%2fb", "/a/..%2Fb"),
            ("/a|b^c\"d<e>f`g{h}", "/a%7Cb%5Ec%22d%3Ce%3Ef%60g%7Bh%7D"),
            ("/a[b]!$'*,@=&+:;", "/a[b]!$'*,@=&+:;"),
            ("/a/.%2e", "/"),
            ("/a/%2e./c", "/c"),
            ("/.../x/..a/.b", "/.../x/..a/.b"),
            ("/a/..;x=y;z/b", "/b"),
            ("/a/.;/b", "/a/b"),
            ("/a/..;", "/"),
            ("/a/b;x/../c", "/a/c"),
            ("/a/..;\\b", "/"),
            // Envoy makes "/a/..;/b" of it.
            ("/a/%2e%2e;/b", "/b"),
            ("/a/...;/b", "/a/...;/b"),
            ("/a/..%3bx/b", "/b"),
            ("/a/%2e%3B/b", "/a/b"),
            ("/a//..;/b", "/a/b"),
            ("*", "*"),
            ("", ""),
        ] {
            check(rules, path, expected);
        }
    }

    #[test]
    fn config_has_the_escapes_of_requests() {
        for (text, expected) in [
            ("/a/b;c:d", "/a/b;c:d"),
            ("/caf%c3%a9/", "/caf%C3%A9/"),
            ("/café", "/caf%C3%A9"),
            ("/%61/%2e", "/a/."),
            ("/100%", "/100%"),
            ("/%2%65", "/%252e"),
            ("/a%00", "/a%00"),
        ] {
            assert_eq!(with_normal_escapes(text), expected, "{text}");
        }
    }

    #[test]
    fn slashes_are_merged_last() {
        let rules = PathNormalization { merge_slashes: true, ..NONE };
        for (path, expected) in [
            ("//a", "/a"),
            ("/a//b", "/a/b"),
            ("/a//", "/a/"),
            ("/a//../b", "/a/../b"),
            ("//", "/"),
            ("///", "/"),
            ("/", "/"),
            ("/a?//", "/a?//"),
        ] {
            check(rules, path, expected);
        }
        check(SAFE, "/a//../b//c", "/a/b/c");
    }

    #[test]
    fn escaped_slashes_are_treated_as_asked() {
        let rules = |escaped_slashes| PathNormalization { escaped_slashes, ..NONE };
        check(rules(EscapedSlashes::Keep), "/a%2fb", "/a%2fb");
        check(rules(EscapedSlashes::Reject), "/a%5Cb", "400");
        check(rules(EscapedSlashes::Reject), "/a?b=%2f", "/a?b=%2f");
        check(rules(EscapedSlashes::Redirect), "/a/%2e%2e%2Fb?q=%2f", "307 /a/%2e%2e/b?q=%2f");
        // Not to another host.
        check(rules(EscapedSlashes::Redirect), "/%2fa.test/x", "400");
        check(rules(EscapedSlashes::Redirect), "//a.test%2fx", "400");
        check(rules(EscapedSlashes::Redirect), "/%5ca.test/x", "400");
        let redirect = PathNormalization { rfc3986: true, ..rules(EscapedSlashes::Redirect) };
        check(redirect, "/%5Ca.test/x", "400");
        check(PathNormalization { merge_slashes: true, ..redirect }, "/%5Ca.test/x", "307 /a.test/x");
        check(rules(EscapedSlashes::Decode), "/a%5cb", "/a\\b");
        check(
            PathNormalization { escaped_slashes: EscapedSlashes::Decode, ..SAFE },
            "/a/%2e%2e%2fb%2f%2fc",
            "/b/c",
        );
        check(PathNormalization { escaped_slashes: EscapedSlashes::Decode, ..SAFE }, "/%2f%2fa", "/a");
    }

    #[test]
    fn normalising_twice_changes_nothing_more() {
        for path in [
            "/a//../b",
            "/%2e/%2E%2e//x/",
            "/a\\..\\b/.",
            "/%252e%252e/x",
            "/a/..;p/b|",
            "/..;/..;x/a",
            "/a/.;/..;/.;b",
            "/%2e%2e;/a",
            "/a/%2e%2e;/..;/b",
            "/\\..;\\a",
            "/a;../..;/b",
            "/%61%2e%2e/x//%2e;/y",
            "/%2%65%2%65/a",
            "/%%32%65/..",
        ] {
            let once = match form(SAFE, path.as_bytes()) {
                Form::Normal => path.into(),
                Form::Other(once) => once,
                other => panic!("{path}: {other:?}"),
            };
            assert_eq!(form(SAFE, &once), Form::Normal, "{path}");
        }
    }

    #[test]
    fn whatever_is_asked_for_has_one_form_and_no_dots() {
        let pieces = "/ . .. %2e %2E \\ ; a %61 %c3 % | ? 2 e %65 %32 5 %25 %3b";
        let pieces: Vec<&str> = pieces.split(' ').collect();
        // Source: Knuth, MMIX.
        let mut state = 1_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).expect("small") % below
        };
        for _ in 0..20_000 {
            let more = (0..=draw(9)).map(|_| pieces[draw(pieces.len())]);
            let path: String = ["/"].into_iter().chain(more).collect();
            let once = match form(SAFE, path.as_bytes()) {
                Form::Normal => path.clone().into_bytes(),
                Form::Other(once) => once,
                other => panic!("{path}: {other:?}"),
            };
            assert_eq!(form(SAFE, &once), Form::Normal, "{path}");
            assert!(!has_dot_segment(&once), "{path}");
        }
    }

    #[test]
    fn segments_of_dots_are_seen() {
        for path in ["/.", "/..", "/a/../b", "/a/./b", "/a/..%3B/b", "/a/..?b", "/a\\..\\b", "../a", ".."] {
            assert!(has_dot_segment(path.as_bytes()), "{path}");
        }
        for path in ["/", "", "/a", "/a../b", "/..a", "/...", "/a?/../b", "/a.;x/b"] {
            assert!(!has_dot_segment(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn nothing_is_done_that_was_not_asked_for() {
        check(NONE, "/a//../%61\\b%2f|", "/a//../%61\\b%2f|");
    }

    #[test]
    fn hosts_lose_what_config_says() {
        let check = |port, trailing_dot, host: &str, expected: &str| {
            let rules = HostNormalization { port, trailing_dot };
            let got = normal_host(host.as_bytes(), rules, 8080, false).unwrap_or(host.into());
            assert_eq!(String::from_utf8_lossy(&got), expected, "{host}");
        };
        check(StrippedPort::Own, true, "h.test:80", "h.test:80");
        check(StrippedPort::Own, true, "h.test:8080", "h.test");
        check(StrippedPort::Own, true, "h.test.", "h.test");
        check(StrippedPort::Own, true, "h.test.:8080", "h.test");
        check(StrippedPort::Own, true, "h.test.:80", "h.test:80");
        check(StrippedPort::Own, false, "[::1]:8080", "[::1]");
        check(StrippedPort::Any, false, "h.test.:80", "h.test.");
        check(StrippedPort::Any, false, "[::1]:80", "[::1]");
        check(StrippedPort::Any, false, "[::1]", "[::1]");
        check(StrippedPort::Any, false, "h:", "h:");
        check(StrippedPort::Any, false, "h:x", "h:x");
        check(StrippedPort::Any, false, "h:99999", "h");
        assert_eq!(
            normal_host(b"h:80", HostNormalization { port: StrippedPort::Any, trailing_dot: false }, 1, true),
            None
        );
    }
}
