//! Changes of header sections, as routes ask for them.
//!
//! A level (table, virtual host, route, weighted cluster) removes first, then works out every value by the head as it
//! is, then overwrites, then adds. Source: Envoy `HeaderValueOption`, `request_headers_to_add`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::flag::Flags;
use crate::format::{Address, Facts, Number, Point, Template, Text, Time, Wrote};
use crate::head::{Fields, RequestHead, ResponseHead};

/// What one level does to a header section.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Mutations {
    /// Lowercase names of fields that go.
    pub remove: Vec<Arc<str>>,
    /// Fields that come.
    pub add: Vec<HeaderChange>,
}

/// A field that comes.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderChange {
    /// Lowercase name.
    pub name: Arc<str>,
    /// Its value.
    pub value: Template,
    /// What happens where the field is there, or is not.
    pub append: Append,
    /// Whether an empty value is a value.
    pub keep_empty: bool,
}

/// What happens to a field that is there, or is not. Source: Envoy `HeaderAppendAction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// Another value beside those that are there.
    Add,
    /// A value where there is none.
    AddIfAbsent,
    /// In place of those that are there, or alone.
    Set,
    /// In place of those that are there; nothing where there are none.
    SetIfPresent,
}

/// Names of fields of which Envoy keeps one line: another value is appended to it.
const ONE_LINE: [&[u8]; 14] = [
    b"authorization",
    b"cache-control",
    b"content-type",
    b"grpc-timeout",
    b"origin",
    b"referer",
    b"server",
    b"te",
    b"user-agent",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-request-id",
];

impl Mutations {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Changes a request's head.
    pub fn change_request(&self, head: &mut RequestHead, facts: &dyn Facts) {
        self.remove(&mut head.fields);
        if !self.add.is_empty() {
            let values = self.values(&head.fields, &Beside { facts, request: Some(head), response: None });
            self.write(&mut head.fields, &values);
        }
    }

    /// Changes a response's head.
    pub fn change_response(&self, head: &mut ResponseHead, facts: &dyn Facts) {
        self.remove(&mut head.fields);
        if !self.add.is_empty() {
            let values = self.values(&head.fields, &Beside { facts, request: None, response: Some(head) });
            self.write(&mut head.fields, &values);
        }
    }

    fn remove(&self, fields: &mut Fields) {
        for name in &self.remove {
            fields.remove(name.as_bytes());
        }
    }

    /// The values that are written; `None` for those that are not.
    fn values(&self, fields: &Fields, facts: &Beside<'_>) -> Vec<Option<Vec<u8>>> {
        let value = |change: &HeaderChange| {
            let mut value = Vec::new();
            change.value.write_omitting(facts, &mut value);
            let is_there = || fields.find(change.name.as_bytes()).is_some();
            let wanted = match change.append {
                Append::Add | Append::Set => true,
                Append::AddIfAbsent => !is_there(),
                Append::SetIfPresent => is_there(),
            };
            (wanted && (change.keep_empty || !value.is_empty())).then(|| clean(value))
        };
        self.add.iter().map(value).collect()
    }

    fn write(&self, fields: &mut Fields, values: &[Option<Vec<u8>>]) {
        let changes =
            || self.add.iter().zip(values).filter_map(|(change, value)| Some((change, value.as_ref()?)));
        for (change, value) in changes() {
            if matches!(change.append, Append::Set | Append::SetIfPresent) {
                fields.set(change.name.as_bytes(), value);
            }
        }
        for (change, value) in changes() {
            if matches!(change.append, Append::Add | Append::AddIfAbsent) {
                add(fields, change.name.as_bytes(), value);
            }
        }
    }
}

/// A value that a peer had a part in cannot end the field's line.
fn clean(mut value: Vec<u8>) -> Vec<u8> {
    value.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n' | 0)).for_each(|byte| *byte = b' ');
    value
}

/// Adds a value beside those that are there.
fn add(fields: &mut Fields, name: &[u8], value: &[u8]) {
    match fields.find(name) {
        Some(before) if ONE_LINE.contains(&name) => {
            let joined = [before, value].join(&b","[..]);
            fields.set(name, &joined);
        }
        _ => fields.push(name, value),
    }
}

/// Facts, with a head that is being changed in place of theirs.
struct Beside<'b> {
    facts: &'b dyn Facts,
    request: Option<&'b RequestHead>,
    response: Option<&'b ResponseHead>,
}

impl Facts for Beside<'_> {
    fn request(&self) -> Option<&RequestHead> {
        self.request.or_else(|| self.facts.request())
    }

    fn response(&self) -> Option<&ResponseHead> {
        self.response.or_else(|| self.facts.response())
    }

    fn trailers(&self) -> Option<&Fields> {
        self.facts.trailers()
    }

    fn request_length(&self) -> Option<u64> {
        self.facts.request_length()
    }

    fn response_length(&self) -> Option<u64> {
        self.facts.response_length()
    }

    fn text(&self, which: Text, out: &mut Vec<u8>) -> bool {
        self.facts.text(which, out)
    }

    fn number(&self, which: Number) -> Option<u64> {
        self.facts.number(which)
    }

    fn address(&self, which: Address) -> Option<SocketAddr> {
        self.facts.address(which)
    }

    fn time(&self, which: Time) -> Option<Duration> {
        self.facts.time(which)
    }

    fn point(&self, which: Point) -> Option<Duration> {
        self.facts.point(which)
    }

    fn flags(&self) -> Flags {
        self.facts.flags()
    }

    fn metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> Wrote {
        self.facts.metadata(namespace, path, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoFacts;

    impl Facts for NoFacts {}

    fn change(name: &str, value: &str, append: Append) -> HeaderChange {
        let value = Template::parse(value).expect("a template");
        HeaderChange { name: name.into(), value, append, keep_empty: false }
    }

    fn check(remove: &[&str], add: Vec<HeaderChange>, before: &[(&str, &str)], after: &[(&str, &str)]) {
        let mut head = RequestHead::default();
        for (name, value) in before {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        let mutations = Mutations { remove: remove.iter().map(|name| (*name).into()).collect(), add };
        mutations.change_request(&mut head, &NoFacts);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got: Vec<_> = head.fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        let after: Vec<_> = after.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(got, after, "{before:?}");
    }

    #[test]
    fn a_field_comes_as_its_action_says() {
        check(&[], vec![change("a", "2", Append::Add)], &[("a", "1")], &[("a", "1"), ("a", "2")]);
        check(&[], vec![change("via", "2", Append::Add)], &[("via", "1")], &[("via", "1,2")]);
        check(&[], vec![change("a", "2", Append::AddIfAbsent)], &[("a", "1")], &[("a", "1")]);
        check(&[], vec![change("a", "2", Append::AddIfAbsent)], &[], &[("a", "2")]);
        check(&[], vec![change("a", "2", Append::Set)], &[("a", "1"), ("a", "0")], &[("a", "2")]);
        check(&[], vec![change("a", "2", Append::Set)], &[], &[("a", "2")]);
        check(&[], vec![change("a", "2", Append::SetIfPresent)], &[], &[]);
        check(&[], vec![change("a", "2", Append::SetIfPresent)], &[("a", "1")], &[("a", "2")]);
    }

    #[test]
    fn fields_go_before_others_come_and_values_are_of_before() {
        check(&["a"], vec![change("a", "2", Append::Add)], &[("a", "1")], &[("a", "2")]);
        let swap = vec![change("a", "%REQ(b)%", Append::Set), change("b", "%REQ(a)%", Append::Set)];
        check(&[], swap, &[("a", "1"), ("b", "2")], &[("a", "2"), ("b", "1")]);
        check(&[], vec![change("a", "%REQ(none)%", Append::Set)], &[("a", "1")], &[("a", "1")]);
        let empty = HeaderChange { keep_empty: true, ..change("a", "", Append::Set) };
        check(&[], vec![empty], &[("a", "1")], &[("a", "")]);
    }
}
