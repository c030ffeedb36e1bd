//! `meshwork history`.

use serde_json::Value;

use super::api::{Api, OWN};
use super::changes::Change;
use super::output::{self, Format};
use super::{runtime, table};

/// The most changes that one line of the list names.
const MAX_NAMED: usize = 2;

/// List the revisions of the mesh's config, or show what one changed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork history
  meshwork history 12")]
pub(crate) struct History {
    /// The revision to show; all of them, newest first, where it is left out
    #[arg(value_name = "REVISION")]
    revision: Option<u64>,

    /// How many revisions to list
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl History {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = match self.revision {
            Some(revision) => format!("{OWN}/revisions/{revision}"),
            None => format!("{OWN}/revisions?limit={}", self.limit),
        };
        let told = runtime::on_this_thread(async { self.api.client()?.get(&path).await })?;
        if self.output.print(&told)? {
            return Ok(());
        }
        if self.revision.is_some() {
            return show(&told);
        }
        let items = told["items"].as_array().map_or(&[][..], Vec::as_slice);
        if items.is_empty() {
            output::note("nothing has been applied yet");
            return Ok(());
        }
        let rows: Vec<_> = items.iter().map(row).collect();
        let text = table::render(&["REVISION", "AT", "BY", "CHANGES", "NOTE"], &rows, output::colours());
        output::line(text.trim_end());
        Ok(())
    }
}

fn show(revision: &Value) -> anyhow::Result<()> {
    let [number, at, by, _, note] = &row(revision)[..] else { return Ok(()) };
    output::line(format_args!(
        "revision {number} at {at} by {by}{}{note}",
        if note.is_empty() { "" } else { ": " }
    ));
    let changes: Vec<Change> = serde_json::from_value(revision["changes"].clone())?;
    for change in changes {
        output::line(change.difference(output::colours()).trim_end());
    }
    Ok(())
}

fn row(revision: &Value) -> Vec<String> {
    let text = |name: &str| revision[name].as_str().unwrap_or_default().to_owned();
    vec![
        revision["revision"].as_u64().unwrap_or_default().to_string(),
        text("at"),
        text("by"),
        changes(revision["changes"].as_array().map_or(&[][..], Vec::as_slice)),
        text("note"),
    ]
}

/// `HTTPRoute shop/cart changed, 4 more`
fn changes(all: &[Value]) -> String {
    let one = |change: &Value| {
        let change: Option<Change> = serde_json::from_value(change.clone()).ok();
        change.map(|change| change.line()).unwrap_or_default()
    };
    let mut words: Vec<String> = all.iter().take(MAX_NAMED).map(one).collect();
    if all.len() > MAX_NAMED {
        words.push(format!("{} more", all.len() - MAX_NAMED));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_is_a_row() {
        let change =
            |name: &str| json!({ "action": "changed", "kind": "Service", "namespace": "a", "name": name });
        let revision = json!({
            "revision": 12, "at": "2026-01-01T00:00:00Z", "by": "uid 0", "note": "why",
            "changes": [change("x"), change("y"), change("z"), change("q")],
        });
        let expected = [
            "12",
            "2026-01-01T00:00:00Z",
            "uid 0",
            "Service a/x changed, Service a/y changed, 2 more",
            "why",
        ];
        assert_eq!(row(&revision), expected);
    }
}
