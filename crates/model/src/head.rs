//! A message head: one buffer, and offsets into it.
//!
//! The codecs fill a head once per message, from HTTP/1.1 or HTTP/2; routing, policy, filters and records read
//! it, and a filter changes it by appending to the buffer and moving offsets. A head is reused from message to
//! message, so that in the steady state it allocates nothing. Field names are lowercase.

use std::num::NonZeroU64;

/// A range of a head's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

/// A header section: field lines in order, names lowercase.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<(Span, Span)>,
}

/// A request's head after its codec: pseudo-headers apart, `host` folded into the authority.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Field lines without pseudo-headers and without `host`.
    pub fields: Fields,
    method: Span,
    authority: Span,
    path: Span,
    /// Whether the request's scheme is `https`.
    pub https: bool,
    // What fields said that end at the codec. Every connection has room for two heads: each byte counts.
    is_chunked: bool,
    upgrade: Span,
    /// One more than the declared length: so that none takes no memory.
    beyond: Option<NonZeroU64>,
}

/// A response's head.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Field lines without pseudo-headers.
    pub fields: Fields,
}

// === impl Fields ===

impl Fields {
    /// Empties the section; the memory is kept.
    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
    }

    /// Becomes a copy of another section; the memory is kept.
    pub fn copy_from(&mut self, other: &Self) {
        self.text.clone_from(&other.text);
        self.lines.clone_from(&other.lines);
    }

    /// Appends a field line; the name is stored in lowercase.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.write(name);
        self.text[name.range()].make_ascii_lowercase();
        let value = self.write(value);
        self.lines.push((name, value));
    }

    /// The first value of a field; `name` is lowercase.
    pub fn find(&self, name: &[u8]) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Every value of a field, in order; `name` is lowercase.
    pub fn all<'s, 'n>(&'s self, name: &'n [u8]) -> impl Iterator<Item = &'s [u8]> + use<'s, 'n> {
        self.lines.iter().filter(move |(n, _)| self.read(*n) == name).map(|(_, v)| self.read(*v))
    }

    /// Sets a field to one value, in place of all that it had; `name` is lowercase.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.push(name, value);
    }

    /// Removes a field; `name` is lowercase.
    pub fn remove(&mut self, name: &[u8]) {
        let text = &self.text;
        self.lines.retain(|(n, _)| &text[n.range()] != name);
    }

    /// Removes fields whose names are this one with `_` for `-`, or the other way round, anywhere: CGI and its
    /// successors take them for the same. The field itself stays; `name` is lowercase.
    pub fn remove_look_alikes(&mut self, name: &[u8]) {
        let is_mark = |byte: u8| matches!(byte, b'-' | b'_');
        let same = |(a, b): (&u8, &u8)| a == b || is_mark(*a) && is_mark(*b);
        self.retain(|other| other.len() != name.len() || other == name || !other.iter().zip(name).all(same));
    }

    /// Keeps the fields whose names pass a test.
    pub fn retain(&mut self, mut test: impl FnMut(&[u8]) -> bool) {
        let text = &self.text;
        self.lines.retain(|(n, _)| test(&text[n.range()]));
    }

    /// Appends to a field's value behind a separator, as one line; sets it where there is none. `name` is lowercase.
    pub fn append(&mut self, name: &[u8], separator: &[u8], value: &[u8]) {
        let start = self.text.len();
        let spans: Vec<Span> =
            self.lines.iter().filter(|(n, _)| self.read(*n) == name).map(|(_, v)| *v).collect();
        for span in spans {
            self.text.extend_from_within(span.range());
            self.text.extend_from_slice(separator);
        }
        self.text.extend_from_slice(value);
        let joined = Span { start: offset(start), len: offset(self.text.len() - start) };
        self.remove(name);
        let name = self.write(name);
        self.lines.push((name, joined));
    }

    /// Every field line as name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|(n, v)| (self.read(*n), self.read(*v)))
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Bytes of memory that the section keeps for its text and lines.
    pub fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.lines.capacity() * size_of::<(Span, Span)>()
    }

    /// Whether there is no field line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn write(&mut self, bytes: &[u8]) -> Span {
        let span = Span { start: offset(self.text.len()), len: offset(bytes.len()) };
        self.text.extend_from_slice(bytes);
        span
    }

    fn read(&self, span: Span) -> &[u8] {
        &self.text[span.range()]
    }
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// Heads are bounded by the codecs far below 4 GiB; one that is not is cut to nothing rather than wrapped.
fn offset(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

// === impl RequestHead ===

impl RequestHead {
    /// Empties the head; the memory is kept.
    pub fn clear(&mut self) {
        self.fields.clear();
        (self.method, self.authority, self.path) = <_>::default();
        (self.https, self.is_chunked, self.upgrade, self.beyond) = <_>::default();
    }

    /// Becomes a copy of another head; the memory is kept.
    pub fn copy_from(&mut self, other: &Self) {
        self.fields.copy_from(&other.fields);
        (self.method, self.authority, self.path) = (other.method, other.authority, other.path);
        (self.https, self.is_chunked) = (other.https, other.is_chunked);
        (self.upgrade, self.beyond) = (other.upgrade, other.beyond);
    }

    /// The method, as sent.
    pub fn method(&self) -> &[u8] {
        self.fields.read(self.method)
    }

    /// Host and port as the client named them (`:authority`, or `host`); empty where it named none.
    pub fn authority(&self) -> &[u8] {
        self.fields.read(self.authority)
    }

    /// Path and query in origin form (`/a/b?c`), `*`, or empty for CONNECT.
    pub fn path_and_query(&self) -> &[u8] {
        self.fields.read(self.path)
    }

    /// The path without its query.
    pub fn path(&self) -> &[u8] {
        let whole = self.path_and_query();
        &whole[..whole.iter().position(|b| *b == b'?').unwrap_or(whole.len())]
    }

    /// The bytes of the body, as `content-length` said them; what it says of the message is the codecs' to write.
    pub fn length(&self) -> Option<u64> {
        self.beyond.map(|beyond| beyond.get() - 1)
    }

    /// Whether `transfer-encoding` said that the body comes in chunks.
    pub fn is_chunked(&self) -> bool {
        self.is_chunked
    }

    /// The protocols that the client asks to switch to, in lowercase; empty where it asks for none.
    pub fn upgrade(&self) -> &[u8] {
        self.fields.read(self.upgrade)
    }

    /// Notes what fields said that end at the codec: rules and routes may ask for it.
    pub fn note_codec(&mut self, length: Option<u64>, is_chunked: bool, upgrade: &[u8]) {
        let upgrade = self.fields.write(upgrade);
        self.fields.text[upgrade.range()].make_ascii_lowercase();
        (self.is_chunked, self.upgrade) = (is_chunked, upgrade);
        self.beyond = length.and_then(|bytes| NonZeroU64::MIN.checked_add(bytes));
    }

    /// Sets the method.
    pub fn set_method(&mut self, method: &[u8]) {
        self.method = self.fields.write(method);
    }

    /// Sets the authority.
    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.fields.write(authority);
    }

    /// Sets path and query.
    pub fn set_path_and_query(&mut self, path: &[u8]) {
        self.path = self.fields.write(path);
    }

    /// Whether the request is a gRPC call, by its content type. Source: gRPC over HTTP/2, "Content-Type".
    pub fn is_grpc(&self) -> bool {
        self.fields.find(b"content-type").is_some_and(|v| {
            v.strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
    }
}

// === impl ResponseHead ===

impl ResponseHead {
    /// Empties the head; the memory is kept.
    pub fn clear(&mut self) {
        self.status = 0;
        self.fields.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_order_and_fold_case() {
        let mut fields = Fields::default();
        fields.push(b"X-A", b"1");
        fields.push(b"b", b"2");
        fields.push(b"x-a", b"3");
        assert_eq!(fields.all(b"x-a").collect::<Vec<_>>(), [b"1", b"3"]);
        fields.set(b"x-a", b"4");
        assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"b"[..], &b"2"[..]), (b"x-a", b"4")]);
        fields.remove(b"b");
        assert_eq!(fields.len(), 1);
    }

    #[test]
    fn what_looks_like_a_field_is_removed() {
        let mut fields = Fields::default();
        for name in ["x-a-b", "x_a_b", "X_A-b", "x-a_b", "x-a.b", "x-a-b-", "xxaxb"] {
            fields.push(name.as_bytes(), b"");
        }
        fields.remove_look_alikes(b"x-a-b");
        let left: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(left, [&b"x-a-b"[..], b"x-a.b", b"x-a-b-", b"xxaxb"]);
        fields.push(b"x_y", b"");
        fields.push(b"x-y", b"");
        fields.remove_look_alikes(b"x_y");
        assert_eq!((fields.find(b"x_y"), fields.find(b"x-y")), (Some(&b""[..]), None));
    }

    #[test]
    fn a_head_is_reused_without_leaking_the_last_message() {
        let mut head = RequestHead::default();
        head.set_method(b"POST");
        head.set_path_and_query(b"/a?b");
        head.fields.push(b"content-type", b"application/grpc+proto");
        assert!(head.is_grpc());
        assert_eq!(head.path(), b"/a");
        head.note_codec(Some(7), true, b"WebSocket");
        assert_eq!((head.length(), head.is_chunked(), head.upgrade()), (Some(7), true, &b"websocket"[..]));
        head.clear();
        assert_eq!((head.method(), head.path(), head.fields.len()), (&b""[..], &b""[..], 0));
        assert_eq!((head.length(), head.is_chunked(), head.upgrade()), (None, false, &b""[..]));
    }
}
