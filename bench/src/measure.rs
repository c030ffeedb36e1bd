//! The runner: starts a scenario's contenders, takes rounds in turn, keeps the samples.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::contender::Contender;
use crate::load::{Load, client, runtime};
use crate::metric::Metric;
use crate::origin::Origin;
use crate::process::Cpu;
use crate::results::{self, Outcome, Results, Row};
use crate::scenario::{Entry, Scenario, WARM_UP};
use crate::{certificates, process};

/// How long a process is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(1500);
const MIB: f64 = 1024.0;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

type Sample = BTreeMap<Metric, f64>;

/// Runs scenarios, one after the other.
pub(crate) fn run(plan: &[Scenario]) -> anyhow::Result<Results> {
    // Before this process ties itself to one core.
    let (machine, versions) = (results::machine(), results::versions());
    process::prepare()?;
    let dir = tempfile::tempdir()?;
    certificates::write(dir.path())?;
    let origin = Origin::start(dir.path())?;
    let bar = progress(plan);
    let mut results = Results::default();
    for scenario in plan {
        let mut outcome = Outcome::new(scenario, &machine, &versions);
        outcome.rows = match scenario.load {
            Load::Idle { connections } => idle(scenario, connections, dir.path(), &origin, &bar),
            _ => loaded(scenario, dir.path(), &origin, &bar),
        };
        results.scenarios.push(outcome);
    }
    bar.finish_and_clear();
    Ok(results)
}

/// A contender that takes part, until it fails.
struct Lane {
    row: Row,
    contender: Option<Contender>,
}

impl Lane {
    fn start(entry: &Entry, dir: &Path, origin: &Origin) -> Self {
        let mut lane = Self {
            row: Row { label: entry.label.clone(), samples: BTreeMap::new(), failure: None },
            contender: None,
        };
        lane.contender = Contender::start(entry, dir, origin).map_err(|error| lane.fail(&error)).ok();
        lane
    }

    /// Adds a sample, or ends the lane.
    fn sample(&mut self, take: impl FnOnce(&Contender) -> anyhow::Result<Sample>) {
        let Some(contender) = &self.contender else { return };
        match take(contender) {
            Ok(sample) => {
                for (metric, value) in sample {
                    self.row.samples.entry(metric).or_default().push(value);
                }
            }
            Err(error) => {
                self.fail(&error);
                self.contender = None;
            }
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.row.samples.clear();
        self.row.failure = Some(format!("{error:#}"));
    }
}

/// Rounds of a load; the contenders run all the time and are asked in turn, each round beginning with another.
fn loaded(scenario: &Scenario, dir: &Path, origin: &Origin, bar: &ProgressBar) -> Vec<Row> {
    let mut lanes: Vec<_> = scenario.entries.iter().map(|entry| Lane::start(entry, dir, origin)).collect();
    for lane in &mut lanes {
        lane.sample(|contender| {
            contender.run(scenario.load, Duration::from_secs(WARM_UP), dir, || Ok(()))?;
            Ok(Sample::new())
        });
    }
    for round in 0..scenario.rounds {
        for turn in 0..lanes.len() {
            let at = (round + turn) % lanes.len();
            let lane = &mut lanes[at];
            bar.set_message(format!("{} · {}", scenario.name, lane.row.label));
            lane.sample(|contender| sample(scenario, contender, dir));
            bar.inc(scenario.seconds);
        }
    }
    lanes.into_iter().map(|lane| lane.row).collect()
}

fn sample(scenario: &Scenario, contender: &Contender, dir: &Path) -> anyhow::Result<Sample> {
    let (mut before, mut programs) = (Cpu::default(), None);
    let ready = || {
        (before, programs) = (contender.cpu()?, contender.programs()?);
        Ok(())
    };
    let done = contender.run(scenario.load, Duration::from_secs(scenario.seconds), dir, ready)?;
    let cpu = contender.cpu()? - before;
    let programs = contender.programs()?.zip(programs).map(|(now, before)| now - before);
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
    let (operations, bytes) = (done.operations as f64, done.bytes as f64);
    let mut sample =
        Sample::from([(Metric::Memory, contender.memory_kib()? / MIB), (Metric::PerSecond, done.per_second)]);
    match scenario.load {
        Load::Bulk { .. } => {
            sample.insert(Metric::CpuPerGib, cpu.seconds() * 1e3 / (bytes / GIB));
            sample.remove(&Metric::PerSecond);
        }
        Load::Handshakes { .. } => {
            sample.insert(Metric::HandshakesPerCpuSecond, operations / cpu.seconds());
        }
        _ => {
            sample.insert(Metric::CpuPerRequest, cpu.seconds() * 1e6 / operations);
            sample.insert(Metric::UserPerRequest, cpu.user.as_secs_f64() * 1e6 / operations);
        }
    }
    if let Some(programs) = programs {
        sample.insert(Metric::ProgramsPerRequest, programs.seconds() * 1e6 / operations);
    }
    if let (Some(latencies), false) = (done.latencies, scenario.lead == Metric::CpuPerGib) {
        sample.extend([
            (Metric::P50, latencies.p50),
            (Metric::P90, latencies.p90),
            (Metric::P99, latencies.p99),
        ]);
    }
    Ok(sample)
}

/// Memory: a fresh process for each sample, one at a time.
fn idle(scenario: &Scenario, steps: &[usize], dir: &Path, origin: &Origin, bar: &ProgressBar) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in &scenario.entries {
        bar.set_message(format!("{} · {}", scenario.name, entry.label));
        let mut lane = Lane::start(entry, dir, origin);
        lane.sample(|contender| memory(contender, steps));
        bar.inc(scenario.seconds);
        rows.push(lane.row);
    }
    rows
}

fn memory(contender: &Contender, steps: &[usize]) -> anyhow::Result<Sample> {
    std::thread::sleep(SETTLE);
    let base = contender.memory_kib()?;
    let mut sample = Sample::from([(Metric::MemoryIdle, base / MIB)]);
    let at = |connections: usize| {
        std::thread::sleep(SETTLE);
        let now = contender.memory_kib()?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let each = (now - base) / connections as f64;
        if connections == 1000 {
            sample.extend([(Metric::MemoryPerConnection1k, each), (Metric::Memory1k, now / MIB)]);
        } else {
            sample.insert(Metric::MemoryPerConnection10k, each);
        }
        Ok(())
    };
    runtime()?.block_on(client::idle(contender.address, steps, at)).context("opening connections")?;
    Ok(sample)
}

/// A bar of seconds, on a terminal.
fn progress(plan: &[Scenario]) -> ProgressBar {
    let seconds = |s: &Scenario| s.entries.len() as u64 * s.rounds as u64 * s.seconds;
    let bar = ProgressBar::new(plan.iter().map(seconds).sum());
    let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {elapsed} of about {duration}  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
