//! The filters of a rule and of a backend. Source: Gateway API v1.5, `HTTPRouteFilter`, `GRPCRouteFilter`.

use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::mesh::{Backend, FieldChanges, HeaderChanges, Parent, PathModifier, RuleMirror};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{CorsPolicy, Redirect};

use super::{Reading, cors, is_hostname, is_token, limited, object};
use crate::ingest::reader::{Fields, Item, Report, Text};

/// The most filters of a rule, and of a backend. Source: Gateway API, `HTTPRouteRule.filters`.
const MAX_FILTERS: usize = 16;
/// The most changes of one sort. Source: Gateway API, `HTTPHeaderFilter`.
const MAX_CHANGES: usize = 16;
/// The longest value of a header. Source: Gateway API, `HTTPHeaderValue`.
const MAX_VALUE_BYTES: usize = 4096;
/// Fields that say where a message ends and to whom it is; nothing but the proxy itself writes them.
const FRAMING: &[&str] = &["connection", "content-length", "host", "transfer-encoding", "upgrade"];

/// What the filters of a rule say.
#[derive(Default)]
pub(crate) struct Filters {
    pub(crate) changes: HeaderChanges,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) path: Option<PathModifier>,
    pub(crate) host: Option<Arc<str>>,
    pub(crate) mirrors: Vec<RuleMirror>,
    pub(crate) cors: Option<Arc<CorsPolicy>>,
}

/// The types of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Request,
    Response,
    Mirror,
    Redirect,
    Rewrite,
    Cors,
}

/// Each type with its field.
const OF_HTTP: &[(&str, Type)] = &[
    ("RequestHeaderModifier", Type::Request),
    ("ResponseHeaderModifier", Type::Response),
    ("RequestMirror", Type::Mirror),
    ("RequestRedirect", Type::Redirect),
    ("URLRewrite", Type::Rewrite),
    ("CORS", Type::Cors),
];
const OF_GRPC: &[(&str, Type)] = OF_HTTP.split_at(3).0;
const OF_BACKENDS: &[(&str, Type)] = OF_HTTP.split_at(2).0;

const FIELDS: &[(&str, Type)] = &[
    ("requestHeaderModifier", Type::Request),
    ("responseHeaderModifier", Type::Response),
    ("requestMirror", Type::Mirror),
    ("requestRedirect", Type::Redirect),
    ("urlRewrite", Type::Rewrite),
    ("cors", Type::Cors),
];

/// Types that a filter may have by the specification, and not here.
const NOT_YET: &[&str] = &["ExtensionRef", "ExternalAuth"];

impl Filters {
    /// Those of an HTTPRoute's rule.
    pub(crate) fn of_http(rule: &mut Fields<'_>, parents: &[Parent], reading: &mut Reading<'_, '_>) -> Self {
        Self::read(rule, OF_HTTP, parents, reading)
    }

    /// Those of a GRPCRoute's rule.
    pub(crate) fn of_grpc(rule: &mut Fields<'_>, parents: &[Parent], reading: &mut Reading<'_, '_>) -> Self {
        Self::read(rule, OF_GRPC, parents, reading)
    }

    fn read(
        rule: &mut Fields<'_>,
        types: &[(&'static str, Type)],
        parents: &[Parent],
        reading: &mut Reading<'_, '_>,
    ) -> Self {
        let mut filters = Self::default();
        let mut seen = Vec::new();
        for item in limited(rule, reading.report, "filters", MAX_FILTERS) {
            let Some((kind, body)) = one(&item, types, &mut seen, reading.report) else { continue };
            filters.take(kind, &body, parents, reading);
        }
        if seen.contains(&Type::Redirect) && seen.contains(&Type::Rewrite) {
            let message = "a rule redirects a request or rewrites it, and not both";
            let path = rule.path_of("filters");
            reading.report.error_of(Code::Conflict, &path, rule.place(), message, "Leave one of them out");
        }
        filters
    }

    fn take(&mut self, kind: Type, body: &Item<'_>, parents: &[Parent], reading: &mut Reading<'_, '_>) {
        let Some(mut fields) = body.fields(reading.report) else { return };
        match kind {
            Type::Request => self.changes.request = changes(fields, reading.report),
            Type::Response => self.changes.response = changes(fields, reading.report),
            Type::Mirror => self.mirrors.extend(mirror(body, fields, parents, reading)),
            Type::Redirect => {
                self.path = path(&mut fields, reading.report);
                self.redirect = redirect(fields, reading.report);
            }
            Type::Rewrite => {
                self.path = path(&mut fields, reading.report);
                self.host = hostname(&mut fields, reading.report);
                fields.close(reading.report);
            }
            Type::Cors => self.cors = Some(cors::read(fields, reading.report)),
        }
    }
}

/// What the filters of one backend change.
pub(super) fn of_backend(backend: &mut Fields<'_>, reading: &mut Reading<'_, '_>) -> HeaderChanges {
    let report = &mut *reading.report;
    let mut all = HeaderChanges::default();
    let mut seen = Vec::new();
    for item in limited(backend, report, "filters", MAX_FILTERS) {
        let Some((kind, body)) = one(&item, OF_BACKENDS, &mut seen, report) else { continue };
        let Some(fields) = body.fields(report) else { continue };
        match kind {
            Type::Response => all.response = changes(fields, report),
            _ => all.request = changes(fields, report),
        }
    }
    all
}

/// A filter's type, and the field of that type. Each type comes once, but for mirrors.
fn one<'n>(
    item: &Item<'n>,
    types: &[(&'static str, Type)],
    seen: &mut Vec<Type>,
    report: &mut Report<'_>,
) -> Option<(Type, Item<'n>)> {
    let mut fields = item.fields(report)?;
    let text = fields.required_text(report, "type");
    let kind = text.and_then(|text| {
        if text.value == "ExtensionRef" {
            let message = "the mesh knows no filter by reference (ExtensionRef)";
            text.error_of(Code::Unsupported, report, message, "Attach a TrafficPolicy to the route instead");
            return None;
        }
        let is_here = |name: &&str| types.iter().any(|(known, _)| known == name);
        let all = OF_HTTP.iter().map(|(name, _)| *name).chain(NOT_YET.iter().copied());
        let others: Vec<&'static str> = all.filter(|name| !is_here(name)).collect();
        text.one_of(report, types, &others)
    });
    let mut body = None;
    for (name, of) in FIELDS {
        match fields.optional(name) {
            Some(found) if kind == Some(*of) => body = Some(found),
            Some(found) if kind.is_some() => {
                let message = format!("`{name}` is of a filter of another type");
                report.error_of(Code::Conflict, &found.path, found.node.place, message, "Correct the `type`");
            }
            None if kind == Some(*of) => {
                let message = format!("the field `{name}` is missing");
                report.error_of(Code::MissingField, &fields.path_of(name), fields.place(), message, "");
            }
            _ => {}
        }
    }
    fields.skip(&["extensionRef", "externalAuth"]);
    fields.close(report);
    let kind = kind?;
    if kind != Type::Mirror && seen.contains(&kind) {
        let message = "there is a filter of this type already";
        report.error_of(Code::Duplicate, &item.path, item.node.place, message, "Put both into one");
    }
    seen.push(kind);
    Some((kind, body?))
}

/// Reads a header modifier.
fn changes(mut fields: Fields<'_>, report: &mut Report<'_>) -> FieldChanges {
    let set = values(&mut fields, "set", report);
    let add = values(&mut fields, "add", report);
    let mut remove = Vec::new();
    for item in limited(&mut fields, report, "remove", MAX_CHANGES) {
        let Some(text) = item.text(report) else { continue };
        remove.extend(field_name(&text, report));
    }
    fields.close(report);
    FieldChanges { set, add, remove }
}

fn values(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Vec<(Arc<str>, Arc<str>)> {
    let mut values: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for item in limited(fields, report, name, MAX_CHANGES) {
        let Some((name, value)) = value(&item, report) else { continue };
        if values.iter().any(|(earlier, _)| *earlier == name) {
            let message = format!("the header {name} is there already, so this one is passed over");
            report.warning_of(Code::Duplicate, &item.path, item.node.place, message, "Leave one of them out");
            continue;
        }
        values.push((name, value));
    }
    values
}

fn value(item: &Item<'_>, report: &mut Report<'_>) -> Option<(Arc<str>, Arc<str>)> {
    let mut fields = item.fields(report)?;
    let name = fields.required_text(report, "name");
    let value = fields.required_text(report, "value");
    fields.close(report);
    let name = field_name(&name?, report)?;
    let value = value?;
    // Source: RFC 9110 §5.5.
    let good = value.value.bytes().all(|b| b == b'\t' || b >= b' ' && b != 0x7f);
    if !good || value.value.len() > MAX_VALUE_BYTES {
        let message =
            format!("a header's value has no control characters and at most {MAX_VALUE_BYTES} bytes");
        value.error(report, message, "");
        return None;
    }
    Some((name, value.value.into()))
}

fn field_name(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let name = text.value.to_ascii_lowercase();
    if !is_token(&name) {
        text.error(report, format!("\"{}\" is not a header's name", text.value), "");
        return None;
    }
    if FRAMING.contains(&&*name) {
        let fix = if name == "host" { "Use the filter URLRewrite with `hostname`" } else { "" };
        let message = format!("the header {name} is the proxy's own: it says what becomes of the message");
        text.error_of(Code::Unsupported, report, message, fix);
        return None;
    }
    Some(name.into())
}

/// Reads `hostname`: one host.
fn hostname(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let text = fields.text(report, "hostname")?;
    let name = text.value.to_ascii_lowercase();
    if is_hostname(&name) {
        return Some(name.into());
    }
    text.error(report, format!("\"{}\" is not a hostname", text.value), "Write a name as shop.example.com");
    None
}

/// Which path a rewrite or a redirect makes.
#[derive(Clone, Copy, PartialEq)]
enum PathType {
    Full,
    Prefix,
}

/// Reads `path` of a rewrite or of a redirect.
fn path(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<PathModifier> {
    let mut fields = fields.mapping(report, "path")?;
    let types = [("ReplaceFullPath", PathType::Full), ("ReplacePrefixMatch", PathType::Prefix)];
    let kind = fields.required_text(report, "type").and_then(|text| text.one_of(report, &types, &[]));
    let full = fields.text(report, "replaceFullPath");
    let prefix = fields.text(report, "replacePrefixMatch");
    let (wanted, name, other) = match kind? {
        PathType::Full => (full, "replaceFullPath", prefix),
        PathType::Prefix => (prefix, "replacePrefixMatch", full),
    };
    if let Some(other) = other {
        other.error_of(Code::Conflict, report, "this is for the other `type`", format!("Write `{name}`"));
    }
    if wanted.is_none() {
        let message = format!("the field `{name}` is missing");
        report.error_of(Code::MissingField, &fields.path_of(name), fields.place(), message, "");
    }
    fields.close(report);
    let text = wanted?;
    let path = target_path(&text, report)?;
    Some(match kind? {
        PathType::Full => PathModifier::Full(path),
        PathType::Prefix => PathModifier::Prefix(path),
    })
}

/// A path that is sent on. One without a slash at its beginning gets one; nothing is the root.
fn target_path(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    /// The longest. Source: Gateway API, `HTTPPathModifier`.
    const MAX_PATH_BYTES: usize = 1024;
    let path = text.value;
    if path.len() > MAX_PATH_BYTES || !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(['?', '#'])
    {
        let message = "a path here has no space, \"?\" or \"#\", and at most 1024 bytes, all ASCII";
        text.error(report, message, "Write other characters as %20");
        return None;
    }
    Some(if path.starts_with('/') { path.into() } else { format!("/{path}").into() })
}

fn redirect(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<Redirect> {
    let schemes = [("http", "http"), ("https", "https")];
    let scheme = fields.text(report, "scheme").map(|text| text.one_of(report, &schemes, &[]));
    let host = hostname(&mut fields, report);
    let port = fields.port(report, "port");
    let status = match fields.optional("statusCode") {
        None => Some(302),
        Some(item) => {
            let status = fields.integer(report, "statusCode", 301..=308);
            let status = status.and_then(|status| u16::try_from(status).ok());
            if matches!(status, Some(304..=306)) {
                let message = "a redirect has the status 301, 302, 303, 307 or 308";
                report.error_of(Code::NotOneOf, &item.path, item.node.place, message, "");
            }
            status
        }
    };
    fields.close(report);
    let scheme = match scheme {
        None => None,
        Some(scheme) => Some(Arc::from(scheme?)),
    };
    Some(Redirect { scheme, host, port, status: status?, ..Redirect::default() })
}

fn mirror(
    item: &Item<'_>,
    mut fields: Fields<'_>,
    parents: &[Parent],
    reading: &mut Reading<'_, '_>,
) -> Option<RuleMirror> {
    let found = fields.required(reading.report, "backendRef");
    let to = found.and_then(|item| {
        let mut fields = item.fields(reading.report)?;
        let object = object(&item, &mut fields, parents, reading);
        fields.close(reading.report);
        object
    });
    let report = &mut *reading.report;
    let percent = fields.integer(report, "percent", 0..=100);
    let fraction = fields.mapping(report, "fraction");
    if percent.is_some() && fraction.is_some() {
        let message = "a mirror has a `percent` or a `fraction`, and not both";
        report.error_of(Code::Conflict, &item.path, item.node.place, message, "Leave one of them out");
    }
    let of_fraction = fraction.and_then(|fraction| share(fraction, report));
    fields.close(report);
    let of_percent = percent.and_then(|n| u32::try_from(n).ok());
    let share = of_percent.map(|numerator| Fraction { numerator, denominator: 100 }).or(of_fraction);
    let (target, port) = to?;
    let to = Backend {
        target,
        port,
        subset: None,
        weight: 1,
        changes: HeaderChanges::default(),
        forbidden: false,
    };
    Some(RuleMirror { to, share: share.unwrap_or(Fraction::ALL) })
}

/// A fraction, in one of the denominators that proxies know.
fn share(mut fields: Fields<'_>, report: &mut Report<'_>) -> Option<Fraction> {
    const MILLION: i64 = 1_000_000;
    let most = i64::from(i32::MAX);
    fields.required(report, "numerator");
    let numerator = fields.integer(report, "numerator", 0..=most);
    let denominator = fields.integer(report, "denominator", 1..=most).unwrap_or(100);
    let (path, place) = (fields.path_of("numerator"), fields.place());
    fields.close(report);
    let numerator = numerator?;
    if numerator > denominator {
        report.error(&path, place, "a share is at most 1: the numerator is over the denominator", "");
        return None;
    }
    let scaled = match denominator {
        100 | 10_000 | MILLION => (numerator, denominator),
        _ => ((numerator * MILLION + denominator / 2) / denominator, MILLION),
    };
    Some(Fraction { numerator: u32::try_from(scaled.0).ok()?, denominator: u32::try_from(scaled.1).ok()? })
}
