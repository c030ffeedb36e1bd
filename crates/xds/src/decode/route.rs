//! Route tables.

#![expect(deprecated, reason = "files that people have use the older forms, too")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    DirectResponse, Domain, Forward, HeaderMatch, HeaderTest, PathMatch, QueryMatch, Redirect, Resilience,
    Route, RouteAction, RouteMatch, RouteTable, RouteTerms, Secure, StringMatch, VirtualHost,
    WeightedCluster,
};

use super::retry::{self, OfHost};
use super::terms::{self, Above};
use super::{duration, filter, policy, required};
use crate::path::{Path, Problems};
use crate::pb;

/// Envoy's time-out for a route that says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// A table of its own, which needs a name.
pub(super) fn table(
    message: &pb::route::RouteConfiguration,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<RouteTable> {
    required(&message.name, &at.field("name"), problems)?;
    Some(inline(message, at, problems))
}

/// A table that is part of a listener.
pub(super) fn inline(
    message: &pb::route::RouteConfiguration,
    at: &Path<'_>,
    problems: &mut Problems,
) -> RouteTable {
    let path = at.field("virtual_hosts");
    let above = Above::of_table(message, at, problems);
    let mut hosts = Vec::new();
    for (index, host) in message.virtual_hosts.iter().enumerate() {
        hosts.push(virtual_host(host, &above, &path.index(index), problems));
    }
    unique_domains(&hosts, &path, problems);
    let mut table = RouteTable::new(message.name.as_str(), hosts);
    table.ignores_port = message.ignore_port_in_host_matching;
    let path = at.field("typed_per_filter_config");
    table.filters = filter::of_route(&message.typed_per_filter_config, &path, problems);
    table
}

fn unique_domains(hosts: &[VirtualHost], at: &Path<'_>, problems: &mut Problems) {
    let mut seen: HashMap<&Domain, usize> = HashMap::new();
    for (index, host) in hosts.iter().enumerate() {
        for domain in &host.domains {
            if let Some(first) = seen.insert(domain, index) {
                let text = format!("{domain:?} is a domain of virtual host {first} already");
                problems.error::<()>(&at.index(index).field("domains"), text, "");
            }
        }
    }
}

fn virtual_host(
    message: &pb::route::VirtualHost,
    above: &Above,
    at: &Path<'_>,
    problems: &mut Problems,
) -> VirtualHost {
    let above = above.with_host(message, at, problems);
    let path = at.field("domains");
    let mut domains = Vec::new();
    for (index, text) in message.domains.iter().enumerate() {
        domains.extend(domain(text, &path.index(index), problems));
    }
    if message.domains.is_empty() {
        problems.error::<()>(&path, "a virtual host needs a domain", "write `*` for all");
    }
    let path = at.field("routes");
    let of_host = OfHost::read(message, at, problems);
    let mut routes = Vec::new();
    for (index, message) in message.routes.iter().enumerate() {
        routes.extend(route(message, &above, &of_host, &path.index(index), problems));
    }
    let mut host = VirtualHost::new(message.name.as_str(), domains, routes);
    host.secure = secure(message);
    let path = at.field("typed_per_filter_config");
    host.filters = filter::of_route(&message.typed_per_filter_config, &path, problems);
    host
}

/// Requests in plaintext are sent where they are answered over TLS.
fn secure(message: &pb::route::VirtualHost) -> Option<Box<Secure>> {
    use pb::route::virtual_host::TlsRequirementType;
    let only_external = match message.require_tls() {
        TlsRequirementType::None => return None,
        TlsRequirementType::ExternalOnly => true,
        TlsRequirementType::All => false,
    };
    let redirect = Redirect { scheme: Some("https".into()), keeps_port: true, ..Redirect::default() };
    let matches = RouteMatch::new(PathMatch::Prefix("".into()), Vec::new());
    Some(Box::new(Secure { only_external, route: Route::new("", matches, RouteAction::Redirect(redirect)) }))
}

fn domain(text: &str, at: &Path<'_>, problems: &mut Problems) -> Option<Domain> {
    let text = text.to_ascii_lowercase();
    let domain = match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => Domain::Any,
        (Some(suffix), _) => Domain::Suffix(suffix.into()),
        (None, Some(prefix)) => Domain::Prefix(prefix.into()),
        (None, None) => Domain::Exact(text.as_str().into()),
    };
    let rest = match &domain {
        Domain::Exact(rest) | Domain::Suffix(rest) | Domain::Prefix(rest) => rest,
        Domain::Any => "*",
    };
    if rest.is_empty() || (rest.contains('*') && domain != Domain::Any) {
        let fix = "write `*`, `*.example.com`, `example.*` or `example.com`";
        return problems.error(at, format!("`{text}` is no domain"), fix);
    }
    Some(domain)
}

fn route(
    message: &pb::route::Route,
    above: &Above,
    of_host: &OfHost<'_>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Route> {
    use pb::route::route::Action;
    let matches =
        route_match(message.r#match.as_ref(), above.ignores_parameters(), &at.field("match"), problems);
    let terms = above.terms(message, at, problems);
    let action = match &message.action {
        Some(Action::Route(action)) => {
            let path = at.field("route");
            let resilience = retry::resilience(of_host, message, action, &path, problems);
            forward(action, resilience, &path, problems).map(RouteAction::Forward)
        }
        Some(Action::DirectResponse(action)) => {
            direct(action, &at.field("direct_response"), problems).map(RouteAction::Direct)
        }
        Some(Action::Redirect(action)) => {
            terms::redirect(action, &at.field("redirect"), problems).map(RouteAction::Redirect)
        }
        Some(Action::NonForwardingAction(_)) => Some(RouteAction::Local),
        _ => problems.error(at, "the route says not what to do", "write `route` or `direct_response`"),
    };
    let terms = terms?;
    let mut route = Route::new(message.name.as_str(), matches?, action?);
    route.terms = (terms != RouteTerms::default()).then(|| Box::new(terms));
    Some(route)
}

/// Which requests; `ignores_parameters` says whether what follows a `;` in a path counts for nothing.
pub(super) fn route_match(
    message: Option<&pb::route::RouteMatch>,
    ignores_parameters: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<RouteMatch> {
    use pb::route::route_match::PathSpecifier;
    let message = message.or_else(|| problems.error(at, "the match is missing", "write `prefix: /`"))?;
    let path = match &message.path_specifier {
        Some(PathSpecifier::Path(path)) => Some(PathMatch::Exact(path.as_str().into())),
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            segment_prefix(prefix, &at.field("path_separated_prefix"), problems)
        }
        Some(PathSpecifier::SafeRegex(message)) => {
            policy::regex(message, &at.field("safe_regex"), problems).map(PathMatch::Regex)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => Some(PathMatch::Connect),
        _ => problems.error(at, "the test of the path is missing", "write `prefix: /` for all paths"),
    };
    let path_of_headers = at.field("headers");
    let mut headers = Vec::new();
    for (index, matcher) in message.headers.iter().enumerate() {
        headers.extend(header(matcher, &path_of_headers.index(index), problems));
    }
    let fraction = match &message.runtime_fraction {
        Some(share) => Some(terms::fraction(share, &at.field("runtime_fraction"), problems)?),
        None => None,
    };
    let tls = message.tls_context.as_ref();
    Some(RouteMatch {
        any_case: message.case_sensitive.is_some_and(|counts| !counts.value),
        ignores_parameters,
        query: query(&message.query_parameters, &at.field("query_parameters"), problems)?,
        only_grpc: message.grpc.is_some(),
        fraction,
        shows_certificate: tls.and_then(|tls| tls.presented).map(|presented| presented.value),
        is_verified: tls.and_then(|tls| tls.validated).map(|validated| validated.value),
        ..RouteMatch::new(path?, headers)
    })
}

fn query(
    messages: &[pb::route::QueryParameterMatcher],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<QueryMatch>> {
    use pb::route::query_parameter_matcher::QueryParameterMatchSpecifier;
    let mut tests = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let at = at.index(index);
        let name = required(&message.name, &at.field("name"), problems)?.into();
        let test = match &message.query_parameter_match_specifier {
            Some(QueryParameterMatchSpecifier::StringMatch(test)) => {
                Some(policy::string(test, &at.field("string_match"), problems)?)
            }
            Some(QueryParameterMatchSpecifier::PresentMatch(_)) | None => None,
        };
        tests.push(QueryMatch { name, test });
    }
    Some(tests)
}

fn segment_prefix(prefix: &str, at: &Path<'_>, problems: &mut Problems) -> Option<PathMatch> {
    if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
        return problems.error(at, format!("`{prefix}` is no path without a slash at its end"), "");
    }
    Some(PathMatch::SegmentPrefix(prefix.into()))
}

/// Tests of header fields.
pub(super) fn headers(
    messages: &[pb::route::HeaderMatcher],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<HeaderMatch>> {
    let each = messages.iter().enumerate();
    each.map(|(index, message)| header(message, &at.index(index), problems)).collect()
}

/// A test of a header field.
pub(super) fn header(
    message: &pb::route::HeaderMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HeaderMatch> {
    use pb::route::header_matcher::HeaderMatchSpecifier;
    let name = required(&message.name, &at.field("name"), problems)?.to_ascii_lowercase();
    let absent = message.header_match_specifier == Some(HeaderMatchSpecifier::PresentMatch(false));
    let text = match &message.header_match_specifier {
        None | Some(HeaderMatchSpecifier::PresentMatch(_)) => None,
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            Some(policy::string(matcher, &at.field("string_match"), problems)?)
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(matcher)) => {
            Some(StringMatch::Regex(policy::regex(matcher, &at.field("safe_regex_match"), problems)?))
        }
        // Empty ones match anything.
        Some(HeaderMatchSpecifier::ExactMatch(text)) if text.is_empty() => {
            Some(StringMatch::Prefix("".into()))
        }
        Some(HeaderMatchSpecifier::ExactMatch(text)) => Some(StringMatch::Exact(text.as_str().into())),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => Some(StringMatch::Prefix(text.as_str().into())),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => Some(StringMatch::Suffix(text.as_str().into())),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => Some(StringMatch::Contains(text.as_str().into())),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => {
            let test = HeaderTest::Range { start: range.start, end: range.end };
            return Some(header_match(message, &name, test, message.invert_match));
        }
    };
    let test = text.map_or(HeaderTest::Present, HeaderTest::Value);
    Some(header_match(message, &name, test, message.invert_match != absent))
}

fn header_match(
    message: &pb::route::HeaderMatcher,
    name: &str,
    test: HeaderTest,
    invert: bool,
) -> HeaderMatch {
    let or_missing = message.treat_missing_header_as_empty;
    let test = if or_missing { HeaderTest::OrMissing(Box::new(test)) } else { test };
    HeaderMatch { name: name.into(), test, invert }
}

fn forward(
    message: &pb::route::RouteAction,
    resilience: Option<Resilience>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Forward> {
    use pb::route::route_action::ClusterSpecifier;
    let clusters = match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            let name = required(name, &at.field("cluster"), problems)?;
            vec![WeightedCluster { name: name.into(), weight: 1 }]
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted, &at.field("weighted_clusters"), problems)?
        }
        // The request names it.
        Some(ClusterSpecifier::ClusterHeader(_)) => vec![WeightedCluster { name: "".into(), weight: 1 }],
        _ => return problems.error(at, "the cluster is missing", "write `cluster` or `weighted_clusters`"),
    };
    let timeout = match message.timeout {
        None => DEFAULT_TIMEOUT,
        Some(timeout) => duration(timeout, &at.field("timeout"), problems)?,
    };
    Some(Forward { clusters, timeout: (!timeout.is_zero()).then_some(timeout), resilience: resilience? })
}

fn weighted_clusters(
    message: &pb::route::WeightedCluster,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<WeightedCluster>> {
    let path = at.field("clusters");
    let mut clusters = Vec::new();
    for (index, cluster) in message.clusters.iter().enumerate() {
        let at = path.index(index);
        if cluster.name.is_empty() == cluster.cluster_header.is_empty() {
            return problems.error(&at, "there must be one of `name` and `cluster_header`", "");
        }
        let name: Arc<str> = cluster.name.as_str().into();
        clusters.push(WeightedCluster { name, weight: cluster.weight.map_or(0, |weight| weight.value) });
    }
    let sum: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if sum == 0 || u32::try_from(sum).is_err() {
        let text = "the sum of the weights must be between 1 and 4294967295";
        return problems.error(&path, text, "");
    }
    Some(clusters)
}

fn direct(
    message: &pb::route::DirectResponseAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<DirectResponse> {
    use pb::core::data_source::Specifier;
    let status = u16::try_from(message.status).ok().filter(|status| (200..600).contains(status));
    let status = status
        .or_else(|| problems.error(&at.field("status"), format!("{} is no status", message.status), ""))?;
    let body = match message.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => "",
        Some(Specifier::InlineString(text)) => text,
        Some(Specifier::InlineBytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => return problems.error(&at.field("body"), "the body is not UTF-8", ""),
        },
        Some(_) => return problems.error(&at.field("body"), "the body must be inline", ""),
    };
    Some(DirectResponse { status, body: body.into() })
}
