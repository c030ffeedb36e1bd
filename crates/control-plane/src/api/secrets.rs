//! What of a resource is for those alone who may write it: values of Secrets, and keys that whoever knows them can make
//! tokens with.

use meshwork_xds::config_dump::verifies_only;
use serde_json::Value;

use super::access::Caller;
use crate::ingest::ResourceId;

/// What stands in the place of a value.
const HIDDEN: &str = "(hidden)";
/// Where kubectl puts a copy of the whole resource.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A resource as somebody may see it: of secrets that are not theirs, the names only.
pub(super) fn without_secrets(id: &ResourceId, mut json: Value, caller: &Caller) -> Value {
    if caller.may_read_secrets(&id.key.namespace) {
        return json;
    }
    let is_secret = id.kind == "Secret";
    hide(json.pointer_mut("/metadata/annotations"), |name, _| is_secret || name == LAST_APPLIED);
    if is_secret {
        for field in ["data", "stringData"] {
            hide(json.get_mut(field), |_, _| true);
        }
    }
    if id.kind == "RequestAuthentication" {
        let rules = json.pointer_mut("/spec/jwtRules").and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten() {
            hide(Some(rule), |name, value| name == "jwks" && !value.as_str().is_some_and(verifies_only));
        }
    }
    json
}

/// Hides values of a mapping.
fn hide(mapping: Option<&mut Value>, is_secret: impl Fn(&str, &Value) -> bool) {
    let Some(values) = mapping.and_then(Value::as_object_mut) else { return };
    for (name, value) in values {
        if is_secret(name, value) {
            *value = HIDDEN.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Role;
    use super::*;
    use serde_json::json;

    fn check(kind: &str, json: &Value, expected: &Value) {
        let id = ResourceId::new(kind, "shop", "x");
        let viewer = Caller::of("v", Role::Viewer, "shop");
        assert_eq!(without_secrets(&id, json.clone(), &viewer), *expected);
        let of_others = Caller::of("o", Role::Editor, "bank");
        assert_eq!(without_secrets(&id, json.clone(), &of_others), *expected);
        let editor = Caller::of("e", Role::Editor, "shop");
        assert_eq!(without_secrets(&id, json.clone(), &editor), *json);
    }

    #[test]
    fn values_are_for_who_may_write_them() {
        let secret = json!({
            "kind": "Secret", "metadata": {"name": "x", "annotations": {"a": "b"}}, "type": "Opaque",
            "data": {"password": "c2VjcmV0"}, "stringData": {"user": "u"},
        });
        let shown = json!({
            "kind": "Secret", "metadata": {"name": "x", "annotations": {"a": "(hidden)"}}, "type": "Opaque",
            "data": {"password": "(hidden)"}, "stringData": {"user": "(hidden)"},
        });
        check("Secret", &secret, &shown);
        let copy = json!({"metadata": {"annotations": {LAST_APPLIED: "{}", "a": "b"}}, "data": {"a": "b"}});
        let shown =
            json!({"metadata": {"annotations": {LAST_APPLIED: "(hidden)", "a": "b"}}, "data": {"a": "b"}});
        check("ConfigMap", &copy, &shown);
    }

    #[test]
    fn keys_that_sign_are_for_who_may_write_them() {
        let rules = |jwks: &[&str]| {
            let rules: Vec<Value> = jwks.iter().map(|jwks| json!({"issuer": "i", "jwks": jwks})).collect();
            json!({"spec": {"jwtRules": rules}})
        };
        let public = r#"{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]}"#;
        let symmetric =
            r#"{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}, {"kty": "oct", "k": "c2VjcmV0"}]}"#;
        let private = r#"{"keys": [{"kty": "OKP", "x": "x", "d": "c2VjcmV0"}]}"#;
        let all = rules(&[public, symmetric, private, "{", r#"{"keys": "x"}"#]);
        check("RequestAuthentication", &all, &rules(&[public, HIDDEN, HIDDEN, HIDDEN, HIDDEN]));
    }
}
