//! The kinds of resources, as the command line and the API's paths name them.

use anyhow::bail;
use meshwork_control_plane::ingest;

/// Shorter names than the plural, where people have some. Source: kubectl, `api-resources`.
const SHORT: &[(&str, &str)] = &[
    ("ap", "AuthorizationPolicy"),
    ("btlspolicy", "BackendTLSPolicy"),
    ("cm", "ConfigMap"),
    ("dr", "DestinationRule"),
    ("gtw", "Gateway"),
    ("ns", "Namespace"),
    ("pa", "PeerAuthentication"),
    ("ra", "RequestAuthentication"),
    ("refgrant", "ReferenceGrant"),
    ("sa", "ServiceAccount"),
    ("se", "ServiceEntry"),
    ("svc", "Service"),
    ("vs", "VirtualService"),
    ("we", "WorkloadEntry"),
    ("wr", "WorkloadRegistration"),
];

/// A kind of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `HTTPRoute`
    pub(crate) name: &'static str,
    /// `gateway.networking.k8s.io/v1`, the version to prefer.
    version: &'static str,
}

impl Kind {
    /// Every kind that the mesh reads.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        ingest::kinds().filter_map(|(name, versions)| Some(Self { name, version: versions.first()? }))
    }

    /// Finds a kind by its name, its plural or its short name; case counts nothing.
    ///
    /// # Errors
    /// There is none of this name.
    pub(crate) fn find(text: &str) -> anyhow::Result<Self> {
        let short = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(text)).map(|(_, name)| *name);
        let is_meant = |kind: &Self| {
            Some(kind.name) == short
                || kind.name.eq_ignore_ascii_case(text)
                || kind.plural().eq_ignore_ascii_case(text)
        };
        let Some(kind) = Self::all().find(is_meant) else {
            let names: Vec<String> = Self::all().map(|kind| kind.name.to_lowercase()).collect();
            bail!("there is no kind {text}; the kinds are {}", names.join(", "));
        };
        Ok(kind)
    }

    /// `httproutes`
    pub(crate) fn plural(&self) -> String {
        ingest::plural(self.name)
    }

    /// The path of its resources, in a namespace, or in all of them.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.version.contains('/') { "/apis" } else { "/api" };
        match namespace.filter(|_| !ingest::is_global(self.name)) {
            Some(namespace) => format!("{root}/{}/namespaces/{namespace}/{}", self.version, self.plural()),
            None => format!("{root}/{}/{}", self.version, self.plural()),
        }
    }
}

/// Parses `KIND` or `KIND/NAME`.
///
/// # Errors
/// There is no such kind.
pub(crate) fn kind_and_name(text: &str) -> anyhow::Result<(Kind, Option<&str>)> {
    match text.split_once('/') {
        Some((kind, name)) => Ok((Kind::find(kind)?, Some(name))),
        None => Ok((Kind::find(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_several_names() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Kind::find(text).expect("a kind").name, expected, "{text}");
        };
        check("svc", "Service");
        check("HTTPRoute", "HTTPRoute");
        check("httproutes", "HTTPRoute");
        check("authorizationpolicies", "AuthorizationPolicy");
        check("se", "ServiceEntry");
        let error = Kind::find("pod").expect_err("none").to_string();
        assert!(error.contains("httproute"), "{error}");
    }

    #[test]
    fn paths_are_those_of_kubernetes() {
        let check = |kind: &str, namespace: Option<&str>, expected: &str| {
            assert_eq!(Kind::find(kind).expect("a kind").path(namespace), expected);
        };
        check("svc", Some("shop"), "/api/v1/namespaces/shop/services");
        check("httproute", None, "/apis/gateway.networking.k8s.io/v1/httproutes");
        check("ns", Some("shop"), "/api/v1/namespaces");
        check("gatewayclass", None, "/apis/gateway.networking.k8s.io/v1/gatewayclasses");
        check("se", Some("shop"), "/apis/networking.istio.io/v1/namespaces/shop/serviceentries");
    }
}
