//! The differential suite: Envoy and Meshwork run one file, get the same bytes, and must agree on what the origins see
//! and on what the client gets. Envoy is the judge.
//!
//! A case is a file below `e2e/differential/cases`; `e2e/differential/README.md` has its format. Many cases share one
//! pair of processes: their listeners, clusters and secrets are put into one bootstrap.

mod answer;
mod case;
mod certs;
mod client;
mod compare;
mod coverage;
mod merge;
mod origin;
mod outcome;
mod pair;
mod protobuf;
mod run;
mod step;
mod template;
mod tls;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

/// Where the cases are.
fn folder() -> PathBuf {
    crate::root().join("e2e/differential")
}

/// Runs the cases that the program's arguments name, all where they name none; prints what failed.
///
/// An argument is a part of a case's path (`route/`, `cases/route/prefix`); what begins with `-` is for other
/// harnesses, save `--list`.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ignored_only = arguments.iter().any(|argument| argument == "--ignored");
    let filters: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    if ignored_only {
        return ExitCode::SUCCESS;
    }
    let cases = case::load(&folder().join("cases"), &filters);
    if arguments.iter().any(|argument| argument == "--list") {
        for case in &cases {
            run::say(&format!("{}: test\n", case.name));
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = run::all(&cases);
    if filters.is_empty() {
        failed |= coverage::is_incomplete(&cases);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
