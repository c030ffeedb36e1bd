//! The long and heavy tests: those that are marked `#[ignore]` with the reason `soak`.

use crate::{peers, run};

/// Cases of each property test.
const CASES: &str = "3000";

/// Runs them, against a release build of the binary.
pub(crate) fn run() -> anyhow::Result<()> {
    data_plane(&["--test", "proxy", "--", "--test-threads=1", "--nocapture", "--ignored"])?;
    data_plane(&["--lib", "--", "tests::"])?;
    peers::run()?;
    run::cargo(&["build", "--package", "meshwork", "--locked", "--release"])?;
    run::command(
        std::process::Command::new("cargo")
            .args(["test", "--package", "e2e", "--locked", "--", "--test-threads=1", "--ignored"])
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
