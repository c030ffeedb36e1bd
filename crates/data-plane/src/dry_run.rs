//! What policies that are only tried would say of a request or connection, policy by policy.
//!
//! Nothing is decided here. It costs something where something is tried, and nothing elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::policy::{self, Facts, Rules, Verdict};
use meshwork_model::proxy::Action;
use meshwork_telemetry::Trial;

use crate::limits::TRIED_POLICIES;

/// What names begin with under which a proxy notes that a provider is to be asked: such rules are no trial. Source:
/// Istio.
const MARK: &str = "istio_ext_authz_";
/// Under which metadata it stands for logs with a format of their own.
pub(crate) const NAMESPACE: &str = "meshwork.policy";
/// What policies that are only tried would say.
pub(crate) const TRIED: &str = "dry_run";
/// The rule of an AUDIT policy that takes the request.
pub(crate) const AUDIT: &str = "audit";

/// What is noted of policies that decide nothing.
#[derive(Default)]
pub(crate) struct Noted {
    /// What those that are only tried would say.
    pub(crate) trials: Vec<(Arc<str>, Trial)>,
    /// The rule of an AUDIT policy that takes it.
    pub(crate) audit: Option<Arc<str>>,
}

impl Noted {
    /// All trials in one text: `ns[shop]-policy[cart]=denied`, with commas between.
    pub(crate) fn text(&self) -> String {
        let one = |(policy, trial): &(Arc<str>, Trial)| format!("{policy}={}", trial.label());
        self.trials.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

/// What each of some policies would say which are tried beside those that decide; `verdict` is what they say together.
///
/// Of DENY, a policy refuses what one of its rules takes. Of ALLOW, policies let pass together what a rule of any takes,
/// of those that decide among them: a policy that does not take a request refuses it only where no other does.
pub(crate) fn trials(
    enforced: Option<&Rules>,
    tried: &Rules,
    prefix: &str,
    verdict: &Verdict<'_>,
    facts: &Facts<'_>,
) -> Vec<(Arc<str>, Trial)> {
    if prefix.starts_with(MARK) {
        return Vec::new();
    }
    let rbac = tried.rbac();
    let matching: BTreeSet<&str> = policy::matching(rbac, facts).map(|rule| policy_of(rule)).collect();
    let policies: BTreeSet<&str> = rbac.rules.iter().map(|rule| policy_of(&rule.name)).collect();
    let passes = || matches!(policy::authorize(enforced, facts), Verdict::Allowed(Some(_)));
    let others = match rbac.action {
        Action::Deny | Action::Log => Trial::Allowed,
        Action::Allow if matches!(verdict, Verdict::Allowed(_)) || passes() => Trial::Allowed,
        Action::Allow => Trial::Denied,
    };
    let of_one = |policy: &str| match (matching.contains(policy), rbac.action) {
        (true, Action::Deny) => Trial::Denied,
        (true, Action::Allow | Action::Log) => Trial::Allowed,
        (false, _) => others,
    };
    policies.into_iter().take(TRIED_POLICIES).map(|policy| (policy.into(), of_one(policy))).collect()
}

/// The policy of a rule: `ns[shop]-policy[cart]` of `ns[shop]-policy[cart]-rule[0]`; the whole name of other rules.
fn policy_of(rule: &str) -> &str {
    let name = rule.find("-policy[");
    let end = name.and_then(|at| rule[at..].find(']').map(|end| at + end + 1));
    end.map_or(rule, |end| &rule[..end])
}

#[cfg(test)]
mod tests {
    use meshwork_model::proxy::{Permission, Principal, Rbac, Rule};

    use super::*;

    fn rules(action: Action, all: &[(&str, u16)]) -> Rules {
        let rule = |(name, port): &(&str, u16)| Rule {
            name: format!("ns[n]-policy[{name}]-rule[0]").into(),
            permissions: vec![Permission::DestinationPort(*port)],
            principals: vec![Principal::Any],
        };
        Rules::new(Arc::new(Rbac { action, rules: all.iter().map(rule).collect() }))
    }

    fn check(enforced: Option<&Rules>, tried: &Rules, prefix: &str, expected: &str) {
        let facts = Facts { destination_port: 80, ..Facts::default() };
        let verdict = policy::authorize([tried], &facts);
        let trials = trials(enforced, tried, prefix, &verdict, &facts);
        let text = Noted { trials, audit: None }.text();
        assert_eq!(text.replace("ns[n]-policy[", "").replace(']', ""), expected);
    }

    #[test]
    fn a_rule_is_of_its_policy() {
        let check = |rule: &str, expected: &str| assert_eq!(policy_of(rule), expected);
        check("ns[shop]-policy[cart]-rule[0]", "ns[shop]-policy[cart]");
        check("ns[shop]-policy[cart]-underscores", "ns[shop]-policy[cart]");
        check("mine", "mine");
        check("ns[shop]-policy[cart", "ns[shop]-policy[cart");
    }

    #[test]
    fn each_policy_that_denies_speaks_for_itself() {
        let tried = rules(Action::Deny, &[("a", 80), ("b", 81), ("b", 80), ("c", 82)]);
        check(None, &tried, "istio_dry_run_deny_", "a=denied,b=denied,c=allowed");
        check(None, &tried, "istio_ext_authz_opa_", "");
    }

    #[test]
    fn policies_that_allow_let_pass_together() {
        let (one, none) = (rules(Action::Allow, &[("a", 80), ("b", 81)]), rules(Action::Allow, &[("b", 81)]));
        let prefix = "istio_dry_run_allow_";
        check(None, &one, prefix, "a=allowed,b=allowed");
        check(None, &none, prefix, "b=denied");
        // What is let pass by those that decide stays so.
        check(Some(&rules(Action::Allow, &[("c", 80)])), &none, prefix, "b=allowed");
        check(Some(&rules(Action::Allow, &[("c", 81)])), &none, prefix, "b=denied");
    }
}
