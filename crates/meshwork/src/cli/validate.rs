//! `meshwork validate`.

use std::path::PathBuf;

use anyhow::bail;
use meshwork_control_plane::ingest;

use super::output::{self, Format};
use super::problems;

/// Check a folder of config without applying it
#[derive(clap::Args)]
pub(crate) struct Validate {
    /// The folder
    #[arg(value_name = "DIR")]
    config: PathBuf,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Validate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let loaded = ingest::read_dir(&self.config);
        let errors = problems::errors(&loaded.problems);
        if self.output == Format::Json {
            output::json(&loaded.problems.iter().map(problems::as_json).collect::<Vec<_>>())?;
        } else {
            problems::print(&loaded.problems, &loaded.sources);
        }
        if errors > 0 {
            bail!("{errors} errors in {}", self.config.display());
        }
        if self.output == Format::Text {
            let config = &loaded.config;
            output::line(format_args!(
                "{}: {} services, {} routes, {} policies, no errors",
                self.config.display(),
                config.services.len(),
                config.routes.len(),
                config.peer_authentications.len() + config.authorization_policies.len(),
            ));
        }
        Ok(())
    }
}
