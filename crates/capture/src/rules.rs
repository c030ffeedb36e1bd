//! The packet filter inside a workload's namespace, as text for `nft`.
//!
//! It only steers: what keeps the program in is that its namespace has no interface but loopback. What is neither TCP
//! nor DNS is told to the log and refused, so that whoever sent it learns of it at once.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::addresses::{NAMES, OUTBOUND, SIDECAR};

/// The group under which refused packets are logged.
pub(crate) const LOG_GROUP: u16 = 1;
/// How many refused packets a second reach the log: enough to see what goes on, too few to fill a disk.
const LOG_RATE: u32 = 10;
/// How many more at once.
const LOG_BURST: u32 = 20;
/// How much of a refused packet reaches the log: its headers.
const LOG_BYTES: u32 = 128;
/// Where administrators' programs are that are not in an ordinary user's `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The rules.
pub(crate) fn text() -> String {
    let [v4, v6] = SIDECAR;
    let (outbound, names) = (OUTBOUND[0].port(), NAMES[0].port());
    format!(
        "table inet meshwork {{
  chain steer {{
    type nat hook output priority -100; policy accept;
    ip saddr {v4} return
    ip6 saddr {v6} return
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{names}
    fib daddr type local return
    meta l4proto tcp redirect to :{outbound}
  }}
  chain refuse {{
    type filter hook output priority 0; policy drop;
    fib daddr type local accept
    limit rate {LOG_RATE}/second burst {LOG_BURST} packets log group {LOG_GROUP} snaplen {LOG_BYTES}
    reject with icmpx type admin-prohibited
  }}
}}
"
    )
}

/// Where `nft` is; `None` where it is not installed.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join("nft")).find(|candidate| candidate.is_file())
}

/// Loads the rules into this process's network namespace. The process needs `CAP_NET_ADMIN` there as an ambient
/// capability.
///
/// # Errors
/// `nft` is missing, or does not take the rules; the error carries its words.
pub(crate) fn load() -> io::Result<()> {
    let nft = program()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program nft is not installed"))?;
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why below.
        let _ = stdin.write_all(text().as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().next().unwrap_or("no reason given").to_owned();
    Err(io::Error::other(format!("nft does not take the rules: {first}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_addresses_and_ports_of_the_namespace() {
        let text = text();
        for part in [
            "ip saddr 198.18.0.2 return",
            "ip6 saddr fd6d:6573:6877:ffff::2 return",
            "th dport 53 redirect to :15053",
            "meta l4proto tcp redirect to :15001",
            "log group 1 snaplen 128",
            "reject with icmpx type admin-prohibited",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
