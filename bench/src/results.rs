//! What was measured: all samples, as they are kept in `docs/benchmarks/results.json`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::contender::Program;
use crate::metric::Metric;
use crate::scenario::Scenario;
use crate::statistics::{self, Spread};

/// Results of one or several runs.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) scenarios: Vec<Outcome>,
}

/// A scenario's results.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) lead: Metric,
    pub(crate) rounds: usize,
    /// Seconds of load in a round.
    pub(crate) seconds: u64,
    /// The day, in UTC.
    pub(crate) day: String,
    /// Kernel, cores, and how busy it was before.
    pub(crate) machine: String,
    /// What each program says of itself.
    pub(crate) versions: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// A contender's results.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) label: String,
    /// One for each round; rounds of different contenders at the same index belong together.
    pub(crate) samples: BTreeMap<Metric, Vec<f64>>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) failure: Option<String>,
}

impl Results {
    /// Reads what `-o json` or a run for the documentation has written.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} holds no results", file.display()))
    }

    /// Puts newer results in the place of older ones of the same scenario; `order` names all scenarios.
    pub(crate) fn merge(&mut self, newer: Self, order: &[&str]) {
        for outcome in newer.scenarios {
            self.scenarios.retain(|old| old.name != outcome.name);
            self.scenarios.push(outcome);
        }
        self.scenarios.retain(|outcome| order.contains(&outcome.name.as_str()));
        self.scenarios.sort_by_key(|outcome| order.iter().position(|name| *name == outcome.name));
    }
}

impl Outcome {
    /// Of a scenario, before any sample.
    pub(crate) fn new(scenario: &Scenario, machine: &str, versions: &[String]) -> Self {
        Self {
            name: scenario.name.to_owned(),
            title: scenario.title.to_owned(),
            lead: scenario.lead,
            rounds: scenario.rounds,
            seconds: scenario.seconds,
            day: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            machine: machine.to_owned(),
            versions: versions.to_vec(),
            rows: Vec::new(),
        }
    }

    /// All metrics that any row has.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut all: Vec<_> = self.rows.iter().flat_map(|row| row.samples.keys().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The best of a program's variants by a metric.
    pub(crate) fn best(&self, program: &str, metric: Metric) -> Option<&Row> {
        let cost = |row: &Row| row.spread(metric).map(|spread| metric.cost(spread.median));
        let measured = self.variants(program).filter_map(|row| Some((row, cost(row)?)));
        measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(row, _)| row)
    }

    /// A program's rows; of ours, those of the build under test.
    pub(crate) fn variants(&self, program: &str) -> impl Iterator<Item = &Row> {
        let variant = format!("{program} (");
        self.rows.iter().filter(move |row| row.label == program || row.label.starts_with(&variant))
    }

    /// A row's lead metric as a multiple of a program's best.
    pub(crate) fn ratio(&self, row: &Row, to: &str) -> Option<Spread> {
        let to = self.best(to, self.lead)?;
        statistics::ratio(row.samples.get(&self.lead)?, to.samples.get(&self.lead)?)
    }
}

impl Row {
    /// The samples of a metric.
    pub(crate) fn spread(&self, metric: Metric) -> Option<Spread> {
        statistics::spread(self.samples.get(&metric)?)
    }
}

/// Kernel, cores and how busy it is.
pub(crate) fn machine() -> String {
    let kernel = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "Linux {} {}, {cores} cores, load average before {}",
        kernel.release().to_string_lossy(),
        kernel.machine().to_string_lossy(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

/// What the programs say of themselves.
pub(crate) fn versions() -> Vec<String> {
    let programs = [(Program::Envoy, "--version"), (Program::Nginx, "-v"), (Program::Haproxy, "-v")];
    programs.iter().filter_map(|(program, argument)| version(*program, argument)).collect()
}

fn version(program: Program, argument: &str) -> Option<String> {
    let output = Command::new(program.path()).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // Numbers with dots, however the program decorates them.
    let number = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .find(|word| word.split('.').count() >= 3 && word.split('.').all(|part| !part.is_empty()))?;
    Some(format!("{} {number}", program.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(rows: &[(&str, &[f64])]) -> Outcome {
        let rows = rows.iter().map(|(label, samples)| Row {
            label: (*label).to_owned(),
            samples: BTreeMap::from([(Metric::CpuPerRequest, samples.to_vec())]),
            failure: None,
        });
        Outcome {
            name: "two-hops".to_owned(),
            title: String::new(),
            lead: Metric::CpuPerRequest,
            rounds: 2,
            seconds: 1,
            day: String::new(),
            machine: String::new(),
            versions: Vec::new(),
            rows: rows.collect(),
        }
    }

    #[test]
    fn ratios_are_to_the_best_variant() {
        let outcome = outcome(&[
            ("meshwork", &[10.0, 12.0]),
            ("envoy (HTTP/1.1)", &[80.0, 90.0]),
            ("envoy (HTTP/2)", &[40.0, 48.0]),
        ]);
        let ratio = outcome.ratio(&outcome.rows[0], "envoy").expect("a ratio");
        assert_eq!(ratio, Spread { low: 0.25, median: 0.25, high: 0.25 });
        assert!(outcome.ratio(&outcome.rows[0], "nginx").is_none());
    }

    #[test]
    fn newer_results_replace_older_ones_in_the_given_order() {
        let named = |name: &str, rounds| Outcome { name: name.to_owned(), rounds, ..outcome(&[]) };
        let mut results = Results { scenarios: vec![named("a", 1), named("gone", 1), named("b", 1)] };
        results.merge(Results { scenarios: vec![named("a", 2), named("c", 2)] }, &["c", "a", "b"]);
        let found: Vec<_> = results.scenarios.iter().map(|o| (o.name.as_str(), o.rounds)).collect();
        assert_eq!(found, [("c", 2), ("a", 2), ("b", 1)]);
    }
}
