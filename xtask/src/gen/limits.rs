//! `docs/limits.md`, from the constants of each plane's `limits.rs` and what is said of each there.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const OUTPUT: &str = "docs/limits.md";

const HEAD: &str = "\
# Limits

Nothing that a peer controls is unbounded. These are the bounds of the program, what holds by default, and why. They are
constants, from which `cargo xtask gen` writes this page; where the config can set another value, the reason says so.
";

/// What each part of the page is called, what it is made from, and what is said before its table.
const PARTS: &[(&str, &str, &str)] = &[
    ("The data plane", "crates/data-plane/src/limits.rs", "Of a proxy."),
    (
        "The control plane's ports",
        "crates/control-plane/src/limits.rs",
        "\
Nobody can lock others out of a port by filling it. Where all places are taken, a newcomer gets the oldest place of \
whoever holds most: at once where that is more than its own, and else once that has had its time. Places are held by \
addresses (of IPv6, by networks of 64 bits; loopback is one) until an identity, or a token, is proven, and from then on \
by that, in a room of its own. `meshwork_control_plane_connections_refused_total`, `…_displaced_total` and \
`…_overdue_total` count what came of it, and the log tells of it once for a burst.",
    ),
];

const TABLE: &str = "\
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
    Ok((!is_current).then(|| format!("{OUTPUT} is not what the limits.rs say: run `cargo xtask gen`")))
}

fn page(root: &Path) -> Result<String> {
    let mut text = HEAD.to_owned();
    for (title, input, words) in PARTS {
        let source = std::fs::read_to_string(root.join(input)).with_context(|| format!("reading {input}"))?;
        let _ = write!(text, "\n## {title}\n\n{words} (`{input}`)\n\n{TABLE}");
        for limit in limits(&source) {
            let _ = writeln!(text, "| `{}` | {} | {} |", limit.name, limit.value, limit.why);
        }
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
