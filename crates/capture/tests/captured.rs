//! A workload's network, for real: this binary is the supervisor, the sidecar and the program of its cases.
//!
//! Started by root the cases run twice, the second time as an ordinary user. None is skipped: where the system does not
//! allow namespaces they fail, in the words that `meshwork check` has.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what the program prints is what the cases look at"
)]

#[path = "captured/cases.rs"]
mod cases;
#[path = "captured/inside.rs"]
mod inside;
#[path = "captured/scene.rs"]
mod scene;
#[path = "captured/sidecar.rs"]
mod sidecar;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// An ordinary user that every system has room for.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("run") => scene::supervise(&arguments[2..]),
        Some("sidecar") => sidecar::serve(),
        Some("inside") => inside::act(&arguments[2..]),
        Some("check") => scene::check(),
        _ => test(&arguments[1..]),
    }
}

fn test(arguments: &[String]) -> ExitCode {
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = cases::ALL.iter().filter(|(name, _)| filter.is_none_or(|part| name.contains(part.as_str())));
    let user = rustix::process::geteuid().as_raw();
    let mut failed: Vec<&str> = Vec::new();
    for (name, case) in chosen {
        let passed = std::panic::catch_unwind(case).is_ok();
        println!("test {name} (user {user}) ... {}", if passed { "ok" } else { "FAILED" });
        failed.extend((!passed).then_some(name));
    }
    let mut passed = failed.is_empty();
    if user == 0 {
        let this = std::env::current_exe().expect("path");
        let mut as_nobody = Command::new(this);
        as_nobody.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
        passed &= as_nobody.status().expect("started as an ordinary user").success();
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
