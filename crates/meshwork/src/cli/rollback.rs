//! `meshwork rollback`.

use std::process::ExitCode;

use serde_json::json;

use super::api::{Api, OWN};
use super::output::Format;
use super::problems::Texts;
use super::wait::Wait;
use super::{runtime, writes};

/// Make the mesh's config what it was at a revision
///
/// It is a new revision, whose resources are those of the old one; `meshwork rollback` of it undoes that, too.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork history
  meshwork rollback 11 --wait --note 'checkout was slow'

Exit codes: as `meshwork apply`.")]
pub(crate) struct Rollback {
    /// The revision, as `meshwork history` lists it
    #[arg(value_name = "REVISION")]
    revision: u64,

    /// Say what would change, and change nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,

    #[command(flatten)]
    wait: Wait,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Rollback {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        runtime::on_this_thread(async {
            let client = self.api.client()?;
            let body = json!({ "revision": self.revision, "dryRun": self.dry_run, "note": self.note });
            let texts = Texts::new();
            let sent = writes::send(&client, &format!("{OWN}/rollback"), &body, &texts, self.output).await?;
            let wait = (!self.dry_run).then_some(&self.wait);
            writes::finish(&client, sent, &texts, wait, self.output).await
        })
    }
}
