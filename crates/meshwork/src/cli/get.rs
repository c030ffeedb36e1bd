//! `meshwork get`.

use anyhow::bail;
use serde_json::Value;

use super::api::Api;
use super::kinds::{self, Kind};
use super::output::{self, Format};
use super::{runtime, table};

/// Show resources of the mesh's config, as they are applied
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  meshwork get httproute -n shop
  meshwork get svc/cart -n shop -o yaml
  meshwork get authorizationpolicies -A")]
pub(crate) struct Get {
    /// The kind, its plural or its short name, such as httproute or svc; also KIND/NAME
    #[arg(value_name = "KIND")]
    kind: String,

    /// The name; all of the kind where it is left out
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// The namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,

    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,

    #[command(flatten)]
    api: Api,
}

impl Get {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (kind, name) = kinds::kind_and_name(&self.kind)?;
        let name = name.map(str::to_owned).or_else(|| self.name.clone());
        if name.is_some() && self.all_namespaces {
            bail!("a name is of one namespace: write -n NAMESPACE in place of -A");
        }
        let namespace = (!self.all_namespaces).then_some(self.namespace.as_str());
        let path = match &name {
            Some(name) => format!("{}/{name}", kind.path(namespace)),
            None => kind.path(namespace),
        };
        let told = runtime::on_this_thread(async { self.api.client()?.get(&path).await })?;
        if self.output.print(&told)? {
            return Ok(());
        }
        let one = [told.clone()];
        let items =
            if name.is_some() { &one[..] } else { told["items"].as_array().map_or(&[][..], Vec::as_slice) };
        match items {
            [] => output::note(nothing(&kind, namespace)),
            items => {
                let rows: Vec<_> = items.iter().map(row).collect();
                let head = ["NAMESPACE", "NAME", "WHAT", "REVISION", "STATUS"];
                output::line(table::render(&head, &rows, output::colours()).trim_end());
            }
        }
        Ok(())
    }
}

fn nothing(kind: &Kind, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("no {} in the namespace {namespace}; -A shows those of all", kind.name),
        None => format!("no {}", kind.name),
    }
}

fn row(resource: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &resource["metadata"];
    vec![
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        what(&resource["spec"]),
        text(&metadata["resourceVersion"]),
        status(&resource["status"]),
    ]
}

/// What a resource is about: ports, parents, hosts or labels, whichever its kind has.
fn what(spec: &Value) -> String {
    let list = |name: &str, of: &dyn Fn(&Value) -> String| {
        let items = spec[name].as_array().filter(|items| !items.is_empty())?;
        Some(items.iter().map(of).collect::<Vec<_>>().join(", "))
    };
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let port = |port: &Value| match (word(&port["port"]), word(&port["name"])) {
        (number, name) if name.is_empty() => number,
        (number, name) => format!("{number}/{name}"),
    };
    let parent = |parent: &Value| {
        let kind = parent["kind"].as_str().unwrap_or("Gateway");
        match word(&parent["port"]) {
            port if port.is_empty() => format!("{kind} {}", word(&parent["name"])),
            port => format!("{kind} {}:{port}", word(&parent["name"])),
        }
    };
    let labels = || {
        let labels =
            [&spec["selector"]["matchLabels"], &spec["selector"], &spec["workloadSelector"]["labels"]];
        let labels = labels.into_iter().find_map(Value::as_object)?;
        Some(labels.iter().map(|(key, value)| format!("{key}={}", word(value))).collect::<Vec<_>>().join(","))
    };
    list("parentRefs", &parent)
        .or_else(|| list("hosts", &word))
        .or_else(|| spec["host"].as_str().map(str::to_owned))
        .or_else(|| list("ports", &port))
        .or_else(|| list("listeners", &port))
        .or_else(labels)
        .or_else(|| {
            list("agents", &word).map(|agents| format!("{} by {agents}", word(&spec["serviceAccount"])))
        })
        .unwrap_or_default()
}

/// What is wrong with it, by its conditions; `ok` where nothing is, `-` where it has none.
fn status(status: &Value) -> String {
    let parents = status["parents"].as_array().into_iter().flatten().map(|parent| &parent["conditions"]);
    let conditions: Vec<&Value> =
        parents.chain([&status["conditions"]]).filter_map(Value::as_array).flatten().collect();
    let wrong = conditions.iter().find(|condition| condition["status"] == "False");
    match wrong {
        Some(condition) => format!(
            "refused: not {}, {}",
            condition["type"].as_str().unwrap_or_default(),
            condition["reason"].as_str().unwrap_or_default()
        ),
        None if conditions.is_empty() => "-".to_owned(),
        None => "ok".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resource_says_what_it_is_about() {
        let check = |spec: Value, expected: &str| assert_eq!(what(&spec), expected, "{spec}");
        check(json!({ "ports": [{ "port": 80, "name": "http" }, { "port": 81 }] }), "80/http, 81");
        check(
            json!({ "parentRefs": [{ "kind": "Service", "name": "cart", "port": 80 }] }),
            "Service cart:80",
        );
        check(json!({ "hosts": ["a.example", "b.example"], "ports": [] }), "a.example, b.example");
        check(json!({ "selector": { "matchLabels": { "app": "cart" } } }), "app=cart");
        check(json!({ "host": "cart.shop" }), "cart.shop");
        check(json!({ "serviceAccount": "web", "agents": ["shop/host-agent"] }), "web by shop/host-agent");
        check(Value::Null, "");
    }

    #[test]
    fn a_condition_that_is_false_is_named() {
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason });
        let check = |value: Value, expected: &str| assert_eq!(status(&value), expected, "{value}");
        check(Value::Null, "-");
        let good = condition("Accepted", "True", "Accepted");
        let bad = condition("ResolvedRefs", "False", "BackendNotFound");
        check(json!({ "parents": [{ "conditions": [good] }] }), "ok");
        check(
            json!({ "parents": [{ "conditions": [good, bad] }] }),
            "refused: not ResolvedRefs, BackendNotFound",
        );
    }
}
