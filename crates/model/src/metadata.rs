//! Metadata of a request: what filters found out about it, for later filters, rules and logs.
//!
//! Source: Envoy `config.core.v3.Metadata`, `type.matcher.v3.MetadataMatcher`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::proxy::{MetadataMatch, ValueMatch};
use crate::route::matches_text;

/// A value, as JSON has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(Arc<str>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<Arc<str>, Value>),
}

/// Values by the name of the filter that found them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Metadata(BTreeMap<Arc<str>, BTreeMap<Arc<str>, Value>>);

impl Metadata {
    /// Adds a value under a filter's name; one that was there under the same key is gone.
    pub fn set(&mut self, filter: &str, key: &str, value: Value) {
        if !self.0.contains_key(filter) {
            self.0.insert(filter.into(), BTreeMap::new());
        }
        if let Some(values) = self.0.get_mut(filter) {
            values.insert(key.into(), value);
        }
    }

    /// All that a filter found.
    pub fn of(&self, filter: &str) -> Option<&BTreeMap<Arc<str>, Value>> {
        self.0.get(filter)
    }

    /// The value at the end of a path of keys.
    pub fn find<'m, K: AsRef<str>>(&'m self, filter: &str, path: &[K]) -> Option<&'m Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.0.get(filter)?.get(first.as_ref())?;
        for key in rest {
            let Value::Map(values) = value else { return None };
            value = values.get(key.as_ref())?;
        }
        Some(value)
    }
}

/// Whether metadata passes a test.
pub fn matches_metadata(test: &MetadataMatch, metadata: Option<&Metadata>) -> bool {
    let found = metadata.and_then(|metadata| metadata.find(&test.filter, &test.path));
    matches_value(&test.value, found) != test.invert
}

/// Whether a value, or its absence, passes a test.
pub fn matches_value(test: &ValueMatch, value: Option<&Value>) -> bool {
    match (test, value) {
        (ValueMatch::Null, Some(Value::Null)) => true,
        (ValueMatch::Exactly(wanted), Some(Value::Number(number))) => number.total_cmp(wanted).is_eq(),
        (ValueMatch::Range { start, end }, Some(Value::Number(number))) => start <= number && number < end,
        (ValueMatch::Text(test), Some(Value::Text(text))) => matches_text(test, text.as_bytes()),
        (ValueMatch::Bool(wanted), Some(Value::Bool(bool))) => wanted == bool,
        (ValueMatch::Present(wanted), found) => *wanted && found.is_some(),
        (ValueMatch::OneOf(test), Some(Value::List(values))) => {
            values.iter().any(|value| matches_value(test, Some(value)))
        }
        (ValueMatch::Or(tests), found) => tests.iter().any(|test| matches_value(test, found)),
        _ => false,
    }
}

impl fmt::Display for Value {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write_text(f, text),
            Self::List(values) => {
                f.write_char('[')?;
                for (index, value) in values.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write!(f, "{value}")?;
                }
                f.write_char(']')
            }
            Self::Map(values) => {
                f.write_char('{')?;
                for (index, (key, value)) in values.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write_text(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Source: RFC 8259 §7.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for char in text.chars() {
        match char {
            '"' | '\\' => write!(f, "\\{char}")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\0'..='\u{1f}' => write!(f, "\\u{:04x}", u32::from(char))?,
            _ => f.write_char(char)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::StringMatch;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn a_value_is_found_by_its_path_and_tested() {
        let mut metadata = Metadata::default();
        let groups = Value::List(vec![text("users"), text("admins")]);
        let claims =
            [("iss".into(), text("me")), ("groups".into(), groups), ("age".into(), Value::Number(7.0))];
        metadata.set("jwt", "payload", Value::Map(claims.into()));
        let check = |path: &[&str], value: ValueMatch, expected: bool| {
            let path: Vec<Arc<str>> = path.iter().map(|&key| key.into()).collect();
            let test = MetadataMatch { filter: "jwt".into(), path, value, invert: false };
            assert_eq!(matches_metadata(&test, Some(&metadata)), expected, "{test:?}");
            let inverted = MetadataMatch { invert: true, ..test };
            assert_eq!(matches_metadata(&inverted, Some(&metadata)), !expected, "{inverted:?}");
        };
        let exact = |text: &str| ValueMatch::Text(StringMatch::Exact(text.into()));
        check(&["payload", "iss"], exact("me"), true);
        check(&["payload", "iss"], exact("you"), false);
        check(&["payload", "groups"], exact("admins"), false);
        check(&["payload", "groups"], ValueMatch::OneOf(Box::new(exact("admins"))), true);
        check(&["payload", "age"], ValueMatch::Range { start: 7.0, end: 8.0 }, true);
        check(&["payload", "age"], ValueMatch::Range { start: 6.0, end: 7.0 }, false);
        check(&["payload", "age"], ValueMatch::Exactly(7.0), true);
        check(&["payload", "sub"], ValueMatch::Present(true), false);
        check(&["payload", "sub", "deeper"], ValueMatch::Null, false);
        check(&["payload", "iss"], ValueMatch::Or(vec![exact("you"), exact("me")]), true);
    }

    #[test]
    fn a_value_is_written_as_json() {
        let value = Value::Map([("a\"b".into(), Value::List(vec![Value::Null, Value::Number(1.0)]))].into());
        assert_eq!(value.to_string(), r#"{"a\"b":[null,1]}"#);
        assert_eq!(text("\u{1}\n").to_string(), r#""\u0001\n""#);
    }
}
