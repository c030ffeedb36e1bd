//! One entry for everything a developer does: `cargo xtask <command>`.
//!
//! `test` is what CI runs; `soak` holds what is long or heavy and is run before a larger change is called done.

mod r#gen;
mod peers;
mod run;
mod soak;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything a developer does with Meshwork", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that CI runs: format, clippy, tidy, tests, docs, end-to-end tests with real peers.
    Test {
        /// Run only these steps, by name (see the step names that the run prints).
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// The long and heavy tests.
    Soak,
    /// Checks the architecture's invariants and the repository's rules.
    Tidy,
    /// Installs the real programs that end-to-end tests and benchmarks run against.
    Peers,
    /// Measures the proxy beside Envoy, nginx and HAProxy in one run.
    #[command(disable_help_flag = true)]
    Bench {
        /// What `bench` itself takes; `--help` tells.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Writes the files that are generated from others: protobuf descriptors, tables in the documentation.
    Gen,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Test { only } => test::run(&only),
        Command::Soak => soak::run(),
        Command::Tidy => tidy::run(),
        Command::Peers => peers::run(),
        Command::Bench { arguments } => bench(&arguments),
        Command::Gen => r#gen::run(),
    }
}

/// Peers, the proxy as it is shipped, then the benchmark beside it.
fn bench(arguments: &[String]) -> anyhow::Result<()> {
    peers::run()?;
    run::cargo(&["build", "--locked", "--profile", "dist", "--package", "meshwork", "--package", "bench"])?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    run::program(&run::target().join("dist/bench").to_string_lossy(), &arguments)
}

#[expect(clippy::print_stderr, reason = "progress of a developer's tool")]
fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
