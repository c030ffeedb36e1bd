//! YAML text into a tree that knows where each part of it stands.
//!
//! The tree is plain: texts, numbers, lists and mappings in their written order. What a field means is
//! decided by the kind's own module; this one only refuses what is not YAML, or too much of it.

use std::fmt;

use meshwork_model::problem::{Code, Place, Problem};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Options, Spanned};

/// A part of a document, and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a part of a document is.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no 64-bit integer, as text.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// The items of a list of resources. Source: Kubernetes API, `v1/List`.
    pub(crate) fn items_of_list(&self) -> Option<&[Self]> {
        let Value::Map(entries) = &self.value else { return None };
        let field = |name: &str| {
            let found =
                entries.iter().find(|(key, _)| matches!(&key.value, Value::Text(text) if text == name));
            found.map(|(_, node)| &node.value)
        };
        match (field("kind"), field("items")) {
            (Some(Value::Text(kind)), Some(Value::List(items))) if kind == "List" => Some(items),
            _ => None,
        }
    }
}

/// The largest file: a mesh of a thousand services written by hand is a tenth of it.
pub(crate) const MAX_FILE_BYTES: u64 = 4 << 20;
/// The deepest nesting; the deepest field of the kinds we know is at 10.
const MAX_DEPTH: usize = 32;
/// Parts of one file, aliases expanded: 4 MiB of text have fewer.
const MAX_NODES: usize = 500_000;
/// Anchors and aliases of one file: some people write them, nobody needs many.
const MAX_ALIASES: usize = 100;
/// What aliases of one file stand for, in steps of the parser: a request has thousands of texts, and each may have so many.
const MAX_REPLAYED: usize = 5_000;
/// Documents of one file.
const MAX_DOCUMENTS: usize = 10_000;

/// Parses every document of a text; empty ones are left out.
///
/// # Errors
/// The first thing that is not YAML, or that is over a limit.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Box<Problem>> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| Box::new(problem(&e)))
}

fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        // YAML 1.2: `yes`, `no`, `on` and `n` are texts.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: MAX_DOCUMENTS,
            max_inclusion_depth: 0,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
        },
    }
}

fn problem(error: &Error) -> Problem {
    let text = error.without_snippet().to_string();
    // The place is shown on its own; the parser's sentence ends in it.
    let message = text.split(" at line ").next().unwrap_or(&text).trim_end_matches('.');
    // Which limit it is, is in the parser's words only: some come wrapped in others.
    let is_too_much = ["budget breached", "limit exceeded"].iter().any(|limit| message.contains(limit));
    let mut problem = if is_too_much {
        let fix = "Split the file, or write it with less nesting and without aliases";
        Problem::error("", "", format!("this is too much YAML: {message}"), fix).of(Code::Bomb)
    } else {
        Problem::error("", "", format!("this is not valid YAML: {message}"), "").of(Code::NotYaml)
    };
    problem.place = error.location().map(place);
    problem
}

fn place(location: Location) -> Place {
    let span = location.span();
    let start = span.byte_offset().unwrap_or(0);
    Place {
        line: to_usize(location.line()),
        column: to_usize(location.column()),
        start: to_usize(start),
        end: to_usize(start + span.byte_len().unwrap_or(0)),
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { place: place(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Integer(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or_else(|_| Value::Number(v.to_string()), Value::Integer))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_u128<E>(self, v: u128) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        let text = match &node.value {
            Value::Null => "null".to_owned(),
            Value::Bool(v) => v.to_string(),
            Value::Integer(v) => v.to_string(),
            Value::Number(v) => format!("number {v}"),
            Value::Text(v) => format!("'{v}'"),
            Value::List(v) => format!("[{}]", v.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Map(v) => {
                let entries: Vec<_> = v.iter().map(|(k, v)| format!("{}={}", show(k), show(v))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        };
        format!("{text}@{}:{}", node.place.line, node.place.column)
    }

    fn check(text: &str, expected: &[&str]) {
        let nodes = parse(text).expect("valid YAML");
        assert_eq!(nodes.iter().map(show).collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn each_part_knows_its_place() {
        check("a: 1\nbb: [x, 'y']\n", &["{'a'@1:1=1@1:4 'bb'@2:1=['x'@2:6 'y'@2:9]@2:5}@1:1"]);
        check("---\n# nothing\n---\na:\n  b: true\n", &["{'a'@4:1={'b'@5:3=true@5:6}@5:3}@4:1"]);
        check("a: &x [1.5]\nc: *x\n", &["{'a'@1:1=[number 1.5@1:8]@1:7 'c'@2:1=[number 1.5@2:4]@2:4}@1:1"]);
        check("", &[]);
    }

    #[test]
    fn places_cover_their_bytes() {
        let text = "é: name\n";
        let nodes = parse(text).expect("valid");
        let Value::Map(entries) = &nodes[0].value else { panic!("a mapping") };
        let place = entries[0].1.place;
        assert_eq!(&text[place.start..place.end], "name");
    }

    fn refuse(text: &str, line: usize, expected: &str) {
        let problem = parse(text).expect_err("refused");
        assert!(problem.message.contains(expected), "{problem}");
        assert_eq!(problem.place.map(|p| p.line), Some(line), "{problem}");
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_its_place() {
        refuse("a: 1\nb: [1, 2\n", 2, "not valid YAML");
        refuse("a: 1\na: 2\n", 2, "duplicate");
        refuse("a: *nowhere\n", 1, "not valid YAML");
    }

    #[test]
    fn bombs_are_refused() {
        let line = |i: usize| {
            let alias = format!("*a{}", i - 1);
            format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", "))
        };
        let lines: Vec<String> = (1..20).map(line).collect();
        let check = |text: &str| {
            let problem = parse(text).expect_err("refused");
            assert_eq!(problem.code, Code::Bomb, "{problem}");
        };
        check(&format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}", lines.concat()));
        check(&format!("a: &a [{}]\nb: [{}]\n", ["x"; 100].join(", "), ["*a"; 50].join(", ")));
        check(&"[".repeat(100_000));
        check(&"- ".repeat(100_000));
        check(&"? ".repeat(100_000));
        check(&"---\n0\n".repeat(MAX_DOCUMENTS + 1));
    }
}
