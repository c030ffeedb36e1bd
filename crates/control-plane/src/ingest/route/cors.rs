//! The CORS filter. Source: Gateway API v1.5, `HTTPCORSFilter`; the Fetch standard.

use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{CorsPolicy, StringMatch};
use meshwork_model::regex::Regex;

use super::{is_hostname, is_token, limited};
use crate::ingest::reader::{Fields, Report, Text};
use crate::ingest::words::list;

/// The most entries of a list. Source: Gateway API, `HTTPCORSFilter.allowOrigins`, `allowHeaders`.
const MAX_ENTRIES: usize = 64;
/// The most methods.
const MAX_METHODS: usize = 9;
/// How long the answer to a preflight stands where that is not said, in seconds. Source: `HTTPCORSFilter.maxAge`.
const MAX_AGE_S: i64 = 5;

const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

/// Reads `cors`.
pub(super) fn read(mut fields: Fields<'_>, report: &mut Report<'_>) -> Arc<CorsPolicy> {
    let mut allow_origins = Vec::new();
    for item in limited(&mut fields, report, "allowOrigins", MAX_ENTRIES) {
        let Some(text) = item.text(report) else { continue };
        allow_origins.extend(origin(&text, report));
    }
    let allow_methods = texts(&mut fields, "allowMethods", MAX_METHODS, report, |text| {
        (!METHODS.contains(&text)).then(|| format!("expected {}, found \"{text}\"", list(METHODS)))
    });
    let header = |text: &str| (!is_token(text)).then(|| format!("\"{text}\" is not a header's name"));
    let allow_headers = texts(&mut fields, "allowHeaders", MAX_ENTRIES, report, header);
    let expose_headers = texts(&mut fields, "exposeHeaders", MAX_ENTRIES, report, header);
    let max_age = fields.integer(report, "maxAge", 1..=i64::from(i32::MAX)).unwrap_or(MAX_AGE_S);
    let allow_credentials = fields.boolean(report, "allowCredentials");
    fields.close(report);
    Arc::new(CorsPolicy {
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age: max_age.to_string().into(),
        allow_credentials,
        allow_private_network: None,
        // A preflight of another origin is answered without a word of what is allowed; the application need not know
        // that there is such a thing.
        forward_others: Some(false),
        enabled: Fraction::ALL,
        shadow: Fraction { numerator: 0, denominator: 100 },
    })
}

/// A list of texts as it stands in a header field; `wrong` says what is wrong with one.
fn texts(
    fields: &mut Fields<'_>,
    name: &'static str,
    most: usize,
    report: &mut Report<'_>,
    wrong: impl Fn(&str) -> Option<String>,
) -> Arc<str> {
    let mut texts = Vec::new();
    for item in limited(fields, report, name, most) {
        let Some(text) = item.text(report) else { continue };
        match wrong(text.value) {
            None => texts.push(text.value),
            Some(message) => text.error(report, message, ""),
        }
    }
    texts.join(", ").into()
}

/// `*`, `https://shop.example`, `https://shop.example:8443`, or `*.` before the host for all hosts below.
fn origin(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    let origin = text.value.to_ascii_lowercase();
    if origin == "*" {
        return Regex::new(".*").ok().map(StringMatch::Regex);
    }
    let parts = origin.split_once("://").filter(|(scheme, _)| is_scheme(scheme));
    let authority = parts.map_or("", |(_, authority)| authority);
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().is_ok()),
        None => (authority, true),
    };
    let (is_below, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (host == "*", host),
    };
    let is_address = name.parse::<std::net::Ipv4Addr>().is_ok();
    if !port || !(is_hostname(name) || is_address || host == "*") {
        let fix =
            "Write it as https://shop.example, with a port where it has one, or as https://*.shop.example";
        text.error(report, format!("\"{}\" is not an origin", text.value), fix);
        return None;
    }
    if !is_below {
        return Some(StringMatch::Exact(origin.into()));
    }
    let pattern = origin.replace('.', r"\.").replacen('*', "[^/:?#]+", 1);
    Regex::new(&pattern).ok().map(StringMatch::Regex)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}
