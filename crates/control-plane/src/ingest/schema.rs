//! JSON Schemas of the kinds, so that editors complete and check them: made of what each kind's reader asks for.
//!
//! A schema is never stricter than the reader, and often less: what depends on several fields, or on other resources,
//! only the reader knows.

use serde_json::{Map, Value, json};

use super::library::Piece;
use super::metadata::{self, Metadata};
use super::reader::{Item, Report, Room};
use super::recording::{self, Recording, Seen, Shape};
use super::{KINDS, Kind};

/// Which schema the schemas are written in; what editors know best.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The schema of every kind, by its name.
pub fn schemas() -> impl Iterator<Item = (&'static str, Value)> {
    KINDS.iter().map(|(kind, name, versions)| (*name, schema(*kind, name, versions)))
}

/// The schema of one kind; `None` where there is none of this name.
pub fn schema_of(name: &str) -> Option<Value> {
    let (kind, name, versions) = KINDS.iter().find(|(_, known, _)| known.eq_ignore_ascii_case(name))?;
    Some(schema(*kind, name, versions))
}

fn schema(kind: Kind, name: &str, versions: &[&str]) -> Value {
    let recording = recording::record(|| read(kind));
    let mut schema = node(&recording, "");
    schema["$schema"] = json!(DIALECT);
    schema["title"] = json!(name);
    schema["properties"]["apiVersion"] = json!({ "enum": versions });
    schema["properties"]["kind"] = json!({ "const": name });
    schema["properties"]["status"] = json!({});
    let mut required = vec![json!("apiVersion"), json!("kind")];
    required.extend(schema["required"].as_array().into_iter().flatten().cloned());
    schema["required"] = Value::Array(required);
    schema
}

/// Has the kind's reader ask for all that it wants.
fn read(kind: Kind) {
    let mut report = Report::new("", Room::default());
    let Some(mut root) = Item::new(recording::anything(), "").fields(&mut report) else { return };
    let mut piece = Piece::default();
    if kind.is_global() {
        piece.read_global(kind, &mut root, &mut report);
    } else {
        let _ = metadata::read(&mut root, &mut report);
        piece.read_kind(kind, &mut root, &Metadata::of_anything(), &mut report);
    }
    root.close(&mut report);
}

fn node(recording: &Recording, path: &str) -> Value {
    let Some(seen) = recording.seen.get(path) else { return json!({}) };
    let mut shapes: Vec<Value> =
        seen.shapes.iter().filter_map(|shape| one(recording, path, seen, *shape)).collect();
    match shapes.len() {
        0 => json!({}),
        1 => shapes.remove(0),
        _ => json!({ "anyOf": shapes }),
    }
}

fn one(recording: &Recording, path: &str, seen: &Seen, shape: Shape) -> Option<Value> {
    let has_free_keys =
        [Shape::Texts, Shape::Ports, Shape::Named].iter().any(|shape| seen.shapes.contains(shape));
    Some(match shape {
        Shape::Mapping if has_free_keys => return None,
        Shape::Mapping => mapping(recording, path, seen),
        Shape::List => json!({ "type": "array", "items": node(recording, &format!("{path}[0]")) }),
        Shape::Text if seen.values.is_empty() => json!({ "type": "string" }),
        // Editors still offer the values as they are written mostly.
        Shape::Text if seen.is_any_case => {
            json!({ "anyOf": [{ "enum": seen.values }, { "type": "string" }] })
        }
        Shape::Text => json!({ "type": "string", "enum": seen.values }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Texts => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Shape::Ports => {
            let port = json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
            json!({ "type": "object", "additionalProperties": port })
        }
        Shape::Named => {
            json!({ "type": "object", "additionalProperties": node(recording, &format!("{path}.*")) })
        }
    })
}

fn mapping(recording: &Recording, path: &str, seen: &Seen) -> Value {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let properties: Map<String, Value> =
        seen.fields.keys().map(|name| ((*name).to_owned(), node(recording, &below(name)))).collect();
    let is_required = |times: u64| seen.opened > 0 && times >= seen.opened;
    let required: Vec<&str> =
        seen.fields.iter().filter(|(_, times)| is_required(**times)).map(|(name, _)| *name).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if seen.is_closed {
        schema["additionalProperties"] = json!(false);
    }
    schema
}

#[cfg(test)]
mod tests;
