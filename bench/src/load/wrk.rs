//! wrk: HTTP/1.1 in plaintext.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Done, Latencies};

/// Runs it; it inherits our core.
pub(super) fn run(address: SocketAddr, connections: usize, time: Duration) -> anyhow::Result<Done> {
    let output = Command::new("wrk")
        .args(["--latency", "-t1", "--timeout", "20s"])
        .args([format!("-c{connections}"), format!("-d{}s", time.as_secs()), format!("http://{address}/1k")])
        .output()
        .context("cannot start wrk; `cargo xtask peers` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("wrk {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn parse(text: &str) -> anyhow::Result<Done> {
    let line = |mark: &str| text.lines().map(str::trim).find(|l| l.starts_with(mark));
    let last = |mark: &str| line(mark).and_then(|l| l.split_whitespace().last());
    let failed = line("Socket errors:").or_else(|| line("Non-2xx"));
    ensure!(failed.is_none(), "{}", failed.unwrap_or_default());
    let requests = text.lines().map(str::trim).find(|l| l.contains(" requests in "));
    let operations =
        requests.and_then(|l| l.split(' ').next()).context("no count of requests")?.parse::<u64>()?;
    ensure!(operations > 0, "no request was answered");
    let at = |mark: &str| milliseconds(last(mark).with_context(|| format!("no {mark}"))?);
    Ok(Done {
        operations,
        bytes: 0,
        per_second: last("Requests/sec:").context("no rate")?.parse()?,
        latencies: Some(Latencies { p50: at("50%")?, p90: at("90%")?, p99: at("99%")? }),
    })
}

fn milliseconds(text: &str) -> anyhow::Result<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (number, factor) = found.with_context(|| format!("{text} has no unit"))?;
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 1s test @ http://127.0.0.1:45813/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms    0.99ms  20.51ms   95.99%
    Req/Sec    66.91k     4.51k   73.48k    63.64%
  Latency Distribution
     50%    0.87ms
     75%    1.12ms
     90%  980.00us
     99%    1.20s
  73245 requests in 1.10s, 82.63MB read
Requests/sec:  66590.45
Transfer/sec:     75.12MB
";

    #[test]
    fn counts_rate_and_latencies_are_read() {
        let done = parse(GOOD).unwrap();
        assert_eq!((done.operations, done.per_second), (73_245, 66_590.45));
        assert_eq!(done.latencies, Some(Latencies { p50: 0.87, p90: 0.98, p99: 1200.0 }));
    }

    #[test]
    fn failed_requests_are_an_error() {
        let errors = "  Socket errors: connect 0, read 3, write 0, timeout 0";
        assert!(parse(&format!("{GOOD}{errors}\n")).unwrap_err().to_string().contains("read 3"));
        assert!(parse(&format!("{GOOD}  Non-2xx or 3xx responses: 7\n")).is_err());
        assert!(parse("unable to connect to 127.0.0.1:1 Connection refused").is_err());
    }
}
