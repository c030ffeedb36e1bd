//! What Istio's traffic kinds have in common: hosts, durations, string matches, shares, `exportTo`. Source: Istio
//! `networking.istio.io/v1`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::format::Template;
use meshwork_model::fraction::Fraction;
use meshwork_model::mesh::{Export, FieldChanges, HeaderChanges, Key, Target};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{StringMatch, ZONE};
use meshwork_model::regex::Regex;

use super::reader::{Fields, Item, Report, Text};
use super::route::is_token;

/// The most header changes of one kind; each costs every request.
const MAX_CHANGES: usize = 64;

/// What a host's name stands for, to a resource of a namespace: a name without a dot is a service beside it. Source:
/// Istio `ResolveShortnameToFQDN`.
pub(crate) fn target(name: &str, namespace: &Arc<str>) -> Target {
    let name = name.to_ascii_lowercase();
    if !name.contains('.') {
        return Target::Service(Key::new(Arc::clone(namespace), name));
    }
    let of_mesh = name.strip_suffix(ZONE).and_then(|rest| rest.strip_suffix(".svc."));
    match of_mesh.or_else(|| name.strip_suffix(".svc")).and_then(|short| short.split_once('.')) {
        Some((service, namespace)) if !namespace.contains('.') => {
            Target::Service(Key::new(namespace, service))
        }
        _ => Target::Host(name.into()),
    }
}

/// The full name of what is called.
pub(crate) fn full_name(target: &Target) -> String {
    match target {
        Target::Service(key) | Target::Gateway(key) => format!("{}.{}.svc.{ZONE}", key.name, key.namespace),
        Target::Host(host) | Target::Unknown(host) => host.to_string(),
    }
}

/// Reads `exportTo`. Nothing said is everywhere.
pub(crate) fn export(fields: &mut Fields<'_>, namespace: &Arc<str>, report: &mut Report<'_>) -> Export {
    let Some(items) = fields.list(report, "exportTo") else { return Export::Everywhere };
    let mut only = BTreeSet::new();
    for item in &items {
        match item.text(report).map(|text| text.value) {
            Some("*") => return Export::Everywhere,
            Some(".") => drop(only.insert(Arc::clone(namespace))),
            // Nobody.
            Some("~") | None => {}
            Some(other) => drop(only.insert(other.into())),
        }
    }
    if items.is_empty() { Export::Everywhere } else { Export::Only(only) }
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `200ms`.
pub(crate) fn duration(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    name: &'static str,
) -> Option<Duration> {
    let text = fields.text(report, name)?;
    let duration = parse_duration(text.value);
    if duration.is_none() {
        let message = format!("\"{}\" is not a duration", text.value);
        text.error(report, message, "Write it as 500ms, 10s or 1m30s");
    }
    duration
}

fn parse_duration(text: &str) -> Option<Duration> {
    // Longer is a mistake, and overflows what adds to it.
    const MOST: Duration = Duration::from_hours(10 * 365 * 24);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= MOST)
}

/// What a text is tested for.
pub(crate) enum TextTest {
    /// Nothing: every text is taken.
    Any,
    /// This.
    Is(StringMatch),
}

impl TextTest {
    /// The test, where there is one.
    pub(crate) fn test(self) -> Option<StringMatch> {
        match self {
            Self::Any => None,
            Self::Is(test) => Some(test),
        }
    }
}

/// Reads `{ exact: a }`, or `prefix`, or `regex`.
pub(crate) fn string_match(item: &Item<'_>, report: &mut Report<'_>) -> Option<TextTest> {
    let mut fields = item.fields(report)?;
    let exact = fields.text(report, "exact");
    let prefix = fields.text(report, "prefix");
    let regex = fields.text(report, "regex");
    let place = fields.place();
    fields.close(report);
    match (exact, prefix, regex) {
        (None, None, None) => Some(TextTest::Any),
        (Some(text), None, None) => Some(TextTest::Is(StringMatch::Exact(text.value.into()))),
        (None, Some(text), None) if text.value.is_empty() => Some(TextTest::Any),
        (None, Some(text), None) => Some(TextTest::Is(StringMatch::Prefix(text.value.into()))),
        (None, None, Some(text)) if matches!(text.value, "*" | ".*") => Some(TextTest::Any),
        (None, None, Some(text)) => Some(TextTest::Is(StringMatch::Regex(self::regex(&text, report)?))),
        _ => {
            let message = "of `exact`, `prefix` and `regex` there is one";
            report.error_of(Code::Conflict, &item.path, place, message, "Leave the others out");
            None
        }
    }
}

/// A regular expression.
pub(crate) fn regex(text: &Text<'_>, report: &mut Report<'_>) -> Option<Regex> {
    match Regex::new(text.value) {
        Ok(regex) => Some(regex),
        Err(why) => {
            text.error_of(Code::Regex, report, format!("this regular expression is refused: {why}"), "");
            None
        }
    }
}

/// A share of requests, `{ value: 0.1 }` in per cent; or the older whole number.
pub(crate) fn share(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    name: &'static str,
    older: &'static str,
) -> Option<Fraction> {
    /// Of how many, so that the smallest share that Istio knows is one.
    const MILLION: u32 = 1_000_000;
    let whole = fields.integer(report, older, 0..=100).and_then(|n| u32::try_from(n).ok());
    if let Some(mut percentage) = fields.mapping(report, name) {
        let value = percentage.number(report, "value", 0.0..=100.0);
        percentage.close(report);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a million")]
        return Some(Fraction {
            numerator: (value.unwrap_or(0.0) * 10_000.0).round() as u32,
            denominator: MILLION,
        });
    }
    whole.map(|numerator| Fraction { numerator, denominator: 100 })
}

/// Reads `headers`: changes of a request's and a response's header fields.
pub(crate) fn header_changes(fields: &mut Fields<'_>, report: &mut Report<'_>) -> HeaderChanges {
    let Some(mut headers) = fields.mapping(report, "headers") else { return HeaderChanges::default() };
    let mut of = |name| headers.mapping(report, name).map(|fields| field_changes(fields, report));
    let (request, response) = (of("request"), of("response"));
    headers.close(report);
    HeaderChanges { request: request.unwrap_or_default(), response: response.unwrap_or_default() }
}

fn field_changes(mut fields: Fields<'_>, report: &mut Report<'_>) -> FieldChanges {
    let mut changes = FieldChanges::default();
    for (name, into) in [("set", &mut changes.set), ("add", &mut changes.add)] {
        let Some(mapping) = fields.mapping(report, name) else { continue };
        for (key, item) in mapping.each(report).into_iter().take(MAX_CHANGES) {
            let value = item.text(report);
            if let (Some(name), Some(value)) = (field_name(&key, report), value) {
                check_commands(&value, report);
                into.push((name, value.value.into()));
            }
        }
    }
    for item in fields.list(report, "remove").unwrap_or_default().iter().take(MAX_CHANGES) {
        changes.remove.extend(item.text(report).and_then(|text| field_name(&text, report)));
    }
    fields.close(report);
    changes
}

/// A field's name in lowercase; the pseudo-header `:authority` is one, too.
pub(crate) fn field_name(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let name = text.value.to_ascii_lowercase();
    if !is_token(name.strip_prefix(':').unwrap_or(&name)) {
        text.error(report, format!("\"{}\" is not a header's name", text.value), "");
        return None;
    }
    Some(name.into())
}

/// Something of the request stands in the place of `%…%`, as Envoy has it.
fn check_commands(value: &Text<'_>, report: &mut Report<'_>) {
    if let Err(why) = Template::parse(value.value) {
        let message = format!("this is no format of a header's value: {why}");
        value.error(report, message, "Write a single `%` as `%%`");
    }
}

/// Refuses a list with too many items.
pub(crate) fn at_most(items: &[Item<'_>], most: usize, report: &mut Report<'_>) {
    if let Some(item) = items.get(most) {
        let message = format!("there are at most {most} of them");
        report.error_of(Code::OverLimit, &item.path, item.node.place, message, "Split the resource");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_go_writes_them() {
        let check = |text: &str, nanos: Option<u64>| {
            assert_eq!(parse_duration(text), nanos.map(Duration::from_nanos), "{text}");
        };
        check("0", Some(0));
        check("0s", Some(0));
        check("10s", Some(10_000_000_000));
        check("1.5s", Some(1_500_000_000));
        check("1m30s", Some(90_000_000_000));
        check("250ms", Some(250_000_000));
        check("1h", Some(3_600_000_000_000));
        check("", None);
        check("10", None);
        check("s", None);
        check("1 s", None);
        check("-1s", None);
        check("1d", None);
        check("1000000h", None);
    }

    #[test]
    fn names_stand_for_services_or_hosts() {
        let service = |namespace: &str, name: &str| Target::Service(Key::new(namespace, name));
        let host = |name: &str| Target::Host(name.into());
        let check =
            |name: &str, expected: Target| assert_eq!(target(name, &"shop".into()), expected, "{name}");
        check("cart", service("shop", "cart"));
        check("Cart", service("shop", "cart"));
        check("cart.bank.svc.cluster.local", service("bank", "cart"));
        check("cart.bank.svc", service("bank", "cart"));
        check("cart.bank", host("cart.bank"));
        check("api.example.com", host("api.example.com"));
        check("a.b.c.svc.cluster.local", host("a.b.c.svc.cluster.local"));
        assert_eq!(full_name(&service("bank", "cart")), "cart.bank.svc.cluster.local");
    }
}
