//! `meshwork watch`.

use std::time::Duration;

use anyhow::bail;
use hyper::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

use super::api::{Api, Client, Refused};
use super::kinds::Kind;
use super::output::{self, Format};
use super::{runtime, yaml};

/// The pause before a watch that ended is begun anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Print what changes in the mesh's config, as it does
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork watch
  meshwork watch httproute -n shop -o json")]
pub(crate) struct Watch {
    /// The kind, its plural or its short name; all of them where it is left out
    #[arg(value_name = "KIND")]
    kind: Option<String>,

    /// Only this namespace
    #[arg(short, long)]
    namespace: Option<String>,

    /// How to print: text, or each change as a line of JSON or a document of YAML
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    api: Api,
}

impl Watch {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        runtime::on_this_thread(async {
            let client = self.api.client()?;
            let kinds = match &self.kind {
                Some(kind) => vec![Kind::find(kind)?],
                None => Kind::all().collect(),
            };
            let mut watches = JoinSet::new();
            for kind in kinds {
                let path = kind.path(self.namespace.as_deref());
                watches.spawn(follow(client.clone(), path, self.kind.is_some(), self.output));
            }
            while let Some(ended) = watches.join_next().await {
                ended??;
            }
            bail!("{client} lets nothing be watched")
        })
    }
}

/// Follows one kind for ever. Where it is not `wanted` by its name, a server that does not know it is no error.
async fn follow(client: Client, path: String, wanted: bool, format: Format) -> anyhow::Result<()> {
    loop {
        let list = match client.get(&path).await {
            Err(error) if !wanted && status_of(&error) == Some(StatusCode::NOT_FOUND) => return Ok(()),
            list => list?,
        };
        let mut revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        loop {
            let from = format!("{path}?watch=true&resourceVersion={revision}");
            let ended = client
                .watch(&from, |event| {
                    if let Some(newer) = event["object"]["metadata"]["resourceVersion"].as_str() {
                        newer.clone_into(&mut revision);
                    }
                    show(&event, format);
                    Ok(())
                })
                .await;
            match ended {
                // The history before it is gone: what is there now is listed anew.
                Err(error) if status_of(&error) == Some(StatusCode::GONE) => break,
                Err(error) if status_of(&error).is_some() => return Err(error),
                Ok(()) | Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

fn status_of(error: &anyhow::Error) -> Option<StatusCode> {
    error.downcast_ref::<Refused>().map(|refused| refused.status)
}

fn show(event: &Value, format: Format) {
    let kind = event["type"].as_str().unwrap_or_default();
    if kind == "BOOKMARK" {
        return;
    }
    match format {
        Format::Text => output::line(line(kind, &event["object"])),
        Format::Json => output::line(event),
        Format::Yaml => output::line(format_args!("---\n{}", yaml::text(event).trim_end())),
    }
}

/// `modified HTTPRoute shop/cart (revision 12)`
fn line(event: &str, object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let name = match text(&metadata["namespace"]) {
        none if none.is_empty() => text(&metadata["name"]),
        namespace => format!("{namespace}/{}", text(&metadata["name"])),
    };
    let (kind, revision) = (text(&object["kind"]), text(&metadata["resourceVersion"]));
    format!("{} {kind} {name} (revision {revision})", event.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_is_a_line() {
        let object = json!({
            "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "cart", "resourceVersion": "12" },
        });
        assert_eq!(line("MODIFIED", &object), "modified HTTPRoute shop/cart (revision 12)");
    }
}
