//! The long and heavy tests: those that are marked `#[ignore]` with the reason `soak`, and what is asked more often than
//! in `cargo xtask test`. All of it ends within forty minutes on two cores.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::test::programs::{self, How, Job, Program};
use crate::{peers, run};

/// Cases of each property test.
const CASES: &str = "3000";

/// How often each conformance case is asked again: chance passes some once.
const REPEAT: &str = "20";

/// For how long endpoints come and go.
const CHURN_SECONDS: &str = "60";

/// How long one of the tests may take: the longest take four minutes.
const TIME_LIMIT: Duration = Duration::from_mins(15);

/// End-to-end tests at a time: they wait more than they work.
const AT_ONCE: usize = 2;

/// End-to-end tests that are longer here than in `cargo xtask test`, by what the environment says.
const LONGER: &[&str] = &["gateway_api", "churn"];

/// Runs them, the end-to-end tests against a release build of the binary with its store in etcd.
pub(crate) fn run() -> anyhow::Result<()> {
    let begun = Instant::now();
    peers::run()?;
    run::cargo(&["build", "--package", "meshwork", "--locked", "--release", "--features", "etcd"])?;
    let binary = run::target().join("release/meshwork");
    let binary = binary.to_str().context("the target folder's name is no text")?;
    let programs = programs::build()?;
    let program = |folder: &str, name: &str| {
        let found = programs.iter().find(|program| program.is_of(folder) && program.name() == name);
        found.with_context(|| format!("{folder} has no tests called `{name}`"))
    };

    // What moves gibibytes has the machine for itself, and says what that cost.
    let environment = &[
        ("MESHWORK_BINARY", binary),
        ("MESHWORK_CASES", CASES),
        ("MESHWORK_REPEAT", REPEAT),
        ("MESHWORK_CHURN_SECONDS", CHURN_SECONDS),
    ];
    let ignored: &[&str] = &["--test-threads=1", "--nocapture", "--ignored"];
    let how = How { arguments: ignored, environment, time_limit: TIME_LIMIT, at_once: 1, is_shown: true };
    programs::run_all(marked(program("crates/data-plane", "proxy")?)?, how)?;
    let properties = Job { program: program("crates/data-plane", "meshwork_data_plane")?, test: None };
    programs::run_all(vec![properties], How { arguments: &["tests::"], ..how })?;

    let mut jobs = Vec::new();
    for program in programs.iter().filter(|program| program.is_of("e2e")) {
        jobs.extend(marked(program)?);
    }
    programs::run_all(jobs, How { at_once: AT_ONCE, ..how })?;
    let mut jobs = Vec::new();
    for name in LONGER {
        jobs.push(Job { program: program("e2e", name)?, test: None });
    }
    programs::run_all(jobs, How { arguments: &["--test-threads=1", "--nocapture"], ..how })?;
    crate::say(format_args!("==> the soak passed in {:.0?}", begun.elapsed()));
    Ok(())
}

/// A program's tests that are marked `#[ignore]`, each in a process of its own.
fn marked(program: &Program) -> anyhow::Result<Vec<Job<'_>>> {
    Ok(program.tests(true)?.into_iter().map(|test| Job { program, test: Some(test) }).collect())
}
