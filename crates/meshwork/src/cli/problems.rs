//! Config problems shown as a compiler shows them.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use meshwork_model::problem::{Problem, Severity};

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
    let subject = [problem.resource.as_str(), problem.field.as_str()].join(": ");
    let mut report: Vec<Group<'_>> = Vec::new();
    if let (Some(text), Some(place)) = (source, problem.place) {
        let range = place.start.min(text.len())..place.end.clamp(place.start, text.len());
        let mark = AnnotationKind::Primary.span(range).label(subject.as_str());
        report.push(title.element(Snippet::source(text).path(&problem.file).annotation(mark)));
    } else {
        let place = if problem.file.is_empty() { subject } else { format!("{}: {subject}", problem.file) };
        report.push(title.element(Level::NOTE.message(place)));
    }
    if !problem.fix.is_empty() {
        report.push(Group::with_title(Level::HELP.secondary_title(&problem.fix)));
    }
    renderer.render(&report)
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
