//! A real Envoy takes whatever the control plane says in its dialect: the goldens' messages, put into bootstraps as
//! they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Where goldens say that secrets are.
const SECRETS: &str = "/run/meshwork";
/// A set of keys that goldens leave empty, in JSON within JSON; and one that Envoy takes.
const NO_KEYS: &str = r#"{\"keys\": []}"#;
const KEYS: &str = r#"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"alg\":\"ES256\",\"kid\":\"a\",\"x\":\"EBcvwrzGZtrWQCglr5Uu8Q1m7DXAawUwRsao-2g6sXk\",\"y\":\"XoB0qSGihIfmeV86xfmyDk4qXK6auUbrXCgOm-XKCN4\"}]}"#;

/// A certificate as goldens have it in a text, in JSON.
const NO_CERTIFICATE: &str = r"-----BEGIN CERTIFICATE-----\n…";
/// Where goldens say that a gateway's certificates are.
const CERTIFICATES: &str = "/certs/";

#[test]
fn envoy_takes_every_message_of_the_goldens() {
    let scratch = tempfile::tempdir().expect("a directory");
    for name in ["default", "ROOTCA"] {
        std::fs::write(scratch.path().join(format!("{name}.yaml")), "resources: []\n").expect("written");
    }
    let goldens = goldens();
    assert!(goldens.len() > 20, "there are few goldens: {}", goldens.len());
    let refused: Vec<String> =
        goldens.iter().filter_map(|(name, messages)| refusal(scratch.path(), name, messages)).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
}

/// Names of goldens, and what they say to Envoy.
fn goldens() -> Vec<(String, Vec<Value>)> {
    let mut goldens = Vec::new();
    for path in files("crates/xds/testdata/dialects") {
        let dialects: Value = yaml(&std::fs::read_to_string(&path).expect("readable"));
        goldens.push((path.display().to_string(), vec![dialects["envoy"].clone()]));
    }
    for path in files("crates/control-plane/testdata/messages") {
        let name = path.display().to_string();
        if name.ends_with(".envoy.yaml") {
            let text = std::fs::read_to_string(&path).expect("readable");
            let documents = text.split("--- # ").filter_map(|document| document.split_once('\n'));
            goldens.push((name, documents.map(|(_, message)| yaml(message)).collect()));
        }
    }
    goldens
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(e2e::root().join(folder)).expect("there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

/// What Envoy has against a bootstrap with these messages; `None` where it takes them.
fn refusal(scratch: &Path, name: &str, messages: &[Value]) -> Option<String> {
    let text = bootstrap(messages).to_string();
    let text = text.replace(SECRETS, &scratch.display().to_string()).replace(NO_KEYS, KEYS);
    let text = with_certificates(scratch, &text);
    let file = scratch.join("bootstrap.json");
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new(e2e::peer("venv/bin/envoy"));
    command.args(["--mode", "validate", "--log-level", "error", "--config-path"]).arg(&file);
    // Logs with relative paths are opened.
    let done = command.current_dir(scratch).output().expect("Envoy starts");
    let said = || format!("{name}:\n{}", String::from_utf8_lossy(&done.stderr));
    (!done.status.success()).then(said)
}

/// The text with a real certificate in it, and in each file that it names.
fn with_certificates(scratch: &Path, text: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let paths = text.split('"').filter_map(|part| part.strip_prefix(CERTIFICATES));
    for file in paths.map(|path| scratch.join(path)).filter(|file| file.extension().is_some()) {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        let is_key = file.extension().is_some_and(|extension| extension == "key");
        let content = if is_key { &key } else { &certificate };
        std::fs::write(&file, content).expect("written");
    }
    text.replace(&format!("\"{CERTIFICATES}"), &format!("\"{}/", scratch.display()))
        .replace(NO_CERTIFICATE, &certificate.replace('\n', "\\n"))
}

fn bootstrap(messages: &[Value]) -> Value {
    let (mut clusters, mut listeners) = (Vec::new(), Vec::new());
    let mut named = BTreeSet::new();
    for message in messages {
        let number = clusters.len() + listeners.len();
        names(message, &mut named);
        if message.get("virtual_hosts").is_some() {
            listeners.push(listener_of(message, number));
        } else if message.get("connect_timeout").is_some() {
            clusters.push(message.clone());
        } else if message.get("cluster_name").is_some() {
            clusters.push(cluster(&format!("endpoints {number}"), message));
        } else if message.get("api_listener").is_none() {
            listeners.push(message.clone());
        }
    }
    named.insert("xds".to_owned());
    let has = |name: &String| clusters.iter().any(|known| known["name"].as_str() == Some(name));
    let others: Vec<Value> = named.iter().filter(|name| !has(name)).map(|name| stub(name)).collect();
    clusters.extend(others);
    json!({
        "node": { "id": "n", "cluster": "c" },
        "static_resources": { "clusters": clusters, "listeners": listeners },
        "dynamic_resources": { "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
        } },
    })
}

/// The clusters that something leads to.
fn names(value: &Value, named: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("cluster" | "cluster_name", Value::String(name)) => drop(named.insert(name.clone())),
                    ("weighted_clusters", weighted) => {
                        let each = weighted["clusters"].as_array().into_iter().flatten();
                        named.extend(each.filter_map(|one| Some(one["name"].as_str()?.to_owned())));
                    }
                    _ => {}
                }
                names(value, named);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, named)),
        _ => {}
    }
}

fn cluster(name: &str, endpoints: &Value) -> Value {
    json!({ "name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoints })
}

/// A cluster that is only named, and speaks HTTP/2 as the control plane does.
fn stub(name: &str) -> Value {
    let mut stub = cluster(name, &json!({ "cluster_name": name }));
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    stub["typed_extension_protocol_options"] = json!({ options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": { "http2_protocol_options": {} },
    } });
    stub
}

/// A listener with a route table of its own.
fn listener_of(table: &Value, number: usize) -> Value {
    let package = "type.googleapis.com/envoy.extensions.filters";
    let mut table = table.clone();
    table["validate_clusters"] = json!(false);
    let filter = json!({
        "@type": format!("{package}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "x",
        "route_config": table,
        "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "http_filters": [
            { "name": "router", "typed_config": { "@type": format!("{package}.http.router.v3.Router") } },
        ],
    });
    json!({
        "name": format!("routes {number}"),
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": filter }] }],
    })
}
