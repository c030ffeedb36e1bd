//! What CI runs, step by step; each step says its name, so that one can be run alone.

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::{peers, run, tidy};

struct Step {
    name: &'static str,
    run: fn() -> anyhow::Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "format", run: || run::cargo(&["fmt", "--all", "--check"]) },
    Step { name: "tidy", run: tidy::run },
    Step { name: "clippy", run: clippy },
    // Some unit tests run namespaces, and need nft.
    Step { name: "peers", run: peers::run },
    Step { name: "unit", run: unit },
    Step { name: "docs", run: docs },
    Step { name: "e2e", run: e2e },
];

/// Runs all steps, or those named; stops at the first that fails.
pub(crate) fn run(only: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = only.iter().find(|name| STEPS.iter().all(|s| s.name != **name)) {
        let names: Vec<_> = STEPS.iter().map(|s| s.name).collect();
        bail!("no step is called `{unknown}`; there are {}", names.join(", "));
    }
    for step in STEPS.iter().filter(|s| only.is_empty() || only.iter().any(|name| name == s.name)) {
        let start = Instant::now();
        crate::say(format_args!("==> {}", step.name));
        (step.run)().map_err(|e| {
            e.context(format!("step `{}` (again alone: cargo xtask test --only {})", step.name, step.name))
        })?;
        crate::say(format_args!("==> {} passed in {:.0?}", step.name, start.elapsed()));
    }
    Ok(())
}

fn clippy() -> anyhow::Result<()> {
    run::cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])
}

fn unit() -> anyhow::Result<()> {
    run::cargo(&["test", "--workspace", "--exclude", "e2e", "--locked", "--quiet"])
}

fn docs() -> anyhow::Result<()> {
    run::command(
        Command::new("cargo")
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// The binary is built first: end-to-end tests run it as a user would. One test at a time, since each starts
/// whole meshes and the machine may be small.
fn e2e() -> anyhow::Result<()> {
    run::cargo(&["build", "--package", "meshwork", "--locked", "--quiet"])?;
    // Not quiet, and with an end: of a test that hangs, the name is the last line.
    run::program(
        "timeout",
        &["--verbose", "2400", "cargo", "test", "--package", "e2e", "--locked", "--", "--test-threads=1"],
    )
}
