//! Running other programs from the repository's root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap_or(Path::new(".")).to_path_buf()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Runs a program to its end, its output going to ours.
pub(crate) fn program(name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    command(Command::new(name).args(arguments))
}

/// Runs cargo to its end.
pub(crate) fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    program("cargo", arguments)
}

/// Runs a prepared command to its end, in the repository's root.
pub(crate) fn command(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed: {status}", command.get_program().display());
    }
    Ok(())
}
