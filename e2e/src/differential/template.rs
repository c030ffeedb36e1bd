//! From the pieces of a case to a whole bootstrap, and placeholders to what they stand for.

use serde_json::{Map, Value, json};

use super::answer::Origin;
use super::case::{Base, Case};

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// The case's bootstrap, with placeholders.
pub(super) fn bootstrap(case: &Case) -> Value {
    let mut bootstrap = match &case.bootstrap {
        Some(whole) => whole.clone(),
        None => pieces(case),
    };
    merge(&mut bootstrap, &case.more.clone().unwrap_or_else(|| json!({})));
    for (name, default) in [
        ("admin", json!({ "address": address("127.0.0.1", "$ADMIN") })),
        ("node", json!({ "id": "differential", "cluster": "tests" })),
    ] {
        if bootstrap.get(name).is_none() {
            bootstrap[name] = default;
        }
    }
    if let Some(clusters) = bootstrap.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut)
    {
        for cluster in clusters {
            complete(cluster, case);
        }
    }
    bootstrap
}

fn address(address: &str, port: &str) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn pieces(case: &Case) -> Value {
    let mut listeners = vec![listener(case)];
    listeners.extend(case.listeners.iter().flatten().cloned());
    let mut statics = json!({ "listeners": listeners, "clusters": clusters(case) });
    if let Some(secrets) = &case.secrets {
        statics["secrets"] = json!(secrets);
    }
    json!({ "static_resources": statics })
}

fn listener(case: &Case) -> Value {
    let mut filters = case.network_filters.clone().unwrap_or_default();
    filters.push(match case.base {
        Base::Http => json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": connection_manager(case),
        }),
        Base::Tcp => {
            let mut config = json!({
                "@type": format!("{TYPE}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "front",
            });
            let given = case.tcp_proxy.clone().unwrap_or_else(|| json!({}));
            if given.get("weighted_clusters").is_none() {
                config["cluster"] = json!(first_cluster(case));
            }
            merge(&mut config, &given);
            json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": config })
        }
    });
    let mut chain = json!({ "filters": filters });
    merge(&mut chain, &case.filter_chain.clone().unwrap_or_else(|| json!({})));
    let mut listener = json!({
        "name": "main",
        "address": address("127.0.0.1", "$LISTEN"),
        "filter_chains": [chain],
    });
    merge(&mut listener, &case.listener.clone().unwrap_or_else(|| json!({})));
    listener
}

/// Quiet, so that a case judges only what it is about: no request ids, no `x-envoy-*` of the router, and the origin's
/// `server`.
fn connection_manager(case: &Case) -> Value {
    let mut router = json!({
        "@type": format!("{TYPE}.filters.http.router.v3.Router"),
        "suppress_envoy_headers": true,
    });
    merge(&mut router, &case.router.clone().unwrap_or_else(|| json!({})));
    let mut filters = case.http_filters.clone().unwrap_or_default();
    filters.push(json!({ "name": "envoy.filters.http.router", "typed_config": router }));
    let mut config = json!({
        "@type": format!("{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front",
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": false,
        "route_config": route_config(case),
        "http_filters": filters,
    });
    merge(&mut config, &case.hcm.clone().unwrap_or_else(|| json!({})));
    config
}

fn route_config(case: &Case) -> Value {
    let all = json!([{ "match": { "prefix": "/" }, "route": { "cluster": first_cluster(case) } }]);
    let routes = case.routes.clone().map_or(all, |routes| json!(routes));
    let hosts = json!([{ "name": "all", "domains": ["*"], "routes": routes }]);
    let hosts = case.virtual_hosts.clone().map_or(hosts, |hosts| json!(hosts));
    let mut config = json!({ "name": "front", "virtual_hosts": hosts });
    merge(&mut config, &case.route_config.clone().unwrap_or_else(|| json!({})));
    config
}

fn first_cluster(case: &Case) -> Value {
    let first = clusters(case).into_iter().next();
    first.map_or_else(|| json!("origin"), |cluster| cluster["name"].clone())
}

/// The clusters: those that the case has, where a name alone stands for the cluster of that origin; without any, one
/// for each origin.
fn clusters(case: &Case) -> Vec<Value> {
    let origins = case.origins();
    let named = |name: &str| json!({ "name": name, "$origins": [name] });
    let mut clusters: Vec<Value> = match &case.clusters {
        Some(clusters) => clusters.iter().map(|c| c.as_str().map_or_else(|| c.clone(), named)).collect(),
        None => origins.keys().map(|name| named(name)).collect(),
    };
    for cluster in &mut clusters {
        merge(cluster, &case.cluster.clone().unwrap_or_else(|| json!({})));
    }
    clusters
}

/// Adds what every cluster of a test has, and the endpoints of `$origins`.
fn complete(cluster: &mut Value, case: &Case) {
    let Some(fields) = cluster.as_object_mut() else { return };
    fields.entry("connect_timeout").or_insert_with(|| json!("5s"));
    let Some(names) = fields.remove("$origins") else { return };
    let origins = case.origins();
    let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let endpoints: Vec<Value> = names.iter().map(|name| endpoint(name)).collect();
    let name = fields.get("name").cloned().unwrap_or_default();
    if !fields.contains_key("load_assignment") {
        let assignment = json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] });
        fields.insert("load_assignment".to_owned(), assignment);
    }
    let speaks_http2 = names.iter().any(|name| origins.get(*name).is_some_and(|o| o.http2));
    if speaks_http2 && !fields.contains_key("typed_extension_protocol_options") {
        fields.insert("typed_extension_protocol_options".to_owned(), http2());
    }
}

fn endpoint(name: &str) -> Value {
    json!({ "endpoint": { "address": address(&format!("$ADDRESS.{name}"), &format!("$ORIGIN.{name}")) } })
}

fn http2() -> Value {
    json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPE}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    })
}

/// Merges maps field by field; anything else takes the place of what was there, and `null` removes it.
pub(super) fn merge(target: &mut Value, over: &Value) {
    match (target, over) {
        (Value::Object(target), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    target.remove(key);
                } else {
                    // Another type in an `Any`, or another choice of a `oneof`, is not to be mixed with the first.
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, over) => *target = over.clone(),
    }
}

/// Puts what placeholders stand for in their place, in every text of a tree. A text that is nothing but a placeholder
/// becomes a number where it stands for one.
pub(super) fn fill(tree: &mut Value, meaning: Meaning<'_>) {
    fill_each(tree, meaning, true);
}

/// The same, but what was a text stays one.
pub(super) fn fill_texts(tree: &mut Value, meaning: Meaning<'_>) {
    fill_each(tree, meaning, false);
}

/// What a placeholder stands for: its word and its name.
type Meaning<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

fn fill_each(tree: &mut Value, meaning: Meaning<'_>, numbers: bool) {
    match tree {
        Value::String(text) if text.contains('$') => {
            let filled = fill_text(text, meaning);
            *tree = match filled.parse::<u16>() {
                Ok(port) if numbers && text.starts_with('$') => json!(port),
                _ => json!(filled),
            };
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_each(item, meaning, numbers)),
        Value::Object(entries) => {
            let filled = std::mem::take(entries).into_iter().map(|(key, mut value)| {
                fill_each(&mut value, meaning, numbers);
                (fill_text(&key, meaning), value)
            });
            *entries = filled.collect::<Map<_, _>>();
        }
        _ => {}
    }
}

/// Puts what placeholders stand for in their place; what stands for nothing stays.
///
/// A placeholder is `$WORD` or `$WORD.name`.
pub(super) fn fill_text(text: &str, meaning: Meaning<'_>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let word = after.len() - after.trim_start_matches(|c: char| c.is_ascii_uppercase()).len();
        let (word, behind) = after.split_at(word);
        let name = behind.strip_prefix('.').unwrap_or_default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = &name[..name.len() - name.trim_start_matches(is_name).len()];
        let (meant, length) = match meaning(word, name) {
            Some(meant) => (Some(meant), if name.is_empty() { 0 } else { name.len() + 1 }),
            None => (meaning(word, ""), 0),
        };
        match meant {
            Some(meant) if !word.is_empty() => {
                filled.push_str(&meant);
                rest = &behind[length..];
            }
            _ => {
                filled.push('$');
                rest = after;
            }
        }
    }
    filled + rest
}

/// The address of an origin.
pub(super) fn address_of(origin: &Origin) -> String {
    origin.address.clone().unwrap_or_else(|| "127.0.0.1".to_owned())
}
