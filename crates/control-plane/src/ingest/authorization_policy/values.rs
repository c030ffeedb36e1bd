//! Values of policies: texts with stars, path templates, addresses, ports.

use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::cidr::Cidr;
use meshwork_model::mesh::{Account, Wanted};
use meshwork_model::path::{Form, form, with_normal_escapes};
use meshwork_model::proxy::{EscapedSlashes, PathNormalization, StringMatch};
use meshwork_model::regex::Regex;

use super::super::metadata::{Metadata, is_label};
use super::super::reader::{Fields, Report, Text};
use super::filled_list;

/// Reads a list of what may be, and one of what may not.
pub(super) fn wanted<T>(
    fields: &mut Fields<'_>,
    [one_of, none_of]: [&'static str; 2],
    report: &mut Report<'_>,
    read: impl Fn(&Text<'_>, &mut Report<'_>) -> Option<T>,
) -> Wanted<T> {
    let mut list = |name| {
        let items = filled_list(fields, name, report);
        items.iter().filter_map(|item| read(&item.text(report)?, report)).collect()
    };
    Wanted { one_of: list(one_of), none_of: list(none_of) }
}

/// `*` anything, `*end`, `start*`, or the text itself. Source: Istio, AuthorizationPolicy `Rule`.
pub(super) fn text(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    let (found, rest) = match (text.value.strip_prefix('*'), text.value.strip_suffix('*')) {
        (Some(""), _) => (StringMatch::Prefix("".into()), ""),
        (Some(end), _) => (StringMatch::Suffix(end.into()), end),
        (None, Some(start)) => (StringMatch::Prefix(start.into()), start),
        (None, None) => (StringMatch::Exact(text.value.into()), text.value),
    };
    if rest.contains('*') || text.value.is_empty() {
        let fix = "Use the whole text, `start*`, `*end` or `*`";
        text.error(report, format!("\"{}\" is not a match", text.value), fix);
        return None;
    }
    Some(found)
}

/// An identity, which is written without its scheme.
pub(super) fn principal(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    if let Some(rest) = text.value.strip_prefix("spiffe://") {
        let message = format!("nobody is \"{}\": a principal is written without its scheme", text.value);
        text.warning(report, message, format!("Write {rest}"));
    }
    self::text(text, report)
}

/// A host, in lowercase.
pub(super) fn host(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    let lower = |text: &Arc<str>| text.to_ascii_lowercase().into();
    Some(match self::text(text, report)? {
        StringMatch::Exact(text) => StringMatch::Exact(lower(&text)),
        StringMatch::Prefix(text) => StringMatch::Prefix(lower(&text)),
        StringMatch::Suffix(text) => StringMatch::Suffix(lower(&text)),
        other => other,
    })
}

/// A namespace, which has no `/`.
pub(super) fn namespace(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    if text.value.contains('/') {
        text.error(report, format!("\"{}\" is not a namespace", text.value), "");
        return None;
    }
    self::text(text, report)
}

/// A trust domain, which has neither a scheme nor a path.
pub(super) fn trust_domain(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    if text.value.contains(['/', ':']) {
        let fix = "Write it as in `principals`: mesh.local";
        text.error(report, format!("\"{}\" is not a trust domain", text.value), fix);
        return None;
    }
    host(text, report)
}

/// A service account of the policy's namespace, or `NAMESPACE/NAME`.
pub(super) fn account(text: &Text<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Account> {
    let here = &*metadata.key.namespace;
    let (namespace, name) = text.value.split_once('/').unwrap_or((here, text.value));
    if !is_label(namespace) || !name.split('.').all(is_label) {
        let fix = "Write `NAME` or `NAMESPACE/NAME`, without a star";
        text.error(report, format!("\"{}\" is not a service account", text.value), fix);
        return None;
    }
    Some(Account { namespace: namespace.into(), name: name.into() })
}

/// A path with stars, or a template. Source: Istio, `Operation.paths`.
pub(super) fn path(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
    if !text.value.starts_with(['/', '*']) {
        text.error(report, "a path starts with \"/\" or \"*\"", "");
        return None;
    }
    if !text.value.contains(['{', '}']) {
        let normal = |text: Arc<str>| with_normal_escapes(&text).into();
        let path = match self::text(text, report)? {
            StringMatch::Exact(text) => StringMatch::Exact(normal(text)),
            StringMatch::Prefix(text) => StringMatch::Prefix(normal(text)),
            StringMatch::Suffix(text) => StringMatch::Suffix(normal(text)),
            other => other,
        };
        if let Some(fix) = unasked(&path) {
            text.warning(report, format!("no request is judged by the path \"{}\"", text.value), fix);
        }
        return Some(path);
    }
    let compiled = template(text.value).and_then(|regex| Regex::new(&regex));
    compiled
        .map_err(|why| text.error(report, why, "Use `/a/{*}/b`, or `/a/{**}`"))
        .ok()
        .map(StringMatch::Regex)
}

/// The form in which every proxy judges paths.
const JUDGED: PathNormalization =
    PathNormalization { rfc3986: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Reject };

/// What to do about a path that no request has once it is in the form in which it is judged, without its query.
fn unasked(path: &StringMatch) -> Option<String> {
    let (StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text)) = path else {
        return None;
    };
    if text.contains(['?', '#']) {
        return Some("Leave out what stands behind the path".to_owned());
    }
    // Of a part nothing can be said: it may end within a segment.
    if !matches!(path, StringMatch::Exact(_)) {
        return None;
    }
    match form(JUDGED, text.as_bytes()) {
        Form::Normal => None,
        Form::Other(normal) => Some(format!("Write {}", String::from_utf8_lossy(&normal))),
        Form::Redirect(_) | Form::Refused(_) => Some("Such a request is refused in any case".to_owned()),
    }
}

/// The expression of a path template: `{*}` is one segment, `{**}` any number of them, and the last of both.
fn template(path: &str) -> Result<String, String> {
    let Some(path) = path.strip_prefix('/') else {
        return Err("a path template starts with \"/\"".to_owned());
    };
    let mut regex = String::new();
    let mut is_last = false;
    for segment in path.split('/') {
        regex.push('/');
        match segment {
            "{*}" | "{**}" if is_last => return Err("nothing matches behind `{**}`".to_owned()),
            "{*}" => regex.push_str("[^/]+"),
            "{**}" => {
                is_last = true;
                regex.push_str(".*");
            }
            literal if literal.contains(['{', '}', '*']) => {
                return Err(format!("\"{literal}\" is neither a segment, nor `{{*}}`, nor `{{**}}`"));
            }
            literal => regex.push_str(&escaped(&with_normal_escapes(literal))),
        }
    }
    Ok(regex)
}

/// A text as an expression of RE2 that matches it alone.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if char.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

/// The bits that all addresses of IPv4 have in common that are written as those of IPv6. Source: RFC 4291 §2.5.5.2.
const MAPPED_BITS: u32 = 96;

/// An address, or a range of them.
pub(super) fn cidr(text: &Text<'_>, report: &mut Report<'_>) -> Option<Cidr> {
    let range = parse_cidr(text.value);
    if range.is_none() {
        let fix = "Write it as 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32";
        text.error(report, format!("\"{}\" is not a range of addresses", text.value), fix);
    }
    range
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, length) = match text.split_once('/') {
        None => (text, None),
        Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(bits);
    // What IPv6 calls an address of IPv4 is one of IPv4 to policy, wherever it stands.
    match (address.to_canonical(), length.checked_sub(MAPPED_BITS)) {
        (v4 @ IpAddr::V4(_), Some(length)) if address.is_ipv6() && length <= 32 => {
            Some(Cidr::new(v4, length))
        }
        _ => (length <= bits).then(|| Cidr::new(address, length)),
    }
}

/// A port in quotes.
pub(super) fn port(text: &Text<'_>, report: &mut Report<'_>) -> Option<u16> {
    if let Ok(port @ 1..) = text.value.parse() {
        return Some(port);
    }
    text.error(report, format!("\"{}\" is not a port", text.value), "");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_segments() {
        let check = |path: &str, asked: &str, expected: bool| {
            let regex = Regex::new(&template(path).expect("a template")).expect("an expression");
            assert_eq!(regex.matches(asked.as_bytes()), expected, "{path} {asked}");
        };
        check("/foo/{*}", "/foo/bar", true);
        check("/foo/{*}", "/foo/", false);
        check("/foo/{*}", "/foo/bar/baz", false);
        check("/foo/{**}", "/foo/bar/baz", true);
        check("/foo/{**}", "/foo/", true);
        check("/foo/{**}/", "/foo/bar/baz/", true);
        check("/foo/{**}/", "/foo/bar/baz", false);
        check("/a.b/{*}/c", "/a.b/x/c", true);
        check("/caf%c3%a9/{*}", "/caf%C3%A9/x", true);
        check("/a.b/{*}/c", "/axb/x/c", false);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for path in ["*/{*}", "/*/baz/{*}", "/{**}/foo/{*}", "/foo/{*}.txt", "/foo/{bar}", "/foo/{"] {
            assert!(template(path).is_err(), "{path}");
        }
    }

    #[test]
    fn ranges_of_addresses_are_read() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("2001:db8::1/32", Some("2001:db8::/32")),
            ("::ffff:10.1.2.3", Some("10.1.2.3/32")),
            ("::ffff:10.1.2.3/104", Some("10.0.0.0/8")),
            ("::ffff:10.1.2.3/129", None),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0/", None),
            ("localhost", None),
        ] {
            assert_eq!(parse_cidr(text).map(|range| range.to_string()).as_deref(), expected, "{text}");
        }
    }
}
