//! Tables and plots in `docs/benchmarks.md`, written from `docs/benchmarks/results.json`.

use anyhow::Context;

use super::{cells, failures, plot};
use crate::aims;
use crate::contender::root;
use crate::results::{Outcome, Results};
use crate::scenario;

const BEGIN: &str = "<!-- Written by `cargo xtask bench --write-docs` from here: -->";
const END: &str = "<!-- to here. -->";

/// Merges results into those that are kept, and writes everything that follows from them.
pub(crate) fn write(newer: Results) -> anyhow::Result<()> {
    let (page, folder) = (root().join("docs/benchmarks.md"), root().join("docs/benchmarks"));
    std::fs::create_dir_all(&folder)?;
    let kept = folder.join("results.json");
    let mut results = if kept.exists() { Results::read(&kept)? } else { Results::default() };
    let all = scenario::all();
    results.merge(newer, &all.iter().map(|scenario| scenario.name).collect::<Vec<_>>());
    std::fs::write(kept, serde_json::to_string(&results)? + "\n")?;
    for outcome in &results.scenarios {
        std::fs::write(folder.join(format!("{}.svg", outcome.name)), plot::render(outcome))?;
    }
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    std::fs::write(
        &page,
        replace(&text, &results_text(&results)).context("docs/benchmarks.md lacks its marks")?,
    )?;
    Ok(())
}

/// What stands between the marks.
pub(crate) fn results_text(results: &Results) -> String {
    let mut text = aims_text(results);
    for outcome in &results.scenarios {
        text += &scenario_text(outcome);
    }
    text
}

fn replace(text: &str, between: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{between}{END}{after}"))
}

fn aims_text(results: &Results) -> String {
    let mut text = "| scenario | aim | measured | |\n|---|---|--:|---|\n".to_owned();
    for verdict in aims::judge(results) {
        let measured = verdict.measured.map_or("–".to_owned(), |value| format!("{value:.2}"));
        let mark = if verdict.reached { "reached" } else { "missed" };
        text += &format!("| {} | {} | {measured} | {mark} |\n", verdict.scenario, verdict.aim);
    }
    text + "\n"
}

fn scenario_text(outcome: &Outcome) -> String {
    let (headings, rows) = cells(outcome);
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("### {}\n\n{}.\n\n", outcome.name, outcome.title);
    text += &format!("![{}]({})\n\n", outcome.title, format_args!("benchmarks/{}.svg", outcome.name));
    text += &line(&headings);
    text += &format!("|---|{}\n", "--:|".repeat(headings.len() - 1));
    text.extend(rows.iter().map(|row| line(row)));
    for failure in failures(outcome) {
        text += &format!("\n{failure}.\n");
    }
    text + &format!(
        "\n{}; medians of {} rounds of {} s; {}; {}.\n\n",
        outcome.day,
        outcome.rounds,
        outcome.seconds,
        outcome.machine,
        outcome.versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let replaced = replace(&page, "new\n").expect("marks");
        assert_eq!(replaced, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(replace(&replaced, "new\n").as_deref(), Some(replaced.as_str()));
        assert!(replace("no marks", "new").is_none());
    }
}
