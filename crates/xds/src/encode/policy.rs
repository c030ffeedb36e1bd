//! Authorization rules, and tests of texts.

#![expect(deprecated, reason = "files that people have use the older forms, too")]

use std::sync::Arc;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    Action, HeaderMatch, HeaderTest, MetadataMatch, Permission, Principal, Rbac, Rule, StringMatch,
    ValueMatch,
};

use super::route::header;
use super::{Writer, pack};
use crate::decode::EACH_VALUE;
use crate::node::Dialect;
use crate::pb;
use crate::pb::rbac::principal::Identifier;

pub(super) fn string(test: &StringMatch) -> pb::matcher::StringMatcher {
    use pb::matcher::string_matcher::MatchPattern;
    let pattern = match test {
        StringMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchPattern::Suffix(text.to_string()),
        StringMatch::Contains(text) => MatchPattern::Contains(text.to_string()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(pb::matcher::RegexMatcher {
            regex: regex.pattern().to_owned(),
            ..pb::matcher::RegexMatcher::default()
        }),
        StringMatch::AnyCase(test) => {
            return pb::matcher::StringMatcher { ignore_case: true, ..string(test) };
        }
    };
    pb::matcher::StringMatcher { match_pattern: Some(pattern), ..pb::matcher::StringMatcher::default() }
}

impl Writer<'_> {
    pub(super) fn rbac(&self, rbac: &Rbac) -> pb::rbac::Rbac {
        let action = match rbac.action {
            Action::Allow => pb::rbac::rbac::Action::Allow,
            Action::Deny => pb::rbac::rbac::Action::Deny,
            Action::Log => pb::rbac::rbac::Action::Log,
        };
        pb::rbac::Rbac {
            action: action as i32,
            policies: rbac.rules.iter().map(|rule| (rule.name.to_string(), self.policy(rule))).collect(),
            ..pb::rbac::Rbac::default()
        }
    }

    /// A rule. Envoy refuses empty lists, so a list that nothing can match is written as "not anything".
    fn policy(&self, rule: &Rule) -> pb::rbac::Policy {
        let mut permissions: Vec<_> = rule.permissions.iter().map(permission).collect();
        if permissions.is_empty() {
            permissions.push(permission(&Permission::Not(Box::new(Permission::Any))));
        }
        let mut principals: Vec<_> = rule.principals.iter().map(|test| self.principal(test)).collect();
        if principals.is_empty() {
            principals.push(self.principal(&Principal::Not(Box::new(Principal::Any))));
        }
        pb::rbac::Policy { permissions, principals, ..pb::rbac::Policy::default() }
    }

    fn principal(&self, tested: &Principal) -> pb::rbac::Principal {
        use pb::rbac::principal::{Authenticated, Set};
        let set = |tests: &[Principal]| Set { ids: tests.iter().map(|test| self.principal(test)).collect() };
        let identifier = match tested {
            Principal::Any => Identifier::Any(true),
            Principal::All(tests) if tests.is_empty() => Identifier::Any(true),
            Principal::OneOf(tests) if tests.is_empty() => {
                Identifier::NotId(Box::new(self.principal(&Principal::Any)))
            }
            Principal::All(tests) => Identifier::AndIds(set(tests)),
            Principal::OneOf(tests) => Identifier::OrIds(set(tests)),
            Principal::Not(test) => Identifier::NotId(Box::new(self.principal(test))),
            Principal::Authenticated(test) => {
                Identifier::Authenticated(Authenticated { principal_name: test.as_ref().map(string) })
            }
            Principal::DirectAddress(range) => Identifier::DirectRemoteIp(cidr(range)),
            Principal::RemoteAddress(range) => Identifier::RemoteIp(cidr(range)),
            Principal::SourceAddress(range) => Identifier::SourceIp(cidr(range)),
            Principal::Header(matcher) => Identifier::Header(header(matcher)),
            Principal::EachValue { name, tests } => self.each_value(name, tests),
            Principal::Path(test) => Identifier::UrlPath(pb::matcher::PathMatcher {
                rule: Some(pb::matcher::path_matcher::Rule::Path(string(test))),
            }),
            Principal::Metadata(test) => Identifier::Metadata(metadata(test)),
        };
        pb::rbac::Principal { identifier: Some(identifier) }
    }

    /// Each value passes: for our own proxy, since Envoy and gRPC know no such test. To them it is that one value passes.
    fn each_value(&self, name: &Arc<str>, tests: &[StringMatch]) -> Identifier {
        let of_value = |test: &StringMatch| {
            let is_any = matches!(test, StringMatch::Prefix(text) if text.is_empty());
            let test = if is_any { HeaderTest::Present } else { HeaderTest::Value(test.clone()) };
            Principal::Header(HeaderMatch { name: Arc::clone(name), test, invert: false })
        };
        let one = self.principal(&Principal::OneOf(tests.iter().map(of_value).collect()));
        match one.identifier {
            Some(identifier) if self.dialect != Dialect::Meshwork => identifier,
            _ => Identifier::Custom(pb::core::TypedExtensionConfig {
                name: EACH_VALUE.to_owned(),
                typed_config: Some(pack(&one)),
            }),
        }
    }
}

/// The rules as they are for connections, where tests of requests never match: Envoy refuses those there.
pub(super) fn of_connections(rbac: &Rbac) -> Rbac {
    let rule = |rule: &Rule| Rule {
        name: rule.name.clone(),
        permissions: rule.permissions.iter().map(permission_of_connections).collect(),
        principals: rule.principals.iter().map(principal_of_connections).collect(),
    };
    Rbac { action: rbac.action, rules: rbac.rules.iter().map(rule).collect() }
}

fn permission_of_connections(tested: &Permission) -> Permission {
    let each = |tests: &[Permission]| tests.iter().map(permission_of_connections).collect();
    match tested {
        Permission::Path(_) | Permission::Header(_) => Permission::Not(Box::new(Permission::Any)),
        Permission::All(tests) => Permission::All(each(tests)),
        Permission::OneOf(tests) => Permission::OneOf(each(tests)),
        Permission::Not(test) => Permission::Not(Box::new(permission_of_connections(test))),
        other => other.clone(),
    }
}

fn principal_of_connections(tested: &Principal) -> Principal {
    let each = |tests: &[Principal]| tests.iter().map(principal_of_connections).collect();
    match tested {
        Principal::Path(_) | Principal::Header(_) | Principal::EachValue { .. } => {
            Principal::Not(Box::new(Principal::Any))
        }
        Principal::All(tests) => Principal::All(each(tests)),
        Principal::OneOf(tests) => Principal::OneOf(each(tests)),
        Principal::Not(test) => Principal::Not(Box::new(principal_of_connections(test))),
        other => other.clone(),
    }
}

fn permission(tested: &Permission) -> pb::rbac::Permission {
    use pb::rbac::permission::{Rule, Set};
    let set = |tests: &[Permission]| Set { rules: tests.iter().map(permission).collect() };
    let rule = match tested {
        Permission::Any => Rule::Any(true),
        Permission::All(tests) if tests.is_empty() => Rule::Any(true),
        Permission::OneOf(tests) if tests.is_empty() => Rule::NotRule(Box::new(permission(&Permission::Any))),
        Permission::All(tests) => Rule::AndRules(set(tests)),
        Permission::OneOf(tests) => Rule::OrRules(set(tests)),
        Permission::Not(test) => Rule::NotRule(Box::new(permission(test))),
        Permission::Path(test) => Rule::UrlPath(pb::matcher::PathMatcher {
            rule: Some(pb::matcher::path_matcher::Rule::Path(string(test))),
        }),
        Permission::Header(matcher) => Rule::Header(header(matcher)),
        Permission::DestinationPort(port) => Rule::DestinationPort(u32::from(*port)),
        Permission::DestinationPorts { start, end } => {
            let bound = |port: u32| i32::try_from(port).unwrap_or(i32::MAX);
            Rule::DestinationPortRange(pb::Int32Range { start: bound(*start), end: bound(*end) })
        }
        Permission::DestinationAddress(range) => Rule::DestinationIp(cidr(range)),
        Permission::ServerName(test) => Rule::RequestedServerName(string(test)),
        Permission::Metadata(test) => Rule::Metadata(metadata(test)),
    };
    pb::rbac::Permission { rule: Some(rule) }
}

fn cidr(range: &Cidr) -> pb::core::CidrRange {
    pb::core::CidrRange {
        address_prefix: range.network().to_string(),
        prefix_len: Some(pb::UInt32Value { value: range.length().into() }),
    }
}

pub(super) fn metadata(test: &MetadataMatch) -> pb::matcher::MetadataMatcher {
    use pb::matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    let segment = |key: &Arc<str>| PathSegment { segment: Some(Segment::Key(key.to_string())) };
    pb::matcher::MetadataMatcher {
        filter: test.filter.to_string(),
        path: test.path.iter().map(segment).collect(),
        value: Some(value(&test.value)),
        invert: test.invert,
    }
}

fn value(test: &ValueMatch) -> pb::matcher::ValueMatcher {
    use pb::matcher::double_matcher::MatchPattern as Double;
    use pb::matcher::value_matcher::{MatchPattern, NullMatch};
    let double =
        |pattern| MatchPattern::DoubleMatch(pb::matcher::DoubleMatcher { match_pattern: Some(pattern) });
    let pattern = match test {
        ValueMatch::Null => MatchPattern::NullMatch(NullMatch {}),
        ValueMatch::Exactly(number) => double(Double::Exact(*number)),
        ValueMatch::Range { start, end } => {
            double(Double::Range(pb::DoubleRange { start: *start, end: *end }))
        }
        ValueMatch::Text(test) => MatchPattern::StringMatch(string(test)),
        ValueMatch::Bool(wanted) => MatchPattern::BoolMatch(*wanted),
        ValueMatch::Present(wanted) => MatchPattern::PresentMatch(*wanted),
        ValueMatch::OneOf(test) => MatchPattern::ListMatch(Box::new(pb::matcher::ListMatcher {
            match_pattern: Some(pb::matcher::list_matcher::MatchPattern::OneOf(Box::new(value(test)))),
        })),
        ValueMatch::Or(tests) => MatchPattern::OrMatch(pb::matcher::OrMatcher {
            value_matchers: tests.iter().map(value).collect(),
        }),
    };
    pb::matcher::ValueMatcher { match_pattern: Some(pattern) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_requests_never_match_connections_inverted_or_not() {
        let header = |invert| HeaderMatch { name: "x".into(), test: HeaderTest::Present, invert };
        let never = Permission::Not(Box::new(Permission::Any));
        let port = Permission::DestinationPort(80);
        let rbac = Rbac {
            action: Action::Deny,
            rules: vec![Rule {
                name: "a".into(),
                permissions: vec![
                    Permission::All(vec![port.clone(), Permission::Header(header(true))]),
                    Permission::Path(StringMatch::Prefix("/".into())),
                ],
                principals: vec![Principal::Header(header(false)), Principal::Any],
            }],
        };
        let rules = of_connections(&rbac).rules;
        assert_eq!(rules[0].permissions, [Permission::All(vec![port, never.clone()]), never]);
        assert_eq!(rules[0].principals, [Principal::Not(Box::new(Principal::Any)), Principal::Any]);
    }
}
