//! RequestAuthentication. Source: Istio `security.istio.io/v1`.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{JwtRule, KeySource, KeyUrl, RequestAuthentication};
use meshwork_model::problem::Code;
use meshwork_model::proxy::TokenPlace;

use super::istio::duration;
use super::metadata::Metadata;
use super::policy_target::{Attached, attached};
use super::reader::{Fields, Item, Report, Text};
use super::references::{Reference, Referred};
use super::route::is_token;

/// The most issuers of one resource. Source: Istio, `jwtRules`.
const MAX_RULES: usize = 4096;
/// How long keys are waited for where nothing is written. Source: Istio, `JWTRule.timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Lets tokens pass that have no `exp`.
const WITHOUT_EXPIRY: &str = "meshwork.dev/allow-tokens-without-expiry";

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<RequestAuthentication> {
    let Some(item) = root.optional("spec") else {
        let Attached { selector, targets } = Attached::default();
        return Some(RequestAuthentication { selector, targets, rules: Vec::new() });
    };
    let must_expire = must_expire(metadata, report);
    let mut spec = item.fields(report)?;
    let attached = attached(&mut spec, metadata, report, references);
    let items = spec.list(report, "jwtRules").unwrap_or_default();
    if let Some(item) = items.get(MAX_RULES) {
        let message = format!("a resource has at most {MAX_RULES} issuers");
        report.error(&item.path, item.node.place, message, "");
    }
    let rules: Vec<Option<JwtRule>> =
        items.iter().take(MAX_RULES).map(|item| rule(item, must_expire, report, references)).collect();
    spec.close(report);
    let Attached { selector, targets } = attached?;
    Some(RequestAuthentication { selector, targets, rules: rules.into_iter().collect::<Option<_>>()? })
}

fn rule(
    item: &Item<'_>,
    must_expire: bool,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<JwtRule> {
    let mut fields = item.fields(report)?;
    let issuer = fields.required_text(report, "issuer");
    let audiences = texts(&mut fields, "audiences", report);
    let keys = keys(&mut fields, report, references);
    let mut places = from_headers(&mut fields, report);
    places.extend(texts(&mut fields, "fromParams", report).into_iter().map(TokenPlace::Param));
    places.extend(texts(&mut fields, "fromCookies", report).into_iter().map(TokenPlace::Cookie));
    let payload_header =
        fields.text(report, "outputPayloadToHeader").and_then(|text| field_name(&text, report));
    let claim_headers = claim_headers(&mut fields, report);
    let forward = fields.boolean(report, "forwardOriginalToken").unwrap_or(false);
    let timeout = duration(&mut fields, report, "timeout");
    fields.not_yet(report, &["spaceDelimitedClaims"], "`scope` and `permission` are read so in any case");
    fields.close(report);
    Some(JwtRule {
        issuer: issuer?.value.into(),
        audiences,
        keys: keys?,
        places,
        payload_header,
        claim_headers,
        forward,
        timeout: timeout.unwrap_or(TIMEOUT),
        must_expire,
    })
}

/// A token that is good for ever is good for whoever finds it: it is taken only where that is written.
fn must_expire(metadata: &Metadata, report: &mut Report<'_>) -> bool {
    match metadata.annotations.get(WITHOUT_EXPIRY).map(String::as_str) {
        None | Some("false") => true,
        Some("true") => false,
        Some(other) => {
            let path = format!("metadata.annotations.{WITHOUT_EXPIRY}");
            let message = format!("expected \"true\" or \"false\", found \"{other}\"");
            report.error_of(Code::NotOneOf, &path, metadata.place, message, "");
            true
        }
    }
}

fn texts(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Vec<Arc<str>> {
    let items = fields.list(report, name).unwrap_or_default();
    items.iter().filter_map(|item| Some(item.text(report)?.value.into())).collect()
}

/// Exactly one of the two: what the discovery of `OpenID` would say has to be written.
fn keys(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<KeySource> {
    let inline = fields.text(report, "jwks");
    let older = fields.optional("jwks_uri");
    let url = fields.optional("jwksUri").or(older);
    match (inline, url) {
        (Some(keys), None) => inline_keys(&keys, report),
        (None, Some(item)) => {
            let url = item.text(report)?;
            let Some(parsed) = key_url(url.value) else {
                let message = format!("\"{}\" is not an address of keys", url.value);
                url.error(report, message, "Write it as https://auth.example.com/.well-known/jwks.json");
                return None;
            };
            references.push(Reference::new(report, &item, Referred::Keys(parsed.clone())));
            Some(KeySource::Fetched(parsed))
        }
        (Some(keys), Some(_)) => {
            let message = "an issuer has `jwks` or `jwksUri`, not both";
            keys.error_of(Code::Conflict, report, message, "Leave one of them out");
            None
        }
        (None, None) => {
            let fix = "Name what `jwks_uri` is in the issuer's /.well-known/openid-configuration";
            let message = "the field `jwksUri` is missing, and so is `jwks`; keys are not looked for by the issuer's name yet";
            report.error(&fields.path_of("jwksUri"), fields.place(), message, fix);
            None
        }
    }
}

/// A set of keys is looked into by the proxy; what is no set at all is told here.
fn inline_keys(text: &Text<'_>, report: &mut Report<'_>) -> Option<KeySource> {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(text.value);
    let keys = parsed.as_ref().ok().and_then(|set| set.get("keys")?.as_array());
    let Some(keys) = keys else {
        text.error(report, "this is not a JSON Web Key Set", "It begins as {\"keys\": [{\"kty\": …");
        return None;
    };
    if keys.iter().any(|key| key.get("kty").is_some_and(|kind| kind == "oct")) {
        let message = "a key in it is a secret: whoever may read this resource can make tokens";
        text.warning(report, message, "Use an issuer that signs by a private key, and write its public one");
    }
    if let Err(why) = meshwork_identity::jwt::KeySet::parse(text.value) {
        let message =
            format!("nobody's token passes with these keys, and Envoy refuses what asks for them: {why}");
        text.warning(report, message, "Write at least one public key for signatures");
    }
    Some(KeySource::Inline(text.value.into()))
}

/// Reads an `http:` or `https:` URL; `None` where it is none, or has a user or a fragment.
pub(super) fn key_url(text: &str) -> Option<KeyUrl> {
    let (https, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (authority, if https { 443 } else { 80 }),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_path = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    let is_good = is_host(host) && host.bytes().all(is_name) && path.bytes().all(is_path);
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    is_good.then(|| KeyUrl { https, host: host.to_ascii_lowercase().into(), port, path: path.into() })
}

/// What ends in a number is an address, and looked up as one in whatever form: only the usual one is taken. Source: WHATWG
/// URL, "ends in a number".
fn is_host(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_number = match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    };
    !host.is_empty() && (!is_number || host.parse::<std::net::Ipv4Addr>().is_ok())
}

fn from_headers(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<TokenPlace> {
    let mut places = Vec::new();
    for item in fields.list(report, "fromHeaders").unwrap_or_default() {
        let Some(mut header) = item.fields(report) else { continue };
        let name = header.required_text(report, "name").and_then(|name| field_name(&name, report));
        let prefix = header.text(report, "prefix").map_or("", |prefix| prefix.value).into();
        header.close(report);
        places.extend(name.map(|name| TokenPlace::Header { name, prefix }));
    }
    places
}

fn claim_headers(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
    let mut headers = Vec::new();
    for item in fields.list(report, "outputClaimToHeaders").unwrap_or_default() {
        let Some(mut header) = item.fields(report) else { continue };
        let name = header.required_text(report, "header").and_then(|name| field_name(&name, report));
        let claim = header.required_text(report, "claim");
        header.close(report);
        if let (Some(name), Some(claim)) = (name, claim) {
            headers.push((name, claim.value.split('.').map(Arc::from).collect()));
        }
    }
    headers
}

fn field_name(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    if is_token(text.value) {
        return Some(text.value.to_ascii_lowercase().into());
    }
    text.error(report, format!("\"{}\" is not a header's name", text.value), "");
    None
}
