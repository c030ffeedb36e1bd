//! `meshwork rollback`.

use std::process::ExitCode;

use serde_json::json;

use super::problems::Texts;
use super::writes::Write;

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

    #[command(flatten)]
    write: Write,
}

impl Rollback {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.write
            .send("rollback", |note| Ok((json!({ "revision": self.revision, "note": note }), Texts::new())))
    }
}
