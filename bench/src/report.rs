//! How results are shown.

pub(crate) mod docs;
mod plot;
pub(crate) mod table;

use crate::results::{Outcome, Row};
use crate::scenario::Scenario;

/// Whom ratios are quoted against.
const AGAINST: [&str; 2] = ["envoy", "nginx"];

/// The scenarios, with the time of each.
pub(crate) fn list(plan: &[Scenario]) -> String {
    let line = |name: &str, seconds: u64, title: &str| format!("{name:<18} {seconds:>4} s  {title}\n");
    let each = plan.iter().map(|scenario| line(scenario.name, scenario.duration(), scenario.title));
    let all = line("all", plan.iter().map(Scenario::duration).sum(), "");
    each.chain([all]).collect()
}

/// Headings and cells of a scenario's table, alike in the terminal and in the documentation.
fn cells(outcome: &Outcome) -> (Vec<String>, Vec<Vec<String>>) {
    let lead = outcome.lead;
    let rest: Vec<_> = outcome.metrics().into_iter().filter(|metric| *metric != lead).collect();
    let peers: Vec<_> = AGAINST.into_iter().filter(|peer| outcome.best(peer, lead).is_some()).collect();
    let mut headings = vec!["proxy".to_owned(), lead.title().to_owned(), "lowest–highest".to_owned()];
    headings.extend(peers.iter().map(|peer| format!("× {peer}")));
    headings.extend(rest.iter().map(|metric| metric.title().to_owned()));
    let row = |row: &Row| {
        let mut cells = vec![row.label.clone()];
        let Some(spread) = row.spread(lead) else {
            cells.resize(headings.len(), "–".to_owned());
            return cells;
        };
        cells.push(lead.format(spread.median));
        cells.push(format!("{}–{}", lead.format(spread.low), lead.format(spread.high)));
        for peer in &peers {
            cells.push(outcome.ratio(row, peer).map_or("–".to_owned(), |r| format!("{:.2}", r.median)));
        }
        for metric in &rest {
            cells.push(row.spread(*metric).map_or("–".to_owned(), |s| metric.format(s.median)));
        }
        cells
    };
    (headings.clone(), outcome.rows.iter().map(row).collect())
}

/// Why rows are empty.
fn failures(outcome: &Outcome) -> impl Iterator<Item = String> {
    outcome.rows.iter().filter_map(|row| {
        let first = row.failure.as_ref()?.lines().next().unwrap_or_default();
        Some(format!("{} was not measured: {first}", row.label))
    })
}
