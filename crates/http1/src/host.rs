//! Host and port. Source: RFC 9110 §7.2, RFC 3986 §3.2.2.

use std::net::Ipv6Addr;

/// The longest host: a DNS name's 253 characters, a trailing dot, and one to spare.
const MAX_HOST_BYTES: usize = 255;

/// A host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub(crate) host: &'a [u8],
    /// The port, from 1.
    pub(crate) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads an authority. Narrower than RFC 3986: no user, no percent-encoding and no punctuation that no DNS name
    /// has, because peers read those differently.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let host_len = match text.first()? {
            b'[' => address_len(text)?,
            _ => text.iter().position(|b| !is_name_byte(*b)).unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at(host_len);
        let port = match rest {
            [] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        (1..=MAX_HOST_BYTES).contains(&host.len()).then_some(Self { host, port })
    }

    /// Whether both name the same host and port, where `default_port` is meant if none is given.
    pub(crate) fn is_same(&self, other: &Self, default_port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

/// Whether a text is a host with an optional port, as this engine takes them: without a user.
pub fn is_authority(text: &[u8]) -> bool {
    Authority::parse(text).is_some()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~')
}

fn address_len(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', text)?;
    std::str::from_utf8(&text[1..end]).ok()?.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

fn port(digits: &[u8]) -> Option<u16> {
    if digits.first().is_none_or(|first| *first == b'0') {
        return None;
    }
    digits.iter().try_fold(0_u16, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, Option<u16>)>) {
        let expected = expected.map(|(host, port)| Authority { host: host.as_bytes(), port });
        assert_eq!(Authority::parse(text.as_bytes()), expected, "{text:?}");
    }

    #[test]
    fn names_addresses_and_ports_are_read() {
        check("a", Some(("a", None)));
        check("cart.shop_1.svc:8080", Some(("cart.shop_1.svc", Some(8080))));
        check("127.0.0.1:1", Some(("127.0.0.1", Some(1))));
        check("[::1]", Some(("[::1]", None)));
        check("[2001:db8::1]:65535", Some(("[2001:db8::1]", Some(65535))));
        check(&"a".repeat(255), Some((&"a".repeat(255), None)));
    }

    #[test]
    fn what_peers_read_differently_is_refused() {
        for text in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:99999999999999999999",
            "a:8a",
            "a:+8",
            "a:-1",
            "a:80:80",
            "a b",
            "a@b",
            "user:pw@b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a%2eb",
            "a\\b",
            "ä",
            "a\0",
            "a\tb",
            "a;b",
            "a\"b",
            "[::1",
            "::1",
            "[]",
            "[::1]a",
            "[::1]:",
            "[v1.a]",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "a[::1]",
            "[a",
            "*",
        ] {
            check(text, None);
        }
        check(&"a".repeat(256), None);
    }

    #[test]
    fn sameness_folds_case_and_fills_in_the_default_port() {
        for (left, right, same) in [
            ("A.b", "a.B", true),
            ("a:80", "a", true),
            ("a:81", "a", false),
            ("a", "b", false),
            ("a.", "a", false),
        ] {
            let [left, right] = [left, right].map(|t| Authority::parse(t.as_bytes()).unwrap());
            assert_eq!(left.is_same(&right, 80), same, "{left:?} {right:?}");
        }
    }
}
