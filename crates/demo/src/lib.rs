//! The sample shop, its load, and the orchestration of both.
//!
//! - [`run`] starts a whole mesh on this machine as processes of one binary, shows what flows and writes a
//!   report; `meshwork demo` is a thin shell around it.
//! - [`shop`] holds the shop's programs and its load, which the hidden `meshwork shop` runs, one a process.
//! - [`lifeline`] ends a process when the demo that started it is gone, however it went.
//!
//! The crate knows the other parts of the mesh by their command lines and by the control plane's HTTP API only:
//! what a person could type, the demo types.

mod assets;
mod commands;
mod demo;
mod directory;
mod fetch;
mod hints;
pub mod lifeline;
mod mesh;
mod plan;
mod ports;
mod report;
mod screen;
pub mod shop;
mod supervisor;
mod table;
mod traffic;

pub use demo::{DemoError, Verdict, run};
pub use fetch::{FetchError, text as fetch};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What `meshwork demo` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// When the process started: `startup_ms` counts from here.
    pub started: Instant,
    /// How long traffic flows; `None` until it is interrupted.
    pub run_for: Option<Duration>,
    /// Where the report is written, as JSON; the diagram is kept beside it.
    pub report: Option<PathBuf>,
    /// Where config, state and logs stand, and stay; `None` makes a temporary directory, removed after a clean
    /// run.
    pub directory: Option<PathBuf>,
    /// Requests per second that the load sends.
    pub rate: u32,
    /// What standard output is for.
    pub output: Output,
    /// How traffic reaches the sidecars.
    pub mode: Mode,
    /// Why it is not [`Mode::Namespace`], where that was wanted and this machine does not let it be.
    pub why_explicit: Option<String>,
}

/// How traffic reaches the sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Programs are told which loopback ports lead to their sidecars. Works anywhere.
    Explicit,
    /// Each program has a network namespace of its own, listens on its service's port and calls others by name.
    Namespace,
}

/// What standard output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Progress and a live table, for people.
    Text,
    /// The report as JSON at the end, and nothing else; progress goes to standard error.
    Json,
}

/// Requests per second that the load sends where nothing else is asked: each becomes about three in the mesh,
/// and two laptop cores stay responsive beside it.
pub const DEFAULT_RATE: u32 = 150;

/// The edges of a mesh as the table that the demo shows, plain text.
pub fn table(edges: &[meshwork_hub::Edge]) -> String {
    table::render(edges, &table::Past::default(), table::Paint::Plain)
}
