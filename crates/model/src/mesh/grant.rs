//! Who may refer to what of another namespace. Source: Gateway API v1, ReferenceGrant.

use std::sync::Arc;

use super::Key;

/// What others may refer to in the namespace where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Who.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Resources of a kind in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFrom {
    /// API group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// Resources of a kind, beside the grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTo {
    /// API group; empty for the core.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// The one of this name; `None` for each.
    pub name: Option<Arc<str>>,
}

impl ReferenceGrant {
    /// Whether a resource of another namespace may refer to one here. Both kinds are an API group and a kind.
    pub fn allows(&self, from: (&str, &str), from_namespace: &str, to: (&str, &str), name: &str) -> bool {
        let comes =
            |grant: &GrantFrom| (&*grant.group, &*grant.kind) == from && &*grant.namespace == from_namespace;
        let leads = |grant: &GrantTo| {
            (&*grant.group, &*grant.kind) == to && grant.name.as_deref().is_none_or(|granted| granted == name)
        };
        self.from.iter().any(comes) && self.to.iter().any(leads)
    }
}

impl super::Config {
    /// Whether a resource of another namespace may refer to this one; within a namespace each may to each.
    pub fn grants(&self, from: (&str, &str), from_namespace: &str, to: (&str, &str), key: &Key) -> bool {
        *from_namespace == *key.namespace
            || self.reference_grants.iter().any(|(at, grant)| {
                at.namespace == key.namespace && grant.allows(from, from_namespace, to, &key.name)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_a_kind_of_a_namespace_to_a_kind_or_one_of_it() {
        let from = GrantFrom { group: "g".into(), kind: "HTTPRoute".into(), namespace: "shop".into() };
        let to = |name: Option<&str>| GrantTo {
            group: "".into(),
            kind: "Service".into(),
            name: name.map(Into::into),
        };
        let check = |to: GrantTo, kind: &str, namespace: &str, of: &str, name: &str, expected: bool| {
            let grant = ReferenceGrant { from: vec![from.clone()], to: vec![to] };
            let allowed = grant.allows(("g", kind), namespace, ("", of), name);
            assert_eq!(allowed, expected, "{kind} {namespace} {of} {name}");
        };
        check(to(None), "HTTPRoute", "shop", "Service", "a", true);
        check(to(Some("a")), "HTTPRoute", "shop", "Service", "a", true);
        check(to(Some("a")), "HTTPRoute", "shop", "Service", "b", false);
        check(to(None), "GRPCRoute", "shop", "Service", "a", false);
        check(to(None), "HTTPRoute", "bank", "Service", "a", false);
        check(to(None), "HTTPRoute", "shop", "Secret", "a", false);
    }
}
