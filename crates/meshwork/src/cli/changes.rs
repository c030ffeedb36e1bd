//! What a write changes, for people: a line a resource, or the difference of its fields.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::yaml::{self, Line};

/// What an apply, a delete or a rollback came to.
#[derive(Debug, Deserialize)]
pub(crate) struct Outcome {
    /// The config's revision behind it; on a dry run the one before it.
    pub(crate) revision: u64,
    #[serde(default)]
    pub(crate) changes: Vec<Change>,
    #[serde(default)]
    pub(crate) problems: Vec<Value>,
    /// Whose config is another for it.
    #[serde(default)]
    pub(crate) proxies: Vec<String>,
}

/// What becomes of one resource.
#[derive(Debug, Deserialize)]
pub(crate) struct Change {
    pub(crate) action: Action,
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    before: Value,
    #[serde(default)]
    after: Value,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Created,
    Changed,
    Unchanged,
    Deleted,
}

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// The most cells of the table that finds the smallest difference; two texts of 4,000 lines that have nothing in common.
const MAX_CELLS: usize = 16_000_000;
/// What stores write into `metadata`: no part of what people change.
const KEPT_BY_STORES: &[&str] =
    &["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

impl Outcome {
    /// Whether anything is another than before.
    pub(crate) fn changes_something(&self) -> bool {
        self.changes.iter().any(|change| change.action != Action::Unchanged)
    }

    /// `2 changed, 5 unchanged`
    pub(crate) fn summary(&self) -> String {
        let all = [Action::Created, Action::Changed, Action::Deleted, Action::Unchanged];
        let count = |action| self.changes.iter().filter(|change| change.action == action).count();
        let counts = all.into_iter().map(|action| (count(action), action)).filter(|(n, _)| *n > 0);
        let words: Vec<String> = counts.map(|(n, action)| format!("{n} {}", action.word())).collect();
        if words.is_empty() { "nothing to do".to_owned() } else { words.join(", ") }
    }
}

impl Change {
    /// `HTTPRoute shop/cart`
    pub(crate) fn subject(&self) -> String {
        if self.namespace.is_empty() {
            format!("{} {}", self.kind, self.name)
        } else {
            format!("{} {}/{}", self.kind, self.namespace, self.name)
        }
    }

    /// One line: what becomes of which.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.subject(), self.action.word())
    }

    /// The difference of its fields, as `diff -u` shows one.
    pub(crate) fn difference(&self, colours: bool) -> String {
        let mut text = String::new();
        let paint = Paint { colours };
        let (before, after) = (lines(&self.before), lines(&self.after));
        let (from, to) = match self.action {
            Action::Created => ("nothing".to_owned(), self.subject()),
            Action::Deleted => (self.subject(), "nothing".to_owned()),
            Action::Changed | Action::Unchanged => (self.subject(), self.subject()),
        };
        paint.line(&mut text, BOLD, &format!("--- {from}"));
        paint.line(&mut text, BOLD, &format!("+++ {to}"));
        for hunk in hunks(&steps(&before, &after)) {
            let field = hunk.iter().find(|step| step.sign != ' ').map_or("", |step| &step.line.path);
            paint.line(&mut text, CYAN, &format!("@@ {field} @@"));
            for step in hunk {
                let colour = match step.sign {
                    '-' => RED,
                    '+' => GREEN,
                    _ => "",
                };
                paint.line(&mut text, colour, &format!("{}{}", step.sign, step.line.text));
            }
        }
        text
    }
}

struct Paint {
    colours: bool,
}

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

impl Paint {
    fn line(&self, text: &mut String, style: &str, line: &str) {
        let _ = if self.colours && !style.is_empty() {
            writeln!(text, "\u{1b}[{style}m{line}\u{1b}[0m")
        } else {
            writeln!(text, "{line}")
        };
    }
}

/// A resource as YAML, without what only stores write.
fn lines(resource: &Value) -> Vec<Line> {
    if resource.is_null() {
        return Vec::new();
    }
    let mut resource = resource.clone();
    if let Some(root) = resource.as_object_mut() {
        root.remove("status");
        if let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| !KEPT_BY_STORES.contains(&name.as_str()));
        }
    }
    yaml::lines(&resource)
}

/// A line that stays, goes or comes.
struct Step<'l> {
    /// ` `, `-` or `+`.
    sign: char,
    line: &'l Line,
}

/// The smallest difference of two texts: the longest common subsequence of what is between their common ends.
fn steps<'l>(before: &'l [Line], after: &'l [Line]) -> Vec<Step<'l>> {
    let same = |(a, b): &(&Line, &Line)| a.text == b.text;
    let head = before.iter().zip(after).take_while(same).count();
    let rest = before.len().min(after.len()) - head;
    let tail = before.iter().rev().zip(after.iter().rev()).take(rest).take_while(same).count();
    let (old, new) = (&before[head..before.len() - tail], &after[head..after.len() - tail]);
    let step = |sign| move |line| Step { sign, line };
    let mut steps: Vec<Step<'l>> = before[..head].iter().map(step(' ')).collect();
    if old.len().saturating_mul(new.len()) > MAX_CELLS {
        steps.extend(old.iter().map(step('-')));
        steps.extend(new.iter().map(step('+')));
    } else {
        middle(old, new, &mut steps);
    }
    steps.extend(before[before.len() - tail..].iter().map(step(' ')));
    steps
}

fn middle<'l>(old: &'l [Line], new: &'l [Line], steps: &mut Vec<Step<'l>>) {
    // common[i][j]: the longest common subsequence of old[i..] and new[j..].
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i].text == new[j].text {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let is_common = i < old.len() && j < new.len() && old[i].text == new[j].text;
        if is_common {
            steps.push(Step { sign: ' ', line: &old[i] });
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            steps.push(Step { sign: '-', line: &old[i] });
            i += 1;
        } else {
            steps.push(Step { sign: '+', line: &new[j] });
            j += 1;
        }
    }
}

/// The changes with the lines around them; those that touch are one.
fn hunks<'s, 'l>(steps: &'s [Step<'l>]) -> Vec<&'s [Step<'l>]> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (i, _) in steps.iter().enumerate().filter(|(_, step)| step.sign != ' ') {
        let (start, end) = (i.saturating_sub(CONTEXT), (i + CONTEXT + 1).min(steps.len()));
        match ranges.last_mut() {
            Some((_, last)) if *last >= start => *last = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges.into_iter().map(|(start, end)| &steps[start..end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(value: Value) -> Outcome {
        serde_json::from_value(value).expect("an outcome")
    }

    fn route(weights: [u32; 2]) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "cart", "namespace": "shop", "resourceVersion": format!("{}", weights[0]) },
            "spec": { "rules": [{ "backendRefs": [
                { "name": "cart-v1", "port": 80, "weight": weights[0] },
                { "name": "cart-v2", "port": 80, "weight": weights[1] },
            ] }] },
        })
    }

    #[test]
    fn the_difference_names_the_field() {
        let outcome = outcome(json!({ "revision": 3, "proxies": ["shop/web-1"], "changes": [{
            "action": "changed", "kind": "HTTPRoute", "namespace": "shop", "name": "cart",
            "before": route([100, 0]), "after": route([80, 0]),
        }] }));
        let expected = "--- HTTPRoute shop/cart\n+++ HTTPRoute shop/cart\n\
             @@ spec.rules[0].backendRefs[0].weight @@\n     - backendRefs:\n         - name: cart-v1\n           \
             port: 80\n-          weight: 100\n+          weight: 80\n         - name: cart-v2\n           port: 80\n           \
             weight: 0\n";
        assert_eq!(outcome.changes[0].difference(false), expected);
        assert!(outcome.changes[0].difference(true).contains("\u{1b}[31m-          weight: 100"));
        assert!(outcome.changes_something());
    }

    #[test]
    fn what_comes_and_goes_is_shown_whole() {
        let change = |action: &str, before: Value, after: Value| {
            let change = json!({ "action": action, "kind": "Namespace", "name": "x", "before": before, "after": after });
            let change: Change = serde_json::from_value(change).expect("a change");
            change.difference(false)
        };
        let value = json!({ "kind": "Namespace" });
        assert_eq!(
            change("created", Value::Null, value.clone()),
            "--- nothing\n+++ Namespace x\n@@ kind @@\n+kind: Namespace\n"
        );
        assert_eq!(
            change("deleted", value, Value::Null),
            "--- Namespace x\n+++ nothing\n@@ kind @@\n-kind: Namespace\n"
        );
    }

    #[test]
    fn changes_are_counted() {
        let change =
            |action: &str| json!({ "action": action, "kind": "Service", "namespace": "a", "name": "b" });
        let all = outcome(
            json!({ "revision": 1, "changes": [change("unchanged"), change("created"), change("unchanged")] }),
        );
        assert_eq!(all.summary(), "1 created, 2 unchanged");
        assert_eq!(all.changes[1].line(), "Service a/b created");
        assert_eq!(outcome(json!({ "revision": 1 })).summary(), "nothing to do");
    }

    #[test]
    fn distant_changes_are_apart_and_near_ones_together() {
        let text = |changed: &[usize]| {
            let line = |i: usize| if changed.contains(&i) { format!("x{i}") } else { format!("l{i}") };
            (0..30).map(|i| Line { path: String::new(), text: line(i) }).collect::<Vec<_>>()
        };
        let (before, after) = (text(&[]), text(&[5, 8, 25]));
        let steps = steps(&before, &after);
        let sizes: Vec<usize> = hunks(&steps).iter().map(|hunk| hunk.len()).collect();
        assert_eq!(sizes, [12, 8]);
    }
}
