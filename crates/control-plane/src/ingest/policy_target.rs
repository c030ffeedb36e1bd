//! What a policy acts on: `selector`, or `targetRefs`. Source: Istio `PolicyTargetReference`.

use meshwork_model::mesh::{Key, Labels, PolicyTarget};
use meshwork_model::problem::Code;

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{Reference, Referred};

/// The most targets of one policy. Source: Istio, `targetRefs`.
const MAX_TARGETS: usize = 16;
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// What a policy acts on: workloads by labels, unless it names targets.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    pub(crate) selector: Labels,
    pub(crate) targets: Vec<PolicyTarget>,
}

/// Reads `selector`, `targetRefs` and the older `targetRef`.
pub(crate) fn attached(
    spec: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<Attached> {
    let selects = spec.optional("selector").is_some();
    let selector = selector(spec, report);
    let path = spec.path_of("targetRefs");
    let mut items: Vec<Item<'_>> = spec.optional("targetRef").into_iter().collect();
    items.extend(spec.list(report, "targetRefs").unwrap_or_default());
    if items.len() > MAX_TARGETS {
        let message = format!("a policy has at most {MAX_TARGETS} targets");
        report.error_of(Code::OverLimit, &path, spec.place(), message, "");
        return None;
    }
    if selects && !items.is_empty() {
        let message = "a policy has a selector or targets, not both";
        report.error_of(Code::Conflict, &path, spec.place(), message, "Leave one of them out");
        return None;
    }
    let targets: Vec<Option<PolicyTarget>> =
        items.iter().map(|item| target(item, metadata, report, references)).collect();
    Some(Attached { selector: selector?, targets: targets.into_iter().collect::<Option<_>>()? })
}

fn target(
    item: &Item<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<PolicyTarget> {
    let mut fields = item.fields(report)?;
    let group = fields.text(report, "group").map_or("", |group| group.value);
    let kind = fields.required_text(report, "kind");
    let name = fields.required_text(report, "name");
    let namespace = fields.text(report, "namespace");
    fields.close(report);
    let (kind, name) = (kind?, name?);
    if let Some(other) = namespace.filter(|other| *other.value != *metadata.key.namespace) {
        other.error(report, "a policy acts on its own namespace", "Leave it out");
        return None;
    }
    match (group, kind.value) {
        ("" | "core", "Service") => {
            let service = Key::new(metadata.key.namespace.clone(), name.value);
            references.push(Reference::new(report, item, Referred::PolicyTarget(service)));
            Some(PolicyTarget::Service(name.value.into()))
        }
        (GATEWAY_GROUP, "Gateway") => Some(PolicyTarget::Gateway(name.value.into())),
        (group, other) => {
            let what = if group.is_empty() { other.to_owned() } else { format!("{group}/{other}") };
            let fix = format!("Name a Service (group \"\"), or a Gateway (group {GATEWAY_GROUP})");
            let message = format!("a policy for a {what} is not supported yet");
            kind.error_of(Code::Unsupported, report, message, fix);
            None
        }
    }
}

/// Reads `selector.matchLabels`; absent or empty selects every workload of the namespace.
pub(crate) fn selector(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Labels> {
    let Some(item) = spec.optional("selector") else { return Some(Labels::new()) };
    let mut fields = item.fields(report)?;
    let labels = fields.labels(report, "matchLabels").unwrap_or_default();
    fields.close(report);
    Some(labels)
}
