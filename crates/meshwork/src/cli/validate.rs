//! `meshwork validate`.

use std::path::PathBuf;

use anyhow::bail;
use meshwork_control_plane::ingest::{self, Loaded};
use meshwork_model::mesh::Config;

use super::output::{self, Format};
use super::{problems, sources, writes};

/// Check config without a control plane, by the code that it would run
///
/// Takes what is handed over for the whole config: a reference to something that is not in it leads nowhere.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork validate examples/shop
  kubectl get httproutes,services -A -o yaml | meshwork validate -
  meshwork validate -f shop.yaml -f policies -o json

Exit codes: 0 no errors, warnings there may be; 1 errors, each with a code for `meshwork explain`.")]
pub(crate) struct Validate {
    /// Files, folders (their .yaml, .yml and .json files), or - for standard input
    #[arg(value_name = "FILE|DIR|-", required_unless_present = "more")]
    paths: Vec<PathBuf>,

    /// The same, as `apply` takes it; may be repeated
    #[arg(id = "more", short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    more: Vec<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Validate {
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        self.paths.append(&mut self.more);
        let loaded = ingest::read_named(sources::read(&self.paths)?);
        let errors = problems::errors(&loaded.problems);
        let told: Vec<_> = loaded.problems.iter().map(problems::as_json).collect();
        let is_text = !self.output.print(&told)?;
        if is_text {
            problems::print(&loaded.problems, &loaded.sources);
        }
        if errors > 0 {
            bail!("{} in {}", writes::counted(errors, "error"), self.names());
        }
        if is_text {
            output::line(format_args!("{}: {}, no errors", self.names(), summary(&loaded)));
        }
        Ok(())
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        names.join(", ")
    }
}

fn summary(loaded: &Loaded) -> String {
    let Config { services, routes, connection_routes, .. } = &loaded.config;
    let policies = loaded.config.peer_authentications.len() + loaded.config.authorization_policies.len();
    let parts = [
        writes::counted(services.len(), "service"),
        writes::counted(routes.len() + connection_routes.len(), "route"),
        writes::counted(policies, "policy"),
    ];
    parts.join(", ")
}
