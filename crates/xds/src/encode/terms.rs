//! What is said of a route besides where it goes: changes of heads, rewrites, hashes, mirrors, redirects.

use std::borrow::Cow;
use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::hash::{HashCookie, HashPolicy, HashSource};
use meshwork_model::mutation::{Append, HeaderChange, Mutations};
use meshwork_model::proxy::{
    ClusterTerms, HostRewrite, Mirror, MirrorTo, PathRewrite, Redirect, RedirectPath, RouteTerms,
    WeightedCluster,
};
use meshwork_model::regex::Rewrite;

use super::{Writer, boolean, duration, number};
use crate::node::Dialect;
use crate::{metadata, pb};

/// What one level of Envoy's does to heads.
#[derive(Default)]
pub(super) struct Lists {
    /// Fields that go.
    pub(super) remove: Vec<String>,
    /// Fields that come.
    pub(super) add: Vec<pb::core::HeaderValueOption>,
}

impl Lists {
    /// All levels as one.
    pub(super) fn of(levels: &[Arc<Mutations>]) -> Self {
        let Mutations { remove, add } = &*as_one(levels);
        Self {
            remove: remove.iter().map(ToString::to_string).collect(),
            add: add.iter().map(header_change).collect(),
        }
    }
}

/// Levels one after the other as one: what a later one removes or overwrites is not written before. The control plane
/// makes one level; several come from other people's config.
fn as_one(levels: &[Arc<Mutations>]) -> Cow<'_, Mutations> {
    let mut rest = levels.iter();
    let Some(first) = rest.next() else { return Cow::Owned(Mutations::default()) };
    rest.fold(Cow::Borrowed(&**first), |before, next| {
        let mut one = before.into_owned();
        let overwrites = |name: &str| {
            let sets = |change: &HeaderChange| change.append == Append::Set && *change.name == *name;
            next.remove.iter().any(|removed| **removed == *name) || next.add.iter().any(sets)
        };
        one.add.retain(|change| !overwrites(&change.name));
        one.remove.extend(next.remove.iter().cloned());
        one.add.extend(next.add.iter().cloned());
        Cow::Owned(one)
    })
}

fn header_change(change: &HeaderChange) -> pb::core::HeaderValueOption {
    use pb::core::header_value_option::HeaderAppendAction as Action;
    let action = match change.append {
        Append::Add => Action::AppendIfExistsOrAdd,
        Append::AddIfAbsent => Action::AddIfAbsent,
        Append::Set => Action::OverwriteIfExistsOrAdd,
        Append::SetIfPresent => Action::OverwriteIfExists,
    };
    pb::core::HeaderValueOption {
        header: Some(header_value(&change.name, &change.value.as_written())),
        append_action: action as i32,
        keep_empty_value: change.keep_empty,
        ..pb::core::HeaderValueOption::default()
    }
}

/// A field and its value.
pub(super) fn header_value(name: &str, value: &str) -> pb::core::HeaderValue {
    pb::core::HeaderValue {
        key: name.to_owned(),
        value: value.to_owned(),
        ..pb::core::HeaderValue::default()
    }
}

impl Writer<'_> {
    /// What of a route's terms is part of its action.
    pub(super) fn of_action(terms: &RouteTerms, message: &mut pb::route::RouteAction) {
        use pb::route::route_action::ClusterNotFoundResponseCode as NotFound;
        match &terms.path {
            Some(PathRewrite::Matched(text)) => message.prefix_rewrite = text.to_string(),
            Some(PathRewrite::Regex(regex)) => message.regex_rewrite = Some(rewrite(regex)),
            None => {}
        }
        message.host_rewrite_specifier = terms.host.as_ref().map(host_rewrite);
        message.append_x_forwarded_host = terms.appends_forwarded_host;
        message.cluster_not_found_response_code = match terms.unknown_cluster_status {
            Some(404) => NotFound::NotFound,
            Some(500) => NotFound::InternalServerError,
            _ => NotFound::ServiceUnavailable,
        } as i32;
        message.metadata_match = metadata::of_balancing(&terms.subset);
        message.request_mirror_policies = terms.mirrors.iter().map(mirror).collect();
    }

    pub(super) fn clusters(
        &self,
        clusters: &[WeightedCluster],
        terms: &RouteTerms,
    ) -> pb::route::route_action::ClusterSpecifier {
        use pb::route::route_action::ClusterSpecifier;
        if let [WeightedCluster { name, weight: 1 }] = clusters {
            match &terms.clusters[..] {
                [] if terms.random_header.is_none() => return ClusterSpecifier::Cluster(name.to_string()),
                // gRPC passes over a route whose cluster the request names, as it passes over what it cannot take.
                [ClusterTerms { named_by: Some(header), .. }]
                    if self.is_grpc() || only_names(&terms.clusters) =>
                {
                    return ClusterSpecifier::ClusterHeader(header.to_string());
                }
                _ => {}
            }
        }
        let nothing = ClusterTerms::default();
        let each = clusters.iter().enumerate();
        let each = each.map(|(index, cluster)| (cluster, terms.clusters.get(index).unwrap_or(&nothing)));
        // gRPC would refuse a cluster without a name.
        let known = each.filter(|(_, terms)| !self.is_grpc() || terms.named_by.is_none());
        let weighted = known.map(|(cluster, terms)| self.cluster_weight(cluster, terms));
        let header = terms.random_header.as_ref().filter(|_| !self.is_grpc());
        ClusterSpecifier::WeightedClusters(pb::route::WeightedCluster {
            clusters: weighted.collect(),
            random_value_specifier: header
                .map(|name| pb::route::weighted_cluster::RandomValueSpecifier::HeaderName(name.to_string())),
            ..pb::route::WeightedCluster::default()
        })
    }

    fn cluster_weight(
        &self,
        cluster: &WeightedCluster,
        terms: &ClusterTerms,
    ) -> pb::route::weighted_cluster::ClusterWeight {
        use pb::route::weighted_cluster::ClusterWeight;
        use pb::route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral;
        let mut message = ClusterWeight {
            name: cluster.name.to_string(),
            weight: Some(number(cluster.weight)),
            ..ClusterWeight::default()
        };
        // Our own proxy looks at the route's filters alone.
        if self.dialect != Dialect::Meshwork {
            message.typed_per_filter_config = self.route_filters(&terms.filters);
        }
        if !self.is_grpc() {
            let request = Lists::of(&terms.changes.request);
            let response = Lists::of(&terms.changes.response);
            message.cluster_header = terms.named_by.as_deref().map(str::to_owned).unwrap_or_default();
            message.metadata_match = metadata::of_balancing(&terms.subset);
            message.host_rewrite_specifier =
                terms.host.as_ref().map(|host| HostRewriteLiteral(host.to_string()));
            message.request_headers_to_add = request.add;
            message.request_headers_to_remove = request.remove;
            message.response_headers_to_add = response.add;
            message.response_headers_to_remove = response.remove;
        }
        message
    }

    /// Part of a hash; gRPC hashes header fields only.
    pub(super) fn hash(&self, policy: &HashPolicy) -> Option<pb::route::route_action::HashPolicy> {
        use pb::route::route_action::hash_policy::{
            ConnectionProperties, Header, PolicySpecifier, QueryParameter,
        };
        let specifier = match &policy.source {
            HashSource::Header { name, rewrite: found } => PolicySpecifier::Header(Header {
                header_name: name.to_string(),
                regex_rewrite: found.as_ref().map(rewrite),
            }),
            _ if self.is_grpc() => return None,
            HashSource::Cookie(cookie) => PolicySpecifier::Cookie(hash_cookie(cookie)),
            HashSource::SourceIp => {
                PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
            }
            HashSource::Query(name) => {
                PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() })
            }
        };
        Some(pb::route::route_action::HashPolicy {
            terminal: policy.terminal,
            policy_specifier: Some(specifier),
        })
    }
}

/// Whether all that is said of the only cluster is which field names it.
fn only_names(terms: &[ClusterTerms]) -> bool {
    let [only] = terms else { return false };
    *only == ClusterTerms { named_by: only.named_by.clone(), ..ClusterTerms::default() }
}

fn hash_cookie(cookie: &HashCookie) -> pb::route::route_action::hash_policy::Cookie {
    use pb::route::route_action::hash_policy::{Cookie, CookieAttribute};
    let attribute = |(name, value): &(Arc<str>, Arc<str>)| CookieAttribute {
        name: name.to_string(),
        value: value.to_string(),
    };
    Cookie {
        name: cookie.name.to_string(),
        ttl: cookie.ttl.map(|seconds| duration(std::time::Duration::from_secs(seconds))),
        path: cookie.path.to_string(),
        attributes: cookie.attributes.iter().map(attribute).collect(),
    }
}

/// An expression and what is written in its place.
pub(super) fn rewrite(rewrite: &Rewrite) -> pb::matcher::RegexMatchAndSubstitute {
    let (pattern, substitution) = rewrite.as_written();
    let regex = pattern.to_owned();
    pb::matcher::RegexMatchAndSubstitute {
        pattern: Some(pb::matcher::RegexMatcher { regex, ..pb::matcher::RegexMatcher::default() }),
        substitution: substitution.to_owned(),
    }
}

fn host_rewrite(host: &HostRewrite) -> pb::route::route_action::HostRewriteSpecifier {
    use pb::route::route_action::HostRewriteSpecifier;
    match host {
        HostRewrite::Literal(host) => HostRewriteSpecifier::HostRewriteLiteral(host.to_string()),
        HostRewrite::Header(name) => HostRewriteSpecifier::HostRewriteHeader(name.to_string()),
        HostRewrite::Path(regex) => HostRewriteSpecifier::HostRewritePathRegex(rewrite(regex)),
        HostRewrite::Endpoint => HostRewriteSpecifier::AutoHostRewrite(boolean(true)),
    }
}

fn mirror(mirror: &Mirror) -> pb::route::route_action::RequestMirrorPolicy {
    let (cluster, cluster_header) = match &mirror.cluster {
        MirrorTo::Cluster(name) => (name.to_string(), String::new()),
        MirrorTo::Header(name) => (String::new(), name.to_string()),
    };
    pb::route::route_action::RequestMirrorPolicy {
        cluster,
        cluster_header,
        // What Envoy takes for granted is not said.
        runtime_fraction: (mirror.fraction != Fraction::ALL).then(|| runtime_share(mirror.fraction)),
        disable_shadow_host_suffix_append: mirror.keeps_host,
        ..pb::route::route_action::RequestMirrorPolicy::default()
    }
}

/// A share of requests.
pub(super) fn share(fraction: Fraction) -> pb::FractionalPercent {
    use pb::fractional_percent::DenominatorType;
    let denominator = match fraction.denominator {
        1_000_000 => DenominatorType::Million,
        10_000 => DenominatorType::TenThousand,
        _ => DenominatorType::Hundred,
    };
    pb::FractionalPercent { numerator: fraction.numerator, denominator: denominator as i32 }
}

/// The same, where Envoy would look up another in a runtime.
pub(super) fn runtime_share(fraction: Fraction) -> pb::core::RuntimeFractionalPercent {
    pb::core::RuntimeFractionalPercent {
        default_value: Some(share(fraction)),
        ..pb::core::RuntimeFractionalPercent::default()
    }
}

/// Where a client is sent.
pub(super) fn redirect(redirect: &Redirect) -> pb::route::RedirectAction {
    use pb::route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    let path = match &redirect.path {
        RedirectPath::Same => None,
        RedirectPath::Path(path) => Some(PathRewriteSpecifier::PathRedirect(path.to_string())),
        RedirectPath::Rewrite(PathRewrite::Matched(text)) => {
            Some(PathRewriteSpecifier::PrefixRewrite(text.to_string()))
        }
        RedirectPath::Rewrite(PathRewrite::Regex(regex)) => {
            Some(PathRewriteSpecifier::RegexRewrite(rewrite(regex)))
        }
    };
    let statuses = [301, 302, 303, 307, 308];
    let code = statuses.iter().position(|status| *status == redirect.status).unwrap_or(0);
    let scheme =
        redirect.scheme.as_ref().map(|text| SchemeRewriteSpecifier::SchemeRedirect(text.to_string()));
    pb::route::RedirectAction {
        host_redirect: redirect.host.as_deref().unwrap_or_default().to_owned(),
        port_redirect: redirect.port.unwrap_or(0).into(),
        response_code: i32::try_from(code).unwrap_or(0),
        strip_query: redirect.strip_query,
        scheme_rewrite_specifier: scheme,
        path_rewrite_specifier: path,
    }
}
