//! The long and heavy tests: those that are marked `#[ignore]` with the reason `soak`.

use crate::{peers, run};

/// Cases of each property test.
const CASES: &str = "3000";

/// How often each conformance case is asked again: chance passes some once.
const REPEAT: &str = "20";

/// For how long endpoints come and go.
const CHURN_SECONDS: &str = "60";

/// Runs them, against a release build of the binary.
pub(crate) fn run() -> anyhow::Result<()> {
    data_plane(&["--test", "proxy", "--", "--test-threads=1", "--nocapture", "--ignored"])?;
    data_plane(&["--lib", "--", "tests::"])?;
    peers::run()?;
    run::cargo(&["build", "--package", "meshwork", "--locked", "--release", "--features", "etcd"])?;
    e2e(&["--", "--test-threads=1", "--ignored"])?;
    e2e(&["--test", "gateway_api", "--test", "churn", "--", "--test-threads=1", "--nocapture"])
}

fn e2e(which: &[&str]) -> anyhow::Result<()> {
    run::command(
        std::process::Command::new("cargo")
            .args(["test", "--package", "e2e", "--locked"])
            .args(which)
            .env("MESHWORK_REPEAT", REPEAT)
            .env("MESHWORK_CHURN_SECONDS", CHURN_SECONDS)
            .env("MESHWORK_BINARY", run::root().join("target/release/meshwork")),
    )
}

fn data_plane(which: &[&str]) -> anyhow::Result<()> {
    run::command(
        std::process::Command::new("cargo")
            .args(["test", "--package", "meshwork-data-plane", "--locked"])
            .args(which)
            .env("MESHWORK_CASES", CASES),
    )
}
