//! Many bootstraps as one: names of clusters, listeners and secrets get the case's name in front.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// What stands in front of the names of a case.
pub(super) fn prefix(case: &str) -> String {
    format!("{}-", case.replace('/', "-"))
}

/// Whether a bootstrap has nothing but what can be put into one with others.
pub(super) fn can_share(bootstrap: &Value) -> bool {
    let keys = |value: &Value, allowed: &[&str]| {
        value.as_object().is_some_and(|map| map.keys().all(|key| allowed.contains(&key.as_str())))
    };
    keys(bootstrap, &["node", "admin", "static_resources"])
        && keys(&bootstrap["static_resources"], &["listeners", "clusters", "secrets"])
}

/// Puts a prefix in front of every name that the bootstrap defines, and of every use of it.
pub(super) fn rename(bootstrap: &mut Value, prefix: &str) {
    let names = |kind: &str| -> BTreeSet<String> {
        let list = bootstrap["static_resources"][kind].as_array();
        list.into_iter().flatten().filter_map(|item| item["name"].as_str().map(ToOwned::to_owned)).collect()
    };
    let (clusters, secrets) = (names("clusters"), names("secrets"));
    let renaming = Renaming { clusters, secrets, prefix };
    for kind in ["listeners", "clusters", "secrets"] {
        let list = bootstrap.pointer_mut(&format!("/static_resources/{kind}")).and_then(Value::as_array_mut);
        for item in list.into_iter().flatten() {
            if let Some(name) = item["name"].as_str() {
                item["name"] = json!(format!("{prefix}{name}"));
            }
            renaming.uses(item);
        }
    }
}

struct Renaming<'a> {
    clusters: BTreeSet<String>,
    secrets: BTreeSet<String>,
    prefix: &'a str,
}

impl Renaming<'_> {
    fn uses(&self, tree: &mut Value) {
        match tree {
            Value::Array(items) => items.iter_mut().for_each(|item| self.uses(item)),
            Value::Object(entries) => {
                for (key, value) in entries {
                    self.field(key, value);
                    self.uses(value);
                }
            }
            _ => {}
        }
    }

    fn field(&self, key: &str, value: &mut Value) {
        match key {
            "cluster" | "cluster_name" => self.one(value, &self.clusters),
            "weighted_clusters" => {
                for entry in value["clusters"].as_array_mut().into_iter().flatten() {
                    self.one(&mut entry["name"], &self.clusters);
                }
            }
            "tls_certificate_sds_secret_configs" => {
                for entry in value.as_array_mut().into_iter().flatten() {
                    self.one(&mut entry["name"], &self.secrets);
                }
            }
            "validation_context_sds_secret_config" => self.one(&mut value["name"], &self.secrets),
            _ => {}
        }
    }

    fn one(&self, value: &mut Value, known: &BTreeSet<String>) {
        if let Some(name) = value.as_str().filter(|name| known.contains(*name)) {
            *value = json!(format!("{}{name}", self.prefix));
        }
    }
}

/// One bootstrap with the static resources of all.
pub(super) fn combine(bootstraps: &[Value]) -> Value {
    let mut combined = json!({ "static_resources": {} });
    for bootstrap in bootstraps {
        for key in ["node", "admin"] {
            combined[key] = bootstrap[key].clone();
        }
        for kind in ["listeners", "clusters", "secrets"] {
            let more = bootstrap["static_resources"][kind].as_array().cloned().unwrap_or_default();
            if more.is_empty() {
                continue;
            }
            let list = &mut combined["static_resources"][kind];
            if list.is_null() {
                *list = json!([]);
            }
            list.as_array_mut().expect("a list").extend(more);
        }
    }
    combined
}
