//! Services that speak TLS of their own: how addresses that are no workloads of the mesh are called.
//!
//! Workloads of the mesh are called by mTLS in any case. Source: Gateway API v1, BackendTLSPolicy.

use std::sync::Arc;

use meshwork_model::mesh::{BackendName, BackendTls};
use meshwork_model::proxy::{
    ClientContext, DataSource, SanKind, SanMatch, Sealed, StringMatch, TlsContext, TlsVersion, UpstreamTls,
    Validation, ValidationContext,
};

use super::{Called, Mesh};

/// Where a system keeps the authorities that it trusts. Source: Debian, Alpine, Arch.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS by the policy of a service's port, where it has one. Of several the one for the port counts, then the first by
/// name.
pub(super) fn of(mesh: &Mesh, called: &Called<'_>) -> Option<UpstreamTls> {
    let here = mesh.config.backend_tls.iter().filter(|(key, _)| key.namespace == called.key.namespace);
    let level = |policy: &BackendTls| {
        let of_service = policy.targets.iter().filter(|(name, _)| *name == called.key.name);
        let levels = of_service.filter_map(|(_, section)| match section {
            Some(port) if *port == called.port.name => Some(0),
            Some(_) => None,
            None => Some(1),
        });
        levels.min()
    };
    let acting = here.filter_map(|(key, policy)| Some((level(policy)?, key, policy)));
    let (.., policy) = acting.min_by_key(|(level, key, _)| (*level, *key))?;
    Some(UpstreamTls::Context(Arc::new(context(mesh, policy))))
}

fn context(mesh: &Mesh, policy: &BackendTls) -> ClientContext {
    let trusted_ca = match &policy.authorities {
        None => DataSource::File(SYSTEM_ROOTS.into()),
        // Where there is none, nobody is trusted.
        Some(key) => {
            let known = mesh.config.authorities.get(key).map(|pem| pem.as_bytes().to_vec());
            DataSource::Inline(Sealed::new(known.unwrap_or_default()))
        }
    };
    let name = |name: &BackendName| match name {
        BackendName::Host(host) => san(SanKind::Dns, host),
        BackendName::Uri(uri) => san(SanKind::Uri, uri),
    };
    let names = match &policy.names[..] {
        [] => vec![san(SanKind::Dns, &policy.hostname)],
        names => names.iter().map(name).collect(),
    };
    under(trusted_ca, names, &policy.hostname)
}

/// TLS with a host that has to prove its name to what the proxy's system trusts.
pub(crate) fn under_system_roots(host: &Arc<str>) -> ClientContext {
    under(DataSource::File(SYSTEM_ROOTS.into()), vec![san(SanKind::Dns, host)], host)
}

fn under(trusted_ca: DataSource, names: Vec<SanMatch>, host: &Arc<str>) -> ClientContext {
    let fixed = ValidationContext { trusted_ca: Some(trusted_ca), names, ..ValidationContext::default() };
    let common = TlsContext {
        certificates: Vec::new(),
        validation: Some(Validation { fixed: Arc::new(fixed), secret: None }),
        alpn: Vec::new(),
        versions: (TlsVersion::Tls12, TlsVersion::Tls13),
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    };
    ClientContext { common, sni: Arc::clone(host), auto_host_sni: false, validates_sni: false }
}

fn san(kind: SanKind, name: &Arc<str>) -> SanMatch {
    SanMatch { kind: Some(kind), test: StringMatch::Exact(Arc::clone(name)) }
}
