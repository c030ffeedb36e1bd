//! What a TLS client asks for in its first message: the server name, and the protocols that it offers.
//!
//! Only looks; TLS itself reads the same bytes again where it ends here. Any version's message is understood, since
//! what is passed through need not be ours. Source: RFC 8446 §4.1.2 and §5.1; RFC 6066 §3; RFC 7301 §3.1.

use crate::limits::CLIENT_HELLO_BYTES;

/// A record of a handshake. Source: RFC 8446 §5.1.
const HANDSHAKE: u8 = 22;
/// Bytes before a record's content.
const RECORD_HEAD: usize = 5;
/// A client's first message. Source: RFC 8446 §4.
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// So many bytes, at most, are needed to tell.
    Needs(usize),
    /// A client's first message.
    Complete(ClientHello),
    /// Something else.
    Absent,
}

/// What a TLS client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server name, in lowercase.
    pub(crate) server_name: Option<Box<str>>,
    /// The protocols that it offers, in its order.
    pub(crate) alpn: Vec<Box<[u8]>>,
}

/// Looks for a client's first message.
pub(super) fn client_hello(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let (mut rest, mut seen) = (bytes, 0);
    loop {
        let head = &rest[..rest.len().min(RECORD_HEAD)];
        let is_record =
            head.first().is_none_or(|kind| *kind == HANDSHAKE) && head.get(1).is_none_or(|v| *v == 3);
        if !is_record {
            return Hello::Absent;
        }
        let [_, _, _, high, low] = *head else { return needs(bytes, seen + RECORD_HEAD) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || seen + RECORD_HEAD + length > CLIENT_HELLO_BYTES {
            return Hello::Absent;
        }
        let content = &rest[RECORD_HEAD..rest.len().min(RECORD_HEAD + length)];
        message.extend_from_slice(content);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Hello::Absent;
        }
        if let [_, a, b, c, body @ ..] = &message[..] {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > CLIENT_HELLO_BYTES {
                return Hello::Absent;
            }
            if let Some(body) = body.get(..length) {
                return parse(body).map_or(Hello::Absent, Hello::Complete);
            }
        }
        seen += RECORD_HEAD + length;
        if content.len() < length {
            return needs(bytes, seen);
        }
        rest = &rest[RECORD_HEAD + length..];
    }
}

fn needs(bytes: &[u8], most: usize) -> Hello {
    debug_assert!(most > bytes.len());
    if most > CLIENT_HELLO_BYTES { Hello::Absent } else { Hello::Needs(most) }
}

/// Reads a message; `None` where it is broken.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut rest = Reader(body);
    rest.take(2 + 32)?;
    let session = usize::from(rest.byte()?);
    rest.take(session)?;
    rest.sized()?;
    let compression = usize::from(rest.byte()?);
    rest.take(compression)?;
    let mut hello = ClientHello::default();
    if rest.0.is_empty() {
        // Older than extensions.
        return Some(hello);
    }
    let mut extensions = Reader(rest.sized()?);
    if !rest.0.is_empty() {
        return None;
    }
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.sized()?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(content),
            PROTOCOLS => hello.alpn = protocols(content).unwrap_or_default(),
            _ => {}
        }
    }
    Some(hello)
}

/// The one name of a list. A dot at its end, which it must not have, is none of it: who ends TLS would not see it, either.
/// Source: RFC 6066 §3.
fn server_name(content: &[u8]) -> Option<Box<str>> {
    let mut list = Reader(Reader(content).sized()?);
    let kind = list.byte()?;
    let name = list.sized().filter(|name| !name.is_empty() && name.len() <= 255)?;
    let text = std::str::from_utf8(name).ok().filter(|name| name.is_ascii() && !name.contains('\0'))?;
    let text = text.trim_end_matches('.');
    (kind == 0 && list.0.is_empty() && !text.is_empty()).then(|| text.to_ascii_lowercase().into())
}

fn protocols(content: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut list = Reader(Reader(content).sized()?);
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let length = usize::from(list.byte()?);
        names.push(list.take(length)?.into());
    }
    Some(names)
}

/// Bytes that are left to read.
struct Reader<'b>(&'b [u8]);

// === impl Reader ===

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows two bytes of length.
    fn sized(&mut self) -> Option<&'b [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seeds::for_each_seed;
    use crate::tests::hello;

    #[test]
    fn a_first_message_says_what_is_asked_for() {
        let whole = hello("API.example.com", &["h2", "http/1.1"]);
        let expected = ClientHello {
            server_name: Some("api.example.com".into()),
            alpn: vec![b"h2"[..].into(), b"http/1.1"[..].into()],
        };
        assert_eq!(client_hello(&[&whole[..], b"more"].concat()), Hello::Complete(expected));
        for cut in 0..whole.len() {
            let Hello::Needs(most) = client_hello(&whole[..cut]) else { panic!("{cut}") };
            assert!(most > cut && most <= whole.len().max(RECORD_HEAD), "{cut} {most}");
        }
    }

    #[test]
    fn a_dot_at_the_end_of_a_name_is_none_of_it() {
        let mut whole = hello("a.example.comx", &[]);
        let at = memchr::memmem::find(&whole, b"comx").expect("the name");
        whole[at + 3] = b'.';
        let expected = ClientHello { server_name: Some("a.example.com".into()), alpn: vec![] };
        assert_eq!(client_hello(&whole), Hello::Complete(expected));
    }

    #[test]
    fn a_message_may_come_in_several_records() {
        let whole = hello("a.example.com", &[]);
        let content = &whole[RECORD_HEAD..];
        let mut records = Vec::new();
        for part in content.chunks(7) {
            records.extend_from_slice(&[HANDSHAKE, 3, 1, 0, u8::try_from(part.len()).expect("short")]);
            records.extend_from_slice(part);
        }
        let expected = ClientHello { server_name: Some("a.example.com".into()), alpn: vec![] };
        assert_eq!(client_hello(&records), Hello::Complete(expected));
        assert!(matches!(client_hello(&records[..records.len() - 1]), Hello::Needs(_)));
    }

    #[test]
    fn an_old_message_without_extensions_is_tls() {
        let body = [&[3, 1][..], &[0; 32], &[0], &[0, 2, 0, 5], &[1, 0]].concat();
        let message = [&[CLIENT_HELLO, 0, 0, u8::try_from(body.len()).expect("short")][..], &body].concat();
        let record =
            [&[HANDSHAKE, 3, 0, 0, u8::try_from(message.len()).expect("short")][..], &message].concat();
        assert_eq!(client_hello(&record), Hello::Complete(ClientHello::default()));
    }

    #[test]
    fn what_is_not_tls_is_told_at_once() {
        for bytes in
            [&b"G"[..], b"GET / HTTP/1.1\r\n", &[22, 2], &[22, 3, 1, 0, 0], &[22, 3, 1, 0, 9, 2], &[21, 3, 3]]
        {
            assert_eq!(client_hello(bytes), Hello::Absent, "{bytes:?}");
        }
        assert_eq!(client_hello(&[22, 3, 1, 0xff, 0xff]), Hello::Absent);
        assert_eq!(client_hello(b""), Hello::Needs(RECORD_HEAD));
    }

    #[test]
    fn whatever_comes_is_a_message_of_what_came_or_none() {
        let whole = hello("a.example.com", &["h2"]);
        for_each_seed("whatever_comes_is_a_message_of_what_came_or_none", 2000, |_, random| {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            if let Hello::Needs(most) = client_hello(&bytes) {
                assert!(most > bytes.len() && most <= CLIENT_HELLO_BYTES);
            }
        });
    }
}
