//! Who may depend on whom, and on what.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use crate::run;

/// Pairs that must never see each other, directly or not.
const APART: &[(&str, &str)] = &[
    ("meshwork-control-plane", "meshwork-data-plane"),
    ("meshwork-data-plane", "meshwork-control-plane"),
    ("meshwork-data-plane", "meshwork-hub"),
    ("meshwork-telemetry", "meshwork-hub"),
    ("meshwork-xds", "meshwork-control-plane"),
    ("meshwork-xds", "meshwork-data-plane"),
];

/// Crates that are pure, and all that they may depend on.
const PURE: &[(&str, &[&str])] =
    &[("meshwork-model", &["regex", "zeroize"]), ("meshwork-http1", &["memchr"]), ("meshwork-diagram", &[])];

/// Libraries that only some crates may use directly.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("envoy-types", &["meshwork-xds"]),
    ("prost-reflect", &["e2e", "meshwork-xds", "xtask"]),
    ("serde-saphyr", &["e2e", "meshwork-control-plane", "meshwork-xds"]),
    ("h2", &["e2e", "meshwork-data-plane"]),
    ("meshwork-http1", &["meshwork-data-plane"]),
    ("rusqlite", &["meshwork-control-plane"]),
    ("opentelemetry-proto", &["meshwork-telemetry", "meshwork-hub"]),
    ("rcgen", &["e2e", "meshwork-identity"]),
    ("regex", &["meshwork-model"]),
];

/// Libraries that must not be in what is shipped: second TLS stacks.
const BANNED: &[&str] = &["native-tls", "openssl", "openssl-sys", "reqwest", "ring"];

/// Licences that let everybody use the binary.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

struct Graph {
    direct: BTreeMap<String, BTreeSet<String>>,
    packages: Vec<(String, String)>,
}

pub(super) fn check() -> anyhow::Result<Vec<String>> {
    let graph = graph()?;
    let mut problems = Vec::new();
    apart(&graph, &mut problems);
    pure(&graph, &mut problems);
    kept(&graph, &mut problems);
    banned(&mut problems)?;
    licences(&graph, &mut problems);
    Ok(problems)
}

fn graph() -> anyhow::Result<Graph> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(run::root())
        .output()
        .context("cannot run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut graph = Graph { direct: BTreeMap::new(), packages: Vec::new() };
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        let normal = package["dependencies"].as_array().context("no dependencies")?.iter();
        let names =
            normal.filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str()).map(str::to_owned);
        graph.packages.push((name.clone(), package["license"].as_str().unwrap_or_default().to_owned()));
        graph.direct.entry(name).or_default().extend(names);
    }
    Ok(graph)
}

fn apart(graph: &Graph, problems: &mut Vec<String>) {
    for (from, to) in APART {
        if reaches(graph, from, to) {
            problems.push(format!("{from} depends on {to}; they must not see each other"));
        }
    }
}

fn reaches(graph: &Graph, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        for next in graph.direct.get(name).into_iter().flatten() {
            if next == to {
                return true;
            }
            if next.starts_with("meshwork") && seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    false
}

fn pure(graph: &Graph, problems: &mut Vec<String>) {
    for (name, allowed) in PURE {
        for dependency in graph.direct.get(*name).into_iter().flatten() {
            if !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{name} is pure and may not depend on {dependency}"));
            }
        }
    }
}

fn kept(graph: &Graph, problems: &mut Vec<String>) {
    for (library, allowed) in KEPT_TO {
        for (name, dependencies) in &graph.direct {
            let ours = name.starts_with("meshwork") || ["xtask", "e2e", "bench"].contains(&name.as_str());
            if ours && dependencies.contains(*library) && !allowed.contains(&name.as_str()) {
                problems
                    .push(format!("{name} depends on {library}, which is kept to {}", allowed.join(", ")));
            }
        }
    }
}

fn banned(problems: &mut Vec<String>) -> anyhow::Result<()> {
    let tree = [
        "tree",
        "--package",
        "meshwork",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--locked",
    ];
    let output = Command::new("cargo").args(tree).current_dir(run::root()).output()?;
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    problems.extend(
        BANNED
            .iter()
            .filter(|name| names.contains(**name))
            .map(|name| format!("{name} is in the tree of the binary")),
    );
    Ok(())
}

fn licences(graph: &Graph, problems: &mut Vec<String>) {
    for (name, licence) in &graph.packages {
        // One of the alternatives must be one of ours; of what is joined by AND, each must.
        let permissive = |licence: &str| LICENCES.contains(&licence.trim_matches(['(', ')', ' ']));
        let one_of = |all: &str| all.split(" OR ").any(|one| one.split('/').any(permissive));
        if !licence.split(" AND ").all(one_of) {
            problems.push(format!(
                "{name} is licensed {licence:?}, which is not on the list of permissive licences"
            ));
        }
    }
}
