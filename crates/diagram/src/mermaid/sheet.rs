//! The text being written: indentation, lines counted for `linkStyle`, identifiers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::escape::Identifiers;

/// How a line looks. `linkStyle` names lines by their position in the text, so the sheet counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stroke {
    /// Between the parts of one pod or one plane.
    Inner,
    /// Calls that succeed.
    Calls,
    /// Calls of which too many fail.
    Failing,
    /// Calls that policy denies.
    Denied,
    /// Calls that are not encrypted.
    Plaintext,
    /// Config on its way to the proxies.
    Config,
    /// Certificates on their way to the proxies.
    Certificates,
    /// Telemetry on its way to the observability plane.
    Telemetry,
    /// Not to be seen: it only keeps two things in their places.
    Invisible,
}

/// How long a line of calls is, in ranks of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// One rank: enough between two plain nodes.
    Short,
    /// Three ranks: past the application that stands under the calling proxy, so that pods do not overlap.
    Long,
}

impl Stroke {
    /// Returns Mermaid's arrow.
    fn arrow(self, length: Length) -> &'static str {
        match (self, length) {
            (Self::Inner, _) | (Self::Plaintext, Length::Short) => "-->",
            (Self::Plaintext, Length::Long) => "---->",
            (Self::Calls | Self::Failing, Length::Short) => "==>",
            (Self::Calls | Self::Failing, Length::Long) => "====>",
            (Self::Denied, Length::Short) => "-.-x",
            (Self::Denied, Length::Long) => "-...-x",
            (Self::Config | Self::Certificates | Self::Telemetry, _) => "-.->",
            (Self::Invisible, _) => "~~~",
        }
    }

    /// Returns the style. The paths between the planes have their planes' hues, in a tone that shows on white and on
    /// GitHub's dark page.
    fn style(self) -> Option<&'static str> {
        match self {
            Self::Inner => Some("stroke:#78909c,stroke-width:1.5px"),
            Self::Calls => Some("stroke:#455a64,stroke-width:3px"),
            Self::Failing => Some("stroke:#d84315,stroke-width:3px"),
            Self::Denied => Some("stroke:#c62828,stroke-width:2px,stroke-dasharray:2 3"),
            Self::Plaintext => Some("stroke:#d84315,stroke-width:1.5px"),
            Self::Config => Some("stroke:#1e88e5,stroke-width:2px,stroke-dasharray:9 4"),
            Self::Certificates => Some("stroke:#0097a7,stroke-width:2px,stroke-dasharray:2 4"),
            Self::Telemetry => Some("stroke:#ab47bc,stroke-width:2px,stroke-dasharray:9 3 2 3"),
            Self::Invisible => None,
        }
    }
}

/// The text being written.
#[derive(Default)]
pub(super) struct Sheet {
    text: String,
    depth: usize,
    lines: usize,
    strokes: BTreeMap<Stroke, Vec<String>>,
    /// The identifiers handed out.
    pub(super) ids: Identifiers,
}

impl Sheet {
    /// Writes a row.
    pub(super) fn row(&mut self, row: &str) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push_str(row);
        self.text.push('\n');
    }

    /// Writes a frame round what `inside` writes. `title` is a label already escaped.
    ///
    /// The look is a style of its own and not a class, which Mermaid forgets where a line ends at the frame.
    pub(super) fn frame(&mut self, id: &str, title: &str, look: &str, inside: impl FnOnce(&mut Self)) {
        self.enclose(id, title, inside);
        self.row(&format!("style {id} {look}"));
    }

    /// Writes a pod's frame, which has no title and no lines of its own.
    pub(super) fn pod(&mut self, id: &str, inside: impl FnOnce(&mut Self)) {
        self.enclose(id, " ", inside);
        self.row(&format!("class {id} pod"));
    }

    fn enclose(&mut self, id: &str, title: &str, inside: impl FnOnce(&mut Self)) {
        self.row(&format!("subgraph {id}[\"{title}\"]"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.row("end");
    }

    /// Writes a box. `text` is a label already escaped.
    pub(super) fn node(&mut self, id: &str, text: &str, class: &str) {
        self.row(&format!("{id}[\"{text}\"]:::{class}"));
    }

    /// Writes a line with a label, already escaped; an empty one is none.
    pub(super) fn line(&mut self, from: &str, to: &str, stroke: Stroke, length: Length, label: &str) {
        self.arrow(from, to, stroke, stroke.arrow(length), label);
    }

    /// Writes a line that goes both ways.
    pub(super) fn both_ways(&mut self, one: &str, other: &str, stroke: Stroke) {
        self.arrow(one, other, stroke, "<-->", "");
    }

    fn arrow(&mut self, from: &str, to: &str, stroke: Stroke, arrow: &str, label: &str) {
        let label = if label.is_empty() { String::new() } else { format!("|\"{label}\"|") };
        self.row(&format!("{from} {arrow}{label} {to}"));
        self.strokes.entry(stroke).or_default().push(self.lines.to_string());
        self.lines += 1;
    }

    /// Writes the styles of the lines, and returns the whole text.
    pub(super) fn finish(mut self) -> String {
        for (stroke, lines) in std::mem::take(&mut self.strokes) {
            let Some(style) = stroke.style() else { continue };
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "  linkStyle {} {style},color:#263238", lines.join(","));
        }
        self.text
    }

    /// Indents what follows by one step.
    pub(super) fn indent(&mut self) {
        self.depth += 1;
    }
}
