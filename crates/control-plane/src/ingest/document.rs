//! Documents as resources: which each one is, and its content as JSON, as the API takes, keeps and gives them.

use std::fmt;

use meshwork_model::mesh::Key;
use meshwork_model::problem::Place;
use serde_json::{Map, Number, Value as Json};

use super::metadata::DEFAULT_NAMESPACE;
use super::yaml::{self, Node, Value};

/// Which resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResourceId {
    /// `HTTPRoute`.
    pub(crate) kind: String,
    /// Its namespace, empty where the kind has none, and its name.
    pub(crate) key: Key,
}

/// One document.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) id: ResourceId,
    pub(crate) place: Place,
    /// Without what a cluster or this store adds to a resource.
    pub(crate) json: Json,
    /// The revision that its writer had before them, as it is written.
    pub(crate) resource_version: Option<String>,
}

/// Kinds without a namespace.
const GLOBAL: &[&str] = &["GatewayClass", "Namespace"];
/// Fields of `metadata` that are written by who keeps a resource, not by people.
const KEPT_BY_STORES: &[&str] =
    &["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];

/// The documents of a text that say which resource they are, those in lists among them, as the library reads them; of
/// what is none, reading the text tells all.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for node in yaml::parse(text).unwrap_or_default() {
        Document::collect(&node, &mut documents);
    }
    documents
}

/// Whether resources of a kind have no namespace.
pub fn is_global(kind: &str) -> bool {
    GLOBAL.contains(&kind)
}

impl ResourceId {
    /// A resource's id; the namespace counts only where the kind has one, and may be empty for the default.
    pub(crate) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        let namespace = match namespace {
            _ if is_global(kind) => "",
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        };
        Self { kind: kind.to_owned(), key: Key::new(namespace, name) }
    }

    /// Whether resources of its kind have a namespace.
    pub(crate) fn is_global(&self) -> bool {
        is_global(&self.kind)
    }
}

impl fmt::Display for ResourceId {
    /// `HTTPRoute/shop/cart`, as the library names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_global() {
            write!(f, "{}/{}", self.kind, self.key.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.key.namespace, self.key.name)
        }
    }
}

impl Document {
    /// A list is none itself, whatever it is called: who writes it has to have the right to each of its items.
    fn collect(node: &Node, documents: &mut Vec<Self>) {
        match node.items_of_list() {
            Some(items) => items.iter().for_each(|item| Self::collect(item, documents)),
            None => documents.extend(Self::of(node)),
        }
    }

    fn of(node: &Node) -> Option<Self> {
        let mut json = node.to_json();
        let root = json.as_object_mut()?;
        let kind = root.get("kind")?.as_str()?.to_owned();
        root.get("apiVersion")?.as_str()?;
        root.remove("status");
        let metadata = root.get_mut("metadata")?.as_object_mut()?;
        let resource_version = metadata.get("resourceVersion").and_then(Json::as_str).map(str::to_owned);
        metadata.retain(|name, _| !KEPT_BY_STORES.contains(&name.as_str()));
        let namespace = metadata.get("namespace").and_then(Json::as_str).unwrap_or_default();
        let id = ResourceId::new(&kind, namespace, metadata.get("name")?.as_str()?);
        if id.is_global() {
            metadata.remove("namespace");
        } else {
            metadata.insert("namespace".to_owned(), id.key.namespace.to_string().into());
        }
        Some(Self { id, place: node.place, json, resource_version })
    }
}

impl Node {
    /// The same as JSON, without places.
    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Integer(value) => Json::from(*value),
            Value::Number(text) => number(text),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(nodes) => nodes.iter().map(Self::to_json).collect(),
            Value::Map(entries) => Json::Object(
                entries.iter().map(|(key, value)| (name(key), value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }
}

/// JSON has neither infinity nor what is no number: they stay texts.
fn number(text: &str) -> Json {
    let whole = text.parse::<u64>().ok().map(Number::from);
    let number = whole.or_else(|| text.parse().ok().and_then(Number::from_f64));
    number.map_or_else(|| Json::String(text.to_owned()), Json::Number)
}

/// A key: what it is in YAML, as text.
fn name(key: &Node) -> String {
    match key.to_json() {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_say_which_resource_they_are() {
        let text = "
apiVersion: v1
kind: Service
metadata: {name: cart, resourceVersion: '7', labels: {a: b}}
spec: {ports: [{port: 80}], x: 1.5, y: 18446744073709551615, 'on': ~}
status: {loadBalancer: {}}
---
kind: Namespace
apiVersion: v1
metadata: {name: shop, namespace: other}
---
kind: Service
metadata: {name: without-version}
---
- a list
";
        let [service, namespace] = &documents(text)[..] else { panic!("two") };
        assert_eq!(service.id.to_string(), "Service/default/cart");
        assert_eq!(service.resource_version.as_deref(), Some("7"));
        let expected = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "cart", "namespace": "default", "labels": {"a": "b"}},
            "spec": {"ports": [{"port": 80}], "x": 1.5, "y": u64::MAX, "on": null},
        });
        assert_eq!(service.json, expected);
        assert_eq!((namespace.id.to_string(), namespace.place.line), ("Namespace/shop".to_owned(), 8));
        assert_eq!(namespace.json["metadata"], json!({"name": "shop"}));
        // What it became is read as the same again.
        let again = documents(&serde_json::to_string_pretty(&service.json).expect("JSON"));
        assert_eq!(again[0].json, service.json);
        assert!(documents("a: [").is_empty());
    }

    #[test]
    fn a_list_is_its_items_however_it_is_called() {
        let item = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
        let list = |items: Vec<Json>| {
            json!({
                "apiVersion": "v1", "kind": "List", "metadata": {"name": "l", "namespace": "shop"}, "items": items,
            })
        };
        let text = list(vec![item("a"), list(vec![item("b")]), list(Vec::new())]).to_string();
        let ids: Vec<String> = documents(&text).iter().map(|document| document.id.to_string()).collect();
        assert_eq!(ids, ["Service/default/a", "Service/default/b"]);
        // What names no items is taken for what it says that it is, and refused as that.
        let odd = json!({"apiVersion": "v1", "kind": "List", "metadata": {"name": "l"}, "items": null});
        assert_eq!(documents(&odd.to_string())[0].id.to_string(), "List/default/l");
    }
}
