//! The one table of what is honoured, harmless or refused, and the walk that enforces it.
//!
//! A message is judged by what is *set* in it, whether it came from a file or by wire. A field that the table does
//! not list is refused by name, so a config never means something else here than where it came from.
//! `docs/envoy-support.md` is generated from [`table()`].

mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

#[cfg(test)]
use prost_reflect::Kind;
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, ReflectMessage as _, Value};

use crate::descriptors;
use crate::path::{Path, Problems};

/// What is done with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It means what it means to Envoy, within the limits of the note.
    Honoured,
    /// It is accepted and has no effect, for the reason in the note.
    Harmless,
    /// A config that sets it is refused.
    Refused,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The message's full name: `envoy.config.listener.v3.Listener`.
    pub message: String,
    /// The field's name: `filter_chains`.
    pub field: String,
    /// What is done with it.
    pub support: Support,
    /// Limits of an honoured field, the reason of a harmless one, what to write in place of a refused one.
    /// May be empty.
    pub note: &'static str,
}

/// The whole table: every field of every accepted message, the refused ones included, by message and field number.
pub fn table() -> impl Iterator<Item = Row> {
    table::accepted().flat_map(|accepted| {
        let descriptor = descriptors::message(accepted.message);
        let fields: Vec<FieldDescriptor> =
            descriptor.map(|descriptor| descriptor.fields().collect()).unwrap_or_default();
        fields.into_iter().map(|field| {
            let (support, note) = support_of(accepted.message, field.name());
            Row { message: accepted.message.to_owned(), field: field.name().to_owned(), support, note }
        })
    })
}

/// A message that may occur, and its fields; those that are not listed are refused.
struct Accepted {
    message: &'static str,
    fields: &'static [Field],
}

/// A field's line in the table.
struct Field {
    name: &'static str,
    support: Support,
    note: &'static str,
}

type Fields = BTreeMap<&'static str, &'static Field>;

static INDEX: LazyLock<HashMap<&'static str, Fields>> = LazyLock::new(|| {
    let fields =
        |accepted: &'static Accepted| accepted.fields.iter().map(|field| (field.name, field)).collect();
    table::accepted().map(|accepted| (accepted.message, fields(accepted))).collect()
});

fn support_of(message: &str, field: &str) -> (Support, &'static str) {
    let found = INDEX.get(message).and_then(|fields| fields.get(field));
    found.map_or((Support::Refused, ""), |field| (field.support, field.note))
}

/// The deepest nesting of messages: far past any config, and little enough for the stack. Messages in an `Any`
/// count on, or nesting by `Any` would escape protobuf's own limit.
const MAX_DEPTH: usize = 100;

/// Judges what is set in a message.
pub(crate) fn judge(message: &DynamicMessage, problems: &mut Problems) {
    Judge { problems }.message(message, &Path::Root, MAX_DEPTH);
}

struct Judge<'p> {
    problems: &'p mut Problems,
}

impl Judge<'_> {
    fn message(&mut self, message: &DynamicMessage, at: &Path<'_>, depth: usize) {
        let descriptor = message.descriptor();
        if depth == 0 {
            self.problems.error::<()>(at, "the config is nested too deeply", "");
            return;
        }
        if let Some(unknown) = message.unknown_fields().next() {
            let text = format!("{} has no field number {}", descriptor.name(), unknown.number());
            self.problems.error::<()>(at, text, "");
        }
        let ignored = may_be_ignored(message);
        for (field, value) in message.fields() {
            if ignored && matches!(field.name(), "typed_config" | "config") {
                continue;
            }
            let at = at.field(field.name());
            match support_of(descriptor.full_name(), field.name()) {
                (Support::Honoured, _) => self.value(value, &at, depth),
                (Support::Harmless, _) => {}
                (Support::Refused, note) => self.refuse(&descriptor, &field, &at, note),
            }
        }
    }

    fn refuse(
        &mut self,
        descriptor: &MessageDescriptor,
        field: &FieldDescriptor,
        at: &Path<'_>,
        note: &'static str,
    ) {
        let text = if INDEX.contains_key(descriptor.full_name()) {
            format!("`{}` is not supported", field.name())
        } else {
            format!("{} is not supported", descriptor.full_name())
        };
        self.problems.error::<()>(at, text, note);
    }

    fn value(&mut self, value: &Value, at: &Path<'_>, depth: usize) {
        match value {
            Value::Message(message) => self.nested(message, at, depth),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(item, &at.index(index), depth);
                }
            }
            Value::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                for (key, value) in sorted {
                    self.value(value, &at.key(&key), depth);
                }
            }
            _ => {}
        }
    }

    fn nested(&mut self, message: &DynamicMessage, at: &Path<'_>, depth: usize) {
        let descriptor = message.descriptor();
        if descriptor.full_name() == "google.protobuf.Any" {
            self.any(message, at, depth);
        } else if !descriptor.full_name().starts_with("google.protobuf.") {
            self.message(message, at, depth - 1);
        }
    }

    fn any(&mut self, any: &DynamicMessage, at: &Path<'_>, depth: usize) {
        let Some((type_url, bytes)) = any_parts(any) else { return };
        let known = descriptors::message(&type_url).filter(|known| INDEX.contains_key(known.full_name()));
        let Some(descriptor) = known else {
            let text = format!("the extension type `{type_url}` is not supported");
            self.problems.error::<()>(at, text, "");
            return;
        };
        match DynamicMessage::decode(descriptor, bytes) {
            Ok(message) => self.message(&message, at, depth - 1),
            Err(error) => {
                self.problems.error::<()>(at, format!("this is not a `{type_url}`: {error}"), "");
            }
        }
    }
}

/// `message.field` of everything that is set in a message, in those in it, and in what their `Any`s hold.
pub(crate) fn rows_used(message: &DynamicMessage) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    note_rows(message, &mut rows);
    rows
}

fn note_rows(message: &DynamicMessage, rows: &mut BTreeSet<String>) {
    let descriptor = message.descriptor();
    if descriptor.full_name() == "google.protobuf.Any" {
        let Some((type_url, bytes)) = any_parts(message) else { return };
        let known = descriptors::message(&type_url);
        if let Some(Ok(held)) = known.map(|known| DynamicMessage::decode(known, bytes)) {
            note_rows(&held, rows);
        }
        return;
    }
    if descriptor.full_name().starts_with("google.protobuf.") {
        return;
    }
    for (field, value) in message.fields() {
        rows.insert(format!("{}.{}", descriptor.full_name(), field.name()));
        note_rows_of(value, rows);
    }
}

fn note_rows_of(value: &Value, rows: &mut BTreeSet<String>) {
    match value {
        Value::Message(message) => note_rows(message, rows),
        Value::List(items) => items.iter().for_each(|item| note_rows_of(item, rows)),
        Value::Map(entries) => entries.values().for_each(|item| note_rows_of(item, rows)),
        _ => {}
    }
}

fn any_parts(any: &DynamicMessage) -> Option<(String, prost::bytes::Bytes)> {
    let type_url = any.get_field_by_name("type_url")?.as_str()?.to_owned();
    let value = any.get_field_by_name("value")?.as_bytes()?.clone();
    Some((type_url, value))
}

/// Whether a message is an HTTP filter that may be ignored, or a route's word on one, and that we do not know.
fn may_be_ignored(message: &DynamicMessage) -> bool {
    let optional =
        message.get_field_by_name("is_optional").and_then(|value| value.as_bool()).unwrap_or(false);
    let config = message.get_field_by_name("typed_config").or_else(|| message.get_field_by_name("config"));
    let Some(config) = config else { return false };
    let type_url = config.as_message().and_then(any_parts).map(|(type_url, _)| type_url);
    optional && type_url.is_some_and(|type_url| !is_accepted(&type_url))
}

/// Whether the table knows the message with this type URL.
pub(crate) fn is_accepted(type_url: &str) -> bool {
    INDEX.contains_key(type_url.rsplit('/').next().unwrap_or_default())
}

fn key_text(key: &MapKey) -> String {
    key.as_str().map_or_else(|| format!("{key:?}"), ToOwned::to_owned)
}

/// Whether the value of a field is a message that the walk goes into.
#[cfg(test)]
fn walks_into(field: &FieldDescriptor) -> Option<String> {
    let Kind::Message(message) = field.kind() else { return None };
    let message = match message.is_map_entry().then(|| message.map_entry_value_field().kind()) {
        Some(Kind::Message(value)) => value,
        Some(_) => return None,
        None => message,
    };
    let name = message.full_name().to_owned();
    (!name.starts_with("google.protobuf.")).then_some(name)
}

#[cfg(test)]
mod tests;
