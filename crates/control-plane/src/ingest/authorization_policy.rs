//! AuthorizationPolicy. Source: Istio `security.istio.io/v1`.
//!
//! What a policy says and we could not enforce is refused, never skipped: a policy with a hole is worse than none.

mod condition;
mod values;

use std::sync::Arc;

use meshwork_model::mesh::{AuthorizationPolicy, AuthorizationRule, Key, Operation, PolicyAction, Source};

use self::values::{account, cidr, namespace, path, port, principal, text, trust_domain, wanted};
use super::metadata::Metadata;
use super::policy_target::{Attached, attached};
use super::reader::{Fields, Item, Report};
use super::references::{Reference, Referred};
use super::yaml::Value;

/// Source: Istio, "Dry run".
const DRY_RUN: &str = "istio.io/dry-run";

/// What reading needs besides the report.
struct Context<'r> {
    metadata: &'r Metadata,
    references: &'r mut Vec<Reference>,
}

/// Reads `spec`. Without rules, ALLOW lets nothing in and DENY keeps nothing out.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<AuthorizationPolicy> {
    let dry_run = dry_run(metadata, report);
    let Some(item) = root.optional("spec") else {
        let Attached { selector, targets } = Attached::default();
        let (action, rules) = (PolicyAction::Allow, Vec::new());
        return Some(AuthorizationPolicy { selector, targets, action, dry_run, rules });
    };
    let mut spec = item.fields(report)?;
    let attached = attached(&mut spec, metadata, report, references);
    let provider = spec.optional("provider");
    let action = action(&mut spec, dry_run, report);
    if let (Some(item), Some(PolicyAction::Custom(name))) = (&provider, &action) {
        references.push(Reference::new(report, item, Referred::Provider(Arc::clone(name))));
    }
    let mut context = Context { metadata, references };
    let mut rules = Vec::new();
    for item in spec.list(report, "rules").unwrap_or_default() {
        rules.extend(rule(&item, &mut context, report));
    }
    if rules.is_empty() && matches!(action, Some(PolicyAction::Custom(_))) {
        let message = "a CUSTOM policy without a rule asks its provider about nothing";
        report.error(
            &spec.path_of("rules"),
            spec.place(),
            message,
            "Write `rules: [{}]` to ask about everything",
        );
    }
    spec.close(report);
    let Attached { selector, targets } = attached?;
    Some(AuthorizationPolicy { selector, targets, action: action?, dry_run, rules })
}

/// Whether the policy is only tried.
fn dry_run(metadata: &Metadata, report: &mut Report<'_>) -> bool {
    match metadata.annotations.get(DRY_RUN).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("expected \"true\" or \"false\", found \"{other}\"");
            report.error(&format!("metadata.annotations.{DRY_RUN}"), metadata.place, message, "");
            true
        }
    }
}

fn action(spec: &mut Fields<'_>, dry_run: bool, report: &mut Report<'_>) -> Option<PolicyAction> {
    #[derive(Clone, Copy, PartialEq)]
    enum Named {
        Allow,
        Deny,
        Audit,
        Custom,
    }
    let actions =
        [("ALLOW", Named::Allow), ("DENY", Named::Deny), ("AUDIT", Named::Audit), ("CUSTOM", Named::Custom)];
    let text = spec.text(report, "action");
    let named = match &text {
        Some(text) => text.one_of(report, &actions, &[])?,
        None => Named::Allow,
    };
    let provider = provider(spec, report);
    if let (true, Some(text), Named::Audit | Named::Custom) = (dry_run, &text, named) {
        text.error(report, "only ALLOW and DENY can be tried", format!("Take out the annotation {DRY_RUN}"));
    }
    let place = spec.place();
    match (named, provider) {
        (Named::Allow, None) => Some(PolicyAction::Allow),
        (Named::Deny, None) => Some(PolicyAction::Deny),
        (Named::Audit, None) => Some(PolicyAction::Audit),
        (Named::Custom, Some(name)) => Some(PolicyAction::Custom(name)),
        (Named::Custom, None) => {
            let fix = "Name an extension provider of the MeshConfig";
            report.error(&spec.path_of("provider"), place, "a CUSTOM policy has a provider", fix);
            None
        }
        (_, Some(_)) => {
            let message = "only a CUSTOM policy has a provider";
            report.error(&spec.path_of("provider"), place, message, "Write `action: CUSTOM`, or take it out");
            None
        }
    }
}

fn provider(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let mut fields = spec.mapping(report, "provider")?;
    let name = fields.required_text(report, "name").map(|name| name.value.into());
    fields.close(report);
    name
}

fn rule(item: &Item<'_>, context: &mut Context<'_>, report: &mut Report<'_>) -> Option<AuthorizationRule> {
    let mut fields = item.fields(report)?;
    let mut rule = AuthorizationRule::default();
    for item in filled_list(&mut fields, "from", report) {
        rule.from.extend(wrapped(&item, "source", report).map(|f| source(f, context, report)));
    }
    for item in filled_list(&mut fields, "to", report) {
        rule.to.extend(wrapped(&item, "operation", report).map(|f| operation(f, report)));
    }
    for item in filled_list(&mut fields, "when", report) {
        rule.when.extend(condition::read(&item, context.metadata, report));
    }
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

fn source(mut fields: Fields<'_>, context: &mut Context<'_>, report: &mut Report<'_>) -> Source {
    fields.demand_some(report, "the source says nothing", "Name a principal or a namespace");
    let metadata = context.metadata;
    for item in fields.optional("principals").iter().flat_map(Item::items) {
        context.references.extend(account_reference(&item, metadata, report));
    }
    let f = &mut fields;
    let source = Source {
        principals: wanted(f, ["principals", "notPrincipals"], report, principal),
        trust_domains: wanted(f, ["trustDomains", "notTrustDomains"], report, trust_domain),
        namespaces: wanted(f, ["namespaces", "notNamespaces"], report, namespace),
        accounts: wanted(f, ["serviceAccounts", "notServiceAccounts"], report, |text, report| {
            account(text, metadata, report)
        }),
        request_principals: wanted(f, ["requestPrincipals", "notRequestPrincipals"], report, text),
        ip_blocks: wanted(f, ["ipBlocks", "notIpBlocks"], report, cidr),
        remote_ip_blocks: wanted(f, ["remoteIpBlocks", "notRemoteIpBlocks"], report, cidr),
    };
    let is_said_otherwise = !source.principals.is_empty() || !source.namespaces.is_empty();
    if !source.accounts.is_empty() && is_said_otherwise {
        let message = "`serviceAccounts` stands beside neither `principals` nor `namespaces`";
        report.error(&fields.path_of("serviceAccounts"), fields.place(), message, "Use one of them");
    }
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
    let account = Referred::ServiceAccount(Key::new(namespace, account));
    (written_in_full && here).then(|| Reference::new(report, item, account))
}

fn operation(mut fields: Fields<'_>, report: &mut Report<'_>) -> Operation {
    fields.demand_some(report, "the operation says nothing", "Name a method, a path or a port");
    let f = &mut fields;
    let operation = Operation {
        hosts: wanted(f, ["hosts", "notHosts"], report, values::host),
        methods: wanted(f, ["methods", "notMethods"], report, text),
        paths: wanted(f, ["paths", "notPaths"], report, path),
        ports: wanted(f, ["ports", "notPorts"], report, port),
    };
    fields.close(report);
    operation
}
