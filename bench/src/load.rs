//! The load: wrk, pinned to core 1.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

/// What wrk counted.
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) per_second: f64,
    pub(crate) p99_ms: f64,
}

/// Runs wrk against a proxy for a bounded time.
pub(crate) fn run(address: SocketAddr, connections: usize, time: Duration) -> anyhow::Result<Load> {
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "--latency", "-t1"])
        .args([format!("-c{connections}"), format!("-d{}s", time.as_secs()), format!("http://{address}/1k")])
        .output()
        .context("cannot start wrk; `cargo xtask peers` installs it")?;
    parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("{output:?}"))
}

fn parse(text: &str) -> anyhow::Result<Load> {
    let line = |mark: &str| text.lines().find(|l| l.contains(mark)).map(str::trim);
    let requests =
        line("requests in").and_then(|l| l.split(' ').next()).context("no count of requests")?.parse()?;
    let per_second =
        line("Requests/sec:").and_then(|l| l.split_whitespace().last()).context("no rate")?.parse()?;
    let p99 = line("99%").and_then(|l| l.split_whitespace().last()).context("no p99")?;
    let errors = [line("Socket errors:"), line("Non-2xx")].into_iter().flatten().flat_map(numbers).sum();
    Ok(Load { requests, errors, per_second, p99_ms: milliseconds(p99)? })
}

fn numbers(line: &str) -> impl Iterator<Item = u64> {
    line.split(|c: char| !c.is_ascii_digit()).skip(1).filter_map(|n| n.parse().ok())
}

fn milliseconds(text: &str) -> anyhow::Result<f64> {
    let (number, factor) = match text {
        t if t.ends_with("us") => (t.trim_end_matches("us"), 0.001),
        t if t.ends_with("ms") => (t.trim_end_matches("ms"), 1.0),
        t => (t.trim_end_matches('s'), 1000.0),
    };
    Ok(number.parse::<f64>()? * factor)
}
