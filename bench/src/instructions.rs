//! Instructions per request in user space, counted by callgrind: no other program on the machine changes them.
//!
//! A build serves some requests under callgrind, then another process of it serves more; the difference of their
//! instructions over the difference of their requests leaves out start and end.

use std::path::Path;

use anyhow::Context;
use tokio::net::TcpStream;

use crate::certificates;
use crate::contender::{Binary, config, free_port, listens};
use crate::load::{Request, client, runtime};
use crate::origin::Origin;
use crate::process::{PROXY_CORE, Process};

const FEWER: u64 = 200;
const MORE: u64 = 2200;

/// Counts each build's, one line for each.
pub(crate) fn run(binaries: &[Binary]) -> anyhow::Result<String> {
    let dir = tempfile::tempdir()?;
    certificates::write(dir.path())?;
    let origin = Origin::start(dir.path())?;
    let line = |binary: &Binary| {
        let fewer = count(binary, FEWER, dir.path(), &origin)?;
        let each = (count(binary, MORE, dir.path(), &origin)? - fewer) / (MORE - FEWER);
        Ok(format!("{:<20} {each:>8} instructions per request in user space\n", binary.label))
    };
    binaries.iter().map(line).collect()
}

fn count(binary: &Binary, requests: u64, dir: &Path, origin: &Origin) -> anyhow::Result<u64> {
    let port = free_port()?;
    let [a, b] = origin.ports(&[]);
    let values =
        [("LISTEN", port), ("ADMIN", free_port()?), ("A", a), ("B", b)].map(|(n, p)| (n, p.to_string()));
    let file = config(dir, ("envoy.yaml", "callgrind.yaml"), &["meshwork"], &values)?;
    let (program, file) = (binary.path.to_string_lossy(), file.to_string_lossy());
    let arguments = [
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        &program,
        "proxy",
        "--workers",
        "1",
        "-c",
        &file,
    ];
    let log = dir.join("callgrind.log");
    let mut process = Process::start(PROXY_CORE, Path::new("valgrind"), &arguments, &log)?;
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    listens(port, &mut process).with_context(said)?;
    runtime()?.block_on(async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (request, mut buffer) = (Request::Small.bytes(), vec![0; 64 * 1024]);
        for _ in 0..requests {
            client::exchange(&mut stream, &mut buffer, &request).await?;
        }
        anyhow::Ok(())
    })?;
    process.stop()?;
    collected(&said()).with_context(said)
}

/// Source: callgrind's last lines, `==123== Collected : 4567`.
fn collected(text: &str) -> anyhow::Result<u64> {
    let line =
        text.lines().find_map(|line| line.split_once("Collected :")).context("callgrind counted nothing")?;
    Ok(line.1.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_the_other_lines() {
        let text = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n==7== I   refs:      123,456\n";
        assert_eq!(collected(text).expect("a count"), 123_456);
        assert!(collected("==7== Fatal error").is_err());
    }
}
