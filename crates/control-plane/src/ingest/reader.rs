//! A cursor over one resource's tree, which collects what is wrong with it.
//!
//! A kind's module asks for the fields that it knows, in the order in which its type wants them. What it never
//! asked for is then an unknown field; what it knows but the mesh does not honour yet is refused by name. So the
//! code that reads a field is also the only list of fields there is, and nothing is ever ignored in silence.

use std::ops::RangeInclusive;

use meshwork_model::mesh::Labels;
use meshwork_model::problem::{Code, Place, Problem, Severity};

use super::recording::{self, Shape};
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
        self.error_of(Code::Invalid, path, place, message, fix);
    }

    /// An error of a kind.
    pub(crate) fn error_of(
        &mut self,
        code: Code,
        path: &str,
        place: Place,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.room.errors > 0 {
            self.room.errors -= 1;
            let problem = Problem::error(&self.resource, path, message, fix).of(code);
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
        self.warning_of(Code::NotHonoured, path, place, message, fix);
    }

    /// A warning of a kind.
    pub(crate) fn warning_of(
        &mut self,
        code: Code,
        path: &str,
        place: Place,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.room.warnings > 0 {
            self.room.warnings -= 1;
            let problem = Problem::error(&self.resource, path, message, fix).of(code);
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
        self.error_of(Code::WrongType, &item.path, item.node.place, message, fix);
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
        recording::saw(self, Shape::Mapping);
        let Value::Map(entries) = &self.node.value else {
            report.expected(self, "a mapping");
            return None;
        };
        Some(Fields { place: self.node.place, path: self.path.clone(), entries, asked: Vec::new() })
    }

    /// Reads it as text.
    pub(crate) fn text(&self, report: &mut Report<'_>) -> Option<Text<'n>> {
        if recording::saw(self, Shape::Text) {
            let value = recording::sample(&self.path);
            return Some(Text { value, path: self.path.clone(), place: self.node.place });
        }
        let Value::Text(text) = &self.node.value else {
            report.expected(self, "text");
            return None;
        };
        Some(Text { value: text, path: self.path.clone(), place: self.node.place })
    }

    /// Whether it is a text, where it may be something else.
    pub(crate) fn is_text(&self) -> bool {
        recording::saw(self, Shape::Text);
        matches!(self.node.value, Value::Text(_))
    }

    /// The items of a list, where it is one.
    pub(crate) fn items(&self) -> Vec<Self> {
        if recording::saw(self, Shape::List) {
            return vec![Self::new(self.node, format!("{}[0]", self.path))];
        }
        let Value::List(nodes) = &self.node.value else { return Vec::new() };
        let item = |(i, node)| Self::new(node, format!("{}[{i}]", self.path));
        nodes.iter().enumerate().map(item).collect()
    }

    /// Reads it as a whole number of a range.
    pub(crate) fn integer(&self, report: &mut Report<'_>, range: RangeInclusive<i64>) -> Option<i64> {
        if recording::saw(self, Shape::Integer(*range.start(), *range.end())) {
            return Some(*range.end());
        }
        match self.node.value {
            Value::Integer(n) if range.contains(&n) => Some(n),
            _ => {
                report.expected(self, &format!("a number from {} to {}", range.start(), range.end()));
                None
            }
        }
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

    /// An error of a kind.
    pub(crate) fn error_of(
        &self,
        code: Code,
        report: &mut Report<'_>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        report.error_of(code, &self.path, self.place, message, fix);
    }

    /// A warning of something that is not honoured, where all else keeps its meaning.
    pub(crate) fn warning(
        &self,
        report: &mut Report<'_>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        report.warning(&self.path, self.place, message, fix);
    }

    /// Finds it among the values that the mesh honours and those that it knows, but does not honour yet.
    pub(crate) fn one_of<T: Copy>(
        &self,
        report: &mut Report<'_>,
        honoured: &[(&'static str, T)],
        not_yet: &[&'static str],
    ) -> Option<T> {
        if recording::is_on(self.place) {
            let chosen = recording::values(&self.path, honoured.iter().map(|(name, _)| *name));
            return honoured.get(chosen).map(|(_, value)| *value);
        }
        if let Some((_, value)) = honoured.iter().find(|(name, _)| *name == self.value) {
            return Some(*value);
        }
        let names: Vec<&'static str> = honoured.iter().map(|(name, _)| *name).collect();
        if not_yet.contains(&self.value) {
            let message = format!("\"{}\" is not supported yet", self.value);
            self.error_of(Code::Unsupported, report, message, format!("Use {}", list(&names)));
        } else {
            let fix = match closest(self.value, &names) {
                Some(name) => format!("Did you mean \"{name}\"?"),
                None => String::new(),
            };
            let message = format!("expected {}, found \"{}\"", list(&names), self.value);
            self.error_of(Code::NotOneOf, report, message, fix);
        }
        None
    }

    /// The same, where case does not count.
    pub(crate) fn one_of_any_case<T: Copy>(
        &self,
        report: &mut Report<'_>,
        honoured: &[(&'static str, T)],
        not_yet: &[&'static str],
    ) -> Option<T> {
        recording::any_case(self.place, &self.path);
        let known = honoured.iter().find(|(name, _)| name.eq_ignore_ascii_case(self.value));
        let known = known.filter(|_| !recording::is_on(self.place));
        known.map(|(_, value)| *value).or_else(|| self.one_of(report, honoured, not_yet))
    }
}

// === impl Fields ===

impl<'n> Fields<'n> {
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Where a field's value stands; the mapping, where it is absent.
    pub(crate) fn place_of(&self, name: &str) -> Place {
        let found = self.entries.iter().find(|(key, _)| is_key(key, name));
        found.map_or(self.place, |(_, node)| node.place)
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
        if recording::is_on(self.place) {
            return self.record(name, false);
        }
        self.asked.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| is_key(key, name))?;
        if matches!(node.value, Value::Null) { None } else { Some(Item::new(node, self.path_of(name))) }
    }

    /// A field that is only asked for.
    fn record(&self, name: &'static str, is_required: bool) -> Option<Item<'n>> {
        let is_there = recording::field(&self.path, name, is_required);
        is_there.then(|| Item::new(recording::anything(), self.path_of(name)))
    }

    /// A field that must be there.
    pub(crate) fn required(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Item<'n>> {
        if recording::is_on(self.place) {
            return self.record(name, true);
        }
        let item = self.optional(name);
        if item.is_none() {
            let message = format!("the field `{name}` is missing");
            report.error_of(Code::MissingField, &self.path_of(name), self.place, message, "");
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
        self.optional(name)?.integer(report, range)
    }

    /// A port; 0 is none.
    pub(crate) fn port(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<u16> {
        self.integer(report, name, 1..=65535).and_then(|n| u16::try_from(n).ok())
    }

    /// The items of a list; `None` where the field is absent.
    pub(crate) fn list(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Vec<Item<'n>>> {
        let item = self.optional(name)?;
        if recording::is_on(item.node.place) {
            return Some(item.items());
        }
        let Value::List(nodes) = &item.node.value else {
            report.expected(&item, "a list");
            return None;
        };
        let item = |(i, node)| Item::new(node, format!("{}[{i}]", item.path));
        Some(nodes.iter().enumerate().map(item).collect())
    }

    /// Labels, or a selector: a mapping of texts.
    pub(crate) fn labels(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<Labels> {
        let item = self.optional(name)?;
        let mut labels = Labels::new();
        if recording::saw(&item, Shape::Texts) {
            return Some(labels);
        }
        let fields = item.fields(report)?;
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
        recording::saw_at(self.place, &self.path, Shape::Ports);
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

    /// Every entry of a mapping whose keys people choose.
    pub(crate) fn each(&self, report: &mut Report<'_>) -> Vec<(Text<'n>, Item<'n>)> {
        if recording::saw_at(self.place, &self.path, Shape::Named) {
            let key = Text { value: "a", path: self.path.clone(), place: self.place };
            return vec![(key, Item::new(recording::anything(), self.path_of("*")))];
        }
        let entry = |(key, node): &'n (Node, Node)| {
            let key = Item::new(key, self.path.clone()).text(report)?;
            let item = Item::new(node, self.path_of(key.value));
            Some((key, item))
        };
        self.entries.iter().filter_map(entry).collect()
    }

    /// The entries of a mapping whose keys need not be texts.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'n Node, Item<'n>)> {
        recording::saw_at(self.place, &self.path, Shape::Named);
        let path = self.path.clone();
        self.entries.iter().map(move |(key, node)| {
            let name = match &key.value {
                Value::Text(text) => text.clone(),
                Value::Integer(n) => n.to_string(),
                _ => "?".to_owned(),
            };
            (key, Item::new(node, format!("{path}.{name}")))
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, report: &mut Report<'_>, name: &'static str) -> Option<bool> {
        let item = self.optional(name)?;
        if recording::saw(&item, Shape::Boolean) {
            return Some(true);
        }
        if let Value::Bool(value) = item.node.value {
            return Some(value);
        }
        report.expected(&item, "true or false");
        None
    }

    /// A number, with decimals or without.
    pub(crate) fn number(
        &mut self,
        report: &mut Report<'_>,
        name: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        let item = self.optional(name)?;
        if recording::saw(&item, Shape::Number) {
            return Some(*range.end());
        }
        let number = match &item.node.value {
            Value::Integer(n) => n.to_string().parse().ok(),
            Value::Number(text) => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            report.expected(&item, &format!("a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// Warns of fields that the kind has and the mesh does not honour, where all else keeps its meaning; an empty one
    /// says nothing and passes.
    pub(crate) fn unheeded(&mut self, report: &mut Report<'_>, names: &[&'static str], fix: &str) {
        for name in names {
            if let Some(item) = self.optional(name).filter(|item| !item.is_empty()) {
                let message = format!("`{name}` is not honoured");
                report.warning(&item.path, item.node.place, message, fix);
            }
        }
    }

    /// Names a field that needs no honouring: it says what is so anyway, or only informs.
    pub(crate) fn skip(&mut self, names: &[&'static str]) {
        if recording::is_on(self.place) {
            for name in names {
                self.record(name, false);
            }
        }
        self.asked.extend(names);
    }

    /// Refuses fields of the kind that the mesh does not honour yet; an empty one says nothing and passes.
    pub(crate) fn not_yet(&mut self, report: &mut Report<'_>, names: &[&'static str], fix: &str) {
        if recording::is_on(self.place) {
            return;
        }
        for name in names {
            if let Some(item) = self.optional(name).filter(|item| !item.is_empty()) {
                let message = format!("`{name}` is not supported yet");
                report.error_of(Code::Unsupported, &item.path, item.node.place, message, fix);
            }
        }
    }

    /// Ends the reading: what was not asked for is unknown.
    pub(crate) fn close(self, report: &mut Report<'_>) {
        recording::closed(self.place, &self.path);
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
                let message = format!("there is no field `{name}`");
                report.error_of(Code::UnknownField, &self.path_of(name), key.place, message, fix);
            }
        }
    }
}

fn is_key(key: &Node, name: &str) -> bool {
    matches!(&key.value, Value::Text(text) if text == name)
}
