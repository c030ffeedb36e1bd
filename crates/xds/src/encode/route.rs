//! Route tables.

use meshwork_model::proxy::{
    DirectResponse, Domain, Forward, HeaderMatch, HeaderTest, PathMatch, PathRewrite, Redirect, RedirectPath,
    RetryPolicy, Route, RouteAction, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
};

use super::policy::string;
use super::{Writer, duration, number, pack};
use crate::pb;

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

impl Writer<'_> {
    pub(super) fn route_table(&self, table: &RouteTable) -> pb::route::RouteConfiguration {
        pb::route::RouteConfiguration {
            name: table.name.to_string(),
            virtual_hosts: table.hosts().iter().map(|host| self.virtual_host(host)).collect(),
            ..pb::route::RouteConfiguration::default()
        }
    }

    fn virtual_host(&self, host: &VirtualHost) -> pb::route::VirtualHost {
        pb::route::VirtualHost {
            name: host.name.to_string(),
            domains: host.domains.iter().map(domain).collect(),
            routes: host.routes.iter().flat_map(|route| self.routes(route)).collect(),
            ..pb::route::VirtualHost::default()
        }
    }

    /// A route, or two for gRPC, which knows no prefix by segment.
    fn routes(&self, route: &Route) -> Vec<pb::route::Route> {
        match &route.matches.path {
            PathMatch::SegmentPrefix(prefix) if self.is_grpc() => vec![
                self.route(route, &PathMatch::Exact(prefix.clone())),
                self.route(route, &PathMatch::Prefix(format!("{prefix}/").into())),
            ],
            // gRPC calls are no CONNECT, and it would refuse the whole table.
            PathMatch::Connect if self.is_grpc() => Vec::new(),
            path => vec![self.route(route, path)],
        }
    }

    fn route(&self, route: &Route, path: &PathMatch) -> pb::route::Route {
        use pb::route::route::Action;
        let action = match &route.action {
            RouteAction::Forward(forward) => Action::Route(self.forward(forward)),
            RouteAction::Direct(response) => Action::DirectResponse(direct(response)),
            RouteAction::Redirect(redirect) => Action::Redirect(self::redirect(redirect)),
            RouteAction::Local => Action::NonForwardingAction(pb::route::NonForwardingAction::default()),
        };
        pb::route::Route {
            name: route.name.to_string(),
            r#match: Some(route_match(&route.matches, path)),
            action: Some(action),
            ..pb::route::Route::default()
        }
    }

    fn forward(&self, forward: &Forward) -> pb::route::RouteAction {
        let mut message = pb::route::RouteAction {
            cluster_specifier: Some(clusters(&forward.clusters)),
            ..pb::route::RouteAction::default()
        };
        if self.is_grpc() {
            // gRPC looks at the whole stream's time only, and refuses most retry policies.
            message.max_stream_duration =
                forward.timeout.map(|timeout| pb::route::route_action::MaxStreamDuration {
                    max_stream_duration: Some(duration(timeout)),
                    ..pb::route::route_action::MaxStreamDuration::default()
                });
        } else {
            message.timeout = Some(forward.timeout.map(duration).unwrap_or_default());
            message.retry_policy = forward.resilience.retry.as_deref().map(|retry| self.retry_policy(retry));
        }
        message
    }

    /// What the control plane makes of a policy: conditions, how often, and that another endpoint is preferred.
    fn retry_policy(&self, policy: &RetryPolicy) -> pb::route::RetryPolicy {
        let mut message = pb::route::RetryPolicy {
            retry_on: policy.on.names().collect::<Vec<_>>().join(","),
            num_retries: Some(number(policy.retries)),
            ..pb::route::RetryPolicy::default()
        };
        if policy.avoid.previous && !self.is_grpc() {
            use pb::route::retry_policy::{RetryHostPredicate, retry_host_predicate::ConfigType};
            let config = pack(&pb::PreviousHostsPredicate::default());
            message.host_selection_retry_max_attempts = i64::from(policy.host_attempts);
            message.retry_host_predicate = vec![RetryHostPredicate {
                name: PREVIOUS_HOSTS.to_owned(),
                config_type: Some(ConfigType::TypedConfig(config)),
            }];
        }
        message
    }
}

fn domain(domain: &Domain) -> String {
    match domain {
        Domain::Exact(name) => name.to_string(),
        Domain::Suffix(suffix) => format!("*{suffix}"),
        Domain::Prefix(prefix) => format!("{prefix}*"),
        Domain::Any => "*".to_owned(),
    }
}

fn route_match(matches: &RouteMatch, path: &PathMatch) -> pb::route::RouteMatch {
    use pb::route::route_match::PathSpecifier;
    let path = match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.to_string()),
        PathMatch::SegmentPrefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.to_string()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(pb::matcher::RegexMatcher {
            regex: regex.pattern().to_owned(),
            ..pb::matcher::RegexMatcher::default()
        }),
        PathMatch::Connect => PathSpecifier::ConnectMatcher(pb::route::route_match::ConnectMatcher {}),
    };
    pb::route::RouteMatch {
        path_specifier: Some(path),
        headers: matches.headers.iter().map(header).collect(),
        ..pb::route::RouteMatch::default()
    }
}

pub(super) fn header(matcher: &HeaderMatch) -> pb::route::HeaderMatcher {
    use pb::route::header_matcher::HeaderMatchSpecifier;
    let (or_missing, test) = match &matcher.test {
        HeaderTest::OrMissing(test) => (true, &**test),
        test => (false, test),
    };
    let test = match test {
        HeaderTest::Present | HeaderTest::OrMissing(_) => HeaderMatchSpecifier::PresentMatch(true),
        HeaderTest::Value(test) => HeaderMatchSpecifier::StringMatch(string(test)),
        HeaderTest::Range { start, end } => {
            HeaderMatchSpecifier::RangeMatch(pb::Int64Range { start: *start, end: *end })
        }
    };
    pb::route::HeaderMatcher {
        name: matcher.name.to_string(),
        invert_match: matcher.invert,
        header_match_specifier: Some(test),
        treat_missing_header_as_empty: or_missing,
    }
}

fn clusters(clusters: &[WeightedCluster]) -> pb::route::route_action::ClusterSpecifier {
    use pb::route::route_action::ClusterSpecifier;
    use pb::route::weighted_cluster::ClusterWeight;
    if let [WeightedCluster { name, weight: 1 }] = clusters {
        return ClusterSpecifier::Cluster(name.to_string());
    }
    let weighted = clusters.iter().map(|cluster| ClusterWeight {
        name: cluster.name.to_string(),
        weight: Some(number(cluster.weight)),
        ..ClusterWeight::default()
    });
    ClusterSpecifier::WeightedClusters(pb::route::WeightedCluster {
        clusters: weighted.collect(),
        ..pb::route::WeightedCluster::default()
    })
}

fn direct(response: &DirectResponse) -> pb::route::DirectResponseAction {
    use pb::core::data_source::Specifier;
    let body = (!response.body.is_empty()).then(|| pb::core::DataSource {
        specifier: Some(Specifier::InlineString(response.body.to_string())),
        ..pb::core::DataSource::default()
    });
    pb::route::DirectResponseAction {
        status: u32::from(response.status),
        body,
        ..pb::route::DirectResponseAction::default()
    }
}

fn redirect(redirect: &Redirect) -> pb::route::RedirectAction {
    use pb::route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    let path = match &redirect.path {
        RedirectPath::Same => None,
        RedirectPath::Path(path) => Some(PathRewriteSpecifier::PathRedirect(path.to_string())),
        RedirectPath::Rewrite(PathRewrite::Matched(text)) => {
            Some(PathRewriteSpecifier::PrefixRewrite(text.to_string()))
        }
        RedirectPath::Rewrite(PathRewrite::Regex(rewrite)) => {
            let (pattern, substitution) = rewrite.as_written();
            let regex = pattern.to_owned();
            let pattern = pb::matcher::RegexMatcher { regex, ..pb::matcher::RegexMatcher::default() };
            Some(PathRewriteSpecifier::RegexRewrite(pb::matcher::RegexMatchAndSubstitute {
                pattern: Some(pattern),
                substitution: substitution.to_owned(),
            }))
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
