//! `meshwork diff`.

use std::process::ExitCode;

use super::api::{Api, OWN};
use super::changes::Action;
use super::output::{self, Format};
use super::sources::{self, Files};
use super::{runtime, writes};

/// There is a difference.
const DIFFERENT: u8 = 1;
/// It is not known whether there is one.
const FAILED: u8 = 2;

/// Show what `apply` would change, field by field, and in which proxies
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork diff -f shop.yaml
  meshwork diff -f examples/shop -o json

Exit codes: 0 nothing would change; 1 something would; 2 an error, such as config that would be refused.")]
pub(crate) struct Diff {
    #[command(flatten)]
    files: Files,

    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Diff {
    pub(crate) fn run(self) -> ExitCode {
        match runtime::on_this_thread(self.compare()) {
            Ok(code) => code,
            Err(error) => {
                output::fail(&error);
                ExitCode::from(FAILED)
            }
        }
    }

    async fn compare(self) -> anyhow::Result<ExitCode> {
        let client = self.api.client()?;
        let texts = self.files.read()?;
        let body = sources::body(&texts, "");
        let path = format!("{OWN}/apply?dryRun=All");
        let (told, outcome) = writes::send(&client, &path, &body, &texts, self.output).await?;
        if !self.output.print(&told)? {
            sources::tell(&outcome.problems, &texts);
            for change in outcome.changes.iter().filter(|change| change.action != Action::Unchanged) {
                output::line(change.difference(output::colours()).trim_end());
            }
            if outcome.changes_something() {
                let proxies = writes::counted(outcome.proxies.len(), "proxy");
                output::line(format_args!("{}; it would concern {proxies}", outcome.summary()));
                for proxy in &outcome.proxies {
                    output::line(format_args!("  {proxy}"));
                }
            }
        }
        Ok(if outcome.changes_something() { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
    }
}
