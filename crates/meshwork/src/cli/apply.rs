//! `meshwork apply`.

use std::process::ExitCode;

use super::sources::{self, Files};
use super::writes::Write;

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

    #[command(flatten)]
    write: Write,
}

impl Apply {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.write.send("apply", |note| {
            let texts = self.files.read()?;
            Ok((sources::body(&texts, note), texts))
        })
    }
}
