//! BackendTLSPolicy: TLS of services that speak it themselves. Source: Gateway API v1.

use std::sync::Arc;

use meshwork_model::mesh::{BackendName, BackendTls, Key};

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{Reference, Referred};
use super::route::{is_hostname, limited};

/// The most targets, and names. Source: Gateway API.
const MAX_TARGETS: usize = 16;
const MAX_NAMES: usize = 5;
const MAX_AUTHORITIES: usize = 8;

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<BackendTls> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let mut targets = Vec::new();
    if spec.required(report, "targetRefs").is_some() {
        for item in limited(&mut spec, report, "targetRefs", MAX_TARGETS) {
            targets.extend(target(&item, metadata, report, references));
        }
    }
    let item = spec.required(report, "validation");
    let validation =
        item.and_then(|item| item.fields(report)).and_then(|fields| validation(fields, metadata, report));
    spec.not_yet(report, &["options"], "");
    spec.close(report);
    let (hostname, names, authorities) = validation?;
    Some(BackendTls { targets, hostname, names, authorities })
}

fn target(
    item: &Item<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<(Arc<str>, Option<Arc<str>>)> {
    let mut fields = item.fields(report)?;
    let group = fields.text(report, "group").map_or("", |text| text.value);
    let kind = fields.required_text(report, "kind")?;
    let name = fields.required_text(report, "name");
    let section = fields.text(report, "sectionName").map(|text| text.value.into());
    fields.close(report);
    let name = name?;
    if !matches!(group, "" | "core") || kind.value != "Service" {
        kind.error(report, "such a policy is for a Service", "Write `group: \"\"` and `kind: Service`");
        return None;
    }
    let service = Key::new(Arc::clone(&metadata.key.namespace), name.value);
    references.push(Reference::new(report, item, Referred::PolicyTarget(service)));
    Some((name.value.into(), section))
}

type Validation = (Arc<str>, Vec<BackendName>, Option<Key>);

fn validation(mut fields: Fields<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Validation> {
    let hostname = fields.required_text(report, "hostname");
    let authorities = authorities(&mut fields, metadata, report);
    let mut names = Vec::new();
    for item in limited(&mut fields, report, "subjectAltNames", MAX_NAMES) {
        names.extend(name(&item, report));
    }
    fields.close(report);
    let hostname = hostname?;
    let name = hostname.value.to_ascii_lowercase();
    if !is_hostname(&name) {
        hostname.error(report, format!("\"{}\" is not a hostname", hostname.value), "");
        return None;
    }
    Some((name.into(), names, authorities.ok()?))
}

/// What is wrong, and was reported.
struct Wrong;

/// Who is trusted: a ConfigMap, or what the gateway's system trusts.
fn authorities(
    fields: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Result<Option<Key>, Wrong> {
    let known = fields.text(report, "wellKnownCACertificates");
    let path = fields.path_of("caCertificateRefs");
    let items = limited(fields, report, "caCertificateRefs", MAX_AUTHORITIES);
    match (known, &items[..]) {
        (Some(text), []) => text.one_of(report, &[("System", ())], &[]).map(|()| None).ok_or(Wrong),
        (None, [item]) => authority(item, metadata, report).map(Some).ok_or(Wrong),
        (None, [_, more, ..]) => {
            let message = "several references are not supported yet";
            report.error(&more.path, more.node.place, message, "Put all certificates into one ConfigMap");
            Err(Wrong)
        }
        (None, []) | (Some(_), [..]) => {
            let message =
                "exactly one of `caCertificateRefs` and `wellKnownCACertificates` says who is trusted";
            report.error(&path, fields.place(), message, "");
            Err(Wrong)
        }
    }
}

fn authority(item: &Item<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Key> {
    let mut fields = item.fields(report)?;
    let group = fields.text(report, "group").map_or("", |text| text.value);
    let kind = fields.required_text(report, "kind")?;
    let name = fields.required_text(report, "name");
    fields.close(report);
    if !group.is_empty() || kind.value != "ConfigMap" {
        kind.error(report, "authorities are in a ConfigMap", "Write `group: \"\"` and `kind: ConfigMap`");
        return None;
    }
    Some(Key::new(Arc::clone(&metadata.key.namespace), name?.value))
}

fn name(item: &Item<'_>, report: &mut Report<'_>) -> Option<BackendName> {
    let mut fields = item.fields(report)?;
    let kind = fields.required_text(report, "type")?;
    let host = fields.text(report, "hostname");
    let uri = fields.text(report, "uri");
    fields.close(report);
    match (kind.value, host, uri) {
        ("Hostname", Some(host), None) => Some(BackendName::Host(host.value.to_ascii_lowercase().into())),
        ("URI", None, Some(uri)) => Some(BackendName::Uri(uri.value.into())),
        _ => {
            let fix = "Write `type: Hostname` with `hostname`, or `type: URI` with `uri`";
            kind.error(report, "the type and the name do not fit", fix);
            None
        }
    }
}
