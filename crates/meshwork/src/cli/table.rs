//! Tables for people.

use std::fmt::Write as _;

/// Cells that begin with one of these stand for something that is wrong.
const BAD: &[&str] = &["REFUSED", "UNHEALTHY", "DRAINING", "EXPIRED", "refused", "disconnected"];
const BOLD: &str = "1";
const RED: &str = "31";

/// Columns as wide as what stands in them, two blanks apart; a row with something wrong is red.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>], colours: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>, style: &str| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let cells = cells.join("  ");
        let cells = cells.trim_end();
        let _ = match (colours, style) {
            (true, style) if !style.is_empty() => writeln!(text, "\u{1b}[{style}m{cells}\u{1b}[0m"),
            _ => writeln!(text, "{cells}"),
        };
    };
    line(&mut head.iter().copied(), BOLD);
    for row in rows {
        let is_bad = row.iter().any(|cell| BAD.iter().any(|bad| cell.starts_with(bad)));
        line(&mut row.iter().map(String::as_str), if is_bad { RED } else { "" });
    }
    text
}
