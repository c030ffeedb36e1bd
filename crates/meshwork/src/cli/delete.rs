//! `meshwork delete`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use meshwork_control_plane::ingest;
use serde_json::{Value, json};

use super::kinds;
use super::problems::Texts;
use super::sources;
use super::writes::Write;

/// Take resources out of the mesh's config: those of files, or one by its kind and name
///
/// What others still refer to is not deleted; the problems say who does.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork delete httproute cart -n shop
  meshwork delete -f shop.yaml --wait

Exit codes: as `meshwork apply`.")]
pub(crate) struct Delete {
    /// The kind, its plural or its short name, such as httproute or svc; also KIND/NAME
    #[arg(value_name = "KIND", conflicts_with = "paths", required_unless_present = "paths")]
    kind: Option<String>,

    /// The names
    #[arg(value_name = "NAME", conflicts_with = "paths")]
    names: Vec<String>,

    /// A file, a folder, or - for standard input: the resources in it; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,

    /// The namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,

    #[command(flatten)]
    write: Write,
}

impl Delete {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.write.send("delete", |note| {
            Ok((json!({ "resources": self.resources()?, "note": note }), Texts::new()))
        })
    }

    fn resources(&self) -> anyhow::Result<Vec<Value>> {
        let one = |kind: &str, namespace: &str, name: &str| json!({ "kind": kind, "namespace": namespace, "name": name });
        let Some(kind) = &self.kind else {
            let mut resources = Vec::new();
            for (name, text) in sources::read(&self.paths)? {
                let text = text.map_err(anyhow::Error::msg).with_context(|| name.clone())?;
                let found = ingest::resources(&text);
                if found.is_empty() {
                    bail!("{name} has no resource; `meshwork validate` says more");
                }
                resources.extend(found.iter().map(|(kind, key)| one(kind, &key.namespace, &key.name)));
            }
            return Ok(resources);
        };
        let (kind, name) = kinds::kind_and_name(kind)?;
        let names = name.into_iter().chain(self.names.iter().map(String::as_str));
        let resources: Vec<Value> = names.map(|name| one(kind.name, &self.namespace, name)).collect();
        if resources.is_empty() {
            bail!("which {}? Add its name", kind.name);
        }
        Ok(resources)
    }
}
