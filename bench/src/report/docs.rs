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
    let line = |verdict: aims::Verdict| {
        let measured = verdict.measured.map_or("–".to_owned(), |value| format!("{value:.2}"));
        format!("| {} | {} | {measured} | {} |\n", verdict.scenario, verdict.aim, verdict.word())
    };
    let lines: String = aims::judge(results).into_iter().map(line).collect();
    format!("| scenario | aim | measured | |\n|---|---|--:|---|\n{lines}\n")
}

fn scenario_text(outcome: &Outcome) -> String {
    let (headings, rows) = cells(outcome);
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let Outcome { name, title, day, rounds, seconds, machine, versions, .. } = outcome;
    [
        format!("### {name}\n\n{title}.\n\n![{title}](benchmarks/{name}.svg)\n\n"),
        line(&headings),
        format!("|---|{}\n", "--:|".repeat(headings.len() - 1)),
        rows.iter().map(|row| line(row)).collect(),
        failures(outcome).map(|failure| ["\n", &failure, ".\n"].concat()).collect(),
        format!(
            "\n{day}; medians of {rounds} rounds of {seconds} s; {machine}; {}.\n\n",
            versions.join(", ")
        ),
    ]
    .concat()
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
