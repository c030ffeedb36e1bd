//! `metadata`: which resource this is. Source: Kubernetes `ObjectMeta`.

use std::sync::Arc;

use meshwork_model::mesh::{Key, Labels};
use meshwork_model::problem::Place;

use super::reader::{Fields, Report, Text};
use super::recording;

/// A resource's identity within its kind.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) key: Key,
    /// Where the name stands.
    pub(crate) place: Place,
    /// When it was made, in seconds since 1970, where it says so.
    pub(crate) created: Option<u64>,
    /// What is noted beside it.
    pub(crate) annotations: Labels,
}

impl Metadata {
    /// Of a resource that is only asked what it could have.
    pub(crate) fn of_anything() -> Self {
        let place = recording::anything().place;
        Self { key: Key::new("a", "a"), place, created: None, annotations: Labels::new() }
    }
}

/// What only informs, or what a cluster wrote: files exported from one carry it.
const INFORMATIVE: &[&str] = &[
    "annotations",
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
pub(super) const DEFAULT_NAMESPACE: &str = "default";

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
    let created = created(&mut fields, report);
    let annotations = fields.labels(report, "annotations").unwrap_or_default();
    fields.skip(INFORMATIVE);
    fields.close(report);
    let name = name?;
    Some(Metadata { key: Key::new(namespace?, name.value), place: name.place, created, annotations })
}

/// Reads `metadata` of a resource without a namespace: its name,
/// and its labels.
pub(crate) fn read_global(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<(Arc<str>, Labels)> {
    let mut fields = root.required(report, "metadata")?.fields(report)?;
    let name = fields.required_text(report, "name").filter(|name| check(name, report));
    created(&mut fields, report);
    let labels = fields.labels(report, "labels").unwrap_or_default();
    fields.skip(INFORMATIVE);
    fields.close(report);
    Some((name?.value.into(), labels))
}

fn created(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<u64> {
    let text = fields.text(report, "creationTimestamp")?;
    let seconds = seconds_of(text.value);
    if seconds.is_none() {
        let message = format!("\"{}\" is not a time", text.value);
        text.error(report, message, "Write it as 2026-11-29T00:00:00Z, or leave it out");
    }
    seconds
}

/// Seconds since 1970 of a time in UTC, as Kubernetes writes it. Source: RFC 3339.
fn seconds_of(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time.split('.').next()?, ':')?;
    let good = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !good {
        return None;
    }
    // The year begins in March, so that the leap day is its last. Source: H. Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms", `days_from_civil`.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)?;
    Some(since_1970 * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Three numbers of digits alone.
fn numbers(text: &str, between: char) -> Option<[u64; 3]> {
    let number = |part: &str| {
        let digits = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok())?
    };
    let mut parts = text.split(between).map(number);
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(seconds_of(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("1970-03-01T00:00:01Z", Some(59 * 86_400 + 1));
        check("2000-02-29T12:00:00Z", Some(951_825_600));
        check("2026-11-29T00:00:00.5Z", Some(1_795_910_400));
        check("2026-11-29", None);
        check("2026-13-29T00:00:00Z", None);
        check("2026-11-29T00:00:00+01:00", None);
        check("1969-12-31T23:59:59Z", None);
    }
}
