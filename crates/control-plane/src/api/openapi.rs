//! The API's description. Source: `OpenAPI` 3.0.3.

use axum::Json;
use serde_json::{Map, Value, json};

use super::objects::{Plural, plurals};
use crate::ingest::plural;

pub(super) async fn document() -> Json<Value> {
    Json(description())
}

fn description() -> Value {
    let mut paths = Map::new();
    for (path, method, summary, body) in ACTIONS {
        let mut operation = json!({"summary": summary, "responses": responses()});
        if !body.is_empty() {
            operation["requestBody"] = body_of(&json!({"$ref": format!("#/components/schemas/{body}")}));
        }
        if *method == "post" && !path.ends_with("/tokens") && !path.starts_with("/api/v1/") {
            operation["parameters"] = json!([dry_run()]);
        }
        if *method != "get" {
            operation["security"] = json!([{"token": []}]);
        }
        let entry = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        entry[*method] = operation;
    }
    for plural in plurals() {
        paths.extend(of_kind(plural));
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Meshwork", "version": env!("CARGO_PKG_VERSION"),
            "description": "The config of the mesh: applied as a whole, with a revision for each change.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

/// Path, method, what it does, and what its body is.
const ACTIONS: &[(&str, &str, &str, &str)] = &[
    ("/apis/meshwork.dev/v1alpha1/apply", "post", "Make these resources so, all or nothing", "Apply"),
    ("/apis/meshwork.dev/v1alpha1/delete", "post", "Delete these resources, all or nothing", "Delete"),
    (
        "/apis/meshwork.dev/v1alpha1/rollback",
        "post",
        "Make all resources as they were at a revision",
        "Rollback",
    ),
    ("/apis/meshwork.dev/v1alpha1/revisions", "get", "The newest revisions; `limit` says how many", ""),
    ("/apis/meshwork.dev/v1alpha1/revisions/{revision}", "get", "One revision, with all that it changed", ""),
    ("/apis/meshwork.dev/v1alpha1/status", "get", "How far config has come, by proxy", ""),
    (
        "/apis/meshwork.dev/v1alpha1/tokens",
        "post",
        "Make a token with roles in namespaces; told once",
        "Token",
    ),
    ("/apis/meshwork.dev/v1alpha1/tokens/{name}", "delete", "End the tokens of a name", ""),
    ("/api/v1/topology", "get", "Who is there, which services lead to whom, who calls whom", ""),
    ("/api/v1/diagram", "get", "The same as Mermaid text", ""),
    ("/api/v1/edges", "get", "Who calls whom, how much, how well", ""),
    (
        "/api/v1/mtls",
        "get",
        "Which ports demand mTLS, who calls without, and who would be cut off; `namespace` narrows it, `since` is seconds",
        "",
    ),
    ("/api/v1/proxies", "get", "What each proxy has accepted and refused", ""),
    ("/api/v1/problems", "get", "What is wrong with the config and with workloads", ""),
    ("/api/v1/config", "get", "The config that is applied, by name", ""),
    (
        "/api/v1/explain",
        "get",
        "What becomes of a request, and why: `from`, `to`, `method`, `path`, `sourceIp`, `sni`",
        "",
    ),
    (
        "/api/v1/explain",
        "post",
        "The same of a request with header fields and claims; nothing is sent",
        "Question",
    ),
    ("/api/v1/ca", "get", "The certificate authority: its roots, who signs, how far a rotation is", ""),
    ("/api/v1/ca/rotation", "post", "Replace the root, or turn back", "Rotation"),
    ("/api/v1/ca/bundle", "get", "The mesh's own bundle, for other trust domains", ""),
    ("/api/v1/ca/revocations", "get", "Who is revoked, and why", ""),
    ("/api/v1/ca/revocations", "post", "Revoke an identity or a certificate", "Revocation"),
    ("/api/v1/ca/revocations", "delete", "Take the revocation of `identity` or `serial` back", ""),
];

fn of_kind(kind: Plural) -> [(String, Value); 2] {
    let Plural { kind, api_version } = kind;
    let root = if api_version.contains('/') {
        format!("/apis/{api_version}")
    } else {
        format!("/api/{api_version}")
    };
    let (plural, name) = (plural(kind), parameter("name", "path"));
    let (path, mut here) = if plural == "namespaces" {
        (format!("{root}/namespaces"), Vec::new())
    } else {
        (format!("{root}/namespaces/{{namespace}}/{plural}"), vec![parameter("namespace", "path")])
    };
    let looks = ["watch", "resourceVersion", "allowWatchBookmarks", "timeoutSeconds"];
    let looks: Vec<Value> = looks.iter().map(|name| parameter(name, "query")).collect();
    let list = json!({
        "summary": format!("List or watch: {kind}"), "responses": responses(),
        "parameters": here.iter().cloned().chain(looks).collect::<Vec<_>>(),
    });
    here.push(name);
    let write = |summary: String| json!({"summary": summary, "responses": responses(), "parameters": [dry_run()], "security": [{"token": []}]});
    let mut put = write(format!("Make one so: {kind}"));
    put["requestBody"] = body_of(&json!({"type": "object"}));
    let one = json!({
        "parameters": here,
        "get": {"summary": format!("Get one: {kind}"), "responses": responses()},
        "put": put,
        "delete": write(format!("Delete one: {kind}")),
    });
    [(format!("{path}/{{name}}"), one), (path, json!({"get": list}))]
}

fn parameter(name: &str, place: &str) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}})
}

fn dry_run() -> Value {
    json!({
        "name": "dryRun", "in": "query", "required": false,
        "schema": {"type": "string", "enum": ["All"]},
        "description": "Only tell what would come of it",
    })
}

fn body_of(schema: &Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

fn responses() -> Value {
    let problem = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
    json!({
        "200": {"description": "It is so"},
        "default": {"description": "Why it is not, and nothing is changed", "content": problem},
    })
}

fn schemas() -> Value {
    let text = json!({"type": "string"});
    let named = json!({
        "type": "object", "required": ["kind", "name"],
        "properties": {"kind": text, "namespace": text, "name": text},
    });
    let source = json!({
        "type": "object", "required": ["name", "text"], "properties": {"name": text, "text": text},
    });
    json!({
        "Apply": {
            "type": "object", "required": ["sources"],
            "properties": {"sources": {"type": "array", "items": source}, "note": text},
        },
        "Delete": {
            "type": "object", "required": ["resources"],
            "properties": {"resources": {"type": "array", "items": named}, "note": text},
        },
        "Rollback": {
            "type": "object", "required": ["revision"],
            "properties": {"revision": {"type": "integer"}, "dryRun": {"type": "boolean"}, "note": text},
        },
        "Token": {
            "type": "object", "required": ["name", "grants"],
            "properties": {"name": text, "grants": {"type": "array", "items": {
                "type": "object", "required": ["role", "namespaces"],
                "properties": {
                    "role": {"type": "string", "enum": ["viewer", "editor", "admin"]},
                    "namespaces": {"type": "array", "items": text},
                },
            }}},
        },
        "Rotation": {
            "type": "object", "required": ["action"],
            "properties": {
                "action": {"type": "string", "enum": ["start", "abort"]},
                "without": {"type": "array", "items": text},
                "withoutOffline": {"type": "boolean"},
            },
        },
        "Revocation": {
            "type": "object",
            "properties": {"identity": text, "serial": text, "reason": text},
        },
        "Question": {
            "type": "object", "required": ["from", "to"],
            "properties": {
                "from": text, "to": text, "method": text, "path": text, "sourceIp": text, "sni": text,
                "headers": {"type": "array", "items": {"type": "array", "items": text}},
                "claims": {"type": "object"},
            },
        },
        "Problem": {
            "type": "object",
            "properties": {
                "error": text, "message": text, "reason": text, "code": {"type": "integer"},
                "problems": {"type": "array", "items": {"type": "object", "properties": {
                    "severity": text, "file": text, "line": {"type": "integer"}, "column": {"type": "integer"},
                    "resource": text, "field": text, "message": text, "fix": text,
                }}},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_described() {
        let description = description();
        let paths = description["paths"].as_object().expect("paths");
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}";
        for path in [route, "/api/v1/namespaces/{namespace}/services", "/api/v1/namespaces/{name}"] {
            assert!(paths.contains_key(path), "{path}");
        }
        assert_eq!(paths[route]["parameters"].as_array().map(Vec::len), Some(2));
        assert!(paths["/apis/meshwork.dev/v1alpha1/apply"]["post"]["requestBody"].is_object());
    }
}
