//! Config problems shown as a compiler shows them.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use meshwork_model::problem::{Place, Problem, Severity};

/// Prints problems to standard error, each with its piece of the file where that is known.
#[expect(clippy::print_stderr, reason = "this is where problems are printed")]
pub(crate) fn print(problems: &[Problem], sources: &BTreeMap<String, String>) {
    let renderer = if std::io::stderr().is_terminal() { Renderer::styled() } else { Renderer::plain() };
    for problem in problems {
        eprintln!("{}\n", render(problem, sources.get(&problem.file), &renderer));
    }
}

fn render(problem: &Problem, source: Option<&String>, renderer: &Renderer) -> String {
    let level = if problem.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
    let title = level.primary_title(&problem.message);
    let subject = joined([&problem.resource, &problem.field]);
    let mut report: Vec<Group<'_>> = Vec::new();
    if let (Some(text), Some(place)) = (source, problem.place) {
        let mark = AnnotationKind::Primary.span(range(text, place));
        let mark = if subject.is_empty() { mark } else { mark.label(subject.as_str()) };
        report.push(title.element(Snippet::source(text).path(&problem.file).annotation(mark)));
    } else {
        report.push(title.element(Level::NOTE.message(joined([&problem.file, &subject]))));
    }
    if !problem.fix.is_empty() {
        report.push(Group::with_title(Level::HELP.secondary_title(&problem.fix)));
    }
    renderer.render(&report)
}

fn joined(parts: [&str; 2]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

/// The bytes to mark. A parser's own errors have a line and a column, but no bytes.
fn range(text: &str, place: Place) -> Range<usize> {
    if place.start > 0 || place.line <= 1 {
        return place.start.min(text.len())..place.end.clamp(place.start, text.len());
    }
    let line: usize = text.split_inclusive('\n').take(place.line - 1).map(str::len).sum();
    let before = text[line..].chars().take(place.column.saturating_sub(1)).map(char::len_utf8).sum::<usize>();
    let start = (line + before).min(text.len());
    start..start
}

/// A problem for programs.
pub(crate) fn as_json(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "severity": if problem.severity == Severity::Error { "error" } else { "warning" },
        "file": problem.file, "line": problem.place.map(|p| p.line), "column": problem.place.map(|p| p.column),
        "resource": problem.resource, "field": problem.field, "message": problem.message, "fix": problem.fix,
    })
}

/// How many of the problems refuse the config.
pub(crate) fn errors(problems: &[Problem]) -> usize {
    problems.iter().filter(|p| p.severity == Severity::Error).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_bytes_is_marked_by_its_line() {
        let mut problem = Problem::error("", "", "this is not valid YAML", "");
        problem = problem.at("a.yaml", Some(Place { line: 2, column: 3, start: 0, end: 0 }));
        let text = render(&problem, Some(&"a: 1\nb: [\n".to_owned()), &Renderer::plain());
        assert!(text.contains("a.yaml:2:3"), "{text}");
        assert!(!text.contains(": \n"), "{text}");
    }
}
