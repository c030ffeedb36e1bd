//! `meshwork schema`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use meshwork_control_plane::ingest;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::output::{self, Format};

/// The file with the schema of all kinds.
const ALL: &str = "meshwork.json";

/// Print the JSON Schema of a kind, so that editors complete and check config
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork schema httproute > httproute.json
  meshwork schema --out ~/.config/meshwork/schemas

In a file, for editors with the YAML language server:
  # yaml-language-server: $schema=/home/me/.config/meshwork/schemas/meshwork.json")]
pub(crate) struct Schema {
    /// The kind; where it is left out, one schema for all kinds
    #[arg(value_name = "KIND")]
    kind: Option<String>,

    /// Write the schemas into this folder: one a kind, and meshwork.json for all of them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kind", "output"])]
    out: Option<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,
}

impl Schema {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if let Some(folder) = &self.out {
            return write(folder);
        }
        let schema = match &self.kind {
            Some(kind) => ingest::schema_of(Kind::find(kind)?.name).unwrap_or_default(),
            None => whole(&ingest::schemas().collect::<Vec<_>>()),
        };
        if !self.output.print(&schema)? {
            Format::Json.print(&schema)?;
        }
        Ok(())
    }
}

fn write(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in files()? {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        output::line(path.display());
    }
    Ok(())
}

/// Every file with a schema, and its text.
pub(super) fn files() -> anyhow::Result<Vec<(String, String)>> {
    let schemas: Vec<(&str, Value)> = ingest::schemas().collect();
    let mut files = vec![(ALL.to_owned(), whole(&schemas))];
    files.extend(schemas.into_iter().map(|(kind, schema)| (format!("{}.json", kind.to_lowercase()), schema)));
    let with_text = |(name, schema): (String, Value)| {
        serde_json::to_string_pretty(&schema).map(|text| (name, format!("{text}\n")))
    };
    Ok(files.into_iter().map(with_text).collect::<Result<_, _>>()?)
}

/// One schema for all kinds: which one holds is said by `kind`.
fn whole(schemas: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = schemas.iter().map(|(name, _)| *name).collect();
    let rule = |name: &&str| {
        json!({
            "if": { "properties": { "kind": { "const": name } }, "required": ["kind"] },
            "then": { "$ref": format!("#/definitions/{name}") },
        })
    };
    let rules: Vec<Value> = names.iter().map(rule).collect();
    let definitions: serde_json::Map<String, Value> =
        schemas.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Meshwork",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": { "kind": { "enum": names } },
        "allOf": rules,
        "definitions": definitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_schema_has_all_kinds() {
        let schemas: Vec<_> = ingest::schemas().collect();
        let all = whole(&schemas);
        assert_eq!(all["allOf"].as_array().map(Vec::len), Some(schemas.len()));
        assert_eq!(all["definitions"]["HTTPRoute"]["title"], "HTTPRoute");
    }
}
