//! The edges of the mesh as a table, and the line under it. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use meshwork_hub::Edge;

use crate::shop::load::Tally;

/// Column titles; all but the first three are aligned to the right.
const TITLES: [&str; 8] = ["FROM", "TO", "PROTOCOL", "REQ/S", "SUCCESS", "P50", "P99", "MTLS"];
const LEFT_ALIGNED: usize = 3;
/// Rows that are shown; a terminal has few more lines.
const MAX_ROWS: usize = 40;

/// Whether a text is marked up for a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Plain text.
    Plain,
    /// With ANSI escapes: titles bold, rows with failures red.
    Ansi,
}

/// What the edges were some seconds ago, to tell what is refused now.
#[derive(Debug, Default)]
pub(crate) struct Past(VecDeque<Vec<Edge>>);

/// How many looks at the edges are kept. Requests and refusals are told by two proxies, a second apart at most: over
/// some seconds that does not matter.
const PAST: usize = 5;

/// Draws the table; no line ends in spaces, the last one has no line end.
pub(crate) fn render(edges: &[Edge], past: &Past, paint: Paint) -> String {
    let rows: Vec<[String; 8]> = edges.iter().take(MAX_ROWS).map(|edge| row(edge, past)).collect();
    let mut widths = TITLES.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = vec![painted(&line(&TITLES.map(str::to_owned), &widths), "1", paint)];
    for (row, edge) in rows.iter().zip(edges) {
        let failing = edge.success < 1.0;
        let line = line(row, &widths);
        lines.push(if failing { painted(&line, "31", paint) } else { line });
    }
    if edges.len() > MAX_ROWS {
        lines.push(format!("… and {} more", edges.len() - MAX_ROWS));
    }
    lines.join("\n")
}

/// What the load has seen, in one line; `lately` counts pages by the catalog's release.
pub(crate) fn summary(tally: &Tally, lately: &BTreeMap<String, u64>) -> String {
    let mut text = format!(
        "{} requests · {} failed · {} denied as they must be · {} wrongly let through",
        tally.requests, tally.failures, tally.denied, tally.wrongly_allowed
    );
    if tally.skipped > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, " · {} left out: too slow for the rate", tally.skipped);
    }
    let shares: Vec<String> = shares(lately)
        .into_iter()
        .map(|(version, share)| format!("{version} {:.1} %", share * 100.0))
        .collect();
    if shares.is_empty() { text } else { format!("{text} · catalog {}", shares.join(", ")) }
}

/// The share of each release in counts of pages, 0 to 1.
pub(crate) fn shares(versions: &BTreeMap<String, u64>) -> Vec<(String, f64)> {
    let all: u64 = versions.values().sum();
    versions.iter().map(|(version, count)| (version.clone(), ratio(*count, all))).collect()
}

/// A share of counts, 0 to 1; 0 where there is nothing to share.
#[expect(clippy::cast_precision_loss, reason = "counts of requests stay far under 2^52")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn row(edge: &Edge, past: &Past) -> [String; 8] {
    let idle = edge.requests == 0;
    // A service with several workloads behind it has a row for each.
    let to = if edge.to_workload.is_empty() || edge.to_workload == "unknown" {
        &edge.to
    } else {
        &edge.to_workload
    };
    [
        edge.from.clone(),
        to.clone(),
        edge.protocol.clone(),
        format!("{:.1}", edge.per_second),
        success(edge, past),
        if idle { "–".to_owned() } else { milliseconds(edge.p50_ms) },
        if idle { "–".to_owned() } else { milliseconds(edge.p99_ms) },
        if edge.mtls { "yes" } else { "no" }.to_owned(),
    ]
}

/// The share of requests that did not fail, rounded down: 100 % means all.
fn success(edge: &Edge, past: &Past) -> String {
    if edge.requests == 0 {
        "–".to_owned()
    } else if past.is_denied(edge) {
        "denied".to_owned()
    } else {
        format!("{:.1} %", (edge.success * 1000.0).floor() / 10.0)
    }
}

// === impl Past ===

impl Past {
    /// Remembers the edges as they are now.
    pub(crate) fn remember(&mut self, edges: &[Edge]) {
        self.0.truncate(PAST - 1);
        self.0.push_front(edges.to_vec());
    }

    /// Whether policy has refused most of an edge's requests since.
    fn is_denied(&self, edge: &Edge) -> bool {
        let same = |old: &&Edge| {
            (&old.from, &old.to, &old.to_workload, &old.protocol)
                == (&edge.from, &edge.to, &edge.to_workload, &edge.protocol)
        };
        let old = self.0.back().and_then(|edges| edges.iter().find(same));
        // Counts that have shrunk began anew.
        let old = old.filter(|old| old.requests <= edge.requests && old.denied <= edge.denied);
        let (requests, denied) = old.map_or((0, 0), |old| (old.requests, old.denied));
        (edge.denied - denied) * 2 > edge.requests - requests
    }
}

/// Three digits are enough to see what changed.
fn milliseconds(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} ms")
}

/// A row's text; writing to a string cannot fail.
fn line(cells: &[String; 8], widths: &[usize; 8]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = if column == 0 { "" } else { "  " };
        if column < LEFT_ALIGNED {
            let _ = write!(line, "{gap}{cell:<width$}");
        } else {
            let _ = write!(line, "{gap}{cell:>width$}");
        }
    }
    line.trim_end().to_owned()
}

fn painted(text: &str, code: &str, paint: Paint) -> String {
    match paint {
        Paint::Plain => text.to_owned(),
        Paint::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shop::load::Tally;

    pub(crate) fn edge(from: &str, to: &str, workload: &str, protocol: &str) -> Edge {
        Edge {
            from: from.to_owned(),
            from_namespace: "shop".to_owned(),
            to: to.to_owned(),
            to_namespace: "shop".to_owned(),
            to_workload: workload.to_owned(),
            to_version: "v1".to_owned(),
            protocol: protocol.to_owned(),
            requests: 1000,
            failures: 0,
            denied: 0,
            per_second: 50.0,
            success: 1.0,
            p50_ms: 1.234,
            p99_ms: 12.34,
            mtls: true,
            connections: 2,
            mtls_connections: 2,
        }
    }

    #[test]
    fn edges_are_rows_with_aligned_columns() {
        let failing =
            Edge { failures: 1, success: 0.9999, p99_ms: 120.0, ..edge("web", "cart", "cart", "http") };
        let denied = Edge { denied: 1000, mtls: false, ..edge("load", "payments", "payments", "grpc") };
        let idle = Edge { requests: 0, per_second: 0.0, ..edge("checkout", "ledger", "unknown", "tcp") };
        let edges = [edge("web", "catalog", "catalog-v1", "http"), failing, denied, idle];
        let expected = "\
FROM      TO          PROTOCOL  REQ/S  SUCCESS      P50      P99  MTLS
web       catalog-v1  http       50.0  100.0 %  1.23 ms  12.3 ms   yes
web       cart        http       50.0   99.9 %  1.23 ms   120 ms   yes
load      payments    grpc       50.0   denied  1.23 ms  12.3 ms    no
checkout  ledger      tcp         0.0        –        –        –   yes";
        assert_eq!(render(&edges, &Past::default(), Paint::Plain), expected);
        let painted = render(&edges, &Past::default(), Paint::Ansi);
        assert!(
            painted.starts_with("\u{1b}[1mFROM") && painted.contains("\u{1b}[31mweb       cart"),
            "{painted}"
        );
    }

    fn check_denied(past: &[(u64, u64)], now: (u64, u64), expected: bool) {
        let at = |(requests, denied)| Edge { requests, denied, ..edge("a", "b", "b", "http") };
        let mut remembered = Past::default();
        for &counts in past {
            remembered.remember(&[at(counts)]);
        }
        assert_eq!(remembered.is_denied(&at(now)), expected, "{past:?} {now:?}");
    }

    #[test]
    fn an_edge_is_denied_while_policy_refuses_most_of_it() {
        check_denied(&[], (10, 10), true);
        check_denied(&[], (10, 8), true);
        check_denied(&[], (10, 0), false);
        check_denied(&[(100, 0)], (110, 9), true);
        check_denied(&[(100, 90)], (110, 90), false);
        check_denied(&[(100, 0), (110, 10), (120, 10), (130, 10), (140, 10), (150, 10)], (160, 10), false);
        check_denied(&[(100, 100)], (100, 100), false);
        check_denied(&[(100, 100)], (10, 10), true);
    }

    #[test]
    fn a_table_has_a_last_row() {
        let edges = vec![edge("a", "b", "b", "tcp"); 43];
        let table = render(&edges, &Past::default(), Paint::Plain);
        assert_eq!((table.lines().count(), table.lines().last()), (42, Some("… and 3 more")));
    }

    #[test]
    fn the_summary_says_what_the_load_saw() {
        let tally = Tally { requests: 10, failures: 1, denied: 2, ..Tally::default() };
        assert_eq!(
            summary(&tally, &BTreeMap::new()),
            "10 requests · 1 failed · 2 denied as they must be · 0 wrongly let through"
        );
        let lately = [("v1".to_owned(), 9), ("v2".to_owned(), 1)].into();
        assert!(summary(&tally, &lately).ends_with("· catalog v1 90.0 %, v2 10.0 %"));
    }
}
