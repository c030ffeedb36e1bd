//! What was measured, as a table, and in `docs/benchmarks-control-plane.md`.

use anyhow::Context;

use super::Outcome;
use crate::contender::root;

const BEGIN: &str = "<!-- Written by `cargo xtask bench --scale --write-docs` from here: -->";
const END: &str = "<!-- to here. -->";

/// A line for each thing that is measured, a column for each size, and the aim.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let row =
        |what: &str, cells: Vec<String>, aim: &str| format!("| {what} | {} | {aim} |\n", cells.join(" | "));
    let sizes = outcomes.iter().map(|outcome| outcome.size.to_string()).collect();
    let lines = ROWS.map(|(what, aim, value)| {
        let cells = outcomes.iter().map(|outcome| format!("{:.1}", value(outcome))).collect();
        row(what, cells, aim)
    });
    let rule = format!("|---|{}--:|\n", "--:|".repeat(outcomes.len()));
    [row("", sizes, "aim"), rule].into_iter().chain(lines).collect()
}

type Row = (&'static str, &'static str, fn(&Outcome) -> f64);

const ROWS: [Row; 10] = [
    ("all proxies in sync, from the first connection, s", "5", |o| o.in_sync_ms / 1000.0),
    ("CPU of the control plane for that, s", "", |o| o.in_sync_cpu_s),
    ("one endpoint's change, from the request to the last proxy, p50, ms", "", |o| o.change_p50_ms),
    ("the same, p99, ms", "100", |o| o.change_p99_ms),
    ("the same, the slowest, ms", "", |o| o.change_max_ms),
    ("the API's answer to it, p50, ms", "", |o| o.answer_p50_ms),
    ("CPU of the control plane for it, ms", "", |o| o.change_cpu_ms),
    ("every route table changes, from the request to the last proxy, s", "", |o| o.everything_ms / 1000.0),
    ("peak memory of the control plane, MiB", "300", |o| o.peak_mib),
    ("proxies that use the service of one change", "", |o| users(o.size.users())),
];

#[expect(clippy::cast_precision_loss, reason = "some tens")]
fn users(users: usize) -> f64 {
    users as f64
}

/// Writes the table between the page's marks.
pub(crate) fn write(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let page = root().join("docs/benchmarks-control-plane.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("the page lacks its marks")?;
    let (_, after) = rest.split_once(END).context("the page lacks its marks")?;
    std::fs::write(&page, format!("{before}{BEGIN}\n\n{}\n{END}{after}", table(outcomes)))?;
    Ok(())
}
