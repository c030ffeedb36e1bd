//! Programs of tests: all are built at once, and run whole or test by test, some at a time.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::run;

/// A program of tests.
pub(crate) struct Program {
    folder: PathBuf,
    file: PathBuf,
}

/// What is run in one process.
pub(crate) struct Job<'a> {
    /// The program.
    pub(crate) program: &'a Program,
    /// One of its tests; none for all of them.
    pub(crate) test: Option<String>,
}

/// How jobs are run.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    /// What each process is told.
    pub(crate) arguments: &'a [&'a str],
    /// Variables of its environment, beside ours.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// How long each may take.
    pub(crate) time_limit: Duration,
    /// How many run at a time.
    pub(crate) at_once: usize,
    /// Whether what they say is shown where nothing fails, too.
    pub(crate) is_shown: bool,
}

/// Builds the binaries that tests run and all programs of tests, with one selection of features: a second one would
/// build half of the dependencies anew.
pub(crate) fn build() -> anyhow::Result<Vec<Program>> {
    let output = Command::new("cargo")
        .args([
            "build",
            "--workspace",
            "--bin=meshwork",
            "--bin=e2e-echo",
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
    Ok(messages.lines().filter_map(Program::read).collect())
}

impl Program {
    /// Reads what cargo says of a program; `None` where it is none of tests.
    fn read(message: &str) -> Option<Self> {
        let message: serde_json::Value = serde_json::from_str(message).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let file = message["executable"].as_str().filter(|_| is_test)?;
        Some(Self { folder: manifest.parent()?.to_owned(), file: file.into() })
    }

    /// What it is called in its package, without the hash that cargo puts behind it.
    pub(crate) fn name(&self) -> &str {
        let name = self.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.rsplit_once('-').map_or(name, |(name, _)| name)
    }

    /// Whether it is of this folder below the root.
    pub(crate) fn is_of(&self, folder: &str) -> bool {
        self.folder.ends_with(folder)
    }

    /// Its tests, by name: those that are marked `#[ignore]`, or the others.
    ///
    /// # Errors
    /// It does not tell them.
    pub(crate) fn tests(&self, ignored: bool) -> anyhow::Result<BTreeSet<String>> {
        let marked = self.list(&["--ignored"])?;
        Ok(if ignored { marked } else { self.list(&[])?.difference(&marked).cloned().collect() })
    }

    fn list(&self, more: &[&str]) -> anyhow::Result<BTreeSet<String>> {
        let output = self.command(&["--list", "--format=terse"]).args(more).output();
        let output = output.with_context(|| format!("cannot start {}", self.file.display()))?;
        ensure!(output.status.success(), "{} does not tell its tests", self.file.display());
        let text = String::from_utf8(output.stdout).context("names of tests are no text")?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// Where cargo would run it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.file);
        command.args(arguments).current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

impl Job<'_> {
    fn name(&self) -> String {
        let program = self.program.name();
        self.test.as_ref().map_or_else(|| program.to_owned(), |test| format!("{program}::{test}"))
    }

    fn command(&self, how: How<'_>) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--verbose", "--kill-after=10", &how.time_limit.as_secs().to_string()]);
        command.arg(&self.program.file).args(how.arguments);
        if let Some(test) = &self.test {
            command.args(["--exact", test]);
        }
        command.current_dir(&self.program.folder).env("CARGO_MANIFEST_DIR", &self.program.folder);
        command.envs(how.environment.iter().copied());
        command
    }

    /// Runs it; what it says stands in a log, which is shown where it fails.
    fn run(&self, how: How<'_>, logs: &Path) -> anyhow::Result<()> {
        let name = self.name();
        let log = logs.join(format!("{}.log", name.replace("::", ".")));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let begun = Instant::now();
        let mut command = self.command(how);
        let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
        let status = status.context("cannot start a program of tests")?;
        let took = begun.elapsed();
        let verdict = if status.success() { "passed in" } else { "FAILED after" };
        let mut said = format!("    {name} {verdict} {took:.1?}");
        if how.is_shown || !status.success() {
            let log = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
            said = format!("{said}\n{}", String::from_utf8_lossy(&log).trim_matches('\n'));
        }
        crate::say(format_args!("{said}"));
        ensure!(status.success(), "{name} failed: {status}");
        Ok(())
    }
}

/// Runs jobs, some at a time; after a failure no other begins. What each says stands in `target/tests`, also while it
/// runs.
///
/// # Errors
/// Jobs failed: all that did.
pub(crate) fn run_all(jobs: Vec<Job<'_>>, how: How<'_>) -> anyhow::Result<()> {
    let logs = run::target().join("tests");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let waiting = Mutex::new(VecDeque::from(jobs));
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(job) = next(&waiting) {
            if let Err(failure) = job.run(how, &logs) {
                lock(&waiting).clear();
                lock(&failures).push(format!("{failure:#}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..how.at_once {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn next<'a>(waiting: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    lock(waiting).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
