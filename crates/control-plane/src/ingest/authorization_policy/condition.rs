//! `when`: what else must hold. Source: Istio, "Authorization policy conditions".

use std::sync::Arc;

use meshwork_model::intake::OF_CONNECTION;
use meshwork_model::mesh::Condition;
use meshwork_model::problem::Code;

use super::super::metadata::Metadata;
use super::super::reader::{Item, Report, Text};
use super::super::route::is_token;
use super::super::words::{closest, list};
use super::values::{account, cidr, host, namespace, port, principal, text, wanted};

/// Keys without brackets.
const KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];
/// What begins the keys with brackets.
const HEADERS: &str = "request.headers";
const CLAIMS: &str = "request.auth.claims";
/// Keys of others' filters.
const EXPERIMENTAL: &str = "experimental.envoy.filters.";
/// The deepest claim.
const MAX_CLAIM_DEPTH: usize = 16;

pub(super) fn read(item: &Item<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Condition> {
    const LISTS: [&str; 2] = ["values", "notValues"];
    let mut fields = item.fields(report)?;
    let key = fields.required_text(report, "key");
    if fields.optional("values").is_none() && fields.optional("notValues").is_none() {
        report.error(
            &item.path,
            item.node.place,
            "the condition says nothing",
            "Fill `values` or `notValues`",
        );
    }
    let f = &mut fields;
    let condition = key.as_ref().and_then(|key| {
        let claim = |name: &str| vec![Arc::from(name)];
        Some(match key.value {
            "source.ip" => Condition::SourceIp(wanted(f, LISTS, report, cidr)),
            "remote.ip" => Condition::RemoteIp(wanted(f, LISTS, report, cidr)),
            "source.namespace" => Condition::SourceNamespace(wanted(f, LISTS, report, namespace)),
            "source.principal" => Condition::SourcePrincipal(wanted(f, LISTS, report, principal)),
            "source.serviceAccount" => {
                let account = |text: &Text<'_>, report: &mut Report<'_>| account(text, metadata, report);
                Condition::SourceAccount(wanted(f, LISTS, report, account))
            }
            "request.auth.principal" => Condition::RequestPrincipal(wanted(f, LISTS, report, text)),
            "request.auth.audiences" => Condition::Claim(claim("aud"), wanted(f, LISTS, report, text)),
            "request.auth.presenter" => Condition::Claim(claim("azp"), wanted(f, LISTS, report, text)),
            "destination.ip" => Condition::DestinationIp(wanted(f, LISTS, report, cidr)),
            "destination.port" => Condition::DestinationPort(wanted(f, LISTS, report, port)),
            // Asked for in lowercase, whatever the client writes.
            "connection.sni" => Condition::ServerName(wanted(f, LISTS, report, host)),
            other if other.starts_with(HEADERS) => {
                let name = header(key, report)?;
                // Protocols have no case, and are told in lowercase.
                let read = if &*name == "upgrade" { host } else { text };
                Condition::Header(name, wanted(f, LISTS, report, read))
            }
            other if other.starts_with(CLAIMS) => {
                let path = claims(key, report)?;
                Condition::Claim(path, wanted(f, LISTS, report, text))
            }
            _ => {
                unknown(key, report);
                return None;
            }
        })
    });
    fields.close(report);
    condition
}

fn unknown(key: &Text<'_>, report: &mut Report<'_>) {
    if key.value.starts_with(EXPERIMENTAL) {
        let fix = "Test what Istio itself names; these are metadata of filters that only Envoy has";
        let message = format!("the key {} is not supported yet", key.value);
        key.error_of(Code::Unsupported, report, message, fix);
        return;
    }
    let fix = match closest(key.value, KEYS) {
        Some(known) => format!("Did you mean `{known}`?"),
        None => format!("The keys are {}, {HEADERS}[NAME] and {CLAIMS}[NAME]", list(KEYS)),
    };
    key.error(report, format!("there is no key \"{}\"", key.value), fix);
}

fn header(key: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    match &brackets(key.value, HEADERS)?[..] {
        [name] if OF_CONNECTION.contains(&&*name.to_ascii_lowercase()) => {
            let message = format!("the header {name} ends at the proxy: no policy sees it");
            key.error_of(Code::Unsupported, report, message, "Ask about what the request itself says");
            None
        }
        [name] if is_token(name) => Some(name.to_ascii_lowercase().into()),
        _ => {
            key.error(
                report,
                format!("\"{}\" names no header", key.value),
                format!("Write `{HEADERS}[x-name]`"),
            );
            None
        }
    }
}

fn claims(key: &Text<'_>, report: &mut Report<'_>) -> Option<Vec<Arc<str>>> {
    let names = brackets(key.value, CLAIMS).filter(|names| {
        (1..=MAX_CLAIM_DEPTH).contains(&names.len()) && names.iter().all(|name| !name.is_empty())
    });
    if names.is_none() {
        let fix = format!("Write `{CLAIMS}[group]`, or `{CLAIMS}[realm][role]` for a claim within another");
        key.error(report, format!("\"{}\" names no claim", key.value), fix);
    }
    Some(names?.into_iter().map(Arc::from).collect())
}

/// The names in brackets behind the beginning of a key; none where they are not closed.
fn brackets<'k>(key: &'k str, start: &str) -> Option<Vec<&'k str>> {
    let rest = key.strip_prefix(start)?;
    let inner = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let names: Vec<&str> = inner.map(|inner| inner.split("][").collect()).unwrap_or_default();
    let is_good = names.iter().all(|name| !name.contains(['[', ']']));
    Some(if is_good { names } else { Vec::new() })
}
