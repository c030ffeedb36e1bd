//! JSON values as YAML text, each line with the path of the field that it says something of.

use serde_json::{Map, Value};

/// A line of YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The field's path: `spec.rules[0].name`.
    pub(crate) path: String,
    /// The line, indented, without its end.
    pub(crate) text: String,
}

/// A value as YAML text.
pub(crate) fn text(value: &Value) -> String {
    let mut text = String::new();
    for line in lines(value) {
        text.push_str(&line.text);
        text.push('\n');
    }
    text
}

/// A value as lines of YAML.
pub(crate) fn lines(value: &Value) -> Vec<Line> {
    let mut writer = Writer { lines: Vec::new() };
    match value {
        Value::Object(fields) if !fields.is_empty() => writer.mapping(fields, 0, "", None),
        Value::Array(items) if !items.is_empty() => writer.list(items, 0, "", None),
        scalar => writer.push(0, "", None, &plain(scalar)),
    }
    writer.lines
}

struct Writer {
    lines: Vec<Line>,
}

impl Writer {
    /// `lead` is what stands in the place of the first line's indentation, in a list.
    fn push(&mut self, depth: usize, path: &str, lead: Option<String>, text: &str) {
        let lead = lead.unwrap_or_else(|| indent(depth));
        self.lines.push(Line { path: path.to_owned(), text: format!("{lead}{text}") });
    }

    fn mapping(&mut self, fields: &Map<String, Value>, depth: usize, path: &str, mut lead: Option<String>) {
        for (name, value) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let key = quoted(name);
            let lead = lead.take();
            match value {
                Value::Object(fields) if !fields.is_empty() => {
                    self.push(depth, &path, lead, &format!("{key}:"));
                    self.mapping(fields, depth + 1, &path, None);
                }
                Value::Array(items) if !items.is_empty() => {
                    self.push(depth, &path, lead, &format!("{key}:"));
                    self.list(items, depth + 1, &path, None);
                }
                scalar => self.push(depth, &path, lead, &format!("{key}: {}", plain(scalar))),
            }
        }
    }

    fn list(&mut self, items: &[Value], depth: usize, path: &str, mut lead: Option<String>) {
        for (i, value) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let lead = format!("{}- ", lead.take().unwrap_or_else(|| indent(depth)));
            match value {
                Value::Object(fields) if !fields.is_empty() => {
                    self.mapping(fields, depth + 1, &path, Some(lead));
                }
                Value::Array(items) if !items.is_empty() => self.list(items, depth + 1, &path, Some(lead)),
                scalar => self.push(depth, &path, Some(lead), &plain(scalar)),
            }
        }
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// Words that YAML readers of one age or another take for something else than text.
const RESERVED: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// A text as YAML: in quotes, as JSON has them, where it could be read as something else.
fn quoted(text: &str) -> String {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let is_tame = text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-+@*=,() ".contains(c) || c == ':');
    let could_be_more = text.contains(": ") || text.ends_with([':', ' ']) || text.contains(", ");
    let is_reserved = RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word));
    if starts_well && is_tame && !could_be_more && !is_reserved {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_are_nested_and_lists_begin_on_their_dash() {
        let value = json!({
            "kind": "Service",
            "spec": { "ports": [{ "name": "http", "port": 80 }, { "port": 81 }], "selector": {}, "x": [[1, 2]] },
        });
        let expected = "kind: Service\nspec:\n  ports:\n    - name: http\n      port: 80\n    - port: 81\n  \
                        selector: {}\n  x:\n    - - 1\n      - 2\n";
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn a_line_knows_its_field() {
        let value = json!({ "spec": { "rules": [{ "name": "a" }] } });
        let paths: Vec<_> = lines(&value).into_iter().map(|line| line.path).collect();
        assert_eq!(paths, ["spec", "spec.rules", "spec.rules[0].name"]);
    }

    #[test]
    fn text_stays_text() {
        let check = |text: &str, expected: &str| assert_eq!(quoted(text), expected, "{text}");
        check("cart", "cart");
        check("/a/b", "/a/b");
        check("mesh.local/ns/shop", "mesh.local/ns/shop");
        check("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1");
        check("two words", "two words");
        check("80", "\"80\"");
        check("true", "\"true\"");
        check("No", "\"No\"");
        check("", "\"\"");
        check("a: b", "\"a: b\"");
        check("a #b", "\"a #b\"");
        check("*", "\"*\"");
        check("a\nb", "\"a\\nb\"");
        check("1s", "\"1s\"");
    }
}
