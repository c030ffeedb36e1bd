//! Names that the engine knows, and fields that concern a connection and not a message. Source: RFC 9110 §7.6.1.

use crate::{FieldSpan, class};

/// What the engine knows about a field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Connection,
    ContentLength,
    Expect,
    Host,
    Te,
    TransferEncoding,
    Upgrade,
    /// Concerns the connection, and says nothing to the engine.
    HopByHop,
    /// Forwarded unread.
    Other,
}

/// Whether a field of this name, in any case, concerns one connection only and is never forwarded: `connection`,
/// `keep-alive`, `proxy-connection`, `te`, `transfer-encoding`, `upgrade`, `http2-settings`, `proxy-authenticate`,
/// `proxy-authorization`, `proxy-authentication-info`.
///
/// `te: trailers` is the one value that a proxy which forwards trailers passes on; `trailer` is forwarded. `host` and
/// `content-length` are not meant: they describe the message, and the writers drop and rewrite them.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    Known::of(name).is_hop_by_hop()
}

/// Whether the bytes are a token: a method, a field name. Source: RFC 9110 §5.6.2.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && class::token_len(bytes) == bytes.len()
}

/// Yields the members of a comma-separated list, without surrounding white space, skipping empty ones. Source: RFC
/// 9110 §5.6.1.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim).filter(|token| !token.is_empty())
}

/// Yields the options of every `Connection` line among `fields` of `bytes`, in order and as sent (compare them without
/// regard to case).
pub fn connection_options<'a>(bytes: &'a [u8], fields: &'a [FieldSpan]) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(|field| Known::of(field.name.of(bytes)) == Known::Connection)
        .flat_map(|field| tokens(field.value.of(bytes)))
}

/// Whether a `te` field is the one that is forwarded.
pub(crate) fn is_te_trailers(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"trailers")
}

/// Removes the white space that may surround a value. Source: RFC 9110 §5.6.3.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a field of this name, in any case, may stand in a trailer section: it neither frames, routes nor concerns
/// the connection, and it decides neither who asks nor how the message is read before its end. Some recipients merge
/// trailers into the header fields that were judged long before. Source: RFC 9110 §6.5.1.
pub fn may_trail(name: &[u8]) -> bool {
    Known::of(name).may_trail(name)
}

/// Names that no trailer may have besides those that are [`Known`]: controls, authentication, response control, how
/// content is processed, and what proxies say of who asks, which a client could say in their place.
const NEVER_TRAILERS: &[&[u8]] = &[
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expires",
    b"forwarded",
    b"location",
    b"max-forwards",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"trailer",
    b"vary",
    b"warning",
    b"www-authenticate",
    b"x-real-ip",
];
/// The same, by how names begin: conditions, and what proxies say, in the spelling of CGI, too.
const NEVER_TRAILERS_BEFORE: &[&[u8]] = &[b"if-", b"proxy-", b"x-forwarded-", b"x_forwarded_"];

impl Known {
    /// Recognises a name in any case: one comparison at most, chosen by the length.
    pub(crate) fn of(name: &[u8]) -> Self {
        let (text, known): (&[u8], _) = match name.len() {
            2 => (b"te", Self::Te),
            4 => (b"host", Self::Host),
            6 => (b"expect", Self::Expect),
            7 => (b"upgrade", Self::Upgrade),
            10 if name[0] | 0x20 == b'c' => (b"connection", Self::Connection),
            10 => (b"keep-alive", Self::HopByHop),
            14 if name[0] | 0x20 == b'c' => (b"content-length", Self::ContentLength),
            14 => (b"http2-settings", Self::HopByHop),
            16 => (b"proxy-connection", Self::HopByHop),
            17 => (b"transfer-encoding", Self::TransferEncoding),
            18 => (b"proxy-authenticate", Self::HopByHop),
            19 => (b"proxy-authorization", Self::HopByHop),
            25 => (b"proxy-authentication-info", Self::HopByHop),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(text) { known } else { Self::Other }
    }

    /// Whether a field of this name may stand in a trailer section. Source: RFC 9110 §6.5.1.
    pub(crate) fn may_trail(self, name: &[u8]) -> bool {
        let begins = |start: &[u8]| name.get(..start.len()).is_some_and(|n| n.eq_ignore_ascii_case(start));
        self == Self::Other
            && !NEVER_TRAILERS.iter().any(|never| name.eq_ignore_ascii_case(never))
            && !NEVER_TRAILERS_BEFORE.iter().any(|start| begins(start))
    }

    pub(crate) fn is_hop_by_hop(self) -> bool {
        match self {
            Self::Connection | Self::Te | Self::TransferEncoding | Self::Upgrade | Self::HopByHop => true,
            Self::ContentLength | Self::Expect | Self::Host | Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_fields_are_known_in_any_case() {
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-authentication-info",
        ] {
            assert!(is_hop_by_hop(name.as_bytes()), "{name}");
            assert!(is_hop_by_hop(name.to_ascii_uppercase().as_bytes()), "{name}");
            assert!(!is_hop_by_hop(&name.as_bytes()[1..]), "{name}");
            assert!(!is_hop_by_hop(format!("x{}", &name[1..]).as_bytes()), "{name}");
        }
        for name in
            ["", "host", "content-length", "trailer", "expect", "cookie", "connectioN-", "kontent-length"]
        {
            assert!(!is_hop_by_hop(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn trailers_carry_only_what_may_come_late() {
        for name in
            ["grpc-status", "grpc-message", "x-checksum", "etag", "server-timing", "content-md5", "digest"]
        {
            assert!(may_trail(name.as_bytes()), "{name}");
        }
        let known =
            ["host", "content-length", "transfer-encoding", "connection", "te", "expect", "keep-alive"];
        for never in known.into_iter().map(str::as_bytes).chain(NEVER_TRAILERS.iter().copied()) {
            let name = String::from_utf8_lossy(never);
            assert!(!may_trail(never) && !may_trail(&never.to_ascii_uppercase()), "{name}");
            assert!(may_trail(format!("{name}-x").as_bytes()), "{name}");
        }
        for name in ["If-Match", "proxy-authorization", "X-Forwarded-Client-Cert", "x_forwarded_client_cert"]
        {
            assert!(!may_trail(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn lists_are_split_and_trimmed() {
        let list = |value: &'static str| tokens(value.as_bytes()).collect::<Vec<_>>();
        assert_eq!(list(" close ,\tx-a,, ,Upgrade\t"), [&b"close"[..], b"x-a", b"Upgrade"]);
        assert!(list(" , ").is_empty());
    }
}
