//! Tokens: whose a workload takes, where the keys come from, and how rules ask for claims.
//!
//! Source: Istio `security.istio.io/v1` RequestAuthentication: a request without a token passes, one with a bad token
//! does not; whether one is needed is AuthorizationPolicy's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{JwtRule, Key, KeySource, KeyUrl, Workload};
use meshwork_model::proxy::{
    Cluster, Discovery, Dns, DnsHost, HttpFilter, HttpFilterKind, JwtAuthentication, JwtKeys, JwtProvider,
    JwtRequirement, JwtRule as Need, MetadataMatch, PathMatch, Principal, RemoteKeys, RouteMatch,
    StringMatch, TransportMatch, UpstreamTls, ValueMatch,
};
use meshwork_model::regex::Regex;

use super::backend_tls::under_system_roots;
use super::{Called, Mesh, policy};

/// The filter's name, and that under which metadata has what it found.
const FILTER: &str = "envoy.filters.http.jwt_authn";
/// The key under which metadata has claims. Source: Istio.
const PAYLOAD: &str = "payload";
/// How long opening a connection to them may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// By how much clocks may differ. Source: Envoy `clock_skew_seconds`, where nothing else is said.
const CLOCK_SKEW_SECONDS: u32 = 60;
/// How long fetched keys are believed. Source: Istio, which asks again as often.
const KEYS_CACHE: Duration = Duration::from_mins(5);
/// How often a fetch that failed is tried again, and how long after.
const KEYS_RETRIES: u32 = 3;
const KEYS_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Claims that are lists, written with spaces. Source: RFC 8693 §4.2; Istio.
const SPACED: &[&str] = &["scope", "permission"];

/// The filter of a workload's port, where somebody says something of tokens.
pub(super) fn filter(mesh: &Mesh, workload: &Workload, port: u16) -> Option<HttpFilter> {
    let named = rules(mesh, workload, Some(port));
    if named.is_empty() {
        return None;
    }
    let namespace = &workload.key.namespace;
    let provider = |(name, rule): (&Arc<str>, &&JwtRule)| Arc::new(provider(mesh, namespace, name, rule));
    let config = JwtAuthentication {
        providers: named.iter().map(provider).collect(),
        rules: vec![Need {
            matches: RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new()),
            requires: Some(requirement(named.len())),
        }],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    };
    Some(HttpFilter::new(FILTER, HttpFilterKind::Jwt(Arc::new(config))))
}

/// The addresses that a workload's keys are fetched from.
pub(super) fn urls<'m>(mesh: &'m Mesh, workload: &Workload) -> BTreeSet<&'m KeyUrl> {
    let all = rules(mesh, workload, None).into_values();
    all.filter_map(|rule| match &rule.keys {
        KeySource::Fetched(url) => Some(url),
        KeySource::Inline(_) => None,
    })
    .collect()
}

/// What acts on a workload (on one of its ports), by a name that says where it is written.
fn rules<'m>(mesh: &'m Mesh, workload: &Workload, port: Option<u16>) -> BTreeMap<Arc<str>, &'m JwtRule> {
    let mut named = BTreeMap::new();
    for (key, one) in &mesh.config.request_authentications {
        let attached = (&one.selector, &one.targets[..]);
        let acts = |port| policy::acts_on(mesh, key, attached, workload, port);
        let does_act = match port {
            Some(port) => acts(port),
            // What acts on a gateway acts on all of its ports.
            None => {
                workload.gateway.is_some() && acts(0)
                    || workload.inbound.iter().any(|inbound| acts(inbound.port))
            }
        };
        if does_act {
            named.extend(one.rules.iter().enumerate().map(|(index, rule)| (name(key, index), rule)));
        }
    }
    named
}

fn name(key: &Key, index: usize) -> Arc<str> {
    format!("{}/{}/{index}", key.namespace, key.name).into()
}

/// A token of any issuer that is good is enough; else each issuer's must be good or missing, since several may look for
/// theirs in one place. Source: Istio.
fn requirement(providers: usize) -> JwtRequirement {
    let of = |provider| JwtRequirement::Provider { provider, audiences: None };
    let or_missing = |provider| JwtRequirement::Any(vec![of(provider), JwtRequirement::AllowMissing]);
    if providers == 1 {
        return or_missing(0);
    }
    let all = JwtRequirement::All((0..providers).map(or_missing).collect());
    JwtRequirement::Any((0..providers).map(of).chain([all]).collect())
}

fn provider(mesh: &Mesh, namespace: &Arc<str>, name: &Arc<str>, rule: &JwtRule) -> JwtProvider {
    let keys = match &rule.keys {
        KeySource::Inline(keys) => JwtKeys::Inline(Arc::clone(keys)),
        KeySource::Fetched(url) => JwtKeys::Remote(RemoteKeys {
            cluster: match service(mesh, namespace, url) {
                Some(called) => called.cluster(),
                None => cluster_name(url),
            },
            authority: url.authority().into(),
            path: Arc::clone(&url.path),
            timeout: rule.timeout,
            cache: mesh.config.defaults.key_fetching.cache.unwrap_or(KEYS_CACHE),
            retries: KEYS_RETRIES,
            retry_pause: KEYS_RETRY_PAUSE,
        }),
    };
    JwtProvider {
        name: Arc::clone(name),
        issuer: Some(Arc::clone(&rule.issuer)),
        audiences: rule.audiences.clone(),
        require_expiration: rule.must_expire,
        keys,
        places: rule.places.clone(),
        forward: rule.forward,
        payload_header: rule.payload_header.clone(),
        claim_headers: rule.claim_headers.clone(),
        payload_in_metadata: Some(PAYLOAD.into()),
        clock_skew_seconds: CLOCK_SKEW_SECONDS,
        ..JwtProvider::default()
    }
}

/// The service of the mesh that keys are fetched from, where it is one; TLS of its own it has none.
pub(super) fn service<'m>(mesh: &'m Mesh, namespace: &Arc<str>, url: &KeyUrl) -> Option<Called<'m>> {
    let target = || format!("{}:{}", url.host, url.port);
    if url.https { None } else { Called::of_target(mesh, namespace, &target()) }
}

/// The cluster of a host outside that keys are fetched from.
pub(super) fn cluster(mesh: &Mesh, url: &KeyUrl) -> Cluster {
    let host = DnsHost { host: Arc::clone(&url.host), port: url.port };
    let only_far = !mesh.config.defaults.key_fetching.allows_local;
    let discovery = Discovery::Dns(Dns { only_far, ..Dns::all_of(host) });
    let tls = url.https.then(|| TransportMatch {
        name: "tls".into(),
        transport: None,
        labels: Vec::new(),
        tls: Some(UpstreamTls::Context(Arc::new(under_system_roots(&url.host)))),
    });
    Cluster {
        connect_timeout: CONNECT_TIMEOUT,
        transports: tls.into_iter().collect(),
        ..Cluster::new(cluster_name(url), discovery)
    }
}

/// Keys that come in plaintext are never those that others fetch by TLS from the same port.
fn cluster_name(url: &KeyUrl) -> Arc<str> {
    let how = if url.https { "" } else { "plaintext" };
    format!("keys|{}|{how}|{}", url.port, url.host).into()
}

/// A test of a claim: a text, or one of a list's texts. `*` asks for presence. The wide reading takes what is no text, and
/// is written so, too: `true`, `7`.
pub(super) fn claim(path: &[Arc<str>], text: &StringMatch, is_wide: bool) -> Principal {
    let value = match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => ValueMatch::Present(true),
        text => {
            let others = if is_wide { written_as(text) } else { None };
            let each = [ValueMatch::Text(text.clone())].into_iter().chain(others);
            let both = |plain: ValueMatch| [plain.clone(), ValueMatch::OneOf(Box::new(plain))];
            ValueMatch::Or(each.flat_map(both).chain(spaced(path, text)).collect())
        }
    };
    let path = [Arc::from(PAYLOAD)].into_iter().chain(path.iter().cloned()).collect();
    Principal::Metadata(MetadataMatch { filter: FILTER.into(), path, value, invert: false })
}

/// A test of what is no text, and is written as this one.
fn written_as(text: &StringMatch) -> Option<ValueMatch> {
    let StringMatch::Exact(text) = text else { return None };
    match &**text {
        "true" => Some(ValueMatch::Bool(true)),
        "false" => Some(ValueMatch::Bool(false)),
        number => {
            let number: Option<f64> = number.parse().ok();
            number.filter(|number| number.is_finite()).map(ValueMatch::Exactly)
        }
    }
}

/// A test of one word of a claim whose words stand in one text.
fn spaced(path: &[Arc<str>], text: &StringMatch) -> Option<ValueMatch> {
    let [name] = path else { return None };
    let StringMatch::Exact(word) = text else { return None };
    if !SPACED.contains(&&**name) {
        return None;
    }
    let escape = |char: char| char.is_ascii_punctuation().then_some('\\').into_iter().chain([char]);
    let word: String = word.chars().flat_map(escape).collect();
    Regex::new(&format!("(?:.* )?{word}(?: .*)?"))
        .ok()
        .map(|regex| ValueMatch::Text(StringMatch::Regex(regex)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_tls_and_in_plaintext_have_clusters_of_their_own() {
        let url = |https| KeyUrl { https, host: "auth.example".into(), port: 8443, path: "/".into() };
        assert_eq!(&*cluster_name(&url(true)), "keys|8443||auth.example");
        assert_eq!(&*cluster_name(&url(false)), "keys|8443|plaintext|auth.example");
    }
}
