//! Structured logs: an object of format strings as one line of JSON.
//!
//! A value that is one command keeps its type; several parts make a text. Keys stand in order. Source: Envoy
//! `json_format`; RFC 8259.

use super::{Facts, MISSING, Part, Template, Wrote};

/// A value of a structured log.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// A format string.
    Text(Template),
    /// Something constant, in JSON: a number, `true`, `false` or `null`.
    Constant(Box<str>),
    /// An object.
    Object(Vec<(Box<str>, Json)>),
    /// A list.
    List(Vec<Json>),
}

impl Json {
    /// An object of members in any order.
    pub fn object(members: impl IntoIterator<Item = (Box<str>, Self)>) -> Self {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Object(members)
    }

    /// Whether one of its format strings passes a test.
    pub fn any(&self, test: &dyn Fn(&Template) -> bool) -> bool {
        match self {
            Self::Text(template) => test(template),
            Self::Constant(_) => false,
            Self::Object(members) => members.iter().any(|(_, member)| member.any(test)),
            Self::List(items) => items.iter().any(|item| item.any(test)),
        }
    }

    /// Appends the value. `omit`: members without a value are left out, objects without members, too.
    pub fn write<F: Facts + ?Sized>(&self, facts: &F, omit: bool, out: &mut Vec<u8>) {
        let start = out.len();
        if !self.value(facts, omit, out) {
            out.truncate(start);
            out.extend_from_slice(if matches!(self, Self::Object(_)) { b"{}" } else { b"null" });
        }
    }

    /// Appends the value; false: there is none, and what was appended means nothing.
    fn value<F: Facts + ?Sized>(&self, facts: &F, omit: bool, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Text(template) => template.value(facts, omit, out),
            Self::Constant(text) => {
                out.extend_from_slice(text.as_bytes());
                &**text != "null"
            }
            Self::Object(members) => {
                let start = out.len();
                out.push(b'{');
                for (name, member) in members {
                    let before = out.len();
                    separate(out, start);
                    quoted(name.as_bytes(), out);
                    out.push(b':');
                    finish(member.value(facts, omit, out), omit, before, out, |out| {
                        separate(out, start);
                        quoted(name.as_bytes(), out);
                        out.push(b':');
                    });
                }
                out.push(b'}');
                !omit || members.is_empty() || out.len() > start + 2
            }
            Self::List(items) => {
                let start = out.len();
                out.push(b'[');
                for item in items {
                    let before = out.len();
                    separate(out, start);
                    finish(item.value(facts, omit, out), omit, before, out, |out| separate(out, start));
                }
                out.push(b']');
                true
            }
        }
    }
}

/// A comma, unless something begins here.
fn separate(out: &mut Vec<u8>, start: usize) {
    if out.len() > start + 1 {
        out.push(b',');
    }
}

/// Takes back what has no value, or says so.
fn finish(found: bool, omit: bool, before: usize, out: &mut Vec<u8>, again: impl FnOnce(&mut Vec<u8>)) {
    if !found {
        out.truncate(before);
        if !omit {
            again(out);
            out.extend_from_slice(b"null");
        }
    }
}

fn quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text);
    escape(out, start);
    out.push(b'"');
}

impl Template {
    fn value<F: Facts + ?Sized>(&self, facts: &F, omit: bool, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.push(b'"');
        let wrote = if let [Part::Command(command)] = &*self.parts {
            command.write(facts, out)
        } else {
            self.write_or(facts, if omit { b"" } else { MISSING }, out);
            Wrote::Text
        };
        match wrote {
            Wrote::Nothing => return false,
            Wrote::Number | Wrote::Json => drop(out.remove(start)),
            Wrote::Text => {
                escape(out, start + 1);
                out.push(b'"');
            }
        }
        true
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Escapes what stands from `start` on, for a text of JSON; where that is not UTF-8, each byte that is not plain stands for
/// the character of its number. Source: Envoy `Json::sanitize`.
pub fn escape(out: &mut Vec<u8>, start: usize) {
    // Without an early end the compiler makes vector code of it, and nearly every value is plain.
    if out[start..].iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        return;
    }
    let raw = out.split_off(start);
    let is_text = std::str::from_utf8(&raw).is_ok();
    for byte in raw {
        match byte {
            b'"' | b'\\' if is_text => out.extend_from_slice(&[b'\\', byte]),
            b'\n' if is_text => out.extend_from_slice(b"\\n"),
            b'\r' if is_text => out.extend_from_slice(b"\\r"),
            b'\t' if is_text => out.extend_from_slice(b"\\t"),
            8 if is_text => out.extend_from_slice(b"\\b"),
            12 if is_text => out.extend_from_slice(b"\\f"),
            0x20..=0x7e if byte != b'"' && byte != b'\\' => out.push(byte),
            0x7f.. if is_text => out.push(byte),
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}
