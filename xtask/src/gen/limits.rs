//! `docs/limits.md`, from the constants of the data plane's `limits.rs` and what is said of each there.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const INPUT: &str = "crates/data-plane/src/limits.rs";
const OUTPUT: &str = "docs/limits.md";

const HEAD: &str = "\
# Limits of the data plane

Nothing that a peer controls is unbounded. These are the bounds of a proxy, what holds by default, and why. They are
constants of the program (`crates/data-plane/src/limits.rs`, from which `cargo xtask gen` writes this page); where the
config can set another value, the reason says so.

| limit | value | what it bounds, and why |
|---|---|---|
";

/// A constant with what is said of it.
struct Limit {
    name: String,
    value: String,
    why: String,
}

/// Writes the page.
pub(super) fn write(root: &Path) -> Result<()> {
    std::fs::write(root.join(OUTPUT), page(root)?).with_context(|| format!("writing {OUTPUT}"))
}

/// What is wrong with the page, if anything is.
pub(crate) fn check(root: &Path) -> Result<Option<String>> {
    let page = page(root)?;
    let is_current = std::fs::read_to_string(root.join(OUTPUT)).is_ok_and(|text| text == page);
    Ok((!is_current).then(|| format!("{OUTPUT} is not what {INPUT} says: run `cargo xtask gen`")))
}

fn page(root: &Path) -> Result<String> {
    let source = std::fs::read_to_string(root.join(INPUT)).with_context(|| format!("reading {INPUT}"))?;
    let mut text = HEAD.to_owned();
    for limit in limits(&source) {
        let _ = writeln!(text, "| `{}` | {} | {} |", limit.name, limit.value, limit.why);
    }
    Ok(text)
}

fn limits(source: &str) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut why: Vec<&str> = Vec::new();
    // A value may stand on the line behind its name.
    let source = source.replace("=\n    ", "= ");
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            why.push(text.trim());
        } else if let Some((name, value)) = constant(line) {
            limits.push(Limit { name: name.to_owned(), value: words(value), why: why.join(" ") });
            why.clear();
        } else {
            why.clear();
        }
    }
    limits
}

/// `pub(crate) const NAME: Type = value;`
fn constant(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("pub(crate) const ")?.split_once(':')?;
    Some((name, rest.split_once(" = ")?.1.strip_suffix(';')?))
}

/// The value as people say it.
fn words(value: &str) -> String {
    let inner = |prefix: &str| value.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
    let units = [("millis", "ms"), ("secs", "s"), ("mins", "min"), ("hours", "h")];
    let duration = units
        .iter()
        .find_map(|(unit, word)| Some(format!("{} {word}", inner(&format!("Duration::from_{unit}("))?)));
    let bytes = || match value.strip_suffix(" * 1024") {
        Some(mebi) if mebi.ends_with(" * 1024") => Some(format!("{} MiB", mebi.trim_end_matches(" * 1024"))),
        Some(kibi) => Some(format!("{kibi} KiB")),
        None => None,
    };
    duration.or_else(bytes).unwrap_or_else(|| match value.replace('_', "") {
        number if number.parse::<f64>().is_ok() => number,
        _ => format!("`{value}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_words() {
        let check = |value: &str, expected: &str| assert_eq!(words(value), expected, "{value}");
        check("60 * 1024", "60 KiB");
        check("2 * 1024 * 1024", "2 MiB");
        check("Duration::from_secs(10)", "10 s");
        check("Duration::from_hours(1)", "1 h");
        check("10_000", "10000");
        check("A * B", "`A * B`");
    }

    #[test]
    fn a_limit_is_a_constant_with_its_reason() {
        let source = "//! Bounds.\n\n/// First line,\n/// second.\npub(crate) const A_B: usize =\n    16;\n\n/// Lost.\nfn f() {}\npub(crate) const C: u32 = 1;\n";
        let found: Vec<_> = limits(source).into_iter().map(|l| (l.name, l.value, l.why)).collect();
        let row = |name: &str, value: &str, why: &str| (name.to_owned(), value.to_owned(), why.to_owned());
        assert_eq!(found, [row("A_B", "16", "First line, second."), row("C", "1", "")]);
    }
}
