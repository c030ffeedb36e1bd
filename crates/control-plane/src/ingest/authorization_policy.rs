//! AuthorizationPolicy. Source: Istio `security.istio.io/v1`.
//!
//! What a policy says and we could not enforce is refused, never skipped: a policy with a hole is worse than none.

use meshwork_model::mesh::{AuthorizationPolicy, AuthorizationRule, Key, Labels, Operation, Source};
use meshwork_model::proxy::{Action, StringMatch};

use super::metadata::Metadata;
use super::peer_authentication::selector;
use super::reader::{Fields, Item, Report, Text};
use super::references::{Reference, Target};
use super::yaml::Value;

const SOURCE_NOT_YET: &[&str] = &[
    "requestPrincipals",
    "notRequestPrincipals",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
];

/// Reads `spec`. Without rules, ALLOW lets nothing in and DENY keeps nothing out.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<AuthorizationPolicy> {
    let Some(item) = root.optional("spec") else {
        return Some(AuthorizationPolicy {
            selector: Labels::new(),
            action: Action::Allow,
            rules: Vec::new(),
        });
    };
    let mut spec = item.fields(report)?;
    let selector = selector(&mut spec, report);
    let actions = [("ALLOW", Action::Allow), ("DENY", Action::Deny)];
    let action = match spec.text(report, "action") {
        Some(text) => text.one_of(report, &actions, &["AUDIT", "CUSTOM"]),
        None => Some(Action::Allow),
    };
    let mut rules = Vec::new();
    for item in spec.list(report, "rules").unwrap_or_default() {
        rules.extend(rule(&item, metadata, report, references));
    }
    spec.not_yet(report, &["provider", "targetRef", "targetRefs"], "Select workloads by `selector`");
    spec.close(report);
    Some(AuthorizationPolicy { selector: selector?, action: action?, rules })
}

fn rule(
    item: &Item<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<AuthorizationRule> {
    let mut fields = item.fields(report)?;
    let mut rule = AuthorizationRule::default();
    for item in filled_list(&mut fields, "from", report) {
        rule.from.extend(wrapped(&item, "source", report).map(|f| source(f, metadata, report, references)));
    }
    for item in filled_list(&mut fields, "to", report) {
        rule.to.extend(wrapped(&item, "operation", report).map(|f| operation(f, report)));
    }
    fields.not_yet(report, &["when"], "");
    fields.close(report);
    Some(rule)
}

/// Opens the one field of an item of `from` or `to`.
fn wrapped<'n>(item: &Item<'n>, name: &'static str, report: &mut Report<'_>) -> Option<Fields<'n>> {
    let mut fields = item.fields(report)?;
    let inner = fields.required(report, name).and_then(|inner| inner.fields(report));
    fields.close(report);
    inner
}

/// A list that is there must have an item: an empty one would match everything or nothing, by reader.
fn filled_list<'n>(fields: &mut Fields<'n>, name: &'static str, report: &mut Report<'_>) -> Vec<Item<'n>> {
    let path = fields.path_of(name);
    let place = fields.optional(name).map(|item| item.node.place);
    let items = fields.list(report, name);
    if let (Some(place), Some([])) = (place, items.as_deref()) {
        report.error(
            &path,
            place,
            "the list is empty",
            "Leave the field out to match everything, or fill it",
        );
    }
    items.unwrap_or_default()
}

fn source(
    mut fields: Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Source {
    fields.demand_some(report, "the source says nothing", "Name a principal or a namespace");
    for item in filled_list(&mut fields, "principals", report) {
        references.extend(account_reference(&item, metadata, report));
    }
    let source = Source {
        principals: texts(&mut fields, "principals", report),
        not_principals: texts(&mut fields, "notPrincipals", report),
        namespaces: namespaces(&mut fields, "namespaces", report),
        not_namespaces: namespaces(&mut fields, "notNamespaces", report),
    };
    fields.not_yet(report, SOURCE_NOT_YET, "Name the callers by `principals` or `namespaces`");
    fields.close(report);
    source
}

/// A principal written in full refers to a service account, which may be declared beside it.
fn account_reference(item: &Item<'_>, metadata: &Metadata, report: &Report<'_>) -> Option<Reference> {
    let Value::Text(text) = &item.node.value else { return None };
    let mut parts = text.split('/');
    let (_, ns, namespace, sa, account) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let written_in_full = ns == "ns" && sa == "sa" && parts.next().is_none() && !text.contains('*');
    // Other namespaces may be declared elsewhere.
    let here = *namespace == *metadata.key.namespace;
    let account = Target::ServiceAccount(Key::new(namespace, account));
    (written_in_full && here).then(|| Reference::new(report, item, account))
}

fn operation(mut fields: Fields<'_>, report: &mut Report<'_>) -> Operation {
    fields.demand_some(report, "the operation says nothing", "Name a method, a path or a port");
    let operation = Operation {
        methods: texts(&mut fields, "methods", report),
        not_methods: texts(&mut fields, "notMethods", report),
        paths: paths(&mut fields, "paths", report),
        not_paths: paths(&mut fields, "notPaths", report),
        ports: ports(&mut fields, "ports", report),
        not_ports: ports(&mut fields, "notPorts", report),
    };
    fields.not_yet(report, &["hosts", "notHosts"], "");
    fields.close(report);
    operation
}

fn texts(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Vec<StringMatch> {
    let items = filled_list(fields, name, report);
    items.iter().filter_map(|item| string_match(&item.text(report)?, report)).collect()
}

fn namespaces(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Vec<StringMatch> {
    let items = filled_list(fields, name, report);
    let mut namespaces = Vec::new();
    for item in items {
        let Some(text) = item.text(report) else { continue };
        match string_match(&text, report) {
            Some(StringMatch::Suffix(_)) => {
                text.error(report, "a namespace by its end is not supported yet", "Name it in full");
            }
            other => namespaces.extend(other),
        }
    }
    namespaces
}

fn paths(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Vec<StringMatch> {
    let items = filled_list(fields, name, report);
    let mut paths = Vec::new();
    for item in items {
        let Some(text) = item.text(report) else { continue };
        if text.value.contains(['{', '}']) {
            text.error(
                report,
                "path templates are not supported yet",
                "Use an exact path, `/prefix*` or `*suffix`",
            );
        } else if !text.value.starts_with(['/', '*']) {
            text.error(report, "a path starts with \"/\" or \"*\"", "");
        } else {
            paths.extend(string_match(&text, report));
        }
    }
    paths
}

/// `*` anything, `*end`, `start*`, or the text itself. Source: Istio, AuthorizationPolicy `Rule`.
fn string_match(text: &Text<'_>, report: &mut Report<'_>) -> Option<StringMatch> {
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

fn ports(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Vec<u16> {
    let items = filled_list(fields, name, report);
    let mut ports = Vec::new();
    for item in items {
        let Some(text) = item.text(report) else { continue };
        match text.value.parse() {
            Ok(port @ 1..) => ports.push(port),
            _ => text.error(report, format!("\"{}\" is not a port", text.value), ""),
        }
    }
    ports
}
