//! The long and heavy tests: those that are marked `#[ignore]` with the reason `soak`.

use crate::{peers, run};

/// Runs them, against a release build of the binary.
pub(crate) fn run() -> anyhow::Result<()> {
    peers::run()?;
    run::cargo(&["build", "--package", "meshwork", "--locked", "--release"])?;
    run::command(
        std::process::Command::new("cargo")
            .args(["test", "--package", "e2e", "--locked", "--", "--test-threads=1", "--ignored"])
            .env("MESHWORK_BINARY", run::root().join("target/release/meshwork")),
    )
}
