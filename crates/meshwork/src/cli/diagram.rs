//! `meshwork diagram`.

use std::path::PathBuf;

use anyhow::bail;
use clap::ValueEnum;
use meshwork_control_plane as control_plane;

use super::api::Api;
use super::output::Format;
use super::{output, problems, runtime};

/// Draw the mesh as Mermaid text: as it is, or as a folder of config would make it
#[derive(clap::Args)]
#[command(after_help = "Example: meshwork diagram --output markdown >> README.md")]
pub(crate) struct Diagram {
    #[command(flatten)]
    api: Api,

    /// Draw this folder of config, which need not be running
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "mermaid")]
    output: Picture,
}

#[derive(Clone, Copy, ValueEnum)]
enum Picture {
    /// Mermaid text.
    Mermaid,
    /// Mermaid text in a fenced block, as GitHub renders it.
    Markdown,
    /// A JSON object with the text as `mermaid`.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Diagram {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = match &self.from {
            None => runtime::on_this_thread(self.api.fetch("/api/v1/diagram"))?,
            Some(folder) => {
                let loaded = control_plane::ingest::read_dir(folder);
                problems::print(&loaded.problems, &loaded.sources);
                if problems::errors(&loaded.problems) > 0 {
                    bail!("{} cannot be drawn before its errors are mended", folder.display());
                }
                meshwork_diagram::mermaid(&control_plane::topology_of(&loaded.config))
            }
        };
        match self.output {
            Picture::Mermaid => output::line(text.trim_end()),
            Picture::Markdown => output::line(format_args!("```mermaid\n{}\n```", text.trim_end())),
            Picture::Json | Picture::Yaml => {
                let format = if matches!(self.output, Picture::Json) { Format::Json } else { Format::Yaml };
                format.print(&serde_json::json!({ "mermaid": text }))?;
            }
        }
        Ok(())
    }
}
