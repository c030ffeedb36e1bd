//! The Meshwork binary: a whole service mesh, one command a role.
//!
//! This crate wires the rooms together: arguments, runtimes, signals. What the roles do stands in the other crates.

mod cli;
mod kept;
mod memory;
mod sandbox;
mod secrecy;
mod signals;

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let started = Instant::now();
    cli::run(started)
}
