//! Benchmarks beside real peers, in one run: what Meshwork, Envoy, nginx and HAProxy pay for equal work.
//!
//! A [`scenario`] is a name, a load, and for each contender the flags that choose the parts of its config template.
//! Each proxy runs one worker on core 0; load and origin run on core 1. What is compared is the proxy's own user and
//! system time from `/proc`, divided by what the load counted: throughput on a shared machine says little, CPU does.
//! Rounds are interleaved, medians are quoted, and ratios are those of the same round: the machine's speed drifts,
//! the ratio within a round does not. `docs/benchmarks.md` tells the rest.

mod aims;
mod arguments;
mod certificates;
mod contender;
mod instructions;
mod load;
mod measure;
mod mesh;
mod metric;
mod origin;
mod policies;
mod process;
mod report;
mod results;
mod scale;
mod scenario;
mod statistics;
mod template;

use anyhow::Context;
use arguments::{Arguments, Output};
use clap::Parser;
use contender::Binary;
use results::Results;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(socket) = &arguments.load_on {
        return load::remote::serve(socket);
    }
    if arguments.list {
        return print(&report::list(&arguments.plan()?));
    }
    if arguments.instructions {
        process::prepare()?;
        return print(&instructions::run(&arguments.binaries()?)?);
    }
    if arguments.scale {
        let outcomes = scale::run(&Binary::built()?, arguments.size, &tell)?;
        if arguments.write_docs {
            scale::write(&outcomes)?;
        }
        return match arguments.output {
            Output::Json => print(&serde_json::to_string_pretty(&outcomes)?),
            Output::Table | Output::Markdown => print(&scale::table(&outcomes)),
        };
    }
    if arguments.policies {
        let outcomes = policies::run(&tell)?;
        return match arguments.output {
            Output::Json => print(&serde_json::to_string_pretty(&outcomes)?),
            Output::Table | Output::Markdown => print(&policies::table(&outcomes)),
        };
    }
    let results = match &arguments.from {
        Some(file) => Results::read(file)?,
        None => measure::run(&arguments.plan()?).context("the run ended early")?,
    };
    if arguments.write_docs {
        report::docs::write(results)?;
        return Ok(());
    }
    match arguments.output {
        Output::Json => print(&serde_json::to_string_pretty(&results)?),
        Output::Table => print(&report::table::render(&results)),
        Output::Markdown => print(&report::docs::results_text(&results)),
    }
}

#[expect(clippy::print_stderr, reason = "what it is at, for who waits")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the result")]
#[expect(clippy::unnecessary_wraps, reason = "the last call of main")]
fn print(text: &str) -> anyhow::Result<()> {
    println!("{}", text.trim_end());
    Ok(())
}
