//! The scenarios, in the order in which they run and are shown.

use std::path::PathBuf;

use crate::contender::{Binary, Program};
use crate::load::{Load, Request};
use crate::mesh::Way;
use crate::metric::Metric;

/// For each hop, from client to origin, the flags that choose the parts of its config template.
pub(crate) type Hops = &'static [&'static [&'static str]];

/// Something to measure.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What is done, in a line.
    pub(crate) title: &'static str,
    pub(crate) load: Load,
    pub(crate) entries: Vec<Entry>,
    pub(crate) rounds: usize,
    /// Seconds of load in a round.
    pub(crate) seconds: u64,
    /// The figure that ratios and plots show.
    pub(crate) lead: Metric,
    /// Part of `--quick`.
    pub(crate) daily: bool,
}

/// One contender in a scenario.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Begins with the program's name.
    pub(crate) label: String,
    pub(crate) program: Program,
    pub(crate) hops: Hops,
    /// Which build of ours.
    pub(crate) binary: Option<PathBuf>,
    /// Where the hops are sidecars of a mesh: how programs reach them.
    pub(crate) way: Option<Way>,
}

const PLAIN: Hops = &[&[]];
const MANY: Hops = &[&["many"]];
const TCP: Hops = &[&["tcp"]];
const SIDECAR: Hops = &[&["sidecar"]];
const ONE_POLICY: Hops = &[&["sidecar", "rules", "rules-1"]];
const THOUSAND_POLICIES: Hops = &[&["sidecar", "rules", "rules-1000"]];
const SIDECAR_LOG: Hops = &[&["sidecar", "log"]];
const MTLS_IN: Hops = &[&["tls-in"]];
const MTLS_HYBRID: Hops = &[&["tls-in", "hybrid"]];
const MTLS_BOTH: Hops = &[&["tls-in", "tls-out"]];
const H2_TO_H2: Hops = &[&["h2-in", "h2-out"]];
const H2_TO_H1: Hops = &[&["h2-in"]];
const TWO_BY_H1: Hops = &[&["tls-out"], &["tls-in"]];
const TWO_BY_H2: Hops = &[&["tls-out", "h2-out"], &["tls-in", "h2-in"]];

use Program::{Envoy, Haproxy, Meshwork, Nginx};
const EVERYBODY: &[Program] = &[Meshwork, Envoy, Nginx, Haproxy];

/// All scenarios.
pub(crate) fn all() -> Vec<Scenario> {
    let groups = [http1(), sidecar(), tcp(), mtls(), memory(), two_hops(), http2(), capture()];
    groups.into_iter().flatten().collect()
}

fn http1() -> Vec<Scenario> {
    let wrk = |connections| Load::Wrk { connections };
    let own = |connections, request| Load::Requests { connections, request, tls: false };
    let scenario = |name, title, load| Scenario::new(name, title, load, among(EVERYBODY, PLAIN));
    vec![
        scenario("h1-1", "HTTP/1.1 keep-alive, 1 KiB, 1 connection", wrk(1)),
        scenario("h1-64", "HTTP/1.1 keep-alive, 1 KiB, 64 connections", wrk(64)).rounds(7).daily(),
        scenario("h1-1000", "HTTP/1.1 keep-alive, 1 KiB, 1,000 connections", wrk(1000)),
        scenario("download", "HTTP/1.1, 1 MiB answers, 16 connections", own(16, Request::Download)).rounds(3),
        scenario("upload", "HTTP/1.1, 1 MiB requests, 16 connections", own(16, Request::Upload)).rounds(3),
        scenario(
            "new-connections",
            "HTTP/1.1, 1 KiB, a new connection for each request, 16 at a time",
            own(16, Request::SmallOnNewConnection),
        )
        .seconds(2),
    ]
}

/// A config as people have it, the same file for both.
fn sidecar() -> Vec<Scenario> {
    let scenario = |name, title, hops| {
        Scenario::new(name, title, Load::Wrk { connections: 64 }, among(&[Meshwork, Envoy], hops))
    };
    let off = "A sidecar's config: 30 routes, RBAC, faults and a local rate limit, 1 KiB, 64 connections";
    let on = "The same with an access log";
    vec![scenario("sidecar", off, SIDECAR), scenario("sidecar-log", on, SIDECAR_LOG), policies()]
}

/// The same config with more policies: what a policy costs those that it does not mean.
fn policies() -> Scenario {
    let entries = vec![
        Entry::new("meshwork (1 policy)", Meshwork, ONE_POLICY),
        Entry::new("meshwork (1,000 policies)", Meshwork, THOUSAND_POLICIES),
        Entry::new("envoy (1 policy)", Envoy, ONE_POLICY),
        Entry::new("envoy (1,000 policies)", Envoy, THOUSAND_POLICIES),
    ];
    let title = "The same with one and with a thousand policies that differ by path, 1 KiB, 64 connections";
    Scenario::new("policies", title, Load::Wrk { connections: 64 }, entries)
}

fn tcp() -> Vec<Scenario> {
    let scenario = |name, title, load| Scenario::new(name, title, load, among(EVERYBODY, TCP)).rounds(3);
    vec![
        scenario("tcp-echo", "TCP, 64-byte round trips, 64 connections", Load::Echo { connections: 64 }),
        scenario("tcp-bulk", "TCP, both ways at full speed, 4 connections", Load::Bulk { connections: 4 })
            .lead(Metric::CpuPerGib),
    ]
}

fn mtls() -> Vec<Scenario> {
    let keep_alive = Load::Requests { connections: 64, request: Request::Small, tls: true };
    let handshakes = |hybrid| Load::Handshakes { connections: 16, hybrid };
    vec![
        Scenario::new(
            "mtls-in",
            "mTLS from the client, plaintext to the origin, keep-alive, 1 KiB, 64 connections",
            keep_alive,
            among(EVERYBODY, MTLS_IN),
        )
        .daily(),
        Scenario::new(
            "mtls-both",
            "mTLS from the client and to the origin, keep-alive, 1 KiB, 64 connections",
            keep_alive,
            among(EVERYBODY, MTLS_BOTH),
        ),
        Scenario::new(
            "handshakes",
            "Fresh mTLS handshakes with X25519, 16 at a time",
            handshakes(false),
            among(EVERYBODY, MTLS_IN),
        )
        .lead(Metric::HandshakesPerCpuSecond)
        .daily(),
        Scenario::new(
            "handshakes-hybrid",
            "Fresh mTLS handshakes with X25519MLKEM768, 16 at a time",
            handshakes(true),
            among(&[Meshwork, Envoy], MTLS_HYBRID),
        )
        .lead(Metric::HandshakesPerCpuSecond)
        .rounds(3),
    ]
}

fn memory() -> Vec<Scenario> {
    let load = Load::Idle { connections: &[1000, 10_000] };
    let title = "Memory: idle, with 1,000 and with 10,000 idle connections after one request each";
    vec![
        Scenario::new("memory", title, load, among(EVERYBODY, MANY))
            .lead(Metric::MemoryPerConnection10k)
            .rounds(1),
    ]
}

fn two_hops() -> Vec<Scenario> {
    let entries = || {
        vec![
            Entry::new("meshwork (HTTP/1.1)", Meshwork, TWO_BY_H1),
            Entry::new("meshwork (HTTP/2)", Meshwork, TWO_BY_H2),
            Entry::new("envoy (HTTP/1.1)", Envoy, TWO_BY_H1),
            Entry::new("envoy (HTTP/2)", Envoy, TWO_BY_H2),
            Entry::new("nginx (HTTP/1.1)", Nginx, TWO_BY_H1),
        ]
    };
    let title = "Two hops with mTLS between, 1 KiB, 64 connections, both summed";
    let memory = "Two hops with mTLS between: memory of both";
    vec![
        Scenario::new("two-hops", title, Load::Wrk { connections: 64 }, entries()).daily(),
        Scenario::new("two-hops-memory", memory, Load::Idle { connections: &[1000] }, entries())
            .lead(Metric::Memory1k)
            .rounds(1),
    ]
}

fn http2() -> Vec<Scenario> {
    let load = Load::H2 { connections: 8, streams: 32 };
    let from_h2_to_h2 = "HTTP/2 to HTTP/2 in plaintext, 1 KiB, 8 connections of 32 streams";
    let from_h2_to_h1 = "HTTP/2 to HTTP/1.1 in plaintext, 1 KiB, 8 connections of 32 streams";
    vec![
        Scenario::new("h2-h2", from_h2_to_h2, load, among(&[Meshwork, Envoy, Haproxy], H2_TO_H2)),
        Scenario::new("h2-h1", from_h2_to_h1, load, among(EVERYBODY, H2_TO_H1)),
    ]
}

fn capture() -> Vec<Scenario> {
    let entries = || {
        let entry = |label, way| Entry { way: Some(way), ..Entry::new(label, Meshwork, &[]) };
        vec![entry("meshwork (explicit)", Way::Explicit), entry("meshwork (namespace)", Way::Namespace)]
    };
    let load = |connections, request| Load::Requests { connections, request, tls: false };
    let kept = "Two sidecars of a mesh, mTLS between, keep-alive, 1 KiB, 64 connections: capture beside explicit ports";
    let new = "Two sidecars of a mesh, 1 KiB, a new connection for each request, 16 at a time: capture beside explicit ports";
    vec![
        Scenario::new("capture", kept, load(64, Request::Small), entries()),
        Scenario::new("capture-new-connections", new, load(16, Request::SmallOnNewConnection), entries())
            .seconds(2),
    ]
}

fn among(programs: &[Program], hops: Hops) -> Vec<Entry> {
    programs.iter().map(|program| Entry::new(program.name(), *program, hops)).collect()
}

impl Scenario {
    fn new(name: &'static str, title: &'static str, load: Load, entries: Vec<Entry>) -> Self {
        Self { name, title, load, entries, rounds: 5, seconds: 4, lead: Metric::CpuPerRequest, daily: false }
    }

    fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    fn seconds(self, seconds: u64) -> Self {
        Self { seconds, ..self }
    }

    fn lead(self, lead: Metric) -> Self {
        Self { lead, ..self }
    }

    fn daily(self) -> Self {
        Self { daily: true, ..self }
    }

    /// Seconds that its loads take, starts and pauses included.
    pub(crate) fn duration(&self) -> u64 {
        let entries = self.entries.len() as u64;
        match self.load {
            Load::Idle { .. } => entries * self.rounds as u64 * 5,
            _ => entries * (1 + WARM_UP + self.rounds as u64 * self.seconds),
        }
    }

    /// Puts an entry for each build in the place of ours.
    pub(crate) fn expand(&mut self, binaries: &[Binary]) {
        let entries = std::mem::take(&mut self.entries);
        for entry in entries {
            if entry.program != Program::Meshwork {
                self.entries.push(entry);
                continue;
            }
            self.entries.extend(binaries.iter().map(|binary| Entry {
                label: entry.label.replacen("meshwork", &binary.label, 1),
                binary: Some(binary.path.clone()),
                ..entry.clone()
            }));
        }
    }
}

/// Seconds of load before the first round.
pub(crate) const WARM_UP: u64 = 1;

impl Entry {
    fn new(label: &str, program: Program, hops: Hops) -> Self {
        Self { label: label.to_owned(), program, hops, binary: None, way: None }
    }

    /// The program's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.binary.clone().unwrap_or_else(|| self.program.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_fits_in_its_time() {
        let all = all();
        let seconds =
            |daily: bool| -> u64 { all.iter().filter(|s| !daily || s.daily).map(Scenario::duration).sum() };
        assert!(seconds(false) < 25 * 60, "{} s", seconds(false));
    }

    #[test]
    fn a_second_build_stands_beside_the_first() {
        let binaries: Vec<Binary> =
            ["built=/a", "before=/b"].iter().map(|text| text.parse().expect("a binary")).collect();
        let mut scenario = two_hops().remove(0);
        scenario.expand(&binaries);
        let labels: Vec<_> = scenario.entries.iter().map(|e| e.label.as_str()).collect();
        let ours = ["meshwork built (HTTP/1.1)", "meshwork before (HTTP/1.1)"];
        assert_eq!(labels[..2], ours);
        assert_eq!(labels.len(), 7);
    }
}
