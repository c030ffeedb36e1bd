//! What is said of a route besides where it goes: rewrites, changes of heads, hashes, mirrors, redirects.

#![expect(deprecated, reason = "files that people have use the older forms, too")]

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::format::Template;
use meshwork_model::fraction::Fraction;
use meshwork_model::hash::{HashCookie, HashPolicy, HashSource};
use meshwork_model::mutation::{Append, HeaderChange, Mutations};
use meshwork_model::proxy::{
    BALANCING, ClusterTerms, Criterion, HeadChanges, HostRewrite, Mirror, MirrorTo, PathRewrite, Redirect,
    RedirectPath, RouteTerms,
};
use meshwork_model::regex::Rewrite;

use super::{Read, duration, filter, required};
use crate::path::{Path, Problems};
use crate::{metadata, pb};

/// What stands above a route.
pub(super) struct Above {
    is_specific_last: bool,
    ignores_parameters: bool,
    table: Level,
    host: Level,
}

/// What a table, a virtual host, a route or a cluster does to heads, and who gets copies.
#[derive(Clone, Default)]
struct Level {
    request: Option<Arc<Mutations>>,
    response: Option<Arc<Mutations>>,
    mirrors: Vec<Mirror>,
}

macro_rules! changes {
    ($message:expr, $at:expr, $problems:expr) => {{
        let (message, at) = ($message, $at);
        let request = mutations(
            [&message.request_headers_to_add, &message.request_headers_to_remove],
            ["request_headers_to_add", "request_headers_to_remove"],
            at,
            $problems,
        );
        let response = mutations(
            [&message.response_headers_to_add, &message.response_headers_to_remove],
            ["response_headers_to_add", "response_headers_to_remove"],
            at,
            $problems,
        );
        Level { request, response, mirrors: Vec::new() }
    }};
}

impl Above {
    /// What a table says.
    pub(super) fn of_table(
        message: &pb::route::RouteConfiguration,
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Self {
        let mut table = changes!(message, at, problems);
        table.mirrors =
            mirrors(&message.request_mirror_policies, &at.field("request_mirror_policies"), problems);
        Self {
            is_specific_last: message.most_specific_header_mutations_wins,
            ignores_parameters: message.ignore_path_parameters_in_path_matching,
            table,
            host: Level::default(),
        }
    }

    /// What the table and one of its virtual hosts say.
    pub(super) fn with_host(
        &self,
        message: &pb::route::VirtualHost,
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Self {
        let mut host = changes!(message, at, problems);
        host.mirrors =
            mirrors(&message.request_mirror_policies, &at.field("request_mirror_policies"), problems);
        Self { host, table: self.table.clone(), ..*self }
    }

    /// Whether what follows a `;` in paths is passed over.
    pub(super) fn ignores_parameters(&self) -> bool {
        self.ignores_parameters
    }

    /// All that is said of a route.
    pub(super) fn terms(
        &self,
        message: &pb::route::Route,
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Option<RouteTerms> {
        use pb::route::route::Action;
        let level = changes!(message, at, problems);
        let path = at.field("typed_per_filter_config");
        let mut terms = RouteTerms {
            changes: HeadChanges {
                request: self.in_order([&level.request, &self.host.request, &self.table.request]),
                response: self.in_order([&level.response, &self.host.response, &self.table.response]),
            },
            filters: filter::of_route(&message.typed_per_filter_config, &path, problems),
            ..RouteTerms::default()
        };
        if let Some(Action::Route(action)) = &message.action {
            self.of_action(action, &mut terms, &at.field("route"), problems)?;
        }
        Some(terms)
    }

    /// The most specific level comes first, so that the widest has the last word, or the other way round.
    fn in_order(&self, mut levels: [&Option<Arc<Mutations>>; 3]) -> Vec<Arc<Mutations>> {
        if self.is_specific_last {
            levels.reverse();
        }
        levels.into_iter().flatten().cloned().collect()
    }

    fn of_action(
        &self,
        message: &pb::route::RouteAction,
        terms: &mut RouteTerms,
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Option<()> {
        use pb::route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier};
        terms.path = path_rewrite(message, at, problems)?;
        terms.host = host_rewrite(message, at, problems)?;
        terms.appends_forwarded_host = message.append_x_forwarded_host;
        terms.unknown_cluster_status = match message.cluster_not_found_response_code() {
            ClusterNotFoundResponseCode::ServiceUnavailable => None,
            ClusterNotFoundResponseCode::NotFound => Some(404),
            ClusterNotFoundResponseCode::InternalServerError => Some(500),
        };
        if message.priority() != pb::core::RoutingPriority::Default {
            return problems.error(&at.field("priority"), "this priority is not supported", "leave it out");
        }
        terms.subset = criteria(message.metadata_match.as_ref());
        terms.hash = hash(&message.hash_policy, &at.field("hash_policy"), problems)?;
        terms.mirrors =
            mirrors(&message.request_mirror_policies, &at.field("request_mirror_policies"), problems);
        if terms.mirrors.is_empty() {
            let above = [&self.host.mirrors, &self.table.mirrors];
            terms.mirrors =
                above.into_iter().find(|mirrors| !mirrors.is_empty()).cloned().unwrap_or_default();
        }
        match &message.cluster_specifier {
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                of_clusters(weighted, terms, &at.field("weighted_clusters"), problems);
            }
            Some(ClusterSpecifier::ClusterHeader(name)) => {
                let named_by = field_name(name, &at.field("cluster_header"), problems)?;
                terms.clusters = vec![ClusterTerms { named_by: Some(named_by), ..ClusterTerms::default() }];
            }
            _ => {}
        }
        Some(())
    }
}

fn of_clusters(
    message: &pb::route::WeightedCluster,
    terms: &mut RouteTerms,
    at: &Path<'_>,
    problems: &mut Problems,
) {
    use pb::route::weighted_cluster::RandomValueSpecifier;
    use pb::route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    if let Some(RandomValueSpecifier::HeaderName(name)) = &message.random_value_specifier {
        terms.random_header = field_name(name, &at.field("header_name"), problems);
    }
    let path = at.field("clusters");
    for (index, cluster) in message.clusters.iter().enumerate() {
        let at = path.index(index);
        let level = changes!(cluster, &at, problems);
        let filters = at.field("typed_per_filter_config");
        let named_by = (!cluster.cluster_header.is_empty())
            .then(|| field_name(&cluster.cluster_header, &at.field("cluster_header"), problems));
        let host = match &cluster.host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
                Some(host.as_str().into())
            }
            _ => None,
        };
        let own = criteria(cluster.metadata_match.as_ref());
        terms.clusters.push(ClusterTerms {
            named_by: named_by.flatten(),
            subset: if own.is_empty() { own } else { merged(&terms.subset, own) },
            host,
            changes: HeadChanges {
                request: level.request.into_iter().collect(),
                response: level.response.into_iter().collect(),
            },
            filters: filter::of_route(&cluster.typed_per_filter_config, &filters, problems),
        });
    }
    if terms.clusters.iter().all(|cluster| *cluster == ClusterTerms::default()) {
        terms.clusters.clear();
    }
}

/// What of an endpoint's metadata is asked for.
fn criteria(message: Option<&pb::core::Metadata>) -> Vec<Criterion> {
    let found = message.and_then(|metadata| metadata.filter_metadata.get(BALANCING));
    found.map(|values| metadata::struct_as_is(values).into_iter().collect()).unwrap_or_default()
}

/// What the route asks for, with a cluster's own word in its place.
fn merged(route: &[Criterion], own: Vec<Criterion>) -> Vec<Criterion> {
    let mut all: BTreeMap<_, _> = route.iter().cloned().collect();
    all.extend(own);
    all.into_iter().collect()
}

// --- changes of heads ---

trait ChangeList {
    fn read(&self, mutations: &mut Mutations, at: &Path<'_>, problems: &mut Problems);
}

impl ChangeList for Vec<pb::core::HeaderValueOption> {
    fn read(&self, mutations: &mut Mutations, at: &Path<'_>, problems: &mut Problems) {
        for (index, message) in self.iter().enumerate() {
            mutations.add.extend(change(message, &at.index(index), problems));
        }
    }
}

impl ChangeList for Vec<String> {
    fn read(&self, mutations: &mut Mutations, at: &Path<'_>, problems: &mut Problems) {
        for (index, name) in self.iter().enumerate() {
            mutations.remove.extend(field_name(name, &at.index(index), problems));
        }
    }
}

fn mutations(
    lists: [&dyn ChangeList; 2],
    names: [&str; 2],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Arc<Mutations>> {
    let mut mutations = Mutations::default();
    for (list, name) in lists.into_iter().zip(names) {
        list.read(&mut mutations, &at.field(name), problems);
    }
    (!mutations.is_empty()).then(|| Arc::new(mutations))
}

/// A field that comes.
fn change(
    message: &pb::core::HeaderValueOption,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<HeaderChange> {
    use pb::core::header_value_option::HeaderAppendAction;
    let Some(header) = &message.header else { return problems.error(at, "`header` is missing", "") };
    let path = at.field("header");
    let name = field_name(&header.key, &path.field("key"), problems)?;
    let value = Template::parse(&header.value)
        .map_err(|why| problems.error::<()>(&path.field("value"), why, "write `%%` for a per cent sign"));
    let append = match (message.append, message.append_action()) {
        (Some(append), HeaderAppendAction::AppendIfExistsOrAdd) if append.value => Append::Add,
        (Some(_), HeaderAppendAction::AppendIfExistsOrAdd)
        | (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Append::Set,
        (Some(_), _) => return problems.error(&at.field("append"), "`append_action` says it already", ""),
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => Append::Add,
        (None, HeaderAppendAction::AddIfAbsent) => Append::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExists) => Append::SetIfPresent,
    };
    Some(HeaderChange { name, value: value.ok()?, append, keep_empty: message.keep_empty_value })
}

/// Fields that frame messages, which are the codecs' own.
const FRAMING: [&str; 4] = ["connection", "content-length", "transfer-encoding", "upgrade"];

/// The lowercase name of a field that may be changed.
fn field_name(name: &str, at: &Path<'_>, problems: &mut Problems) -> Option<Arc<str>> {
    let name = required(name, at, problems)?.to_ascii_lowercase();
    if name.starts_with(':') || name == "host" {
        return problems.error(at, format!("`{name}` may not be changed"), "rewrite path or host");
    }
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(is_token) || FRAMING.contains(&&*name) {
        return problems.error(at, format!("`{name}` is no field that may be changed"), "");
    }
    Some(name.into())
}

// --- rewrites ---

/// An expression and what is written in its place.
fn rewrite(
    message: &pb::matcher::RegexMatchAndSubstitute,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Rewrite> {
    let at = at.field("pattern");
    let pattern = message.pattern.as_ref().map_or("", |pattern| &*pattern.regex);
    let pattern = required(pattern, &at.field("regex"), problems)?;
    let made = Rewrite::new(pattern, &message.substitution);
    made.map_err(|why| problems.error::<()>(&at.field("regex"), why, "")).ok()
}

/// `None`: something is wrong.
fn path_rewrite(
    message: &pb::route::RouteAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<PathRewrite>> {
    match (&message.regex_rewrite, &*message.prefix_rewrite) {
        (None, "") => Some(None),
        (None, text) => Some(Some(PathRewrite::Matched(text.into()))),
        (Some(regex), "") => {
            let made = rewrite(regex, &at.field("regex_rewrite"), problems)?;
            Some(Some(PathRewrite::Regex(made)))
        }
        _ => problems.error(at, "there are two rewrites of the path", "leave one out"),
    }
}

/// `None`: something is wrong.
fn host_rewrite(
    message: &pb::route::RouteAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<HostRewrite>> {
    use pb::route::route_action::HostRewriteSpecifier;
    Some(match &message.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
            Some(HostRewrite::Literal(host.as_str().into()))
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) if !name.is_empty() => {
            Some(HostRewrite::Header(name.to_ascii_lowercase().into()))
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
            Some(HostRewrite::Path(rewrite(regex, &at.field("host_rewrite_path_regex"), problems)?))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if auto.value => Some(HostRewrite::Endpoint),
        _ => None,
    })
}

/// Where a client is sent.
pub(super) fn redirect(
    message: &pb::route::RedirectAction,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Redirect> {
    use pb::route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let text = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let path = match &message.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) if !path.is_empty() => {
            RedirectPath::Path(path.as_str().into())
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) if !prefix.is_empty() => {
            RedirectPath::Rewrite(PathRewrite::Matched(prefix.as_str().into()))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            let made = rewrite(regex, &at.field("regex_rewrite"), problems)?;
            RedirectPath::Rewrite(PathRewrite::Regex(made))
        }
        _ => RedirectPath::Same,
    };
    let Ok(port) = u16::try_from(message.port_redirect) else {
        return problems.error(
            &at.field("port_redirect"),
            format!("{} is no port", message.port_redirect),
            "",
        );
    };
    let status = match message.response_code() {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    let scheme = match &message.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme),
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        _ => None,
    };
    let host = text(&message.host_redirect);
    let port = (port != 0).then_some(port);
    let strip_query = message.strip_query;
    Some(Redirect { scheme, host, port, path, strip_query, status, ..Redirect::default() })
}

// --- hashes, mirrors, shares ---

fn hash(
    messages: &[pb::route::route_action::HashPolicy],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<HashPolicy>> {
    let mut policies = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if let Some(source) = hash_source(message, &at.index(index), problems)? {
            policies.push(HashPolicy { source, terminal: message.terminal });
        }
    }
    Some(policies)
}

/// `Some(None)`: it says nothing.
fn hash_source(
    message: &pb::route::route_action::HashPolicy,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Read<Option<HashSource>> {
    use pb::route::route_action::hash_policy::PolicySpecifier;
    Some(Some(match &message.policy_specifier {
        Some(PolicySpecifier::Header(header)) => {
            let at = at.field("header");
            let name = required(&header.header_name, &at.field("header_name"), problems)?;
            let made = match &header.regex_rewrite {
                Some(regex) => Some(rewrite(regex, &at.field("regex_rewrite"), problems)?),
                None => None,
            };
            HashSource::Header { name: name.to_ascii_lowercase().into(), rewrite: made }
        }
        Some(PolicySpecifier::Cookie(cookie)) => {
            let at = at.field("cookie");
            let ttl = match cookie.ttl {
                Some(ttl) => Some(duration(ttl, &at.field("ttl"), problems)?.as_secs()),
                None => None,
            };
            let attribute = |a: &pb::route::route_action::hash_policy::CookieAttribute| {
                (Arc::from(a.name.as_str()), Arc::from(a.value.as_str()))
            };
            HashSource::Cookie(HashCookie {
                name: required(&cookie.name, &at.field("name"), problems)?.into(),
                path: cookie.path.as_str().into(),
                ttl,
                attributes: cookie.attributes.iter().map(attribute).collect(),
            })
        }
        Some(PolicySpecifier::ConnectionProperties(properties)) => {
            return Some(properties.source_ip.then_some(HashSource::SourceIp));
        }
        Some(PolicySpecifier::QueryParameter(query)) => {
            let at = at.field("query_parameter");
            HashSource::Query(required(&query.name, &at.field("name"), problems)?.into())
        }
        _ => return problems.error(at, "this hash policy is not supported", ""),
    }))
}

fn mirrors(
    messages: &[pb::route::route_action::RequestMirrorPolicy],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        mirrors.extend(mirror(message, &at.index(index), problems));
    }
    mirrors
}

fn mirror(
    message: &pb::route::route_action::RequestMirrorPolicy,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Mirror> {
    let cluster = match (&*message.cluster, &*message.cluster_header) {
        ("", "") => return problems.error(at, "the cluster is missing", "write `cluster`"),
        (cluster, "") => MirrorTo::Cluster(cluster.into()),
        ("", header) => MirrorTo::Header(header.to_ascii_lowercase().into()),
        _ => return problems.error(at, "there are two clusters", "leave one out"),
    };
    let fraction = match &message.runtime_fraction {
        Some(share) => fraction(share, &at.field("runtime_fraction"), problems)?,
        None => Fraction::ALL,
    };
    Some(Mirror { cluster, fraction, keeps_host: message.disable_shadow_host_suffix_append })
}

/// A share of requests; what a runtime layer could say otherwise is never said.
pub(super) fn fraction(
    message: &pb::core::RuntimeFractionalPercent,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Fraction> {
    use pb::fraction::fractional_percent::DenominatorType;
    let Some(share) = &message.default_value else {
        return problems.error(&at.field("default_value"), "this must not be empty", "");
    };
    let denominator = match share.denominator() {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Some(Fraction { numerator: share.numerator, denominator })
}
