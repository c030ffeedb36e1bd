//! Aligned columns for a terminal.

use super::{cells, failures};
use crate::aims;
use crate::results::{Outcome, Results};

/// All scenarios and the aims.
pub(crate) fn render(results: &Results) -> String {
    let mut text: String = results.scenarios.iter().map(scenario).collect();
    for verdict in aims::judge(results) {
        let measured = verdict.measured.map_or("not measured".to_owned(), |value| format!("{value:.2}"));
        let mark = if verdict.reached { "reached" } else { "missed" };
        text += &format!("{mark:<8} {:<12} {:<38} {measured}\n", verdict.scenario, verdict.aim);
    }
    text
}

fn scenario(outcome: &Outcome) -> String {
    let (headings, rows) = cells(outcome);
    let widths: Vec<_> = (0..headings.len())
        .map(|at| rows.iter().chain([&headings]).map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate();
        let padded: Vec<_> = cells
            .map(
                |(at, (cell, width))| {
                    if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        padded.join("  ") + "\n"
    };
    let mut text = format!("{}: {}, {} rounds\n", outcome.name, outcome.title, outcome.rounds);
    text += &line(&headings);
    text.extend(rows.iter().map(|row| line(row)));
    text.extend(failures(outcome).map(|failure| failure + "\n"));
    text + "\n"
}
