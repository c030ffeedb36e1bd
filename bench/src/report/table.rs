//! Aligned columns for a terminal.

use super::{cells, failures};
use crate::aims;
use crate::results::{Outcome, Results};

/// All scenarios and the aims.
pub(crate) fn render(results: &Results) -> String {
    let aim = |verdict: aims::Verdict| {
        let measured = verdict.measured.map_or(String::new(), |value| format!("{value:.2}"));
        format!("{:<8} {:<12} {:<38} {measured}\n", verdict.word(), verdict.scenario, verdict.aim)
    };
    results.scenarios.iter().map(scenario).chain(aims::judge(results).into_iter().map(aim)).collect()
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
