//! `meshwork apply`.

use std::process::ExitCode;

use super::api::{Api, OWN};
use super::output::Format;
use super::sources::{self, Files};
use super::wait::Wait;
use super::{runtime, writes};

/// Change the mesh's config: all of what is handed over, or nothing of it
///
/// Each resource takes the place of the one of its kind and name. The control plane reads all of it together with what
/// it has; one error refuses the whole, and all problems are shown where they stand. Resources of the control plane's
/// own --config folder are changed there.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork apply -f shop.yaml --wait
  meshwork apply -f examples/shop -f policies --note 'the shop opens'
  sed s/v1/v2/ route.yaml | meshwork apply -f - --dry-run

Exit codes: 0 done; 1 refused, nothing was changed; 2 the command line is wrong; 3 changed, but with --wait not every proxy \
concerned runs it in time.")]
pub(crate) struct Apply {
    #[command(flatten)]
    files: Files,

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

impl Apply {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        runtime::on_this_thread(async {
            let client = self.api.client()?;
            let texts = self.files.read()?;
            let query = if self.dry_run { "?dryRun=All" } else { "" };
            let body = sources::body(&texts, &self.note);
            let sent =
                writes::send(&client, &format!("{OWN}/apply{query}"), &body, &texts, self.output).await?;
            let wait = (!self.dry_run).then_some(&self.wait);
            writes::finish(&client, sent, &texts, wait, self.output).await
        })
    }
}
