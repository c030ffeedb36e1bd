//! The commands, one file each.

mod agent;
mod api;
mod api_token;
mod apply;
mod backup;
mod binds;
mod ca;
mod captured;
mod changes;
mod check;
mod completions;
mod control_plane;
mod delete;
mod demo;
mod diagram;
mod diff;
mod edges;
mod envoy_bootstrap;
mod explain;
mod folders;
mod foreign;
mod gateway;
mod get;
mod grpc_bootstrap;
mod history;
mod identity;
mod inspect;
mod kinds;
mod lifetimes;
mod man;
mod output;
#[cfg(test)]
mod pages;
mod probes;
mod problems;
mod proxy;
mod rollback;
mod run;
mod runtime;
mod schema;
mod secret_files;
mod serving;
mod shop;
mod sidecar;
mod sources;
mod status;
mod table;
mod token;
mod validate;
mod wait;
mod watch;
mod workload;
mod writes;
mod yaml;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

/// A whole service mesh in one binary: sidecar proxy, control plane, certificates, policy, telemetry, diagram.
#[derive(Parser)]
#[command(
    name = "meshwork",
    version,
    propagate_version = true,
    after_help = "Start here: `meshwork demo` runs a mesh with a sample shop on this machine."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// What is logged to standard error: error, warn, info, debug, trace, or per-module filters; info where it is left
    /// out, and warn where a program shares the terminal (`run`)
    #[arg(long, global = true, env = "MESHWORK_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    ControlPlane(control_plane::ControlPlane),
    Apply(apply::Apply),
    Diff(diff::Diff),
    Get(get::Get),
    Delete(delete::Delete),
    History(history::History),
    Rollback(rollback::Rollback),
    Watch(watch::Watch),
    Status(status::StatusOf),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Validate(validate::Validate),
    Schema(schema::Schema),
    Token(token::Token),
    ApiToken(api_token::ApiToken),
    Ca(ca::Ca),
    Agent(Box<agent::Agent>),
    Run(Box<run::Run>),
    Check(check::Check),
    Sidecar(Box<sidecar::Sidecar>),
    Gateway(Box<gateway::Gateway>),
    Proxy(Box<proxy::Proxy>),
    EnvoyBootstrap(envoy_bootstrap::EnvoyBootstrap),
    GrpcBootstrap(grpc_bootstrap::GrpcBootstrap),
    Inspect(inspect::Inspect),
    Diagram(diagram::Diagram),
    Edges(edges::Edges),
    Explain(explain::Explain),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(hide = true)]
    Shop(shop::Shop),
}

impl Command {
    fn default_log(&self) -> &'static str {
        match self {
            Self::Run(_) => "warn",
            _ => "info",
        }
    }
}

impl Command {
    /// Whether it watches by itself for the end of who started it, or is never started so: what enters namespaces or
    /// closes itself in must not have a thread before.
    fn sees_to_its_lifeline(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Check(_)
                | Self::Demo(_)
                | Self::Sidecar(_)
                | Self::Gateway(_)
                | Self::Proxy(_)
                | Self::Agent(_)
        )
    }
}

/// Parses the arguments and runs the command; `started` is when the process did.
pub(crate) fn run(started: Instant) -> ExitCode {
    let arguments = Arguments::parse();
    let log = arguments.log.as_deref().unwrap_or(arguments.command.default_log());
    if let Err(error) = runtime::log(log) {
        return output::fail(&error);
    }
    if !arguments.command.sees_to_its_lifeline() {
        meshwork_demo::lifeline::watch();
    }
    dispatch(arguments.command, log, started).unwrap_or_else(|error| output::fail(&error))
}

fn dispatch(command: Command, log: &str, started: Instant) -> anyhow::Result<ExitCode> {
    match command {
        // They have exit codes of their own.
        Command::Run(command) => return command.run(log),
        Command::Check(command) => return command.run(),
        Command::Ca(command) => return command.run(),
        Command::Apply(command) => return command.run(),
        Command::Diff(command) => return Ok(command.run()),
        Command::Delete(command) => return command.run(),
        Command::Rollback(command) => return command.run(),
        Command::Status(command) => return command.run(),
        Command::Demo(command) => command.run(started)?,
        Command::ControlPlane(command) => command.run()?,
        Command::Get(command) => command.run()?,
        Command::History(command) => command.run()?,
        Command::Watch(command) => command.run()?,
        Command::Backup(command) => command.run()?,
        Command::Restore(command) => command.run()?,
        Command::Validate(command) => command.run()?,
        Command::Schema(command) => command.run()?,
        Command::Token(command) => command.run()?,
        Command::ApiToken(command) => command.run()?,
        Command::Agent(command) => command.run()?,
        Command::Sidecar(command) => command.run()?,
        Command::Gateway(command) => command.run()?,
        Command::Proxy(command) => command.run()?,
        Command::EnvoyBootstrap(command) => command.run()?,
        Command::GrpcBootstrap(command) => command.run()?,
        Command::Inspect(command) => command.run()?,
        Command::Diagram(command) => command.run()?,
        Command::Edges(command) => command.run()?,
        Command::Explain(command) => command.run()?,
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run()?,
        Command::Shop(command) => command.run()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses a duration with its unit: `500ms`, `20s`, `5m`, `24h`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a duration; expected a number and ms, s, m or h, such as 20s");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..split].parse().map_err(|_| expected())?;
    let milliseconds = match &text[split..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(expected)
}

/// Parses a number of bytes with its unit: `64MiB`, `1GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let expected =
        || format!("{text:?} is no size; expected a number and B, KiB, MiB or GiB, such as 128MiB");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..split].parse().map_err(|_| expected())?;
    let unit = match &text[split..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(expected)
}

/// Parses a label: `app=catalog`.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as app=catalog")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn commands_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(bytes("128MiB"), Ok(128 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("512B"), Ok(512));
        for bad in ["", "MiB", "64", "64MB", "-1MiB", "0B", "99999999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("24h"), Ok(Duration::from_hours(24)));
        for bad in ["", "s", "20", "1d", "-1s", "1.5s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
