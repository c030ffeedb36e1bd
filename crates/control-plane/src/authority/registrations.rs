//! What an agent is told of the workloads that it may attest.

use meshwork_model::mesh::{Config, UnixSelectors, WorkloadRegistration};
use meshwork_model::spiffe::SpiffeId;
use serde_json::{Map, Value, json};

/// The registrations that name an agent, as JSON: a list, in the order of their names.
pub(crate) fn of(config: &Config, trust_domain: &str, agent: &SpiffeId) -> String {
    let all = config.registrations.values();
    let all = all.filter(|registration| config.may_attest(registration, agent, trust_domain));
    let told: Vec<Value> = all.filter_map(|registration| one(registration, trust_domain)).collect();
    Value::Array(told).to_string()
}

fn one(registration: &WorkloadRegistration, trust_domain: &str) -> Option<Value> {
    let id = registration.identity(trust_domain).ok()?;
    let mut told = json!({
        "id": id.as_str(),
        "namespace": &*registration.key.namespace,
        "name": &*registration.key.name,
        "selectors": selectors(&registration.selectors),
    });
    if let Some(hint) = &registration.hint {
        told["hint"] = (**hint).into();
    }
    Some(told)
}

fn selectors(selectors: &UnixSelectors) -> Value {
    let UnixSelectors { uid, gid, executable, sha256 } = selectors;
    let numbers = [("uid", uid), ("gid", gid)].map(|(name, number)| (name, number.map(Value::from)));
    let texts = [("executable", executable), ("sha256", sha256)]
        .map(|(name, text)| (name, text.as_deref().map(Value::from)));
    let all = numbers.into_iter().chain(texts);
    let there = all.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use meshwork_model::mesh::{GrantFrom, GrantTo, Key, ReferenceGrant};

    #[test]
    fn an_agent_is_told_of_what_names_it() {
        let registration = |name: &str, agent: &str, selectors: UnixSelectors| WorkloadRegistration {
            key: Key::new("shop", name),
            service_account: name.into(),
            agents: vec![("shop".into(), agent.into())],
            selectors,
            hint: (name == "web").then(|| "web".into()),
        };
        let by_user = UnixSelectors { uid: Some(1000), gid: Some(0), ..UnixSelectors::default() };
        let by_path = UnixSelectors { executable: Some("/usr/bin/web".into()), ..UnixSelectors::default() };
        let mut config = Config::default();
        for one in [
            registration("web", "host-agent", by_path),
            registration("cart", "host-agent", by_user.clone()),
            registration("bank", "other", by_user),
        ] {
            config.registrations.insert(one.key.clone(), Arc::new(one));
        }
        let agent = SpiffeId::workload("mesh.local", "shop", "host-agent").expect("valid");
        let told: Value = serde_json::from_str(&of(&config, "mesh.local", &agent)).expect("JSON");
        let expected = json!([
            {
                "id": "spiffe://mesh.local/ns/shop/sa/cart", "namespace": "shop", "name": "cart",
                "selectors": {"uid": 1000, "gid": 0},
            },
            {
                "id": "spiffe://mesh.local/ns/shop/sa/web", "namespace": "shop", "name": "web",
                "selectors": {"executable": "/usr/bin/web"}, "hint": "web",
            },
        ]);
        assert_eq!(told, expected);
        let stranger = SpiffeId::workload("mesh.local", "shop", "web").expect("valid");
        assert_eq!(of(&config, "mesh.local", &stranger), "[]");
    }
    #[test]
    fn an_agent_of_another_namespace_has_to_be_granted() {
        let registration = WorkloadRegistration {
            key: Key::new("bank", "ledger"),
            service_account: "ledger".into(),
            agents: vec![("shop".into(), "host-agent".into())],
            selectors: UnixSelectors { uid: Some(1000), ..UnixSelectors::default() },
            hint: None,
        };
        let agent = SpiffeId::workload("mesh.local", "shop", "host-agent").expect("valid");
        let mut config = Config::default();
        config.registrations.insert(registration.key.clone(), Arc::new(registration));
        assert_eq!(of(&config, "mesh.local", &agent), "[]");
        let mut grant = |at: &str, from: &str, name: Option<&str>, expected: bool| {
            let from = GrantFrom {
                group: "meshwork.dev".into(),
                kind: "WorkloadRegistration".into(),
                namespace: from.into(),
            };
            let to = GrantTo { group: "".into(), kind: "ServiceAccount".into(), name: name.map(Into::into) };
            let grant = ReferenceGrant { from: vec![from], to: vec![to] };
            config.reference_grants = [(Key::new(at, "agents"), grant)].into();
            assert_eq!(of(&config, "mesh.local", &agent) != "[]", expected, "{at}");
        };
        grant("shop", "bank", Some("host-agent"), true);
        grant("shop", "bank", None, true);
        grant("shop", "bank", Some("web"), false);
        grant("shop", "hr", None, false);
        grant("bank", "bank", None, false);
    }
}
