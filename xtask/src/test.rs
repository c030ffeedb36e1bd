//! What CI runs, step by step; each step says its name, so that one can be run alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

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

/// Tests of the crates, and what stands in documentation.
fn unit() -> anyhow::Result<()> {
    for test in built()?.iter().filter(|test| !test.is_end_to_end()) {
        test.run(&["--quiet"])?;
    }
    run::cargo(&["test", "--workspace", "--locked", "--quiet", "--doc"])
}

fn docs() -> anyhow::Result<()> {
    run::command(
        Command::new("cargo")
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// One test at a time, since each starts whole meshes and the machine may be small.
fn e2e() -> anyhow::Result<()> {
    for test in built()?.iter().filter(|test| test.is_end_to_end()) {
        // Not quiet, and with an end: of a test that hangs, the name is the last line.
        test.run(&["--test-threads=1"])?;
    }
    Ok(())
}

/// How long the tests of one program may take.
const TIME_LIMIT: &str = "1200";

/// A program of tests.
struct Built {
    folder: PathBuf,
    program: PathBuf,
}

/// Builds the binaries and all programs of tests, with one selection of features: a second one would build half of the
/// dependencies anew.
fn built() -> anyhow::Result<Vec<Built>> {
    let output = Command::new("cargo")
        .args([
            "build",
            "--workspace",
            "--bins",
            "--tests",
            "--locked",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(run::root())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo build failed: {}", output.status);
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are no text")?;
    Ok(messages.lines().filter_map(Built::read).collect())
}

impl Built {
    /// Reads what cargo says of a program; `None` where it is none of tests.
    fn read(message: &str) -> Option<Self> {
        let message: serde_json::Value = serde_json::from_str(message).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let program = message["executable"].as_str().filter(|_| is_test)?;
        Some(Self { folder: manifest.parent()?.to_owned(), program: program.into() })
    }

    fn is_end_to_end(&self) -> bool {
        self.folder.ends_with("e2e")
    }

    /// Runs it where cargo would.
    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        crate::say(format_args!("    {}", name.rsplit_once('-').map_or(&*name, |(name, _)| name)));
        let status = Command::new("timeout")
            .args(["--verbose", TIME_LIMIT])
            .arg(&self.program)
            .args(arguments)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .status()
            .context("cannot start a program of tests")?;
        if !status.success() {
            bail!("the tests of {} failed: {status}", self.program.display());
        }
        Ok(())
    }
}
