//! Random route tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::hash::{HashCookie, HashPolicy, HashSource};
use meshwork_model::mutation::{Append, HeaderChange, Mutations};
use meshwork_model::proxy::{
    AvoidedHosts, BackOff, ClusterTerms, Criterion, DirectResponse, Domain, Forward, GrpcTimeout,
    HeadChanges, HeaderMatch, HeaderTest, HostRewrite, Mirror, MirrorTo, PathMatch, PathRewrite, QueryMatch,
    RateLimitedBackOff, Redirect, RedirectPath, ResetFormat, ResetHeader, Resilience, RetryOn, RetryPolicy,
    Route, RouteAction, RouteMatch, RouteTable, RouteTerms, Secure, StreamDuration, VirtualHost,
    WeightedCluster,
};
use meshwork_model::regex::Regex;

use super::Random;

impl Random {
    pub(super) fn table(&mut self) -> RouteTable {
        let mut seen = Vec::new();
        let mut hosts = self.some(0, Self::host);
        for host in &mut hosts {
            host.domains.retain(|domain| !seen.contains(domain));
            seen.extend(host.domains.clone());
        }
        hosts.retain(|host| !host.domains.is_empty());
        // A table says it for all of its routes.
        let ignores_parameters = self.0.bool();
        let routes = hosts.iter_mut().flat_map(|host| &mut host.routes);
        routes.for_each(|route| route.matches.ignores_parameters = ignores_parameters);
        let mut table = RouteTable::new(self.text(), hosts);
        table.ignores_port = self.0.bool();
        table.filters = self.route_filters();
        table
    }

    fn host(&mut self) -> VirtualHost {
        let domain = |random: &mut Self| match random.0.u8(0..4) {
            0 => Domain::Exact(random.text()),
            1 => Domain::Suffix(random.text()),
            2 => Domain::Prefix(random.text()),
            _ => Domain::Any,
        };
        let mut domains: Vec<Domain> = Vec::new();
        for domain in self.some(1, domain) {
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        let mut routes = self.some(0, Self::route);
        // A virtual host says it for all of its routes.
        let (up, down, again) = (self.0.bool(), self.0.bool(), self.0.bool());
        for route in &mut routes {
            if let RouteAction::Forward(forward) = &mut route.action {
                forward.resilience.tells_attempts_upstream = up;
                forward.resilience.tells_attempts_downstream = down;
                forward.resilience.tells_timeout_retries = again;
            }
        }
        VirtualHost {
            secure: self.maybe(Self::secure),
            filters: self.route_filters(),
            ..VirtualHost::new(self.text(), domains, routes)
        }
    }

    fn secure(&mut self) -> Box<Secure> {
        let redirect = Redirect { scheme: Some("https".into()), keeps_port: true, ..Redirect::default() };
        let matches = RouteMatch::new(PathMatch::Prefix("".into()), Vec::new());
        let route = Route::new("", matches, RouteAction::Redirect(redirect));
        Box::new(Secure { only_external: self.0.bool(), route })
    }

    fn route(&mut self) -> Route {
        let mut terms =
            RouteTerms { changes: self.changes(), filters: self.route_filters(), ..RouteTerms::default() };
        let action = match self.0.u8(0..5) {
            0 => {
                let status = self.0.u16(200..600);
                RouteAction::Direct(DirectResponse { status, body: self.optional_text() })
            }
            1 => RouteAction::Redirect(self.redirect()),
            2 => RouteAction::Local,
            _ => RouteAction::Forward(self.forward(&mut terms)),
        };
        let terms = (terms != RouteTerms::default()).then(|| Box::new(terms));
        Route { terms, ..Route::new(self.text(), self.route_match(), action) }
    }

    pub(super) fn route_match(&mut self) -> RouteMatch {
        let path = match self.0.u8(0..5) {
            4 => PathMatch::Regex(Regex::new(self.pick(&["/[0-9]+", "/.*"])).unwrap()),
            0 => PathMatch::Exact(self.text()),
            1 => PathMatch::Prefix(self.text()),
            2 => PathMatch::Connect,
            _ => PathMatch::SegmentPrefix(format!("/{}x", self.text()).into()),
        };
        let query = |random: &mut Self| QueryMatch { name: random.text(), test: random.maybe(Self::string) };
        RouteMatch {
            any_case: self.0.bool(),
            query: self.some(0, query),
            only_grpc: self.0.bool(),
            fraction: self.maybe(Self::share),
            shows_certificate: self.maybe(|random| random.0.bool()),
            is_verified: self.maybe(|random| random.0.bool()),
            ..RouteMatch::new(path, self.some(0, Self::header))
        }
    }

    pub(super) fn header(&mut self) -> HeaderMatch {
        let test = match self.0.u8(0..4) {
            0 => HeaderTest::Present,
            1 => HeaderTest::Range { start: self.0.i64(..), end: self.0.i64(..) },
            2 => HeaderTest::OrMissing(Box::new(HeaderTest::Value(self.string()))),
            _ => HeaderTest::Value(self.string()),
        };
        HeaderMatch { name: self.text(), test, invert: self.0.bool() }
    }

    fn changes(&mut self) -> HeadChanges {
        HeadChanges { request: self.mutations(), response: self.mutations() }
    }

    /// One level at most.
    fn mutations(&mut self) -> Vec<Arc<Mutations>> {
        let change = |random: &mut Self| HeaderChange {
            name: random.field(),
            value: random.value(),
            append: random.pick(&[Append::Add, Append::AddIfAbsent, Append::Set, Append::SetIfPresent]),
            keep_empty: random.0.bool(),
        };
        let level = Mutations { remove: self.some(0, Self::field), add: self.some(0, change) };
        if level.is_empty() { Vec::new() } else { vec![Arc::new(level)] }
    }

    fn redirect(&mut self) -> Redirect {
        Redirect {
            scheme: self.maybe(Self::text),
            host: self.maybe(Self::text),
            port: self.maybe(|random| random.0.u16(1..)),
            path: match self.0.u8(0..4) {
                0 => RedirectPath::Same,
                1 => RedirectPath::Path(self.text()),
                2 => RedirectPath::Rewrite(PathRewrite::Matched(self.text())),
                _ => RedirectPath::Rewrite(PathRewrite::Regex(self.rewrite())),
            },
            strip_query: self.0.bool(),
            keeps_port: false,
            status: self.pick(&[301, 302, 303, 307, 308]),
        }
    }

    fn forward(&mut self, terms: &mut RouteTerms) -> Forward {
        terms.path = match self.0.u8(0..3) {
            0 => Some(PathRewrite::Matched(self.text())),
            1 => Some(PathRewrite::Regex(self.rewrite())),
            _ => None,
        };
        terms.host = match self.0.u8(0..5) {
            0 => Some(HostRewrite::Literal(self.text())),
            1 => Some(HostRewrite::Header(self.text())),
            2 => Some(HostRewrite::Path(self.rewrite())),
            3 => Some(HostRewrite::Endpoint),
            _ => None,
        };
        terms.appends_forwarded_host = self.0.bool();
        terms.random_header = self.maybe(Self::field);
        terms.unknown_cluster_status = self.pick(&[None, Some(404), Some(500)]);
        terms.hash = self.some(0, Self::hash_policy);
        terms.mirrors = self.some(0, Self::mirror);
        terms.subset = self.criteria();
        let cluster =
            |random: &mut Self| WeightedCluster { name: random.text(), weight: random.0.u32(1..100) };
        let mut clusters = self.some(1, cluster);
        if self.0.bool() {
            terms.clusters =
                clusters.iter_mut().map(|cluster| self.terms_of(cluster, &terms.subset)).collect();
            if terms.clusters.iter().all(|terms| *terms == ClusterTerms::default()) {
                terms.clusters.clear();
            }
        }
        Forward { clusters, timeout: self.maybe(Self::time), resilience: self.resilience() }
    }

    fn terms_of(&mut self, cluster: &mut WeightedCluster, route: &[Criterion]) -> ClusterTerms {
        let named_by = self.maybe(Self::field);
        if named_by.is_some() {
            cluster.name = "".into();
        }
        let own = self.criteria();
        let mut all: BTreeMap<_, _> = route.iter().cloned().collect();
        all.extend(own.clone());
        ClusterTerms {
            named_by,
            subset: if own.is_empty() { own } else { all.into_iter().collect() },
            host: self.maybe(Self::text),
            changes: self.changes(),
            filters: Vec::new(),
        }
    }

    fn hash_policy(&mut self) -> HashPolicy {
        let source = match self.0.u8(0..4) {
            0 => HashSource::Header { name: self.text(), rewrite: self.maybe(Self::rewrite) },
            1 => HashSource::Cookie(HashCookie {
                name: self.text(),
                path: self.optional_text(),
                ttl: self.maybe(|random| random.0.u64(0..1000)),
                attributes: self.some(0, |random| (random.text(), random.optional_text())),
            }),
            2 => HashSource::SourceIp,
            _ => HashSource::Query(self.text()),
        };
        HashPolicy { source, terminal: self.0.bool() }
    }

    fn mirror(&mut self) -> Mirror {
        let cluster =
            if self.0.bool() { MirrorTo::Cluster(self.text()) } else { MirrorTo::Header(self.text()) };
        Mirror { cluster, fraction: self.share(), keeps_host: self.0.bool() }
    }

    fn resilience(&mut self) -> Resilience {
        Resilience {
            retry: self.maybe(Self::retry).map(Arc::new),
            idle_timeout: self.maybe(Self::time),
            stream_duration: self.maybe(|random| StreamDuration {
                most: random.maybe(Self::time),
                grpc_most: random.maybe(Self::time),
                grpc_offset: random.maybe(Self::time),
            }),
            grpc_timeout: self
                .maybe(|random| GrpcTimeout { most: random.time(), offset: random.maybe(Self::time) }),
            replay_bytes: self.maybe(|random| random.0.u64(..)),
            ..Resilience::default()
        }
    }

    fn retry(&mut self) -> RetryPolicy {
        let on = RetryOn::NAMES.into_iter().fold(
            RetryOn::NONE,
            |all, (_, on)| {
                if self.0.bool() { all | on } else { all }
            },
        );
        let millis = Duration::from_millis;
        let base = self.0.u64(1..1000);
        let reset = |random: &mut Self| ResetHeader {
            name: random.text(),
            format: random.pick(&[ResetFormat::Seconds, ResetFormat::UnixTimestamp]),
        };
        RetryPolicy {
            on,
            retries: self.0.u32(0..5),
            per_try_timeout: self.maybe(Self::time),
            per_try_idle_timeout: self.maybe(Self::time),
            back_off: self
                .maybe(|random| BackOff { base: millis(base), most: millis(base + random.0.u64(0..1000)) })
                .unwrap_or_default(),
            rate_limited: self
                .maybe(|random| RateLimitedBackOff { headers: random.some(1, reset), most: random.time() }),
            status_codes: self.some(0, |random| random.0.u32(..)),
            response_headers: self.some(0, Self::header),
            request_headers: self.some(0, Self::header),
            avoid: AvoidedHosts {
                previous: self.0.bool(),
                canaries: self.0.bool(),
                metadata: self.criteria(),
            },
            host_attempts: self.0.u32(1..5),
        }
    }
}
