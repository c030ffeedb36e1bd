//! What CI runs, step by step; each step says its name, so that one can be run alone.

pub(crate) mod programs;

use std::collections::BTreeMap;
use std::process::Command;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

use crate::{peers, run, tidy};
use programs::{How, Job, Program};

struct Step {
    name: &'static str,
    run: fn() -> anyhow::Result<()>,
    /// It begins at once, beside those before it: it waits for others more than it works.
    is_early: bool,
}

const STEPS: &[Step] = &[
    Step { name: "format", run: || run::cargo(&["fmt", "--all", "--check"]), is_early: false },
    Step { name: "tidy", run: tidy::run, is_early: false },
    Step { name: "clippy", run: clippy, is_early: false },
    // Some unit tests run namespaces, and need nft.
    Step { name: "peers", run: peers::run, is_early: true },
    Step { name: "unit", run: unit, is_early: false },
    Step { name: "docs", run: docs, is_early: false },
    Step { name: "e2e", run: e2e, is_early: false },
];

/// Runs all steps, or those named; stops at the first that fails.
pub(crate) fn run(only: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = only.iter().find(|name| STEPS.iter().all(|s| s.name != **name)) {
        let names: Vec<_> = STEPS.iter().map(|s| s.name).collect();
        bail!("no step is called `{unknown}`; there are {}", names.join(", "));
    }
    let begun = Instant::now();
    let steps: Vec<_> =
        STEPS.iter().filter(|s| only.is_empty() || only.iter().any(|name| name == s.name)).collect();
    std::thread::scope(|scope| {
        let early = steps.iter().filter(|step| step.is_early);
        let mut early: BTreeMap<_, _> = early.map(|step| (step.name, step.begin(scope))).collect();
        for step in &steps {
            crate::say(format_args!("==> {}", step.name));
            let took = match early.remove(step.name) {
                Some(running) => running.join().map_err(|_| anyhow!("step `{}` panicked", step.name))??,
                None => step.perform()?,
            };
            crate::say(format_args!("==> {} passed in {took:.0?}", step.name));
        }
        crate::say(format_args!("==> all passed in {:.0?}", begun.elapsed()));
        Ok(())
    })
}

impl Step {
    /// Runs it; gives how long it took.
    fn perform(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        (self.run)().map_err(|e| {
            e.context(format!("step `{}` (again alone: cargo xtask test --only {})", self.name, self.name))
        })?;
        Ok(begun.elapsed())
    }

    /// Runs it beside others.
    fn begin<'s>(&'static self, scope: &'s Scope<'s, '_>) -> ScopedJoinHandle<'s, anyhow::Result<Duration>> {
        scope.spawn(move || self.perform())
    }
}

fn clippy() -> anyhow::Result<()> {
    run::cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])
}

/// How tests are run where nothing else is said.
const HOW: How<'_> = How {
    arguments: &[],
    environment: &[],
    // The longest take two minutes, and the whole is to end in far less than an hour, also where one hangs.
    time_limit: Duration::from_mins(10),
    at_once: 1,
    is_shown: false,
};

/// Tests of the crates, and what stands in documentation.
fn unit() -> anyhow::Result<()> {
    let programs = programs::build()?;
    let whole = |program| Job { program, test: None };
    let jobs = programs.iter().filter(|program| !program.is_of("e2e")).map(whole).collect();
    programs::run_all(jobs, How { at_once: UNITS_AT_ONCE, ..HOW })?;
    run::cargo(&["test", "--workspace", "--locked", "--quiet", "--doc"])
}

fn docs() -> anyhow::Result<()> {
    run::command(
        Command::new("cargo")
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Programs of unit tests at a time: each keeps all cores busy, save those whose tests wait for time-outs.
const UNITS_AT_ONCE: usize = 2;

/// End-to-end tests at a time: they wait far more than they work, and neither ports nor folders are shared.
const AT_ONCE: usize = 3;

/// Nothing runs beside these: they hold two programs' answers against each other while time runs.
const ALONE: &[&str] = &["differential"];

/// These take longest and begin first, so that at the end nobody waits for one of them.
const LONG: &[&str] = &[
    "rotation",
    "clock",
    "tls",
    "federation",
    "workload_api",
    "demo",
    "churn",
    "gateway_api",
    "envoy_takes",
];

/// Each test in a process of its own: none waits for another, and each says how long it takes.
fn e2e() -> anyhow::Result<()> {
    let programs = programs::build()?;
    let programs: Vec<_> = programs.iter().filter(|program| program.is_of("e2e")).collect();
    if let Some(unknown) = ALONE.iter().chain(LONG).find(|name| programs.iter().all(|p| p.name() != **name)) {
        bail!("no end-to-end test is called `{unknown}`");
    }
    let (alone, mut beside): (Vec<&Program>, Vec<&Program>) =
        programs.into_iter().partition(|program| ALONE.contains(&program.name()));
    beside.sort_by_key(|program| LONG.iter().position(|name| *name == program.name()).unwrap_or(LONG.len()));
    let mut jobs = Vec::new();
    for program in beside {
        let tests = program.tests(false)?;
        jobs.extend(tests.into_iter().map(|test| Job { program, test: Some(test) }));
    }
    let how = How { arguments: &["--test-threads=1"], at_once: AT_ONCE, ..HOW };
    programs::run_all(jobs, how)?;
    let alone = alone.into_iter().map(|program| Job { program, test: None }).collect();
    programs::run_all(alone, How { at_once: 1, is_shown: true, ..how })
}
