//! Rules as they were judged: what failed first, and what held.

use std::sync::Arc;

use meshwork_model::policy::{Facts, Test, Trace, Verdict, authorize_traced};
use meshwork_model::proxy::{Action, Permission, Principal, Rbac, Rule};

use super::answer::{PolicyAnswer, RuleAnswer};
use super::words::{self, Tested, joined, policy_of};

/// What one list of rules said.
pub(super) struct Judged {
    pub(super) policies: Vec<PolicyAnswer>,
    /// The first rule that matches.
    pub(super) matched: Option<Arc<str>>,
    pub(super) refuses: bool,
}

/// Keeps what is tested.
struct Recorder<'f> {
    facts: &'f Facts<'f>,
    open: Vec<Node>,
    rules: Vec<Node>,
}

/// A test, with those that it consists of.
struct Node {
    kind: Kind,
    is_who: bool,
    holds: bool,
    parts: Vec<Node>,
}

enum Kind {
    Rule,
    Any,
    All,
    OneOf,
    Not,
    One(Tested),
}

/// Judges by rules, as a proxy does, and tells how. `action` is what the policies call it.
pub(super) fn judge(rbac: &Rbac, action: &str, dry_run: bool, facts: &Facts<'_>) -> Judged {
    let mut recorder = Recorder { facts, open: Vec::new(), rules: Vec::new() };
    let verdict = authorize_traced([rbac], facts, &mut recorder);
    let refuses = matches!(verdict, Verdict::Denied(_));
    let looked_at = recorder.rules;
    let matched = looked_at.iter().position(|rule| rule.holds);
    let matched = matched.and_then(|at| rbac.rules.get(at)).map(|rule| Arc::clone(&rule.name));
    let mut policies: Vec<PolicyAnswer> = Vec::new();
    for (at, rule) in rbac.rules.iter().enumerate() {
        let (policy, part) = match policy_of(&rule.name) {
            Some((policy, part)) => (policy, part.trim_start_matches('-').to_owned()),
            None => (rule.name.to_string(), String::new()),
        };
        let answer = of_rule(part, looked_at.get(at));
        let holds = answer.matches == Some(true);
        match policies.last_mut().filter(|last| last.policy == policy) {
            Some(last) => {
                last.matches |= holds;
                last.rules.push(answer);
            }
            None => policies.push(PolicyAnswer {
                policy,
                action: action.to_owned(),
                dry_run,
                matches: holds,
                rules: vec![answer],
            }),
        }
    }
    if policies.is_empty() && rbac.action == Action::Allow {
        let policy = "policies of which no rule can match here".to_owned();
        policies.push(PolicyAnswer { policy, action: action.to_owned(), dry_run, ..PolicyAnswer::default() });
    }
    Judged { policies, matched, refuses }
}

fn of_rule(rule: String, node: Option<&Node>) -> RuleAnswer {
    let Some(node) = node else {
        return RuleAnswer { rule, matches: None, why: "not looked at: another matched before".to_owned() };
    };
    let why = if node.holds { node.held() } else { node.failed() };
    RuleAnswer { rule, matches: Some(node.holds), why }
}

// === impl Node ===

impl Node {
    /// The first test that failed, in words.
    fn failed(&self) -> String {
        match &self.kind {
            Kind::One(tested) => tested.failed(),
            // What is asked for is looked at before who asks.
            Kind::Rule => {
                let is_who = self.parts.iter().any(|part| part.is_who);
                let parts = self.parts.iter().filter(|part| part.is_who == is_who);
                joined(parts.map(Self::failed).collect())
            }
            Kind::All => self.parts.last().map_or_else(String::new, Self::failed),
            Kind::OneOf => joined(self.parts.iter().map(Self::failed).collect()),
            Kind::Not => {
                let held: Vec<String> = self.parts.iter().map(Self::held).collect();
                format!("{}, which must not be", held.join(", "))
            }
            Kind::Any => "nothing can be so".to_owned(),
        }
    }

    /// What held, in words; empty where anything does.
    fn held(&self) -> String {
        match &self.kind {
            Kind::One(tested) => tested.held(),
            Kind::Rule | Kind::All => {
                let held = self.parts.iter().filter(|part| part.holds).map(Self::held);
                let held: Vec<String> = held.filter(|text| !text.is_empty()).collect();
                if held.is_empty() && matches!(self.kind, Kind::Rule) {
                    return "it takes everything".to_owned();
                }
                held.join(", ")
            }
            Kind::OneOf => self.parts.last().map_or_else(String::new, Self::held),
            Kind::Not => self.parts.first().map_or_else(String::new, Self::is_not),
            Kind::Any => String::new(),
        }
    }

    /// That it does not hold, where it must not.
    fn is_not(&self) -> String {
        match &self.kind {
            Kind::One(tested) => format!("{} is {}, not {}", tested.subject, tested.is, tested.wanted),
            Kind::OneOf => joined(self.parts.iter().map(Self::is_not).collect()),
            _ => self.failed(),
        }
    }
}

// === impl Recorder ===

impl Recorder<'_> {
    fn of_permission(&self, test: &Permission) -> Kind {
        match test {
            Permission::Any => Kind::Any,
            Permission::All(_) => Kind::All,
            Permission::OneOf(_) => Kind::OneOf,
            Permission::Not(_) => Kind::Not,
            one => Kind::One(words::permission(one, self.facts)),
        }
    }

    fn of_principal(&self, test: &Principal) -> Kind {
        match test {
            Principal::Any => Kind::Any,
            Principal::All(_) => Kind::All,
            Principal::OneOf(_) => Kind::OneOf,
            Principal::Not(_) => Kind::Not,
            one => Kind::One(words::principal(one, self.facts)),
        }
    }
}

impl Trace for Recorder<'_> {
    fn begin(&mut self, test: Test<'_>) {
        let (kind, is_who) = match test {
            Test::Rule(Rule { .. }) => (Kind::Rule, false),
            Test::Permission(test) => (self.of_permission(test), false),
            Test::Principal(test) => (self.of_principal(test), true),
        };
        self.open.push(Node { kind, is_who, holds: false, parts: Vec::new() });
    }

    fn end(&mut self, holds: bool) {
        let Some(mut node) = self.open.pop() else { return };
        node.holds = holds;
        match self.open.last_mut() {
            Some(parent) => parent.parts.push(node),
            None => self.rules.push(node),
        }
    }
}
