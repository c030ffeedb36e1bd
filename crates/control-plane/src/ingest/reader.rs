//! A cursor over one resource's tree, which collects what is wrong with it.
//!
//! A kind's module asks for the fields that it knows, in the order in which its type wants them. What it never
//! asked for is then an unknown field; what it knows but the mesh does not honour yet is refused by name. So the
//! code that reads a field is also the only list of fields there is, and nothing is ever ignored in silence.

use std::ops::RangeInclusive;

use meshwork_model::mesh::Labels;
use meshwork_model::problem::{Place, Problem, Severity};

use super::words::{closest, list};
use super::yaml::{Node, Value};

/// The most errors that are kept, and the most warnings: nobody reads on behind them, and each costs time.
pub(crate) const MAX_PROBLEMS: usize = 1_000;

/// Where the problems of one resource go.
#[derive(Debug)]
pub(crate) struct Report<'f> {
    file: &'f str,
    resource: String,
    problems: Vec<Problem>,
    room: Room,
}

/// How many more problems are kept, by severity: errors never make way for warnings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    errors: usize,
    warnings: usize,
}

/// The fields of one mapping.
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    place: Place,
    path: String,
    entries: &'n [(Node, Node)],
    asked: Vec<&'static str>,
}

/// A part of a resource with its path.
#[derive(Clone, Debug)]
pub(crate) struct Item<'n> {
    pub(crate) node: &'n Node,
    pub(crate) path: String,
}

/// A text with its path and place.
#[derive(Clone, Debug)]
pub(crate) struct Text<'n> {
    pub(crate) value: &'n str,
    pub(crate) path: String,
    pub(crate) place: Place,
}

// === impl Report ===

impl<'f> Report<'f> {
    pub(crate) fn new(file: &'f str, room: Room) -> Self {
        Self { file, resource: String::new(), problems: Vec::new(), room }
    }

    pub(crate) fn name_resource(&mut self, resource: String) {
        self.resource = resource;
    }

    pub(crate) fn file(&self) -> &str {
        self.file
    }

    pub(crate) fn resource(&self) -> &str {
        &self.resource
    }

    pub(crate) fn error(
        &mut self,
        path: &str,
        place: Place,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.room.errors > 0 {
            self.room.errors -= 1;
            let problem = Problem::error(&self.resource, path, message, fix);
            self.problems.push(problem.at(self.file, Some(place)));
        }
    }

    pub(crate) fn warning(
        &mut self,
        path: &str,
        place: Place,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.room.warnings > 0 {
            self.room.warnings -= 1;
            let problem = Problem::error(&self.resource, path, message, fix);
            self.problems.push(problem.at(self.file, Some(place)).warning());
        }
    }

    /// The problems, and the room that is left.
    pub(crate) fn finish(self) -> (Vec<Problem>, Room) {
        (self.problems, self.room)
    }

    fn expected(&mut self, item: &Item<'_>, expected: &str) {
        let fix = match &item.node.value {
            Value::Bool(_) | Value::Integer(_) | Value::Number(_) if expected == "text" => {
                "Put it in quotes: YAML reads it as something else than text".to_owned()
            }
            _ => String::new(),
        };
        let message = format!("expected {expected}, found {}", kind_of(&item.node.value));
        self.error(&item.path, item.node.place, message, fix);
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(v) => format!("the boolean {v}"),
        Value::Integer(v) => format!("the number {v}"),
        Value::Number(v) => format!("the number {v}"),
        Value::Text(v) => format!("the text \"{v}\""),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

// === impl Room ===

impl Default for Room {
    fn default() -> Self {
        Self { errors: MAX_PROBLEMS, warnings: MAX_PROBLEMS }
    }
}

impl Room {
    /// Keeps as many of these as there is room for.
    pub(crate) fn take(&mut self, problems: &mut Vec<Problem>, more: impl IntoIterator<Item = Problem>) {
        for problem in more {
            let left = match problem.severity {
                Severity::Error => &mut self.errors,
                Severity::Warning => &mut self.warnings,
            };
            if *left > 0 {
                *left -= 1;
                problems.push(problem);
            }
        }
    }
}

// === impl Item ===

impl<'n> Item<'n> {
    pub(crate) fn new(node: &'n Node, path: impl Into<String>) -> Self {
        Self { node, path: path.into() }
    }

    /// Opens it as a mapping.
    pub(crate) fn fields(&self, report: &mut Report<'_>) -> Option<Fields<'n>> {
        let Value::Map(entries) = &self.node.value else {
            report.expected(self, "a mapping");
            return None;
        };
        Some(Fields { place: self.node.place, path: self.path.clone(), entries, asked: Vec::new() })
    }

    /// Reads it as text.
    pub(crate) fn text(&self, report: &mut Report<'_>) -> Option<Text<'n>> {
        let Value::Text(text) = &self.node.value else {
            report.expected(self, "text");
            return None;
        };
        Some(Text { value: text, path: self.path.clone(), place: self.node.place })
    }

    fn is_empty(&self) -> bool {
        match &self.node.value {
            Value::Null => true,
            Value::List(list) => list.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }
}

// === impl Text ===

impl Text<'_> {
    pub(crate) fn error(&self, report: &mut Report<'_>, message: impl Into<String>, fix: impl Into<String>) {
        report.error(&self.path, self.place, message, fix);
    }

    /// Finds it among the values that the mesh honours and those that it knows, but does not honour yet.
    pub(crate) fn one_of<T: Copy>(
        &self,
        report: &mut Report<'_>,
        honoured: &[(&'static str, T)],
        not_yet: &[&'static str],
    ) -> Option<T> {
        if let Some((_, value)) = honoured.iter().find(|(name, _)| *name == self.value) {
            return Some(*value);
        }
        let names: Vec<&'static str> = honoured.iter().map(|(name, _)| *name).collect();
        if not_yet.contains(&self.value) {
            let message = format!("\"{}\" is not supported yet", self.value);
            self.error(report, message, format!("Use {}", list(&names)));
        } else {
            let fix = match closest(self.value, &names) {
                Some(name) => format!("Did you mean \"{name}\"?"),
                None => String::new(),
            };
            self.error(report, format!("expected {}, found \"{}\"", list(&names), self.value), fix);
        }
        None
    }
}

// === impl Fields ===

impl<'n> Fields<'n> {
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Refuses a mapping without fields.
    pub(crate) fn demand_some(&self, report: &mut Report<'_>, message: &str, fix: &str) {
        if self.entries.is_empty() {
            report.error(&self.path, self.place, message, fix);
        }
    }

    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field that is there and not null.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Item<'n>> {
        self.asked.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| is_key(key, name))?;
        if matches!(node.value, Value::Null) { None } else { Some(Item::new(node, self.path_of(name))) }
    }

    /// A field that must be there.
    pub(crate) fn required(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Item<'n>> {
        let item = self.optional(name);
        if item.is_none() {
            report.error(&self.path_of(name), self.place, format!("the field `{name}` is missing"), "");
        }
        item
    }

    pub(crate) fn text(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Text<'n>> {
        self.optional(name)?.text(report)
    }

    pub(crate) fn required_text(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Text<'n>> {
        self.required(report, name)?.text(report)
    }

    /// A mapping, empty where the field is absent.
    pub(crate) fn mapping(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Fields<'n>> {
        self.optional(name)?.fields(report)
    }

    pub(crate) fn integer(
        &mut self,
        report: &mut Report<'_>,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let item = self.optional(name)?;
        let expected = format!("a number from {} to {}", range.start(), range.end());
        match item.node.value {
            Value::Integer(n) if range.contains(&n) => Some(n),
            _ => {
                report.expected(&item, &expected);
                None
            }
        }
    }

    /// A port; 0 is none.
    pub(crate) fn port(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<u16> {
        self.integer(report, name, 1..=65535).and_then(|n| u16::try_from(n).ok())
    }

    /// The items of a list; `None` where the field is absent.
    pub(crate) fn list(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Vec<Item<'n>>> {
        let item = self.optional(name)?;
        let Value::List(nodes) = &item.node.value else {
            report.expected(&item, "a list");
            return None;
        };
        let item = |(i, node)| Item::new(node, format!("{}[{i}]", item.path));
        Some(nodes.iter().enumerate().map(item).collect())
    }

    /// Labels, or a selector: a mapping of texts.
    pub(crate) fn labels(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Labels> {
        let fields = self.mapping(report, name)?;
        let mut labels = Labels::new();
        for (key, node) in fields.entries {
            let key = Item::new(key, fields.path.clone()).text(report);
            let path = fields.path_of(key.as_ref().map_or("?", |k| k.value));
            let value = Item::new(node, path).text(report);
            if let (Some(key), Some(value)) = (key, value) {
                labels.insert(key.value.to_owned(), value.value.to_owned());
            }
        }
        Some(labels)
    }

    /// The entries of a mapping from names to ports.
    pub(crate) fn ports(&self, report: &mut Report<'_>) -> Vec<(&'n str, u16)> {
        let entry = |(key, node): &'n (Node, Node)| {
            let name = Item::new(key, self.path.clone()).text(report)?.value;
            let item = Item::new(node, self.path_of(name));
            if let Value::Integer(n @ 1..=65535) = item.node.value {
                return u16::try_from(n).ok().map(|port| (name, port));
            }
            report.expected(&item, "a number from 1 to 65535");
            None
        };
        self.entries.iter().filter_map(entry).collect()
    }

    /// Names a field that needs no honouring: it says what is so anyway, or only informs.
    pub(crate) fn skip(&mut self, names: &[&'static str]) {
        self.asked.extend(names);
    }

    /// Refuses fields of the kind that the mesh does not honour yet; an empty one says nothing and passes.
    pub(crate) fn not_yet(&mut self, report: &mut Report<'_>, names: &[&'static str], fix: &str) {
        for name in names {
            if let Some(item) = self.optional(name).filter(|item| !item.is_empty()) {
                let message = format!("`{name}` is not supported yet");
                report.error(&item.path, item.node.place, message, fix);
            }
        }
    }

    /// Ends the reading: what was not asked for is unknown.
    pub(crate) fn close(self, report: &mut Report<'_>) {
        for (key, _) in self.entries {
            if report.room.errors == 0 {
                return;
            }
            let Value::Text(name) = &key.value else {
                report.expected(&Item::new(key, self.path.clone()), "text");
                continue;
            };
            if !self.asked.iter().any(|asked| asked == name) {
                let fix = match closest(name, &self.asked) {
                    Some(known) => format!("Did you mean `{known}`?"),
                    None => format!("The fields here are {}", list(&self.asked)),
                };
                report.error(&self.path_of(name), key.place, format!("there is no field `{name}`"), fix);
            }
        }
    }
}

fn is_key(key: &Node, name: &str) -> bool {
    matches!(&key.value, Value::Text(text) if text == name)
}
