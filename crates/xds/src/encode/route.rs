//! Route tables.

use meshwork_model::proxy::{
    DirectResponse, Domain, Forward, HeaderMatch, HeaderTest, PathMatch, QueryMatch, Resilience, Route,
    RouteAction, RouteMatch, RouteTable, RouteTerms, VirtualHost,
};

use super::policy::string;
use super::terms::{Lists, redirect, runtime_share};
use super::{Writer, boolean};
use crate::pb;

impl Writer<'_> {
    pub(super) fn route_table(&self, table: &RouteTable) -> pb::route::RouteConfiguration {
        let mut routes = table.hosts().iter().flat_map(|host| &host.routes);
        let is_proxy = !self.is_grpc();
        pb::route::RouteConfiguration {
            name: table.name.to_string(),
            virtual_hosts: table.hosts().iter().map(|host| self.virtual_host(host, table)).collect(),
            ignore_port_in_host_matching: is_proxy && table.ignores_port,
            ignore_path_parameters_in_path_matching: is_proxy
                && routes.any(|route| route.matches.ignores_parameters),
            // gRPC looks at those of virtual hosts.
            typed_per_filter_config: if is_proxy {
                self.route_filters(&table.filters)
            } else {
                std::collections::HashMap::new()
            },
            ..pb::route::RouteConfiguration::default()
        }
    }

    fn virtual_host(&self, host: &VirtualHost, table: &RouteTable) -> pb::route::VirtualHost {
        let mut message = pb::route::VirtualHost {
            name: host.name.to_string(),
            domains: host.domains.iter().map(domain).collect(),
            routes: host.routes.iter().flat_map(|route| self.routes(route)).collect(),
            ..pb::route::VirtualHost::default()
        };
        if self.is_grpc() {
            message.typed_per_filter_config = self.route_filters(&table.filters);
        } else {
            of_proxies(host, &mut message);
        }
        message.typed_per_filter_config.extend(self.route_filters(&host.filters));
        message
    }

    /// A route, or two for gRPC, which knows no prefix by segment.
    fn routes(&self, route: &Route) -> Vec<pb::route::Route> {
        match &route.matches.path {
            // gRPC calls have no query, and are no CONNECT, for which it would refuse the whole table.
            _ if self.is_grpc() && !route.matches.query.is_empty() => Vec::new(),
            PathMatch::Connect if self.is_grpc() => Vec::new(),
            PathMatch::SegmentPrefix(prefix) if self.is_grpc() => vec![
                self.route(route, &PathMatch::Exact(prefix.clone())),
                self.route(route, &PathMatch::Prefix(format!("{prefix}/").into())),
            ],
            path => vec![self.route(route, path)],
        }
    }

    fn route(&self, route: &Route, path: &PathMatch) -> pb::route::Route {
        use pb::route::route::Action;
        let nothing = RouteTerms::default();
        let terms = route.terms.as_deref().unwrap_or(&nothing);
        let action = match &route.action {
            RouteAction::Forward(forward) => Action::Route(self.forward(forward, terms)),
            RouteAction::Direct(response) => Action::DirectResponse(direct(response)),
            RouteAction::Redirect(to) => Action::Redirect(redirect(to)),
            RouteAction::Local => Action::NonForwardingAction(pb::route::NonForwardingAction::default()),
        };
        let mut message = pb::route::Route {
            name: route.name.to_string(),
            r#match: Some(self.route_match(&route.matches, path)),
            action: Some(action),
            typed_per_filter_config: self.route_filters(&terms.filters),
            ..pb::route::Route::default()
        };
        if !self.is_grpc() {
            let (request, response) = (Lists::of(&terms.changes.request), Lists::of(&terms.changes.response));
            message.request_headers_to_add = request.add;
            message.request_headers_to_remove = request.remove;
            message.response_headers_to_add = response.add;
            message.response_headers_to_remove = response.remove;
            let kept = resilience(route).and_then(|resilience| resilience.replay_bytes);
            message.request_body_buffer_limit = kept.map(|value| pb::UInt64Value { value });
        }
        message
    }

    fn forward(&self, forward: &Forward, terms: &RouteTerms) -> pb::route::RouteAction {
        let mut message = pb::route::RouteAction {
            cluster_specifier: Some(self.clusters(&forward.clusters, terms)),
            hash_policy: terms.hash.iter().filter_map(|policy| self.hash(policy)).collect(),
            ..pb::route::RouteAction::default()
        };
        self.resilience(forward, &mut message);
        if !self.is_grpc() {
            Self::of_action(terms, &mut message);
        }
        message
    }

    /// Which requests, with this test of the path.
    pub(super) fn route_match(&self, matches: &RouteMatch, path: &PathMatch) -> pb::route::RouteMatch {
        use pb::route::route_match::{GrpcRouteMatchOptions, TlsContextMatchOptions};
        let mut message = pb::route::RouteMatch {
            path_specifier: Some(path_specifier(path)),
            case_sensitive: matches.any_case.then(|| boolean(false)),
            headers: matches.headers.iter().map(header).collect(),
            runtime_fraction: matches.fraction.map(runtime_share),
            ..pb::route::RouteMatch::default()
        };
        if !self.is_grpc() {
            message.query_parameters = matches.query.iter().map(query).collect();
            message.grpc = matches.only_grpc.then(GrpcRouteMatchOptions::default);
            let says_nothing = matches.shows_certificate.is_none() && matches.is_verified.is_none();
            message.tls_context = (!says_nothing).then(|| TlsContextMatchOptions {
                presented: matches.shows_certificate.map(boolean),
                validated: matches.is_verified.map(boolean),
            });
        }
        message
    }
}

fn resilience(route: &Route) -> Option<&Resilience> {
    match &route.action {
        RouteAction::Forward(forward) => Some(&forward.resilience),
        _ => None,
    }
}

/// What a virtual host says in Envoy's config, though it is each of its routes that has it here.
fn of_proxies(host: &VirtualHost, message: &mut pb::route::VirtualHost) {
    use pb::route::virtual_host::TlsRequirementType;
    let any = |tells: fn(&Resilience) -> bool| host.routes.iter().filter_map(resilience).any(tells);
    message.include_request_attempt_count = any(|resilience| resilience.tells_attempts_upstream);
    message.include_attempt_count_in_response = any(|resilience| resilience.tells_attempts_downstream);
    message.include_is_timeout_retry_header = any(|resilience| resilience.tells_timeout_retries);
    message.require_tls = match &host.secure {
        None => TlsRequirementType::None,
        Some(secure) if secure.only_external => TlsRequirementType::ExternalOnly,
        Some(_) => TlsRequirementType::All,
    } as i32;
}

fn domain(domain: &Domain) -> String {
    match domain {
        Domain::Exact(name) => name.to_string(),
        Domain::Suffix(suffix) => format!("*{suffix}"),
        Domain::Prefix(prefix) => format!("{prefix}*"),
        Domain::Any => "*".to_owned(),
    }
}

fn path_specifier(path: &PathMatch) -> pb::route::route_match::PathSpecifier {
    use pb::route::route_match::PathSpecifier;
    match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.to_string()),
        PathMatch::SegmentPrefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.to_string()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(pb::matcher::RegexMatcher {
            regex: regex.pattern().to_owned(),
            ..pb::matcher::RegexMatcher::default()
        }),
        PathMatch::Connect => PathSpecifier::ConnectMatcher(pb::route::route_match::ConnectMatcher {}),
    }
}

fn query(test: &QueryMatch) -> pb::route::QueryParameterMatcher {
    use pb::route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    pb::route::QueryParameterMatcher {
        name: test.name.to_string(),
        query_parameter_match_specifier: Some(match &test.test {
            Some(test) => Specifier::StringMatch(string(test)),
            None => Specifier::PresentMatch(true),
        }),
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
