//! A located tree as a message, by reflection: the protobuf JSON mapping, with every error and its place.
//!
//! Source: protobuf's JSON mapping. An `Any` is written with its type beside its fields: `"@type": …`.

use std::collections::BTreeMap;

use meshwork_model::problem::{Code, Place, Problem};
use prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Reflected,
};
use serde_json::Value;

use crate::descriptors;
use crate::path::Path;
use crate::yaml::{Located, Tree};

/// The most problems that are collected; past it the file is something else.
const MAX_PROBLEMS: usize = 100;

/// Reads messages from trees; remembers where each field was.
pub(crate) struct Reader<'f> {
    file: &'f str,
    places: BTreeMap<String, Place>,
    problems: Vec<Problem>,
}

impl<'f> Reader<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self { file, places: BTreeMap::new(), problems: Vec::new() }
    }

    /// Everything that was wrong.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Whether something was wrong.
    pub(crate) fn failed(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Where a field was; of one that is not there, where its nearest parent was.
    pub(crate) fn place(&self, field: &str) -> Option<Place> {
        let mut path = field;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(*place);
            }
            let cut = path.rfind(['.', '['])?;
            path = &path[..cut];
        }
    }

    fn error(&mut self, at: &Path<'_>, place: Place, message: impl Into<String>, fix: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            let problem = Problem::error("", at.to_string(), message, fix).of(Code::Refused);
            self.problems.push(problem.at(self.file, Some(place)));
        }
    }

    /// Reads a message; what is wrong in it is noted and left out.
    pub(crate) fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        source: &Located,
        at: &Path<'_>,
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let Tree::Map(entries) = &source.tree else {
            if !matches!(source.tree, Tree::Null) {
                let wanted = format!("expected the fields of {}", descriptor.name());
                self.error(at, source.place, wanted, "");
            }
            return message;
        };
        for (place, key, value) in entries {
            let Some(field) = field_of(descriptor, key) else {
                let fix = nearest(key, descriptor.fields().map(|field| field.name().to_owned()));
                let fix = fix.map(|name| format!("did you mean `{name}`?")).unwrap_or_default();
                let text = format!("{} has no field `{key}`", descriptor.name());
                self.error(&at.field(key), *place, text, fix);
                continue;
            };
            let at = at.field(field.name());
            self.places.insert(at.to_string(), *place);
            self.field(&mut message, &field, source, value, &at);
        }
        message
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        parent: &Located,
        value: &Located,
        at: &Path<'_>,
    ) {
        if matches!(value.tree, Tree::Null) {
            return;
        }
        let Some(nested) = nested_message(field) else {
            return self.leaf(message, field, value, at);
        };
        if field.is_map() {
            let entries = self.map(&nested, value, at);
            message.set_field(field, Reflected::Map(entries.into_iter().collect()));
        } else if field.cardinality() == Cardinality::Repeated {
            let items = self.list(&nested, value, at);
            message.set_field(field, Reflected::List(items));
        } else {
            let optional =
                matches!(parent.entry("is_optional"), Some(Located { tree: Tree::Bool(true), .. }));
            let value = self.nested(&nested, value, at, optional);
            message.set_field(field, Reflected::Message(value));
        }
    }

    fn list(&mut self, nested: &MessageDescriptor, value: &Located, at: &Path<'_>) -> Vec<Reflected> {
        let Tree::List(items) = &value.tree else {
            self.error(at, value.place, "expected a list", "");
            return Vec::new();
        };
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let at = at.index(index);
            self.places.insert(at.to_string(), item.place);
            list.push(Reflected::Message(self.nested(nested, item, &at, false)));
        }
        list
    }

    fn map(
        &mut self,
        nested: &MessageDescriptor,
        value: &Located,
        at: &Path<'_>,
    ) -> Vec<(MapKey, Reflected)> {
        let Tree::Map(entries) = &value.tree else {
            self.error(at, value.place, "expected a map", "");
            return Vec::new();
        };
        let mut map = Vec::new();
        for (place, key, value) in entries {
            let at = at.key(key);
            self.places.insert(at.to_string(), *place);
            let value = self.nested(nested, value, &at, false);
            map.push((MapKey::String(key.clone()), Reflected::Message(value)));
        }
        map
    }

    fn nested(
        &mut self,
        descriptor: &MessageDescriptor,
        source: &Located,
        at: &Path<'_>,
        optional: bool,
    ) -> DynamicMessage {
        if descriptor.full_name() == "google.protobuf.Any" {
            self.any(descriptor, source, at, optional)
        } else {
            self.message(descriptor, source, at)
        }
    }

    /// Reads an `Any`. The type of one that may be ignored need not be known.
    fn any(
        &mut self,
        descriptor: &MessageDescriptor,
        source: &Located,
        at: &Path<'_>,
        optional: bool,
    ) -> DynamicMessage {
        let mut any = DynamicMessage::new(descriptor.clone());
        let Some(type_url) = source.entry("@type").and_then(Located::text) else {
            self.error(
                at,
                source.place,
                "the type is missing",
                "begin with \"@type\": type.googleapis.com/…",
            );
            return any;
        };
        any.set_field_by_name("type_url", Reflected::String(type_url.to_owned()));
        let Some(nested) = descriptors::message(type_url) else {
            if !optional {
                let names = descriptors::names().into_iter();
                let fix = nearest(type_url.rsplit('/').next().unwrap_or_default(), names);
                let fix = fix.map(|name| format!("did you mean `type.googleapis.com/{name}`?"));
                let text = format!("the extension type `{type_url}` is not supported");
                self.error(at, source.place, text, fix.unwrap_or_default());
            }
            return any;
        };
        let body = self.any_body(&nested, source, at);
        any.set_field_by_name("value", Reflected::Bytes(body.encode_to_vec().into()));
        any
    }

    fn any_body(&mut self, nested: &MessageDescriptor, source: &Located, at: &Path<'_>) -> DynamicMessage {
        let Tree::Map(entries) = &source.tree else { return DynamicMessage::new(nested.clone()) };
        let fields = entries.iter().filter(|(_, key, _)| key != "@type");
        let fields = fields.map(|(place, key, value)| (*place, key.clone(), value.clone())).collect();
        self.message(nested, &Located { place: source.place, tree: Tree::Map(fields) }, at)
    }

    /// Reads a field that is no message of its own: by the reflection's own rules, one field at a time, so that
    /// an error has its path.
    fn leaf(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        value: &Located,
        at: &Path<'_>,
    ) {
        let mut one = serde_json::Map::new();
        one.insert(field.name().to_owned(), value.to_value());
        match DynamicMessage::deserialize(field.parent_message().clone(), Value::Object(one)) {
            Ok(mut read) => {
                if let Some(read) = read.take_field(field) {
                    message.set_field(field, read);
                }
            }
            Err(error) => self.error(at, value.place, error.to_string(), ""),
        }
    }
}

/// The field with this name, in either of the spellings that the JSON mapping allows.
fn field_of(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

/// The message type of a field, of its elements, or of its values, that is walked field by field.
///
/// Well-known types have their own JSON forms and are leaves, save `Any`, whose content is walked.
fn nested_message(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else { return None };
    let message = if field.is_map() {
        let Kind::Message(value) = message.map_entry_value_field().kind() else { return None };
        if message.map_entry_key_field().kind() != Kind::String {
            return None;
        }
        value
    } else {
        message
    };
    let well_known = message.full_name().starts_with("google.protobuf.");
    (!well_known || message.full_name() == "google.protobuf.Any").then_some(message)
}

/// The most edits between a name and what it may have been meant to be: a third of it.
fn most_edits(name: &str) -> usize {
    (name.len() / 3).clamp(1, 4)
}

/// The candidate that is nearest to a mistyped name, if one is near.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let scored = candidates.map(|candidate| (edits(name, &candidate), candidate));
    let (distance, candidate) = scored.min()?;
    (distance <= most_edits(name)).then_some(candidate)
}

/// Levenshtein's distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
