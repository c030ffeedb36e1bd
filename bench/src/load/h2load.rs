//! h2load: HTTP/2 in plaintext, by prior knowledge.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Done;

/// Runs it; it inherits our core.
pub(super) fn run(
    address: SocketAddr,
    connections: usize,
    streams: usize,
    time: Duration,
) -> anyhow::Result<Done> {
    let output = Command::new("h2load")
        .args(["-t1", &format!("-c{connections}"), &format!("-m{streams}")])
        .args([format!("-D{}", time.as_secs()), format!("http://{address}/1k")])
        .output()
        .context("cannot start h2load; `cargo xtask peers` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("h2load {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn parse(text: &str) -> anyhow::Result<Done> {
    let after = |mark: &str| text.lines().find_map(|l| l.trim().strip_prefix(mark));
    let counts = after("requests:").context("no count of requests")?;
    let count = |name: &str| -> anyhow::Result<u64> {
        let part = counts.split(',').find_map(|part| part.trim().strip_suffix(name));
        Ok(part.with_context(|| format!("no count of{name}"))?.parse()?)
    };
    // What is under way when the time is over counts neither as done nor as failed.
    let (operations, failed) = (count(" succeeded")?, count(" failed")? + count(" timeout")?);
    let answers = after("status codes:").context("no status codes")?;
    ensure!(operations > 0 && failed == 0, "{counts}; {answers}");
    let finished = after("finished in").context("no rate")?;
    let rate = finished.split(',').find_map(|part| part.trim().strip_suffix(" req/s"));
    Ok(Done { operations, per_second: rate.context("no rate")?.parse()?, ..Done::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(failed: u64) -> String {
        format!(
            "starting benchmark...
progress: 100% of clients started

finished in 3.00s, 51234.33 req/s, 54.12MB/s
requests: 153703 total, 153959 started, 153703 done, {} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 153703 2xx, 0 3xx, 0 4xx, {failed} 5xx
traffic: 162.36MB (170249999) total, 3.83MB (4013632) headers (space savings 87.83%), 150.10MB (157391872) data
",
            153_703 - failed
        )
    }

    #[test]
    fn count_and_rate_are_read() {
        let done = parse(&text(0)).unwrap();
        assert_eq!((done.operations, done.per_second), (153_703, 51_234.33));
    }

    #[test]
    fn failed_requests_are_an_error() {
        assert!(parse(&text(3)).is_err());
        assert!(parse("connect failed").is_err());
    }
}
