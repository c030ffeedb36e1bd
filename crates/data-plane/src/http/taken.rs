//! The route that a request takes: what of it applies to this one request, cluster by cluster.
//!
//! Written by the exchange when the route is selected; forwarding and answers read it. What it decides is in
//! `model::route`, `model::rewrite`, `model::mutation` and `model::hash`.

use meshwork_model::format::Facts;
use meshwork_model::hash::{HashCookie, hash_of};
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::{
    ClusterTerms, Criterion, HeadChanges, HostRewrite, Mirror, Route, RouteAction, RouteTerms,
};
use meshwork_model::rewrite;
use meshwork_model::route::{cluster_number, select_cluster};
use meshwork_model::xxhash::xxhash64;

use crate::error::{Kind, ProxyError};
use crate::peer::Peer;

/// A route, and which of its clusters.
#[derive(Clone, Copy)]
pub(crate) struct Taken<'t> {
    /// The route.
    pub(crate) route: &'t Route,
    /// The number that route and cluster were selected with.
    pub(crate) random: u32,
    at: u32,
}

impl<'t> Taken<'t> {
    /// Selects the cluster, where the route has several; `random` is the number that the route was selected with.
    pub(crate) fn new(route: &'t Route, head: &RequestHead, random: u32) -> Self {
        let at = match &route.action {
            RouteAction::Forward(forward) => {
                select_cluster(forward, cluster_number(route.terms.as_deref(), head, random.into())).0
            }
            _ => 0,
        };
        Self { route, random, at: u32::try_from(at).unwrap_or(0) }
    }

    fn terms(self) -> Option<&'t RouteTerms> {
        self.route.terms.as_deref()
    }

    fn cluster_terms(self) -> Option<&'t ClusterTerms> {
        self.terms()?.clusters.get(self.at as usize)
    }

    /// The name of the cluster; empty where the request should name it and does not.
    pub(crate) fn cluster<'n>(self, head: &'n RequestHead) -> &'n str
    where
        't: 'n,
    {
        let of_route = || match &self.route.action {
            RouteAction::Forward(forward) => &*forward.clusters[self.at as usize].name,
            _ => "",
        };
        match self.cluster_terms().and_then(|cluster| cluster.named_by.as_ref()) {
            None => of_route(),
            Some(field) => {
                let said = head.fields.find(field.as_bytes()).unwrap_or_default();
                std::str::from_utf8(said).unwrap_or_default()
            }
        }
    }

    /// That the cluster is not there.
    pub(crate) fn unknown(self, name: &str) -> ProxyError {
        ProxyError::fatal(match self.terms().and_then(|terms| terms.unknown_cluster_status) {
            Some(status) => Kind::UnknownCluster(Box::new((name.into(), status))),
            None => Kind::NoCluster(name.into()),
        })
    }

    /// Whether the request is forwarded otherwise than it was judged.
    pub(crate) fn changes_request(self) -> bool {
        let of_cluster =
            |cluster: &ClusterTerms| cluster.host.is_some() || !cluster.changes.request.is_empty();
        self.cluster_terms().is_some_and(of_cluster)
            || self.terms().is_some_and(|terms| {
                terms.path.is_some() || terms.host.is_some() || !terms.changes.request.is_empty()
            })
    }

    /// Whether the path is forwarded otherwise than it was judged.
    pub(crate) fn rewrites_path(self) -> bool {
        self.terms().is_some_and(|terms| terms.path.is_some())
    }

    /// Makes of a request's head what is forwarded; `tells` is whether applications are told what was asked for.
    pub(crate) fn change_request(self, head: &mut RequestHead, facts: &dyn Facts, tells: bool) {
        rewrite::request(self.route, self.at as usize, head, facts, tells);
    }

    /// Whether the endpoint's name becomes the host.
    pub(crate) fn wants_endpoint_name(self) -> bool {
        self.terms().is_some_and(|terms| terms.host == Some(HostRewrite::Endpoint))
    }

    /// Sets the host, and tells which one it was.
    pub(crate) fn set_host(self, head: &mut RequestHead, host: &[u8], tells: bool) {
        rewrite::set_host(self.terms(), head, host, tells);
    }

    /// Changes a response's head as the route says.
    pub(crate) fn change_response(self, head: &mut ResponseHead, facts: &dyn Facts) {
        let of_cluster = self.cluster_terms().map(|cluster| &cluster.changes);
        let of_route = self.terms().map(|terms| &terms.changes);
        let levels =
            [of_cluster, of_route].into_iter().flatten().flat_map(|changes: &HeadChanges| &changes.response);
        levels.for_each(|level| level.change_response(head, facts));
    }

    /// What an endpoint is picked by; `cookies` takes what the client is told to bring next time.
    pub(crate) fn hash(self, head: &RequestHead, peer: &Peer, cookies: &mut Vec<Vec<u8>>) -> Option<u64> {
        let policies = self.terms().map(|terms| &terms.hash).filter(|policies| !policies.is_empty())?;
        let client = peer.address.ip().to_string();
        hash_of(policies, head, &client, |cookie| {
            // The same for a connection's requests. Source: Envoy `addDownstreamSetCookie`.
            let value = format!("{:016x}", xxhash64(format!("{}{}", peer.address, peer.local).as_bytes(), 0));
            cookies.push(set_cookie(cookie, &value));
            value
        })
    }

    /// Which endpoints are picked among, where the cluster has subsets.
    pub(crate) fn subset(self) -> &'t [Criterion] {
        self.terms().map_or(&[], |terms| terms.subset(self.at as usize))
    }

    /// Who gets copies.
    pub(crate) fn mirrors(self) -> &'t [Mirror] {
        self.terms().map_or(&[], |terms| &terms.mirrors)
    }
}

fn set_cookie(cookie: &HashCookie, value: &str) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut text = format!("{}=\"{value}\"", cookie.name);
    if let Some(seconds) = cookie.ttl.filter(|seconds| *seconds > 0) {
        let _ = write!(text, "; Max-Age={seconds}");
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = if value.is_empty() { write!(text, "; {name}") } else { write!(text, "; {name}={value}") };
    }
    text.push_str("; HttpOnly");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_say_what_config_says() {
        let check = |ttl, path: &str, attributes: &[(&str, &str)], expected: &str| {
            let attributes =
                attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let cookie = HashCookie { name: "s".into(), path: path.into(), ttl, attributes };
            assert_eq!(String::from_utf8_lossy(&set_cookie(&cookie, "1")), expected);
        };
        check(Some(0), "", &[], "s=\"1\"; HttpOnly");
        check(
            Some(5),
            "/a",
            &[("Secure", ""), ("SameSite", "Lax")],
            "s=\"1\"; Max-Age=5; Path=/a; Secure; SameSite=Lax; HttpOnly",
        );
    }
}
