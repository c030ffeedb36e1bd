//! The report of a run, as `--report` writes it, and the judgement on it. Pure.

use std::path::PathBuf;
use std::time::Duration;

use meshwork_hub::Edge;
use serde::Serialize;

use crate::shop::load::Tally;
use crate::table::{ratio, shares};

/// A run, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// From the process's start to the first request served through the mesh, with everything ready; `None`
    /// where none was.
    pub(crate) startup_ms: Option<u64>,
    /// Requests that the load sent, and whose end it saw.
    pub(crate) requests: u64,
    /// Those that failed and should not have.
    pub(crate) failures: u64,
    /// The first few reasons of failures, in words.
    pub(crate) reasons: Vec<String>,
    /// Share of proxy-to-proxy connections with mTLS, 0 to 1; 0 where none was seen.
    pub(crate) mtls_share: f64,
    /// Who called whom.
    pub(crate) edges: Vec<ReportedEdge>,
    /// How requests that chose no release were shared out.
    pub(crate) splits: Vec<Split>,
    /// Requests that policy must refuse, and refused.
    pub(crate) denied: u64,
    /// Requests that policy must refuse, and that got through.
    pub(crate) wrongly_allowed: u64,
    /// Where the diagram is.
    pub(crate) diagram: PathBuf,
}

/// One caller, one service, one workload behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ReportedEdge {
    from: String,
    to: String,
    /// The workload that answered; a service with several has an edge for each.
    workload: String,
    protocol: String,
    requests: u64,
    failures: u64,
    denied: u64,
    p50_ms: f64,
    p99_ms: f64,
    mtls: bool,
}

/// The share of a version of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Split {
    service: String,
    version: String,
    share: f64,
}

impl Report {
    /// Puts together what the load counted and what the control plane knows.
    pub(crate) fn new(startup: Option<Duration>, tally: &Tally, edges: &[Edge], diagram: PathBuf) -> Self {
        let connections = edges.iter().map(|edge| edge.connections).sum();
        let mtls = edges.iter().map(|edge| edge.mtls_connections).sum();
        let split = |(version, share)| Split { service: "catalog".to_owned(), version, share };
        Self {
            startup_ms: startup.map(|startup| u64::try_from(startup.as_millis()).unwrap_or(u64::MAX)),
            requests: tally.requests,
            failures: tally.failures,
            reasons: tally.reasons.clone(),
            mtls_share: ratio(mtls, connections),
            edges: edges.iter().map(ReportedEdge::from).collect(),
            splits: shares(&tally.versions).into_iter().map(split).collect(),
            denied: tally.denied,
            wrongly_allowed: tally.wrongly_allowed,
            diagram,
        }
    }

    /// The report as indented JSON.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl From<&Edge> for ReportedEdge {
    fn from(edge: &Edge) -> Self {
        Self {
            from: edge.from.clone(),
            to: edge.to.clone(),
            workload: edge.to_workload.clone(),
            protocol: edge.protocol.clone(),
            requests: edge.requests,
            failures: edge.failures,
            denied: edge.denied,
            p50_ms: edge.p50_ms,
            p99_ms: edge.p99_ms,
            mtls: edge.mtls,
        }
    }
}

/// What the load's count says of the run; `Err` says in words what went wrong.
///
/// # Errors
/// A request failed that should not have, one got through that should not have, or none was sent.
pub(crate) fn judge(tally: &Tally) -> Result<(), String> {
    let mut wrong = Vec::new();
    if tally.failures > 0 {
        wrong.push(format!("{} of {} requests failed", tally.failures, tally.requests));
    }
    if tally.wrongly_allowed > 0 {
        wrong.push(format!("{} requests got through that policy must refuse", tally.wrongly_allowed));
    }
    if tally.served == 0 {
        wrong.push("no request was served".to_owned());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let mut lines = vec![wrong.join("; ")];
    lines.extend(tally.reasons.iter().cloned());
    Err(lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::edge;

    #[test]
    fn a_report_has_what_was_measured() {
        let tally = Tally {
            requests: 3000,
            served: 2800,
            denied: 200,
            versions: [("v1".to_owned(), 900), ("v2".to_owned(), 100)].into(),
            ..Tally::default()
        };
        let plaintext = Edge { mtls: false, mtls_connections: 0, ..edge("x", "web", "web", "http") };
        let edges = [edge("load", "web", "web", "http"), edge("web", "cart", "cart", "http"), plaintext];
        let diagram = PathBuf::from("/tmp/mesh.mmd");
        let report = Report::new(Some(Duration::from_millis(1500)), &tally, &edges, diagram);
        let json: serde_json::Value = serde_json::from_str(&report.json().expect("JSON")).expect("JSON");
        assert_eq!(json["startup_ms"], 1500);
        assert_eq!(
            (&json["requests"], &json["failures"], &json["denied"]),
            (&3000.into(), &0.into(), &200.into())
        );
        assert!((json["mtls_share"].as_f64().expect("a share") - 4.0 / 6.0).abs() < 1e-9);
        assert_eq!(
            json["splits"][1],
            serde_json::json!({"service": "catalog", "version": "v2", "share": 0.1})
        );
        for field in ["from", "to", "protocol", "requests", "failures", "p50_ms", "p99_ms", "mtls"] {
            assert!(json["edges"][0].get(field).is_some(), "{field}");
        }
        assert_eq!(json["diagram"], "/tmp/mesh.mmd");
    }

    fn check(tally: &Tally, expected: Result<(), &str>) {
        assert_eq!(judge(tally), expected.map_err(str::to_owned));
    }

    #[test]
    fn only_a_run_without_fault_passes() {
        let good = Tally { requests: 10, served: 8, denied: 2, ..Tally::default() };
        check(&good, Ok(()));
        let failed = Tally { failures: 1, reasons: vec!["GET /: 502".to_owned()], ..good.clone() };
        check(&failed, Err("1 of 10 requests failed\n  GET /: 502"));
        let leaky = Tally { wrongly_allowed: 3, ..good };
        check(&leaky, Err("3 requests got through that policy must refuse"));
        check(&Tally::default(), Err("no request was served"));
    }

    #[test]
    fn no_connection_is_no_proof_of_mtls() {
        let report = Report::new(None, &Tally::default(), &[], PathBuf::new());
        assert!(report.mtls_share.abs() < f64::EPSILON);
        assert!(report.splits.is_empty() && report.startup_ms.is_none());
    }
}
