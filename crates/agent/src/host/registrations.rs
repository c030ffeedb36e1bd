//! Which processes of this host are which workloads, as the control plane says.

use std::sync::Arc;

use meshwork_identity::SpiffeId;
use meshwork_model::mesh::UnixSelectors;
use serde_json::{Map, Value};

use crate::attest::Selectors;

/// Registrations of one agent that are read; of more, those beyond it are refused.
const MAX_REGISTRATIONS: usize = 4096;

/// That a process with these selectors is that workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) id: SpiffeId,
    pub(crate) selectors: UnixSelectors,
    pub(crate) hint: Option<Arc<str>>,
}

/// All of this host, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registrations(Vec<Registration>);

impl Registrations {
    /// Those that are given.
    pub(crate) fn new(mut all: Vec<Registration>) -> Self {
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self(all)
    }

    /// Reads the control plane's list, for workloads of an agent's trust domain. What cannot be read is left out, and
    /// named. An agent's own identity is nobody else's: who had it could ask for all the others.
    ///
    /// # Errors
    /// It is no list at all.
    pub(crate) fn read(json: &[u8], agent: &SpiffeId) -> Result<(Self, Vec<String>), String> {
        let list: Vec<Value> = serde_json::from_slice(json)
            .map_err(|error| format!("it is no list of registrations: {error}"))?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        if list.len() > MAX_REGISTRATIONS {
            bad.push(format!("there are {}, and {MAX_REGISTRATIONS} are read", list.len()));
        }
        for (place, value) in list.iter().take(MAX_REGISTRATIONS).enumerate() {
            match registration(value, agent) {
                Ok(registration) => good.push(registration),
                Err(why) => bad.push(format!("registration {place}: {why}")),
            }
        }
        Ok((Self::new(good), bad))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Which workloads a process is, the first by name first; each once.
    pub(crate) fn of(&self, process: &Selectors) -> Vec<&Registration> {
        let mut found: Vec<&Registration> = Vec::new();
        for registration in self.0.iter().filter(|registration| process.satisfy(&registration.selectors)) {
            if !found.iter().any(|earlier| earlier.id == registration.id) {
                found.push(registration);
            }
        }
        found
    }

    /// Whether any may be about a process of this user and group.
    pub(crate) fn may_have(&self, uid: u32, gid: u32) -> bool {
        self.0.iter().map(|registration| &registration.selectors).any(|wanted| {
            wanted.uid.is_none_or(|wanted| wanted == uid) && wanted.gid.is_none_or(|wanted| wanted == gid)
        })
    }

    /// Whether any is for this identity.
    pub(crate) fn has(&self, id: &SpiffeId) -> bool {
        self.0.iter().any(|registration| registration.id == *id)
    }
}

fn registration(value: &Value, agent: &SpiffeId) -> Result<Registration, String> {
    let fields = value.as_object().ok_or("it is no object")?;
    let id = text(fields, "id")?.ok_or("it has no id")?;
    let id = SpiffeId::parse(&id).map_err(|error| format!("{id:?} is no identity: {error}"))?;
    if id.trust_domain() != agent.trust_domain() {
        return Err(format!("{id} is not of the trust domain {}", agent.trust_domain()));
    }
    if id == *agent {
        return Err(format!("{id} is the agent itself"));
    }
    let selectors = fields.get("selectors").and_then(Value::as_object).ok_or("it has no selectors")?;
    Ok(Registration {
        namespace: text(fields, "namespace")?.unwrap_or_default(),
        name: text(fields, "name")?.unwrap_or_default(),
        id,
        selectors: selectors_of(selectors)?,
        hint: text(fields, "hint")?,
    })
}

/// A selector that is not known here cannot be said to hold.
fn selectors_of(fields: &Map<String, Value>) -> Result<UnixSelectors, String> {
    const KNOWN: [&str; 4] = ["uid", "gid", "executable", "sha256"];
    if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(format!("this agent does not know the selector {unknown:?}"));
    }
    let selectors = UnixSelectors {
        uid: number(fields, "uid")?,
        gid: number(fields, "gid")?,
        executable: text(fields, "executable")?,
        sha256: text(fields, "sha256")?.map(|digits| digits.to_ascii_lowercase().into()),
    };
    if selectors.is_empty() { Err("it selects nothing".to_owned()) } else { Ok(selectors) }
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<Arc<str>>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(format!("its {name} is no text")),
    }
}

fn number(fields: &Map<String, Value>, name: &str) -> Result<Option<u32>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            number.map(Some).ok_or_else(|| format!("its {name} is no number of a user or group"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::attest::selectors;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn agent() -> SpiffeId {
        SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/host-agent").expect("an identity")
    }

    fn read(list: &Value) -> (Registrations, Vec<String>) {
        Registrations::read(list.to_string().as_bytes(), &agent()).expect("a list")
    }

    fn one(account: &str, name: &str, selectors: &Value) -> Value {
        let id = format!("spiffe://mesh.local/ns/shop/sa/{account}");
        json!({"id": id, "namespace": "shop", "name": name, "selectors": selectors})
    }

    fn names<'a>(found: &[&'a Registration]) -> Vec<&'a str> {
        found.iter().map(|registration| registration.name.as_ref()).collect()
    }

    #[test]
    fn a_process_has_the_identities_of_all_registrations_that_match_the_first_by_name_first() {
        let (all, bad) = read(&json!([
            one("web", "web", &json!({"uid": 1000})),
            one("admin", "admin", &json!({"uid": 1000, "executable": "/usr/bin/admin"})),
            one("cart", "cart", &json!({"sha256": HASH.to_uppercase()})),
            one("web", "web-again", &json!({"uid": 1000, "gid": 100})),
        ]));
        assert_eq!(bad, [""; 0]);
        let check = |process: Selectors, expected: &[&str]| {
            assert_eq!(names(&all.of(&process)), expected, "{process}");
        };
        check(selectors(1000, 100, None, None), &["web"]);
        check(selectors(1000, 100, Some("/usr/bin/admin"), None), &["admin", "web"]);
        check(selectors(0, 0, Some("/usr/bin/admin"), None), &[]);
        check(selectors(7, 7, None, Some(HASH)), &["cart"]);
    }

    #[test]
    fn users_that_none_is_about_are_strangers() {
        let (all, _) = read(&json!([
            one("web", "web", &json!({"uid": 1000})),
            one("admin", "admin", &json!({"uid": 7, "gid": 70, "executable": "/usr/bin/admin"})),
        ]));
        let known = [(1000, 0), (1000, 70), (7, 70)];
        for (uid, gid) in known.into_iter().chain([(7, 7), (1001, 1000), (100_000, 70)]) {
            assert_eq!(all.may_have(uid, gid), known.contains(&(uid, gid)), "{uid} {gid}");
        }
        // Whoever runs it.
        let (all, _) = read(&json!([one("cart", "cart", &json!({"sha256": HASH}))]));
        assert!(all.may_have(100_000, 70));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_named() {
        let check = |bad: Value, expected: &str| {
            let (all, problems) = read(&json!([bad, one("web", "web", &json!({"uid": 1000}))]));
            assert_eq!(all.len(), 1, "{problems:?}");
            assert!(problems[0].contains(expected), "{problems:?}");
        };
        check(json!("web"), "it is no object");
        check(one("web", "web", &json!({})), "it selects nothing");
        check(one("web", "web", &json!({"uid": "1000"})), "its uid is no number");
        check(one("web", "web", &json!({"uid": -1})), "its uid is no number");
        check(one("web", "web", &json!({"executable": 7})), "its executable is no text");
        check(one("web", "web", &json!({"uid": 1000, "podLabel": "app=web"})), "does not know the selector");
        let foreign = json!({"id": "spiffe://other.org/ns/shop/sa/web", "selectors": {"uid": 1000}});
        check(foreign, "not of the trust domain");
        check(one("host-agent", "agent", &json!({"uid": 1000})), "is the agent itself");
        check(json!({"selectors": {"uid": 1000}}), "it has no id");
        check(json!({"id": "web", "selectors": {"uid": 1000}}), "is no identity");
        assert!(Registrations::read(b"{}", &agent()).is_err());
        assert!(Registrations::read(b"\xff", &agent()).is_err());
    }
}
