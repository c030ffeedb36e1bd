//! Every honoured row of the support table has a case, or stands in `uncovered.txt` with the reason; every case in
//! which the programs differ is named in `docs/envoy-differences.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use meshwork_xds::bootstrap::rows_used;
use meshwork_xds::support::{Support, table};

use super::case::{Case, Program};
use super::run::say;
use super::template;

/// Prints what is amiss; gives whether something is.
pub(super) fn is_incomplete(cases: &[Case]) -> bool {
    let covered = covered(cases);
    let path = super::folder().join("uncovered.txt");
    if std::env::var_os("UPDATE").is_some() {
        renew(&path, &covered);
    }
    let text = std::fs::read_to_string(&path).expect("uncovered.txt");
    let listed: BTreeMap<&str, &str> = text.lines().filter_map(listed).collect();
    let honoured = honoured();
    let mut problems = undocumented(cases);
    for row in honoured.difference(&covered).filter(|row| !listed.contains_key(row.as_str())) {
        problems.push(format!("no case uses {row}"));
    }
    for (row, reason) in &listed {
        if covered.contains(*row) || !honoured.contains(*row) {
            problems.push(format!("uncovered.txt lists {row}, which is covered, or not honoured"));
        }
        if reason.is_empty() {
            problems.push(format!("uncovered.txt has no reason for {row}"));
        }
    }
    for problem in &problems {
        say(&format!("coverage: {problem}\n"));
    }
    let rows = honoured.len();
    let without = honoured.difference(&covered).count();
    say(&format!("coverage: {rows} honoured rows, {without} without a case\n"));
    !problems.is_empty()
}

fn honoured() -> BTreeSet<String> {
    let rows = table().filter(|row| row.support == Support::Honoured);
    rows.map(|row| format!("{}.{}", row.message, row.field)).collect()
}

/// Drops what is covered by now, and lists what is not.
fn renew(path: &std::path::Path, covered: &BTreeSet<String>) {
    let text = std::fs::read_to_string(path).expect("uncovered.txt");
    let old: BTreeMap<&str, &str> = text.lines().filter_map(listed).collect();
    let mut renewed: String =
        text.lines().filter(|line| line.starts_with('#')).fold(String::new(), |t, l| t + l + "\n");
    for row in honoured().difference(covered) {
        let reason = old.get(row.as_str()).copied().unwrap_or("no case yet");
        let _ = writeln!(renewed, "{row}: {reason}");
    }
    std::fs::write(path, renewed).expect("written");
}

/// Cases in which the programs differ, and which the documentation does not name.
fn undocumented(cases: &[Case]) -> Vec<String> {
    let path = crate::root().join("docs/envoy-differences.md");
    let text = std::fs::read_to_string(&path).expect("docs/envoy-differences.md");
    let differing = cases.iter().filter(|case| case.differs_from_envoy());
    let missing = differing.filter(|case| !text.contains(&format!("`{}`", case.name)));
    missing.map(|case| format!("docs/envoy-differences.md does not name `{}`", case.name)).collect()
}

/// A line `row: reason`; what begins with `#` is a comment.
fn listed(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(line.split_once(": ").unwrap_or((line, "")))
}

/// The rows that cases use, by their configs or as they say.
fn covered(cases: &[Case]) -> BTreeSet<String> {
    let mut covered = BTreeSet::new();
    for case in cases.iter().filter(|case| case.refused.is_none() && case.only != Some(Program::Envoy)) {
        covered.extend(case.covers.iter().cloned());
        let mut bootstrap = template::bootstrap(case);
        // What stands for a port, an address, a folder is of no interest here, but is to be a value of its type.
        template::fill(&mut bootstrap, &|word, _| match word {
            "LISTEN" | "ORIGIN" | "ADMIN" => Some("1".to_owned()),
            "ADDRESS" => Some("127.0.0.1".to_owned()),
            _ => None,
        });
        let text = bootstrap.to_string();
        match rows_used(&case.name, &text) {
            Ok(rows) => covered.extend(rows),
            Err(problems) => {
                for problem in problems {
                    say(&format!("coverage: {problem}\n"));
                }
            }
        }
    }
    covered
}
