//! Which version of HTTP the first line of a connection is of.
//!
//! Source: Envoy's `http_inspector`: the preface of HTTP/2, or a request line, which is read to its end.

use crate::limits::HTTP_LINE_BYTES;

/// What an HTTP/2 client sends first. Source: RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Http {
    /// So many bytes, at most, are needed to tell.
    Needs(usize),
    /// A version, by the name that ALPN has for it.
    Version(&'static [u8]),
    /// Something else.
    Absent,
    /// A line that does not end.
    TooLong,
}

/// Looks for HTTP.
pub(super) fn version(bytes: &[u8]) -> Http {
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] == PREFACE[..length] {
        return if length == PREFACE.len() { Http::Version(b"h2c") } else { Http::Needs(PREFACE.len()) };
    }
    let seen = &bytes[..bytes.len().min(HTTP_LINE_BYTES)];
    if let Some(end) = memchr::memchr(b'\n', seen) {
        return request_line(&seen[..end]).map_or(Http::Absent, Http::Version);
    }
    let method = seen.split(|byte| *byte == b' ').next().unwrap_or_default();
    if seen.first() == Some(&b'\r') || !method.iter().all(|byte| is_token(*byte)) {
        Http::Absent
    } else if seen.len() == HTTP_LINE_BYTES {
        Http::TooLong
    } else {
        Http::Needs(HTTP_LINE_BYTES)
    }
}

/// The version of a request line: one that says none is of before 1.0, which counts as that.
fn request_line(line: &[u8]) -> Option<&'static [u8]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut parts = line.split(|byte| *byte == b' ');
    let method = parts.next().filter(|method| !method.is_empty() && method.iter().all(|b| is_token(*b)))?;
    let target = parts.next()?;
    let version = parts.next().unwrap_or_default();
    if parts.next().is_some() || !is_target(target, method == b"CONNECT") {
        return None;
    }
    match version {
        b"HTTP/1.1" => Some(b"http/1.1"),
        b"" => Some(b"http/1.0"),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some(b"http/1.0")
        }
        _ => None,
    }
}

/// A path, `*`, or a URL; of CONNECT, an authority.
fn is_target(target: &[u8], is_connect: bool) -> bool {
    let is_begun = match target {
        [b'/' | b'*', ..] => true,
        _ if is_connect => !target.is_empty(),
        _ => {
            let scheme = target.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            scheme > 0 && target[scheme..].starts_with(b"://")
        }
    };
    is_begun && target.iter().all(|byte| matches!(byte, b'!'..=b'~'))
}

/// Source: RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_says_its_version() {
        let check =
            |bytes: &str, expected: Http| assert_eq!(version(bytes.as_bytes()), expected, "{bytes:?}");
        for line in ["GET / HTTP/1.1\r\n", "GET / HTTP/1.1\n", "FOO http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"] {
            check(line, Http::Version(b"http/1.1"));
        }
        check("CONNECT a:443 HTTP/1.1\r\n", Http::Version(b"http/1.1"));
        check("GET / HTTP/1.0\r\n", Http::Version(b"http/1.0"));
        check("GET /\r\n", Http::Version(b"http/1.0"));
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Http::Version(b"h2c"));
        for other in [
            "\r\n",
            "\rGET",
            "\n",
            "EHLO example.com\r\n",
            "SSH-2.0-x y\r\n",
            "QUIT\r\n",
            "GET / HTTP/x\r\n",
            "GET / HTTP/1.1 x\r\n",
            "G\u{1}",
            " GET / HTTP/1.1\r\n",
        ] {
            check(other, Http::Absent);
        }
    }

    #[test]
    fn a_line_is_waited_for_to_its_end() {
        for begun in ["", "G", "GET /", "GET / HTTP/1.1", "GET / HTTP/1.1\r"] {
            assert!(matches!(version(begun.as_bytes()), Http::Needs(_)), "{begun:?}");
        }
        assert_eq!(version(b"PRI * HTTP/2.0\r\n"), Http::Needs(PREFACE.len()));
        assert_eq!(version(&vec![b'x'; HTTP_LINE_BYTES]), Http::TooLong);
    }
}
