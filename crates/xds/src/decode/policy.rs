//! Authorization rules, and tests of texts.

use meshwork_model::proxy::{Action, Permission, Principal, Rbac, Rule, StringMatch};
use meshwork_model::regex::Regex;

use super::{required, route};
use crate::path::{Path, Problems};
use crate::pb;

/// A test of a text.
pub(super) fn string(
    message: &pb::matcher::StringMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<StringMatch> {
    use pb::matcher::string_matcher::MatchPattern;
    let text = |text: &str| if message.ignore_case { text.to_ascii_lowercase().into() } else { text.into() };
    let test = match &message.match_pattern {
        Some(MatchPattern::Exact(exact)) => StringMatch::Exact(text(exact)),
        Some(MatchPattern::Prefix(prefix)) => StringMatch::Prefix(text(prefix)),
        Some(MatchPattern::Suffix(suffix)) => StringMatch::Suffix(text(suffix)),
        Some(MatchPattern::Contains(part)) => StringMatch::Contains(text(part)),
        // Case counts for it whatever is said of that.
        Some(MatchPattern::SafeRegex(message)) => {
            return regex(message, &at.field("safe_regex"), problems).map(StringMatch::Regex);
        }
        _ => {
            let fix = "write `exact`, `prefix`, `suffix`, `contains` or `safe_regex`";
            return problems.error(at, "the test is missing", fix);
        }
    };
    Some(if message.ignore_case { StringMatch::AnyCase(Box::new(test)) } else { test })
}

/// A regular expression, for a whole text.
pub(super) fn regex(
    message: &pb::matcher::RegexMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Regex> {
    let pattern = required(&message.regex, &at.field("regex"), problems)?;
    Regex::new(pattern).map_err(|why| problems.error::<()>(&at.field("regex"), why, "")).ok()
}

/// Rules that allow or deny, in order of their names.
pub(super) fn rbac(message: &pb::rbac::Rbac, at: &Path<'_>, problems: &mut Problems) -> Option<Rbac> {
    let action = match pb::rbac::rbac::Action::try_from(message.action) {
        Ok(pb::rbac::rbac::Action::Allow) => Action::Allow,
        Ok(pb::rbac::rbac::Action::Deny) => Action::Deny,
        _ => {
            return problems.error(
                &at.field("action"),
                "this action is not supported",
                "write ALLOW or DENY",
            );
        }
    };
    let path = at.field("policies");
    let mut policies: Vec<_> = message.policies.iter().collect();
    policies.sort_by(|a, b| a.0.cmp(b.0));
    let mut rules = Vec::new();
    for (name, policy) in policies {
        rules.extend(rule(name, policy, &path.key(name), problems));
    }
    Some(Rbac { action, rules })
}

/// A rule, with all of its tests or not at all: a rule that lost a test would match more, or less.
fn rule(name: &str, message: &pb::rbac::Policy, at: &Path<'_>, problems: &mut Problems) -> Option<Rule> {
    let permissions = permissions(&message.permissions, &at.field("permissions"), problems)?;
    let principals = principals(&message.principals, &at.field("principals"), problems)?;
    Some(Rule { name: name.into(), permissions, principals })
}

fn permissions(
    messages: &[pb::rbac::Permission],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<Permission>> {
    let each = messages.iter().enumerate();
    each.map(|(index, message)| permission(message, &at.index(index), problems)).collect()
}

fn permission(message: &pb::rbac::Permission, at: &Path<'_>, problems: &mut Problems) -> Option<Permission> {
    use pb::rbac::permission::Rule;
    match message.rule.as_ref() {
        Some(Rule::Any(true)) => Some(Permission::Any),
        Some(Rule::AndRules(set)) => {
            permissions(&set.rules, &at.field("and_rules").field("rules"), problems).map(Permission::All)
        }
        Some(Rule::OrRules(set)) => {
            permissions(&set.rules, &at.field("or_rules").field("rules"), problems).map(Permission::OneOf)
        }
        Some(Rule::NotRule(inner)) => {
            let inner = permission(inner, &at.field("not_rule"), problems)?;
            Some(Permission::Not(Box::new(inner)))
        }
        Some(Rule::UrlPath(path)) => path_test(path, &at.field("url_path"), problems).map(Permission::Path),
        Some(Rule::Header(matcher)) => {
            route::header(matcher, &at.field("header"), problems).map(Permission::Header)
        }
        Some(Rule::DestinationPort(port)) => match u16::try_from(*port) {
            Ok(port) => Some(Permission::DestinationPort(port)),
            Err(_) => problems.error(&at.field("destination_port"), format!("{port} is no port"), ""),
        },
        _ => problems.error(at, "this permission is not supported", "write `any: true` for everything"),
    }
}

fn path_test(
    message: &pb::matcher::PathMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<StringMatch> {
    match &message.rule {
        Some(pb::matcher::path_matcher::Rule::Path(matcher)) => string(matcher, &at.field("path"), problems),
        None => problems.error(at, "the test is missing", "write `path`"),
    }
}

fn principals(
    messages: &[pb::rbac::Principal],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<Principal>> {
    let each = messages.iter().enumerate();
    each.map(|(index, message)| principal(message, &at.index(index), problems)).collect()
}

fn principal(message: &pb::rbac::Principal, at: &Path<'_>, problems: &mut Problems) -> Option<Principal> {
    use pb::rbac::principal::Identifier;
    match message.identifier.as_ref() {
        Some(Identifier::Any(true)) => Some(Principal::Any),
        Some(Identifier::AndIds(set)) => {
            principals(&set.ids, &at.field("and_ids").field("ids"), problems).map(Principal::All)
        }
        Some(Identifier::OrIds(set)) => {
            principals(&set.ids, &at.field("or_ids").field("ids"), problems).map(Principal::OneOf)
        }
        Some(Identifier::NotId(inner)) => {
            let inner = principal(inner, &at.field("not_id"), problems)?;
            Some(Principal::Not(Box::new(inner)))
        }
        Some(Identifier::Authenticated(authenticated)) => {
            let at = at.field("authenticated");
            let Some(matcher) = &authenticated.principal_name else {
                return Some(Principal::Authenticated(None));
            };
            let test = string(matcher, &at.field("principal_name"), problems)?;
            Some(Principal::Authenticated(Some(test)))
        }
        _ => problems.error(at, "this principal is not supported", "write `any: true` for everybody"),
    }
}
