//! `metadata`: which resource this is. Source: Kubernetes `ObjectMeta`.

use meshwork_model::mesh::Key;
use meshwork_model::problem::Place;

use super::reader::{Fields, Report, Text};

/// A resource's identity within its kind.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) key: Key,
    /// Where the name stands.
    pub(crate) place: Place,
}

/// What only informs, or what a cluster wrote: files exported from one carry it.
const INFORMATIVE: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "finalizers",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The namespace of resources that name none, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

/// The longest label of a DNS name. Source: RFC 1123.
const MAX_LABEL_BYTES: usize = 63;
/// The longest DNS name.
const MAX_NAME_BYTES: usize = 253;

/// Reads `metadata` of a resource with a namespace.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Metadata> {
    let mut fields = root.required(report, "metadata")?.fields(report)?;
    let name = fields.required_text(report, "name").filter(|n| check(n, report));
    let namespace = match fields.text(report, "namespace") {
        Some(text) if is_label(text.value) => Some(text.value),
        Some(text) => {
            refuse(&text, report);
            None
        }
        None => Some(DEFAULT_NAMESPACE),
    };
    fields.skip(INFORMATIVE);
    fields.close(report);
    let name = name?;
    Some(Metadata { key: Key::new(namespace?, name.value), place: name.place })
}

/// Reads `metadata` of a resource without a namespace: its name.
pub(crate) fn read_global(root: &mut Fields<'_>, report: &mut Report<'_>) {
    let Some(item) = root.required(report, "metadata") else { return };
    let Some(mut fields) = item.fields(report) else { return };
    if let Some(name) = fields.required_text(report, "name") {
        check(&name, report);
    }
    fields.skip(INFORMATIVE);
    fields.close(report);
}

fn check(name: &Text<'_>, report: &mut Report<'_>) -> bool {
    let good = name.value.len() <= MAX_NAME_BYTES && name.value.split('.').all(is_label);
    if !good {
        refuse(name, report);
    }
    good
}

fn refuse(text: &Text<'_>, report: &mut Report<'_>) {
    let fix = "Use a-z, 0-9 and '-', with a letter or digit at both ends";
    text.error(report, format!("\"{}\" is not a name", text.value), fix);
}

/// Whether a text is a label of a DNS name, as Kubernetes wants it.
pub(crate) fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= MAX_LABEL_BYTES
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
