//! What the files themselves must look like.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

/// Words that name nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Helper", "Util", "Utils"];

/// Words that must not stand in a pure crate's sources: I/O, clocks, async.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::io::",
    "Instant",
    "SystemTime",
    "async fn",
    "serde::",
];
const PURE_CRATES: &[&str] = &["crates/model/", "crates/http1/", "crates/diagram/"];

/// Where http1's types may be named. `error.rs` turns the rule that a message broke into a status; the admin interface
/// is a small server of its own, off the request path.
const HTTP1: &[&str] = &[
    "crates/data-plane/src/http/codec",
    "crates/data-plane/src/error.rs",
    "crates/data-plane/src/admin.rs",
    "crates/http1/",
];

/// Where the types of each codec's crate may be named.
const CODEC: &[(&str, &[&str])] = &[
    ("meshwork_http1", HTTP1),
    ("use h2::", &["crates/data-plane/src/http/codec"]),
    (" ::h2::", &["crates/data-plane/src/http/codec"]),
];

/// The longest that the one function of request phases may be: a screen.
const PHASES_LINES: usize = 60;

pub(super) fn check() -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for path in tracked()? {
        let Ok(text) = std::fs::read_to_string(run::root().join(&path)) else { continue };
        let name = path.to_string_lossy().into_owned();
        standalone(&name, &text, &mut problems);
        if path.extension().is_some_and(|e| e == "rs") {
            rust(&path, &name, &text, &mut problems);
        }
    }
    phases(&mut problems)?;
    Ok(problems)
}

/// Files that git tracks or would track.
fn tracked() -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(run::root())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect())
}

/// The repository stands alone: nothing in it points to a place outside.
fn standalone(name: &str, text: &str, problems: &mut Vec<String>) {
    for (needle, what) in
        [("../shar\u{65}d", "a folder outside of it"), ("/wor\u{6b}/", "a path of some machine")]
    {
        if text.contains(needle) {
            problems.push(format!("{name} points to {what}: {needle}"));
        }
    }
}

fn rust(path: &Path, name: &str, text: &str, problems: &mut Vec<String>) {
    let module = path.components().any(|c| c.as_os_str() == "src") && !name.ends_with("tests.rs");
    if path.file_name().is_some_and(|f| f == "mod.rs") {
        problems.push(format!("{name}: a module is foo.rs (and foo/), not mod.rs"));
    }
    if module && !text.starts_with("//!") && !inside_documented_parent(path) {
        problems.push(format!("{name} does not open with //! (what it owns, what it never does)"));
    }
    let ours = name.starts_with("crates/");
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{name}:{}", number + 1);
        let declares = ["struct ", "enum ", "trait ", "type ", "mod "].iter().any(|k| line.contains(k));
        if declares && !line.trim_start().starts_with("//") && EMPTY_NAMES.iter().any(|w| names(line, w)) {
            problems.push(format!("{}: a name that says nothing: {}", at(), line.trim()));
        }
        if line.contains("fn ge\u{74}_") {
            problems.push(format!("{}: accessors have no get_", at()));
        }
        if PURE_CRATES.iter().any(|c| name.starts_with(c)) && !name.contains("test") {
            for word in IMPURE.iter().filter(|w| code(line).contains(**w)) {
                problems.push(format!("{}: {word} in a crate without I/O, clock, async or serde", at()));
            }
        }
        for (types, places) in CODEC {
            if module && ours && code(line).contains(types) && !places.iter().any(|p| name.starts_with(p)) {
                problems.push(format!("{}: {types} stays in {}", at(), places[0]));
            }
        }
    }
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn names(line: &str, word: &str) -> bool {
    code(line)
        .split(|c: char| !c.is_alphanumeric())
        .any(|token| token.ends_with(word) && token != "Utilization")
}

/// A private submodule may leave the words to its parent's `//!`, where the parent re-exports it whole.
fn inside_documented_parent(path: &Path) -> bool {
    let Some(folder) = path.parent() else { return false };
    let parent = run::root().join(folder).with_extension("rs");
    std::fs::read_to_string(parent).is_ok_and(|text| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        text.starts_with("//!") && text.contains(&format!("pub use {stem}::"))
    })
}

/// The order of request phases is one function that fits on one screen.
fn phases(problems: &mut Vec<String>) -> anyhow::Result<()> {
    let name = "crates/data-plane/src/http/exchange.rs";
    let text = std::fs::read_to_string(run::root().join(name))?;
    let lines: Vec<_> = text.lines().collect();
    let Some(start) = lines.iter().position(|l| l.contains("async fn proceed(")) else {
        problems.push(format!("{name} has no `async fn proceed(`, the one list of a request's phases"));
        return Ok(());
    };
    let indent = lines[start].len() - lines[start].trim_start().len();
    let closing = format!("{}}}", " ".repeat(indent));
    let length = lines[start..].iter().position(|l| *l == closing).unwrap_or(usize::MAX);
    if length > PHASES_LINES {
        problems
            .push(format!("{name}: `proceed` has {length} lines; a request's phases fit on {PHASES_LINES}"));
    }
    Ok(())
}
