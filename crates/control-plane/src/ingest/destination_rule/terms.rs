//! `connectionPool`, `outlierDetection` and `tls`. Source: Istio `ConnectionPoolSettings`, `OutlierDetection`,
//! `ClientTLSSettings`; `applyConnectionPool` and `applyOutlierDetection` for what they mean to Envoy.

use std::sync::Arc;

use meshwork_model::mesh::{OutlierTerms, PoolTerms};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{
    CertificateSource, ClientContext, DataSource, Enforced, Keepalive, OutlierDetection, SanMatch,
    StringMatch, TlsCertificate, TlsContext, TlsVersion, Validation, ValidationContext,
};

use crate::ingest::istio::{at_most, duration};
use crate::ingest::reader::{Fields, Report};

/// Where the authorities that a system trusts are, on Debian, Alpine and their like.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The most names of which a server proves one.
const MAX_NAMES: usize = 100;

/// A number that Envoy takes, 0 being none.
fn count(fields: &mut Fields<'_>, report: &mut Report<'_>, name: &'static str) -> Option<u32> {
    let count = fields.integer(report, name, 0..=i64::from(i32::MAX))?;
    u32::try_from(count).ok().filter(|count| *count > 0)
}

/// Reads `connectionPool`.
pub(super) fn pool(mut fields: Fields<'_>, report: &mut Report<'_>) -> PoolTerms {
    let mut pool = PoolTerms::default();
    if let Some(mut tcp) = fields.mapping(report, "tcp") {
        pool.connections = count(&mut tcp, report, "maxConnections");
        pool.connect_timeout = duration(&mut tcp, report, "connectTimeout");
        pool.lifetime = duration(&mut tcp, report, "maxConnectionDuration");
        pool.bytes_idle_timeout = duration(&mut tcp, report, "idleTimeout");
        if let Some(mut keepalive) = tcp.mapping(report, "tcpKeepalive") {
            pool.keepalive = Some(Keepalive {
                probes: count(&mut keepalive, report, "probes"),
                after: duration(&mut keepalive, report, "time"),
                interval: duration(&mut keepalive, report, "interval"),
            });
            keepalive.close(report);
        }
        tcp.close(report);
    }
    if let Some(mut http) = fields.mapping(report, "http") {
        pool.pending = count(&mut http, report, "http1MaxPendingRequests");
        pool.requests = count(&mut http, report, "http2MaxRequests");
        pool.requests_per_connection = count(&mut http, report, "maxRequestsPerConnection");
        pool.retries = count(&mut http, report, "maxRetries");
        pool.idle_timeout = duration(&mut http, report, "idleTimeout");
        pool.streams = count(&mut http, report, "maxConcurrentStreams");
        if let Some(item) = http.optional("maxConcurrentStreams") {
            let message = "only Envoy holds to this: our own proxy and gRPC take what the endpoint allows";
            report.warning(&item.path, item.node.place, message, "");
        }
        if let Some(text) = http.text(report, "h2UpgradePolicy") {
            let policies = [("DEFAULT", false), ("DO_NOT_UPGRADE", false), ("UPGRADE", true)];
            if text.one_of(report, &policies, &[]) == Some(true) {
                let message = "requests are not carried over HTTP/2 that came over HTTP/1.1";
                report.warning(&text.path, text.place, message, "Name the service's port `http2`");
            }
        }
        if http.boolean(report, "useClientProtocol") == Some(true) {
            let message = "what is spoken with a service is what its port says";
            let path = http.path_of("useClientProtocol");
            report.warning(&path, http.place_of("useClientProtocol"), message, "Leave it out");
        }
        http.close(report);
    }
    fields.close(report);
    pool.idle_timeout = pool.idle_timeout.or(pool.bytes_idle_timeout);
    pool
}

/// Reads `outlierDetection`. Rates are never looked at: Istio has no words for them.
pub(super) fn outliers(mut fields: Fields<'_>, report: &mut Report<'_>) -> OutlierTerms {
    let mut detection = OutlierDetection::default();
    detection.success_rate.enforcing = 0;
    let errors = |fields: &mut Fields<'_>, report: &mut Report<'_>, name| {
        let count = fields.integer(report, name, 0..=i64::from(i32::MAX))?;
        let count = u32::try_from(count).ok()?;
        Some(Enforced { count, enforcing: if count > 0 { 100 } else { 0 } })
    };
    let older = errors(&mut fields, report, "consecutiveErrors");
    if let Some(enforced) = errors(&mut fields, report, "consecutiveGatewayErrors").or(older) {
        detection.consecutive_gateway = enforced;
    }
    if let Some(enforced) = errors(&mut fields, report, "consecutive5xxErrors") {
        detection.consecutive_5xx = enforced;
    }
    detection.split_local = fields.boolean(report, "splitExternalLocalOriginErrors").unwrap_or(false);
    let local = errors(&mut fields, report, "consecutiveLocalOriginFailures");
    if detection.split_local {
        detection.success_rate.enforcing_local = 0;
        if let Some(enforced) = local.filter(|enforced| enforced.count > 0) {
            detection.consecutive_local = enforced;
        }
    } else if local.is_some() {
        let path = fields.path_of("consecutiveLocalOriginFailures");
        let message =
            "failures to connect count as responses do: `splitExternalLocalOriginErrors` is not set";
        let place = fields.place_of("consecutiveLocalOriginFailures");
        report.warning(&path, place, message, "Set it to true");
    }
    if let Some(interval) = duration(&mut fields, report, "interval") {
        detection.interval = interval;
    }
    if let Some(ejection) = duration(&mut fields, report, "baseEjectionTime") {
        detection.base_ejection = ejection;
        detection.max_ejection = detection.max_ejection.max(ejection);
    }
    let percent = |fields: &mut Fields<'_>, report: &mut Report<'_>, name| {
        fields.integer(report, name, 0..=100).and_then(|n| u32::try_from(n).ok())
    };
    if let Some(most) = percent(&mut fields, report, "maxEjectionPercent").filter(|most| *most > 0) {
        detection.max_ejection_percent = most;
    }
    let least_healthy_percent = percent(&mut fields, report, "minHealthPercent").unwrap_or(0);
    fields.close(report);
    OutlierTerms { detection: Arc::new(detection), least_healthy_percent }
}

/// Reads what `tls` says besides its mode; `None` where the proxy could not do it.
pub(super) fn client_context(
    fields: &mut Fields<'_>,
    is_mutual: bool,
    report: &mut Report<'_>,
) -> Option<ClientContext> {
    let file = |text: &str| DataSource::File(text.into());
    let ca = fields.text(report, "caCertificates").map(|text| text.value);
    let ca = ca.filter(|path| *path != "system").unwrap_or(SYSTEM_CA);
    let chain = fields.text(report, "clientCertificate");
    let key = fields.text(report, "privateKey");
    let sni = fields.text(report, "sni").map_or("", |text| text.value);
    let items = fields.list(report, "subjectAltNames").unwrap_or_default();
    at_most(&items, MAX_NAMES, report);
    let names = items.iter().take(MAX_NAMES).filter_map(|item| item.text(report));
    let names: Vec<SanMatch> =
        names.map(|text| SanMatch { kind: None, test: StringMatch::Exact(text.value.into()) }).collect();
    fields.not_yet(
        report,
        &["credentialName", "caCrl"],
        "Name files: `caCertificates`, `clientCertificate`, `privateKey`",
    );
    if fields.boolean(report, "insecureSkipVerify") == Some(true) {
        let path = fields.path_of("insecureSkipVerify");
        let message = "a server that proves nothing is not called";
        report.error_of(
            Code::Unsupported,
            &path,
            fields.place_of("insecureSkipVerify"),
            message,
            "Name its authority by `caCertificates`",
        );
    }
    let mut certificates = Vec::new();
    if is_mutual {
        let (Some(chain), Some(key)) = (chain, key) else {
            let message = "MUTUAL asks for `clientCertificate` and `privateKey`";
            report.error_of(
                Code::MissingField,
                &fields.path_of("mode"),
                fields.place_of("mode"),
                message,
                "",
            );
            return None;
        };
        let (chain, key) = (file(chain.value), file(key.value));
        certificates.push(CertificateSource::Inline(Arc::new(TlsCertificate {
            chain,
            key,
            is_watched: false,
        })));
    }
    let validates_sni = names.is_empty();
    let trusted_ca = Some(file(ca));
    let fixed = Arc::new(ValidationContext { trusted_ca, names, ..ValidationContext::default() });
    Some(ClientContext {
        common: TlsContext {
            certificates,
            validation: Some(Validation { fixed, secret: None }),
            alpn: Vec::new(),
            versions: (TlsVersion::Tls12, TlsVersion::Tls13),
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        },
        sni: sni.into(),
        auto_host_sni: false,
        validates_sni,
    })
}
