//! `meshwork edges`.

use meshwork_hub::Edge;

use super::api::Api;
use super::output::{self, Format};
use super::runtime;

/// Show which workloads call which services, how much and how well
#[derive(clap::Args)]
pub(crate) struct Edges {
    #[command(flatten)]
    api: Api,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Edges {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = runtime::on_this_thread(self.api.fetch("/api/v1/edges"))?;
        let edges: Vec<Edge> = serde_json::from_str(&text)?;
        if self.output.print(&edges)? {
            return Ok(());
        }
        if edges.is_empty() {
            output::note("nothing has flowed yet");
        } else {
            output::line(meshwork_demo::table(&edges));
        }
        Ok(())
    }
}
