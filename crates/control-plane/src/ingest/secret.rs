//! Secret and ConfigMap: certificates. Source: Kubernetes `v1`.
//!
//! A private key has no place in the control plane: what it is told it stores, shows and copies. Gateways read theirs from
//! a folder of their own.

use std::sync::Arc;

use super::reader::{Fields, Report};

/// The key of a ConfigMap under which authorities are. Source: Gateway API, `caCertificateRefs`.
const AUTHORITIES: &str = "ca.crt";
/// The type of a Secret with a certificate and its key.
const TLS: &str = "kubernetes.io/tls";
const KEY: &str = "tls.key";

/// Reads a ConfigMap: the certificates of authorities, where it has some.
pub(crate) fn read_config_map(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let mut data = root.labels(report, "data").unwrap_or_default();
    root.skip(&["binaryData", "immutable"]);
    data.remove(AUTHORITIES).map(Into::into)
}

/// Looks at a Secret: its key is refused, and the rest is for others.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) {
    root.text(report, "type");
    root.skip(&["immutable"]);
    for name in ["data", "stringData"] {
        let Some(item) = root.optional(name) else { continue };
        let Some(data) = item.fields(report) else { continue };
        for (key, item) in data.each(report).iter().filter(|(key, _)| key.value == KEY) {
            let message = "a private key has no place in the control plane";
            let fix = format!(
                "Put it and its certificate into the gateway's own folder, as NAMESPACE/NAME/{KEY} and tls.crt \
                 (`meshwork gateway --certificates`), and leave this {TLS} Secret out"
            );
            report.error(&item.path, key.place, message, fix);
        }
    }
}
