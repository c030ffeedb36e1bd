//! Benchmarks beside real peers, in one run: CPU per request of Meshwork, Envoy, nginx and HAProxy, doing equal work.
//!
//! Each proxy runs one worker pinned to core 0; load (wrk) and origin (nginx) run on core 1. CPU is the proxy's own user
//! and system time, from `/proc`, divided by the requests that wrk counted. Rounds are interleaved and medians quoted,
//! as ratios: the machine's speed drifts, the ratio in one run does not. Equal work: each proxy adds a request id,
//! chooses between two endpoints and keeps its connections alive.

mod contender;
mod load;
mod process;

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use contender::{Contender, NAMES};

#[derive(Parser)]
#[command(about = "CPU per request of proxies that do equal work, in one run")]
struct Arguments {
    /// Short rounds, and few
    #[arg(long)]
    quick: bool,
}

struct Plan {
    rounds: usize,
    run: Duration,
}

#[derive(Clone, Copy)]
struct Sample {
    cpu_us: f64,
    per_second: f64,
    p99_ms: f64,
    memory_mib: f64,
}

fn main() -> anyhow::Result<()> {
    let plan = if Arguments::parse().quick {
        Plan { rounds: 3, run: Duration::from_secs(3) }
    } else {
        Plan { rounds: 7, run: Duration::from_secs(8) }
    };
    let dir = tempfile::tempdir()?;
    let origin = contender::origin(dir.path())?;
    for connections in [1, 64] {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); NAMES.len()];
        for _ in 0..plan.rounds {
            for (name, samples) in NAMES.iter().zip(&mut samples) {
                let contender = Contender::start(name, dir.path(), origin.addresses)?;
                samples
                    .push(measure(&contender, connections, &plan).with_context(|| format!("with {name}"))?);
            }
        }
        print(connections, &samples);
    }
    Ok(())
}

fn measure(contender: &Contender, connections: usize, plan: &Plan) -> anyhow::Result<Sample> {
    load::run(contender.address, connections, Duration::from_secs(1))?;
    let before = contender.cpu()?;
    let result = load::run(contender.address, connections, plan.run)?;
    let cpu = contender.cpu()?.saturating_sub(before);
    anyhow::ensure!(result.errors == 0, "{} requests failed", result.errors);
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    let cpu_us = cpu.as_secs_f64() * 1e6 / result.requests as f64;
    Ok(Sample {
        cpu_us,
        per_second: result.per_second,
        p99_ms: result.p99_ms,
        memory_mib: contender.memory_mib()?,
    })
}

#[expect(clippy::print_stdout, reason = "the result")]
fn print(connections: usize, samples: &[Vec<Sample>]) {
    println!(
        "HTTP/1.1 keep-alive, 1 KiB answers, {connections} connections, medians of {} rounds",
        samples[0].len()
    );
    println!(
        "{:<10} {:>12} {:>14} {:>9} {:>10} {:>9} {:>9}",
        "proxy", "CPU µs/req", "min–max", "vs Envoy", "requests/s", "p99 ms", "RSS MiB"
    );
    let cpu = |of: &[Sample]| median(of.iter().map(|s| s.cpu_us));
    let envoy = NAMES.iter().position(|n| *n == "envoy").map_or(f64::NAN, |at| cpu(&samples[at]));
    for (name, of) in NAMES.iter().zip(samples) {
        let (low, high) = of.iter().fold((f64::MAX, 0_f64), |(l, h), s| (l.min(s.cpu_us), h.max(s.cpu_us)));
        println!(
            "{name:<10} {:>12.1} {:>14} {:>9.2} {:>10.0} {:>9.2} {:>9.1}",
            cpu(of),
            format!("{low:.1}–{high:.1}"),
            cpu(of) / envoy,
            median(of.iter().map(|s| s.per_second)),
            median(of.iter().map(|s| s.p99_ms)),
            median(of.iter().map(|s| s.memory_mib)),
        );
    }
    println!();
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
