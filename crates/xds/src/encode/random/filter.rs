//! Random HTTP filters.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{
    AbortBy, AuthBody, AuthHttp, AuthService, CheckSettings, CorsPolicy, DelayBy, ExtAuthz, Fault,
    FaultAbort, FaultDelay, HealthCheckFilter, HttpFilter, HttpFilterKind, HttpRbac, JwtAuthentication,
    JwtKeys, JwtProvider, JwtRequirement, JwtRule, LocalRateLimit, RemoteKeys, RouteFilter, RouteFilterKind,
    RouteJwt, TokenBucket, TokenPlace,
};

use super::{DEPTH, Plain, Random};

impl Random {
    /// In the one order.
    pub(super) fn http_filters(&mut self) -> Vec<HttpFilter> {
        let mut filters = self.some(0, Self::http_filter);
        filters.sort_by_key(|filter| filter.kind.place());
        filters
    }

    fn http_filter(&mut self) -> HttpFilter {
        let kind = match self.0.u8(0..8) {
            0 => HttpFilterKind::Fault(self.fault()),
            1 => HttpFilterKind::Cors,
            2 => HttpFilterKind::Jwt(Arc::new(self.jwt())),
            3 => HttpFilterKind::Rbac(self.http_rbac()),
            4 => HttpFilterKind::ExtAuthz(Arc::new(self.ext_authz())),
            5 => {
                let bucket = self.maybe(Self::bucket);
                HttpFilterKind::LocalRateLimit(self.limit(bucket))
            }
            6 => HttpFilterKind::HealthCheck(Arc::new(self.health_filter())),
            _ => HttpFilterKind::Buffer(self.0.u32(1..)),
        };
        HttpFilter { name: self.text(), disabled: self.0.bool(), kind }
    }

    pub(super) fn route_filters(&mut self) -> Vec<RouteFilter> {
        if self.0.bool() {
            return Vec::new();
        }
        self.sorted(Self::route_filter, |filter| Arc::clone(&filter.name))
    }

    fn route_filter(&mut self) -> RouteFilter {
        let kind = match self.0.u8(0..8) {
            0 => RouteFilterKind::Fault(self.fault()),
            1 => RouteFilterKind::Cors(Arc::new(self.cors())),
            2 => RouteFilterKind::Jwt(self.maybe(Self::text).map_or(RouteJwt::Off, RouteJwt::Named)),
            3 => RouteFilterKind::Rbac(self.http_rbac()),
            4 => RouteFilterKind::ExtAuthz(CheckSettings {
                extensions: self
                    .sorted(|random| (random.text(), random.optional_text()), |pair| Arc::clone(&pair.0)),
                without_body: self.0.bool(),
            }),
            5 => {
                let bucket = self.bucket();
                RouteFilterKind::LocalRateLimit(self.limit(Some(bucket)))
            }
            6 => RouteFilterKind::Buffer(self.0.u32(1..)),
            _ => return RouteFilter { name: self.text(), disabled: true, kind: None },
        };
        RouteFilter { name: self.text(), disabled: false, kind: Some(kind) }
    }

    fn fault(&mut self) -> Arc<Fault> {
        let delay = |random: &mut Self| FaultDelay {
            by: random.maybe(Self::time).map_or(DelayBy::Header, DelayBy::Fixed),
            share: random.share(),
        };
        let abort = |random: &mut Self| FaultAbort {
            by: match random.0.u8(0..3) {
                0 => AbortBy::Http(random.0.u16(200..600)),
                1 => AbortBy::Grpc(random.0.u32(..)),
                _ => AbortBy::Header,
            },
            share: random.share(),
            body: random.maybe(Self::text),
        };
        Arc::new(Fault {
            delay: self.maybe(delay),
            abort: self.maybe(abort),
            upstream_cluster: self.optional_text(),
            headers: self.some(0, Self::header),
            downstream_nodes: self.some(0, Self::text),
            max_active: self.maybe(|random| random.0.u32(..)),
        })
    }

    fn cors(&mut self) -> CorsPolicy {
        let never = Fraction { numerator: 0, denominator: 100 };
        CorsPolicy {
            allow_origins: self.some(0, Self::string),
            allow_methods: self.optional_text(),
            allow_headers: self.optional_text(),
            expose_headers: self.optional_text(),
            max_age: self.optional_text(),
            allow_credentials: self.maybe(|random| random.0.bool()),
            allow_private_network: self.maybe(|random| random.0.bool()),
            forward_others: self.maybe(|random| random.0.bool()),
            enabled: self.maybe(Self::share).unwrap_or(Fraction::ALL),
            shadow: self.maybe(Self::share).unwrap_or(never),
        }
    }

    fn http_rbac(&mut self) -> HttpRbac {
        HttpRbac {
            rules: self.maybe(Self::rbac).map(Arc::new),
            shadow: self.maybe(Self::rbac).map(Arc::new),
            shadow_prefix: self.optional_text(),
        }
    }

    fn failure(&mut self) -> u16 {
        if self.1 == Plain::Yes { self.pick(&[403, 429, 499, 503]) } else { self.0.u16(400..600) }
    }

    fn bucket(&mut self) -> TokenBucket {
        let tokens = f64::from(self.0.u32(1..1000));
        let interval = self.pick(&[0.1, 1.0, 60.0, 3600.0]);
        TokenBucket { most: self.0.u32(1..), per_second: tokens / interval }
    }

    fn limit(&mut self, bucket: Option<TokenBucket>) -> Arc<LocalRateLimit> {
        Arc::new(LocalRateLimit {
            status: self.failure(),
            bucket,
            descriptors: Vec::new(),
            enabled: self.share(),
            enforced: self.share(),
            per_connection: self.0.bool(),
            always_consume_default: self.0.bool(),
            tells: self.0.bool(),
            resource_exhausted: self.0.bool(),
        })
    }

    fn health_filter(&mut self) -> HealthCheckFilter {
        let pass_through = self.0.bool();
        HealthCheckFilter {
            pass_through,
            cache: if pass_through { self.maybe(Self::time) } else { None },
            headers: self.some(0, Self::header),
            least_healthy: self
                .sorted(|random| (random.text(), random.0.f64() * 100.0), |pair| Arc::clone(&pair.0)),
        }
    }

    fn ext_authz(&mut self) -> ExtAuthz {
        let service = if self.0.bool() {
            AuthService::Grpc { cluster: self.text(), authority: self.maybe(Self::text) }
        } else {
            AuthService::Http(AuthHttp {
                cluster: format!("outbound|80||{}", self.host_name()).into(),
                path_prefix: self.pick(&["", "/check"]).into(),
                headers_to_add: self.some(0, |random| (random.field(), random.text())),
                upstream: self.some(0, Self::string),
                upstream_append: self.some(0, Self::string),
                client: self.some(0, Self::string),
                client_on_success: self.some(0, Self::string),
            })
        };
        ExtAuthz {
            service,
            timeout: self.time(),
            failure_mode_allow: self.0.bool(),
            failure_mode_allow_header: self.0.bool(),
            status_on_error: self.failure(),
            body: self.maybe(|random| AuthBody {
                most: random.0.u32(1..),
                is_part_enough: random.0.bool(),
                as_bytes: random.0.bool(),
            }),
            enabled: self.maybe(Self::share).unwrap_or(Fraction::ALL),
            enabled_metadata: self.maybe(Self::metadata_match),
            deny_at_disable: self.0.bool(),
            allowed_headers: self.maybe(|random| random.some(0, Self::string)),
            disallowed_headers: self.some(0, Self::string),
            metadata_namespaces: self.some(0, Self::text),
            include_certificate: self.0.bool(),
            include_session: self.0.bool(),
        }
    }

    fn jwt(&mut self) -> JwtAuthentication {
        let providers = self.sorted(|random| Arc::new(random.provider()), |found| Arc::clone(&found.name));
        let count = providers.len();
        let rule = |random: &mut Self| JwtRule {
            matches: random.route_match(),
            requires: random.maybe(|random| random.requirement(count, DEPTH)),
        };
        JwtAuthentication {
            rules: self.some(0, rule),
            named: self.sorted(
                |random| (random.text(), random.requirement(count, DEPTH)),
                |pair| Arc::clone(&pair.0),
            ),
            bypass_cors_preflight: self.0.bool(),
            strip_failure_response: self.0.bool(),
            providers,
        }
    }

    fn requirement(&mut self, providers: usize, depth: usize) -> JwtRequirement {
        match self.0.u8(if depth == 0 { 2..5 } else { 0..5 }) {
            0 => JwtRequirement::Any(self.some(2, |random| random.requirement(providers, depth - 1))),
            1 => JwtRequirement::All(self.some(2, |random| random.requirement(providers, depth - 1))),
            2 if providers > 0 => JwtRequirement::Provider {
                provider: self.0.usize(0..providers),
                audiences: self.maybe(|random| random.some(1, Self::text)),
            },
            3 => JwtRequirement::AllowMissing,
            _ => JwtRequirement::AllowMissingOrFailed,
        }
    }

    fn provider(&mut self) -> JwtProvider {
        let mut places =
            self.some(0, |random| TokenPlace::Header { name: random.text(), prefix: random.optional_text() });
        places.extend(self.some(0, |random| TokenPlace::Param(random.text())));
        places.extend(self.some(0, |random| TokenPlace::Cookie(random.text())));
        JwtProvider {
            name: self.text(),
            issuer: self.maybe(Self::text),
            audiences: self.some(0, Self::text),
            subjects: self.maybe(Self::string),
            require_expiration: self.0.bool(),
            max_lifetime: self.maybe(Self::time),
            clock_skew_seconds: self.0.u32(1..),
            keys: match self.0.u8(0..3) {
                _ if self.1 == Plain::Yes => JwtKeys::Remote(self.remote_keys()),
                0 => JwtKeys::Inline(self.text()),
                1 => JwtKeys::File(self.text()),
                _ => JwtKeys::Remote(self.remote_keys()),
            },
            places,
            forward: self.0.bool(),
            payload_header: self.maybe(Self::text),
            pad_payload_header: self.0.bool(),
            claim_headers: self.some(0, |random| (random.text(), random.some(1, Self::text))),
            payload_in_metadata: self.maybe(Self::text),
            header_in_metadata: self.maybe(Self::text),
        }
    }

    fn remote_keys(&mut self) -> RemoteKeys {
        let retries = self.0.u32(0..3);
        RemoteKeys {
            cluster: self.text(),
            authority: "keys.example.com:8080".into(),
            path: self.pick(&["/", "/keys?a=b"]).into(),
            timeout: self.time(),
            cache: self.time(),
            retries,
            retry_pause: if retries == 0 { Duration::from_secs(1) } else { self.time() },
        }
    }
}
