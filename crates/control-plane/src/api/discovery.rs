//! Which kinds there are, as Kubernetes' clients ask before they ask for anything else.
//!
//! Source: Kubernetes API, `APIVersions`, `APIGroupList`, `APIGroup`, `APIResourceList`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::failure::Failure;
use super::objects::{Plural, plurals};
use crate::ingest::{is_global, plural};

/// What can be done with each kind.
const VERBS: [&str; 5] = ["delete", "get", "list", "update", "watch"];

/// `GET /api`
pub(super) async fn core() -> Json<Value> {
    Json(json!({"kind": "APIVersions", "versions": ["v1"]}))
}

/// `GET /apis`
pub(super) async fn groups() -> Json<Value> {
    let groups: Vec<Value> = versions().iter().map(|(group, versions)| described(group, versions)).collect();
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `GET /apis/{group}`
pub(super) async fn group(Path(group): Path<String>) -> Result<Json<Value>, Failure> {
    match versions().get(&*group) {
        Some(versions) => {
            let mut answer = described(&group, versions);
            answer["kind"] = "APIGroup".into();
            answer["apiVersion"] = "v1".into();
            Ok(Json(answer))
        }
        None => Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no group {group}"))),
    }
}

/// `GET /api/v1`
pub(super) async fn core_resources() -> Result<Json<Value>, Failure> {
    resources("v1")
}

/// `GET /apis/{group}/{version}`
pub(super) async fn group_resources(
    Path((group, version)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    resources(&format!("{group}/{version}"))
}

fn resources(api_version: &str) -> Result<Json<Value>, Failure> {
    let resource = |Plural { kind, .. }: Plural| {
        let namespaced = !is_global(kind);
        json!({
            "name": plural(kind), "singularName": kind.to_lowercase(), "kind": kind,
            "namespaced": namespaced, "verbs": VERBS,
        })
    };
    let resources: Vec<Value> = plurals().filter(|p| p.api_version == api_version).map(resource).collect();
    if resources.is_empty() {
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no {api_version}")));
    }
    Ok(Json(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources,
    })))
}

/// The versions of each group, the one to prefer first.
fn versions() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (group, version) in plurals().filter_map(|p| p.api_version.split_once('/')) {
        let versions = groups.entry(group).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    groups
}

fn described(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}
