//! `/config_dump` in Envoy's shape.
//!
//! Keys are never shown. Source: Envoy `admin.v3.ConfigDump` and the messages within.

use std::time::SystemTime;

use bytes::Bytes;
use meshwork_model::proxy::Kind;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

use crate::descriptors;
use crate::resource::type_url;

/// A resource as it is held.
#[derive(Clone)]
pub struct Held {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version; `None` for a static one.
    pub version: Option<String>,
    /// Its message; empty where none is kept.
    pub bytes: Bytes,
    /// When it was taken in.
    pub updated: SystemTime,
    /// The last version that was refused, where that came later.
    pub refused: Option<Refused>,
}

/// A version that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub why: String,
    /// Its version.
    pub version: String,
    /// When it came.
    pub at: SystemTime,
}

/// Shows what is held. `wanted` is one list, such as `dynamic_listeners`, whose elements then stand by themselves.
///
/// # Errors
/// There is no such list.
pub fn config_dump(held: &[Held], wanted: Option<&str>, endpoints: bool) -> Result<String, String> {
    let mut configs = Vec::new();
    let mut known = Vec::new();
    for part in PARTS.iter().filter(|part| endpoints || part.kind != Kind::Endpoints || wanted.is_some()) {
        let of_kind: Vec<&Held> = held.iter().filter(|held| held.kind == part.kind).collect();
        let (fixed, dynamic): (Vec<&Held>, Vec<&Held>) =
            of_kind.iter().partition(|held| held.version.is_none());
        let fixed: Vec<Value> = fixed.into_iter().map(|held| part.fixed(held)).collect();
        let dynamic: Vec<Value> = dynamic.into_iter().map(|held| part.dynamic(held)).collect();
        known.extend([part.fixed_list, part.dynamic_list]);
        if let Some(wanted) = wanted {
            let list = [(part.fixed_list, fixed), (part.dynamic_list, dynamic)];
            configs.extend(list.into_iter().filter(|(name, _)| *name == wanted).flat_map(|(_, list)| list));
            continue;
        }
        let mut config = Map::from_iter([("@type".to_owned(), json!(part.message))]);
        for (name, list) in [(part.fixed_list, fixed), (part.dynamic_list, dynamic)] {
            if !list.is_empty() {
                config.insert(name.to_owned(), Value::Array(list));
            }
        }
        configs.push(Value::Object(config));
    }
    if let Some(wanted) = wanted.filter(|wanted| !known.contains(wanted)) {
        return Err(format!("there is no list {wanted:?}; there are {}", known.join(", ")));
    }
    let mut text = serde_json::to_string_pretty(&json!({ "configs": configs })).unwrap_or_default();
    text.push('\n');
    Ok(text)
}

/// A kind's part of the dump.
struct Part {
    kind: Kind,
    message: &'static str,
    fixed_list: &'static str,
    dynamic_list: &'static str,
    /// The field of the resource itself.
    field: &'static str,
}

const PARTS: &[Part] = &[
    Part {
        kind: Kind::Cluster,
        message: "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
        fixed_list: "static_clusters",
        dynamic_list: "dynamic_active_clusters",
        field: "cluster",
    },
    Part {
        kind: Kind::Listener,
        message: "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
        fixed_list: "static_listeners",
        dynamic_list: "dynamic_listeners",
        field: "listener",
    },
    Part {
        kind: Kind::Routes,
        message: "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
        fixed_list: "static_route_configs",
        dynamic_list: "dynamic_route_configs",
        field: "route_config",
    },
    Part {
        kind: Kind::Secret,
        message: "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
        fixed_list: "static_secrets",
        dynamic_list: "dynamic_active_secrets",
        field: "secret",
    },
    Part {
        kind: Kind::Endpoints,
        message: "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
        fixed_list: "static_endpoint_configs",
        dynamic_list: "dynamic_endpoint_configs",
        field: "endpoint_config",
    },
];

impl Part {
    fn fixed(&self, held: &Held) -> Value {
        let mut entry = Map::new();
        if self.kind == Kind::Secret {
            entry.insert("name".to_owned(), json!(held.name));
        }
        entry.insert(self.field.to_owned(), shown(held));
        entry.insert("last_updated".to_owned(), json!(time(held.updated)));
        Value::Object(entry)
    }

    fn dynamic(&self, held: &Held) -> Value {
        let mut state = Map::new();
        if !held.bytes.is_empty() {
            state.insert("version_info".to_owned(), json!(held.version));
            state.insert(self.field.to_owned(), shown(held));
            state.insert("last_updated".to_owned(), json!(time(held.updated)));
        }
        let error = held.refused.as_ref().map(|refused| {
            json!({
                "last_update_attempt": time(refused.at),
                "details": refused.why,
                "version_info": refused.version,
            })
        });
        let mut entry = if self.kind == Kind::Listener {
            let mut entry = Map::from_iter([("name".to_owned(), json!(held.name))]);
            if !state.is_empty() {
                entry.insert("active_state".to_owned(), Value::Object(state));
            }
            entry
        } else {
            if self.kind == Kind::Secret {
                state.insert("name".to_owned(), json!(held.name));
            }
            state
        };
        if let Some(error) = error {
            entry.insert("error_state".to_owned(), error);
        }
        Value::Object(entry)
    }
}

/// The message as JSON, with its type and without keys.
fn shown(held: &Held) -> Value {
    let url = type_url(held.kind);
    let message = descriptors::message(url)
        .and_then(|descriptor| DynamicMessage::decode(descriptor, held.bytes.clone()).ok());
    let options = SerializeOptions::new().use_proto_field_name(true);
    let shown = message
        .and_then(|message| message.serialize_with_options(serde_json::value::Serializer, &options).ok());
    let mut object = Map::from_iter([("@type".to_owned(), json!(url))]);
    if let Some(Value::Object(mut fields)) = shown {
        redact(&mut fields);
        object.append(&mut fields);
    }
    Value::Object(object)
}

/// Fields that Envoy marks as sensitive.
const SENSITIVE: &[&str] =
    &["private_key", "password", "pkcs12", "session_ticket_keys", "generic_secret", "private_key_provider"];

/// Where keys that tokens are verified by stand in config; Envoy shows all of them.
const TOKEN_KEYS: &str = "local_jwks";
/// Members of a JSON Web Key that are secret. Source: RFC 7518 §6.
const SECRET_MEMBERS: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Whether a set of JSON Web Keys can only verify tokens, and so be shown. What is not understood may be able to sign.
pub fn verifies_only(jwks: &str) -> bool {
    let set = serde_json::from_str::<Value>(jwks).ok();
    let keys = set.as_ref().and_then(|set| set.get("keys")?.as_array());
    let is_public = |key: &Value| {
        key.as_object().is_some_and(|key| !SECRET_MEMBERS.iter().any(|member| key.contains_key(*member)))
    };
    keys.is_some_and(|keys| keys.iter().all(is_public))
}

fn redact(fields: &mut Map<String, Value>) {
    for (name, value) in fields {
        let is_public = || value.get("inline_string").and_then(Value::as_str).is_some_and(verifies_only);
        let is_secret = SENSITIVE.contains(&name.as_str()) || name == TOKEN_KEYS && !is_public();
        if is_secret {
            *value = hidden(value);
        } else {
            redact_value(value);
        }
    }
}

fn redact_value(value: &mut Value) {
    match value {
        Value::Object(fields) => redact(fields),
        Value::Array(items) => items.iter_mut().for_each(redact_value),
        _ => {}
    }
}

/// The same shape with every text hidden.
fn hidden(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), hidden(value))).collect(),
        Value::Array(items) => items.iter().map(hidden).collect(),
        Value::String(_) => json!("[redacted]"),
        other => other.clone(),
    }
}

/// A time as text: RFC 3339, UTC, in milliseconds.
pub fn time(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let stamp = prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(since.subsec_millis() * 1_000_000).unwrap_or_default(),
    };
    stamp.to_string()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb;

    fn inline(text: &str) -> pb::core::DataSource {
        use pb::core::data_source::Specifier::InlineString;
        pb::core::DataSource { specifier: Some(InlineString(text.to_owned())), ..Default::default() }
    }

    fn held(version: Option<&str>) -> Held {
        let secret = pb::tls::Secret {
            name: "web".to_owned(),
            r#type: Some(pb::tls::secret::Type::TlsCertificate(pb::tls::TlsCertificate {
                certificate_chain: Some(inline("CHAIN")),
                private_key: Some(inline("KEY")),
                ..Default::default()
            })),
        };
        Held {
            kind: Kind::Secret,
            name: "web".to_owned(),
            version: version.map(ToOwned::to_owned),
            bytes: secret.encode_to_vec().into(),
            updated: SystemTime::UNIX_EPOCH,
            refused: None,
        }
    }

    #[test]
    fn keys_are_hidden_and_all_else_is_shown() {
        let text = config_dump(&[held(Some("7"))], None, false).unwrap();
        assert!(text.contains("CHAIN") && text.contains("[redacted]") && !text.contains("KEY"), "{text}");
        assert!(text.contains("1970-01-01T00:00:00"), "{text}");
    }

    #[test]
    fn keys_that_sign_tokens_are_hidden() {
        let check = |jwks: &str, is_shown: bool| {
            assert_eq!(verifies_only(jwks), is_shown, "{jwks}");
            let config = json!({"providers": {"a": {"issuer": "i", "local_jwks": {"inline_string": jwks}}}});
            let Value::Object(mut fields) = config else { unreachable!() };
            redact(&mut fields);
            let told = &fields["providers"]["a"]["local_jwks"]["inline_string"];
            assert_eq!(told, if is_shown { jwks } else { "[redacted]" });
            assert_eq!(fields["providers"]["a"]["issuer"], "i");
        };
        check(r#"{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]}"#, true);
        check(r#"{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}, {"kty": "oct", "k": "eA"}]}"#, false);
        check(r#"{"keys": [{"kty": "OKP", "x": "x", "d": "eA"}]}"#, false);
        check(r#"{"keys": "x"}"#, false);
        check("{", false);
    }

    #[test]
    fn one_list_may_be_asked_for() {
        let refused = Refused { why: "no".to_owned(), version: "8".to_owned(), at: SystemTime::UNIX_EPOCH };
        let both = [held(None), Held { refused: Some(refused), ..held(Some("7")) }];
        let text = config_dump(&both, Some("dynamic_active_secrets"), false).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["configs"].as_array().unwrap().len(), 1);
        assert_eq!(value["configs"][0]["version_info"], "7");
        assert_eq!(value["configs"][0]["error_state"]["details"], "no");
        assert!(config_dump(&both, Some("nothing"), false).unwrap_err().contains("static_clusters"));
    }
}
