//! Authorization rules, and tests of texts.

#![expect(deprecated, reason = "files that people have use the older forms, too")]

use std::sync::Arc;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    Action, HeaderMatch, HeaderTest, MetadataMatch, Permission, Principal, Rbac, Rule, StringMatch,
    ValueMatch,
};

use meshwork_model::regex::Regex;

use super::{required, route, unpack};
use crate::path::{Path, Problems};
use crate::pb;

/// The name of the extension by which a principal is a header field each of whose values passes: it holds the principal
/// of whom one value does.
pub(crate) const EACH_VALUE: &str = "meshwork.v1.each_value";

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
        Ok(pb::rbac::rbac::Action::Log) => Action::Log,
        Err(_) => {
            let fix = "write ALLOW, DENY or LOG";
            return problems.error(&at.field("action"), "this action is not supported", fix);
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
        Some(Rule::DestinationPortRange(range)) => {
            ports(*range, &at.field("destination_port_range"), problems)
        }
        Some(Rule::DestinationIp(range)) => {
            cidr(range, &at.field("destination_ip"), problems).map(Permission::DestinationAddress)
        }
        Some(Rule::RequestedServerName(matcher)) => {
            string(matcher, &at.field("requested_server_name"), problems).map(Permission::ServerName)
        }
        Some(Rule::Metadata(matcher)) => {
            metadata(matcher, &at.field("metadata"), problems).map(Permission::Metadata)
        }
        Some(Rule::SourcedMetadata(sourced)) => {
            sourced_metadata(sourced, &at.field("sourced_metadata"), problems).map(Permission::Metadata)
        }
        _ => problems.error(at, "this permission is not supported", "write `any: true` for everything"),
    }
}

/// Ports from the start of a range to before its end.
fn ports(range: pb::Int32Range, at: &Path<'_>, problems: &mut Problems) -> Option<Permission> {
    let port = |number: i32| u32::try_from(number).ok().filter(|number| *number <= 65536);
    match (port(range.start), port(range.end)) {
        (Some(start), Some(end)) if start < end => Some(Permission::DestinationPorts { start, end }),
        _ => {
            problems.error(at, "this is no range of ports", "write a `start` below `end`, which is left out")
        }
    }
}

/// A range of addresses.
fn cidr(message: &pb::core::CidrRange, at: &Path<'_>, problems: &mut Problems) -> Option<Cidr> {
    let Ok(address) = message.address_prefix.parse() else {
        let text = format!("`{}` is not an IP address", message.address_prefix);
        return problems.error(&at.field("address_prefix"), text, "");
    };
    Some(Cidr::new(address, message.prefix_len.map_or(0, |length| length.value)))
}

fn sourced_metadata(
    message: &pb::rbac::SourcedMetadata,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<MetadataMatch> {
    if message.metadata_source != pb::rbac::MetadataSource::Dynamic as i32 {
        return problems.error(&at.field("metadata_source"), "only DYNAMIC is supported", "");
    }
    let at = at.field("metadata_matcher");
    match &message.metadata_matcher {
        Some(matcher) => metadata(matcher, &at, problems),
        None => problems.error(&at, "the test is missing", ""),
    }
}

/// A test of metadata.
pub(super) fn metadata(
    message: &pb::matcher::MetadataMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<MetadataMatch> {
    use pb::matcher::metadata_matcher::path_segment::Segment;
    let filter = required(&message.filter, &at.field("filter"), problems)?.into();
    let keys = message.path.iter().map(|segment| match &segment.segment {
        Some(Segment::Key(key)) if !key.is_empty() => Some(Arc::from(key.as_str())),
        _ => None,
    });
    let path: Option<Vec<Arc<str>>> = keys.collect();
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return problems.error(&at.field("path"), "a key is missing", "");
    };
    let at = at.field("value");
    let Some(test) = &message.value else { return problems.error(&at, "the test is missing", "") };
    Some(MetadataMatch { filter, path, value: value(test, &at, problems)?, invert: message.invert })
}

fn value(message: &pb::matcher::ValueMatcher, at: &Path<'_>, problems: &mut Problems) -> Option<ValueMatch> {
    use pb::matcher::double_matcher::MatchPattern as Double;
    use pb::matcher::list_matcher::MatchPattern::OneOf;
    use pb::matcher::value_matcher::MatchPattern;
    match &message.match_pattern {
        Some(MatchPattern::NullMatch(_)) => Some(ValueMatch::Null),
        Some(MatchPattern::DoubleMatch(double)) => match &double.match_pattern {
            Some(Double::Exact(number)) => Some(ValueMatch::Exactly(*number)),
            Some(Double::Range(range)) => Some(ValueMatch::Range { start: range.start, end: range.end }),
            None => problems.error(&at.field("double_match"), "the test is missing", ""),
        },
        Some(MatchPattern::StringMatch(matcher)) => {
            string(matcher, &at.field("string_match"), problems).map(ValueMatch::Text)
        }
        Some(MatchPattern::BoolMatch(wanted)) => Some(ValueMatch::Bool(*wanted)),
        Some(MatchPattern::PresentMatch(wanted)) => Some(ValueMatch::Present(*wanted)),
        Some(MatchPattern::ListMatch(list)) => match &list.match_pattern {
            Some(OneOf(test)) => {
                let at = at.field("list_match");
                Some(ValueMatch::OneOf(Box::new(value(test, &at.field("one_of"), problems)?)))
            }
            None => problems.error(&at.field("list_match"), "the test is missing", ""),
        },
        Some(MatchPattern::OrMatch(or)) => {
            let at = at.field("or_match");
            let at = at.field("value_matchers");
            let each = or.value_matchers.iter().enumerate();
            let tests = each.map(|(index, test)| value(test, &at.index(index), problems));
            tests.collect::<Option<_>>().map(ValueMatch::Or)
        }
        None => problems.error(at, "the test is missing", ""),
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
        Some(Identifier::SourceIp(range)) => {
            cidr(range, &at.field("source_ip"), problems).map(Principal::SourceAddress)
        }
        Some(Identifier::DirectRemoteIp(range)) => {
            cidr(range, &at.field("direct_remote_ip"), problems).map(Principal::DirectAddress)
        }
        Some(Identifier::RemoteIp(range)) => {
            cidr(range, &at.field("remote_ip"), problems).map(Principal::RemoteAddress)
        }
        Some(Identifier::Header(matcher)) => {
            route::header(matcher, &at.field("header"), problems).map(Principal::Header)
        }
        Some(Identifier::UrlPath(path)) => {
            path_test(path, &at.field("url_path"), problems).map(Principal::Path)
        }
        Some(Identifier::Metadata(matcher)) => {
            metadata(matcher, &at.field("metadata"), problems).map(Principal::Metadata)
        }
        Some(Identifier::SourcedMetadata(sourced)) => {
            sourced_metadata(sourced, &at.field("sourced_metadata"), problems).map(Principal::Metadata)
        }
        Some(Identifier::Custom(extension)) => each_value(extension, &at.field("custom"), problems),
        _ => problems.error(at, "this principal is not supported", "write `any: true` for everybody"),
    }
}

fn each_value(
    extension: &pb::core::TypedExtensionConfig,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Principal> {
    let held = extension.typed_config.as_ref().filter(|_| extension.name == EACH_VALUE);
    let Some(message) = held.and_then(unpack::<pb::rbac::Principal>) else {
        let fix = format!("only `{EACH_VALUE}` with a principal in it is; write `authenticated` for a peer");
        return problems.error(&at.field("name"), "this extension is not supported", &fix);
    };
    let at = at.field("typed_config");
    let values = match principal(&message, &at, problems)? {
        Principal::OneOf(values) => values,
        one => vec![one],
    };
    let mut named: Option<Arc<str>> = None;
    let tests = values.into_iter().map(|value| {
        let Principal::Header(HeaderMatch { name, test, invert: false }) = value else { return None };
        let is_same = **named.get_or_insert_with(|| Arc::clone(&name)) == *name;
        match test {
            HeaderTest::Value(text) if is_same => Some(text),
            HeaderTest::Present if is_same => Some(StringMatch::Prefix("".into())),
            _ => None,
        }
    });
    let tests: Option<Vec<StringMatch>> = tests.collect();
    let Some((name, tests)) = named.zip(tests) else {
        return problems.error(&at, "this does not test values of one header field", "write `header`s in it");
    };
    Some(Principal::EachValue { name, tests })
}
