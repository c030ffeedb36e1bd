use super::super::yaml;
use super::*;
use std::collections::BTreeMap;
use std::path::Path;

/// What a schema says against a value: as much of JSON Schema as the schemas use.
fn wrong(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(any) = schema["anyOf"].as_array() {
        let tries: Vec<Vec<String>> = any.iter().map(|schema| wrong(schema, value, at)).collect();
        return if tries.iter().any(Vec::is_empty) { Vec::new() } else { tries.concat() };
    }
    let mut found = Vec::new();
    let is_type = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("{other}"),
    };
    if !is_type {
        found.push(format!("{at}: no {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        found.push(format!("{at}: none of {}", schema["enum"]));
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        found.push(format!("{at}: not {}", schema["const"]));
    }
    if let (Some(n), Some(from), Some(to)) =
        (value.as_i64(), schema["minimum"].as_i64(), schema["maximum"].as_i64())
        && !(from..=to).contains(&n)
    {
        found.push(format!("{at}: {n} is not from {from} to {to}"));
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(wrong(&schema["items"], item, &format!("{at}[{i}]")));
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            // A field that is null is not there, to readers.
            _ if value.is_null() => {}
            (Value::Null, Value::Bool(false)) => found.push(format!("{at}: no such field")),
            (Value::Null, other) => found.extend(wrong(other, value, &at)),
            (known, _) => found.extend(wrong(known, value, &at)),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.is_object() && value[name].is_null() {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    found
}

/// Every YAML file below a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn what_readers_accept_is_valid_by_the_schemas() {
    let schemas: BTreeMap<&str, Value> = schemas().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["../../examples", "testdata", "../../e2e/testdata"] {
        let folder = root.join(folder);
        if folder.is_dir() {
            files(&folder, &mut paths);
        }
    }
    let (mut found, mut seen) = (Vec::new(), 0);
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a file");
        let name = path.display().to_string();
        let loaded = super::super::read_texts([(name.clone(), text.clone())].into());
        let is_of_field = |problem: &&meshwork_model::problem::Problem| {
            use meshwork_model::problem::{Code, Severity};
            problem.severity == Severity::Error && problem.code != Code::LeadsNowhere
        };
        if loaded.problems.iter().any(|problem| is_of_field(&problem)) {
            continue;
        }
        for node in yaml::parse(&text).expect("YAML") {
            let value = node.to_json();
            let Some(schema) = value["kind"].as_str().and_then(|kind| schemas.get(kind)) else { continue };
            seen += 1;
            found.extend(wrong(schema, &value, &format!("{name}: {}", value["kind"])));
        }
    }
    assert!(seen > 10, "only {seen} resources");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_schema_knows_fields_types_and_values() {
    let schema = schema_of("httproute").expect("a schema");
    let rule = &schema["properties"]["spec"]["properties"]["rules"]["items"];
    let matched = &rule["properties"]["matches"]["items"]["properties"];
    assert_eq!(rule["additionalProperties"], false);
    assert!(
        matched["path"]["properties"]["type"]["enum"]
            .as_array()
            .is_some_and(|v| v.contains(&json!("PathPrefix")))
    );
    assert_eq!(schema["required"], json!(["apiVersion", "kind", "metadata", "spec"]));

    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "a" },
        "spec": { "parentRefs": [{ "name": "a", "kind": "Service", "group": "" }], "rules": [] },
    });
    assert_eq!(wrong(&schema, &route, ""), [""; 0]);
    route["spec"]["ruels"] = json!([]);
    assert_eq!(wrong(&schema, &route, ""), [".spec.ruels: no such field"]);
}

#[test]
fn labels_are_texts_and_ports_have_their_range() {
    let schema = schema_of("Service").expect("a schema");
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["selector"], json!({ "type": "object", "additionalProperties": { "type": "string" } }));
    let port = json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
    assert_eq!(spec["ports"]["items"]["properties"]["port"], port);
    assert_eq!(schema_of("Nothing"), None);
}
