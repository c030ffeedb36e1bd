//! Where two outcomes differ, field by field; and whether two distributions do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// A difference at a path.
pub(super) struct Difference {
    pub(super) path: String,
    pub(super) ours: Option<Value>,
    pub(super) envoys: Option<Value>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(
            f,
            "{}\n      meshwork: {}\n      envoy:    {}",
            self.path,
            shown(&self.ours),
            shown(&self.envoys)
        )
    }
}

/// The smallest differences between two trees.
pub(super) fn differences(path: &str, ours: &Value, envoys: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(path, Some(ours), Some(envoys), &mut found);
    found
}

fn walk(path: &str, ours: Option<&Value>, envoys: Option<&Value>, found: &mut Vec<Difference>) {
    match (ours, envoys) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                walk(&format!("{path}.{name}"), a.get(name), b.get(name), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), Some(a), Some(b), found);
            }
        }
        (a, b) => found.push(Difference { path: path.to_owned(), ours: a.cloned(), envoys: b.cloned() }),
    }
}

/// Whether a path fits a pattern, in which `*` stands for any run of characters.
pub(super) fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| path.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What of `expected` does not hold: every field that it names must be there and fit. A text `~x` fits texts that
/// contain `x`; `4xx` fits statuses; `none` fits an empty list or map.
pub(super) fn unmet(path: &str, expected: &Value, actual: &Value) -> Vec<String> {
    match (expected, actual) {
        (Value::Object(expected), _) => fields_unmet(path, expected, actual),
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let pairs = expected.iter().zip(actual).enumerate();
            pairs.flat_map(|(index, (e, a))| unmet(&format!("{path}[{index}]"), e, a)).collect()
        }
        (expected, actual) if is_met(expected, actual) => Vec::new(),
        (expected, actual) => vec![format!("{path}: expected {expected}, got {actual}")],
    }
}

fn fields_unmet(path: &str, expected: &Map<String, Value>, actual: &Value) -> Vec<String> {
    expected.iter().flat_map(|(name, e)| unmet(&format!("{path}.{name}"), e, &actual[name])).collect()
}

fn is_met(expected: &Value, actual: &Value) -> bool {
    let text = match actual {
        Value::Array(values) if values.len() == 1 => values[0].clone(),
        other => other.clone(),
    };
    if expected == actual || *expected == text {
        return true;
    }
    let is_empty = match actual {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match expected.as_str() {
        Some("none") => is_empty,
        Some("any") => !is_empty,
        Some(class) if class.ends_with("xx") => {
            actual.as_u64().is_some_and(|status| status.to_string().starts_with(class.trim_end_matches('x')))
        }
        Some(wanted) if wanted.starts_with('~') => text.to_string().contains(&wanted[1..]),
        _ => false,
    }
}

/// How often each value came.
pub(super) type Counts = BTreeMap<String, usize>;

/// Whether two samples may come of one distribution: the chi-square test of homogeneity, at odds of about one in a
/// hundred thousand.
pub(super) fn may_be_alike(a: &Counts, b: &Counts) -> bool {
    let (total_a, total_b) = (sum(a), sum(b));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    if names.len() < 2 {
        return true;
    }
    let mut squares = 0.0;
    for name in &names {
        let (x, y) = (count(a, name), count(b, name));
        let difference = (total_b / total_a).sqrt() * x - (total_a / total_b).sqrt() * y;
        squares += difference * difference / (x + y);
    }
    // Wilson and Hilferty's approximation of the distribution's far end.
    let freedom = count_of(names.len() - 1);
    let spread = 2.0 / (9.0 * freedom);
    squares <= freedom * (1.0 - spread + 4.3 * spread.sqrt()).powi(3)
}

fn sum(counts: &Counts) -> f64 {
    count_of(counts.values().sum())
}

fn count(counts: &Counts, name: &str) -> f64 {
    count_of(counts.get(name).copied().unwrap_or(0))
}

fn count_of(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_smallest_difference_is_shown() {
        let found =
            differences("a", &json!({ "x": [1, { "y": 2 }], "z": 1 }), &json!({ "x": [1, { "y": 3 }] }));
        let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["a.x[1].y", "a.z"]);
    }

    #[test]
    fn patterns_have_any_run_of_characters() {
        assert!(fits("a.*.c", "a.b.c"));
        assert!(fits("*", "a.b.c"));
        assert!(!fits("a.*.c", "a.b.d"));
        assert!(!fits("a", "ab"));
    }

    #[test]
    fn samples_differ_beyond_chance_only() {
        let counts = |a, b| Counts::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        assert!(may_be_alike(&counts(100, 100), &counts(110, 90)));
        assert!(!may_be_alike(&counts(100, 100), &counts(180, 20)));
        assert!(!may_be_alike(&counts(200, 0), &counts(150, 50)));
    }

    #[test]
    fn what_is_expected_is_a_part() {
        let actual = json!({ "status": 404, "headers": { "a": ["b"] }, "origins": {} });
        assert!(unmet("", &json!({ "status": "4xx", "origins": "none" }), &actual).is_empty());
        assert!(unmet("", &json!({ "headers": { "a": "b" } }), &actual).is_empty());
        assert_eq!(unmet("", &json!({ "status": 200 }), &actual).len(), 1);
    }
}
