//! Config problems shown as a compiler shows them.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use meshwork_model::problem::{Code, Place, Problem, Severity};
use serde_json::Value;

/// Texts by the names that problems use.
pub(crate) type Texts = BTreeMap<String, Arc<str>>;

/// The most problems that are printed: nobody reads on behind them on a terminal.
const MAX_PRINTED: usize = 100;
/// The longest piece of a text that is shown; a longer line is none that somebody wrote by hand.
const MAX_SHOWN_BYTES: usize = 4096;

/// Prints problems to standard error, each with its piece of the file where that is known; errors before warnings, where
/// there are more than are printed.
#[expect(clippy::print_stderr, reason = "this is where problems are printed")]
pub(crate) fn print(problems: &[Problem], sources: &Texts) {
    let renderer = if std::io::stderr().is_terminal() { Renderer::styled() } else { Renderer::plain() };
    let mut chosen: Vec<&Problem> = problems.iter().collect();
    if chosen.len() > MAX_PRINTED {
        chosen.sort_by_key(|problem| problem.severity != Severity::Error);
    }
    for problem in chosen.iter().take(MAX_PRINTED) {
        eprintln!("{}\n", render(problem, sources.get(&problem.file).map(|text| &**text), &renderer));
    }
    if chosen.len() > MAX_PRINTED {
        eprintln!("and {} more problems; -o json has all of them\n", chosen.len() - MAX_PRINTED);
    }
}

fn render(problem: &Problem, source: Option<&str>, renderer: &Renderer) -> String {
    let level = if problem.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
    let title = level.primary_title(&problem.message).id(problem.code.words().code);
    let subject = joined([&problem.resource, &problem.field]);
    let mut report: Vec<Group<'_>> = Vec::new();
    let place = problem.place.unwrap_or_default();
    if let Some((lines, mark)) =
        source.filter(|_| problem.place.is_some()).and_then(|text| lines(text, place))
    {
        let mark = AnnotationKind::Primary.span(mark);
        let mark = if subject.is_empty() { mark } else { mark.label(subject.as_str()) };
        let snippet = Snippet::source(lines).line_start(place.line.max(1)).path(&problem.file);
        report.push(title.element(snippet.annotation(mark)));
    } else {
        report.push(title.element(Level::NOTE.message(joined([&at(problem), &subject]))));
    }
    if !problem.fix.is_empty() {
        report.push(Group::with_title(Level::HELP.secondary_title(&problem.fix)));
    }
    renderer.render(&report)
}

/// The file, and where in it.
fn at(problem: &Problem) -> String {
    match problem.place.filter(|place| place.line > 0) {
        Some(place) => format!("{}:{}:{}", problem.file, place.line, place.column),
        None => problem.file.clone(),
    }
}

/// The lines of a text that a place is on, and what to mark in them; `None` where they are too long to be shown. What is
/// shown costs by the line, not by the file.
fn lines(text: &str, place: Place) -> Option<(&str, Range<usize>)> {
    let mark = range(text, place);
    let first = text[..mark.start].rfind('\n').map_or(0, |end| end + 1);
    let last = text[mark.end..].find('\n').map_or(text.len(), |end| mark.end + end);
    let lines = &text[first..last];
    (lines.len() <= MAX_SHOWN_BYTES).then(|| (lines, mark.start - first..mark.end - first))
}

fn joined(parts: [&str; 2]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

/// The bytes to mark. A parser's own errors have a line and a column, but no bytes.
fn range(text: &str, place: Place) -> Range<usize> {
    if place.start > 0 || place.line <= 1 {
        let start = text.floor_char_boundary(place.start);
        return start..text.floor_char_boundary(place.end).max(start);
    }
    let start = offset(text, place.line, place.column);
    start..start
}

/// A problem for programs.
pub(crate) fn as_json(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "severity": if problem.severity == Severity::Error { "error" } else { "warning" },
        "code": problem.code.words().code,
        "file": problem.file, "line": problem.place.map(|p| p.line), "column": problem.place.map(|p| p.column),
        "resource": problem.resource, "field": problem.field, "message": problem.message, "fix": problem.fix,
    })
}

/// A problem as the API tells it, with its place in the text that was sent.
pub(crate) fn of_json(value: &Value, sources: &Texts) -> Problem {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let number = |name: &str| value[name].as_u64().and_then(|n| usize::try_from(n).ok());
    let problem = Problem::error(text("resource"), text("field"), text("message"), text("fix"));
    let problem = problem.of(Code::of(text("code")).unwrap_or(Code::Invalid));
    let place = number("line").map(|line| {
        let column = number("column").unwrap_or(1);
        place_in(sources.get(text("file")).map_or("", |text| text), line, column)
    });
    let problem = problem.at(text("file"), place);
    if text("severity") == "warning" { problem.warning() } else { problem }
}

/// The place of the word at a line and column; the API does not say where it ends.
fn place_in(text: &str, line: usize, column: usize) -> Place {
    let start = offset(text, line, column);
    let rest = &text[start..];
    let length = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(1, |end| end + 2),
        _ => rest.find(|c: char| c.is_whitespace() || ",:]}".contains(c)).unwrap_or(rest.len()),
    };
    Place { line, column, start, end: start + length }
}

/// The bytes before a 1-based line and column.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let within = text[before..].chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>();
    before + within
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
        let text = render(&problem, Some("a: 1\nb: [\n"), &Renderer::plain());
        assert!(text.contains("a.yaml:2:3"), "{text}");
        assert!(!text.contains(": \n"), "{text}");
    }

    #[test]
    fn a_line_that_nobody_could_read_is_not_shown() {
        let text = format!("a: 1\nb: {}\n", "x".repeat(100_000));
        let problem = Problem::error("", "b", "no", "")
            .at("a.yaml", Some(Place { line: 2, column: 4, start: 8, end: 9 }));
        let shown = render(&problem, Some(&text), &Renderer::plain());
        assert!(shown.len() < 200 && shown.contains("a.yaml:2:4: b"), "{shown}");
    }

    #[test]
    fn what_the_api_tells_is_shown_in_the_file_that_was_sent() {
        let file = "kind: HTTPRoute\nspec:\n  ruels: []\n";
        let sources = Texts::from([("r.yaml".to_owned(), file.into())]);
        let told = serde_json::json!({
            "severity": "error", "code": "MW1005", "file": "r.yaml", "line": 3, "column": 3,
            "resource": "HTTPRoute shop/r", "field": "spec.ruels", "message": "there is no field `ruels`",
            "fix": "Did you mean `rules`?",
        });
        let problem = of_json(&told, &sources);
        let text = render(&problem, Some(file), &Renderer::plain());
        for part in
            ["error[MW1005]: there is no field `ruels`", "r.yaml:3:3", "^^^^^ HTTPRoute shop/r: spec.ruels"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("ruels: []^"), "{text}");
    }

    #[test]
    fn a_place_that_is_not_in_the_text_is_no_panic() {
        let check = |text: &str, line: usize, column: usize| {
            let place = place_in(text, line, column);
            assert!(
                text.is_char_boundary(place.start) && text.is_char_boundary(place.end),
                "{text} {place:?}"
            );
        };
        check("", 1, 1);
        check("", 7, 9);
        check("é: ü\n", 1, 4);
        check("a: 'é", 1, 4);
        check("a\n", 99, 99);
    }
}
