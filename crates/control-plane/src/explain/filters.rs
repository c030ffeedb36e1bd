//! What the filters of a chain say of a request, in their order: tokens, policies, providers, limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::head::RequestHead;
use meshwork_model::jwt::{self, Failure};
use meshwork_model::metadata::{Metadata, Value, matches_metadata};
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{
    Action, AuthService, ExtAuthz, Gate, HttpFilter, HttpFilterKind, HttpRbac, JwtAuthentication,
    JwtRequirement, Rbac,
};
use meshwork_model::reason::Reason;
use meshwork_model::route::{Asked, takes};

use super::answer::{Outcome, PolicyAnswer};
use super::{refused, rules, terms, words};

/// Stands before the names under which a proxy notes that a provider is to be asked. Source: Istio.
const MARK: &str = "istio_ext_authz_";

/// What they said.
#[derive(Default)]
pub(super) struct Through {
    pub(super) authentication: String,
    pub(super) policies: Vec<PolicyAnswer>,
    pub(super) then: Vec<String>,
    /// The first refusal, behind which nothing is asked.
    pub(super) refused: Option<Outcome>,
}

type Claims = BTreeMap<Arc<str>, Value>;

/// Asks each filter of requests in turn, until one refuses.
///
/// # Errors
/// The claims are no claims; in words.
pub(super) fn judge(
    filters: &[HttpFilter],
    facts: &Facts<'_>,
    claims: Option<&serde_json::Value>,
    now: f64,
) -> Result<Through, String> {
    let claims = claims.map(claims_of).transpose()?;
    let mut through = Through::default();
    let mut metadata = Metadata::default();
    for filter in filters.iter().filter(|filter| !filter.disabled) {
        if through.refused.is_some() {
            break;
        }
        match &filter.kind {
            HttpFilterKind::Jwt(config) => {
                if let Some(head) = facts.head {
                    through.tokens(config, &filter.name, head, claims.as_ref(), now, &mut metadata);
                }
            }
            HttpFilterKind::Rbac(rbac) => through.policies(rbac, facts, &mut metadata),
            HttpFilterKind::ExtAuthz(check) => through.provider(&filter.name, check, &metadata),
            HttpFilterKind::LocalRateLimit(limit) => through.then.push(terms::rate_limit(limit)),
            HttpFilterKind::Fault(fault) => through.then.extend(terms::faults(fault)),
            HttpFilterKind::Buffer(most) => {
                through.then.push(format!("its body is held, {most} bytes at most"));
            }
            HttpFilterKind::Cors | HttpFilterKind::HealthCheck(_) => {}
        }
    }
    Ok(through)
}

/// Asks each gate of connections in turn, until one refuses.
pub(super) fn admit(gates: &[Gate], facts: &Facts<'_>) -> Through {
    let mut through = Through::default();
    for gate in gates {
        if through.refused.is_some() {
            break;
        }
        match gate {
            Gate::Rbac(rbac) => through.rules(rbac, facts),
            Gate::Tried(rbac, _) => {
                let judged = rules::judge(rbac, action(rbac.action), true, facts);
                through.policies.extend(judged.policies);
            }
            Gate::Limit(limit) => through.then.push(format!("at most {} connections", limit.most)),
        }
    }
    through
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Log => "AUDIT",
    }
}

impl Through {
    fn rules(&mut self, rbac: &Rbac, facts: &Facts<'_>) {
        let judged = rules::judge(rbac, action(rbac.action), false, facts);
        self.policies.extend(judged.policies);
        if !judged.refuses {
            return;
        }
        let text = match judged.matched.as_ref().map(|rule| (rule, words::policy_of(rule))) {
            None => "no ALLOW policy lets it in".to_owned(),
            Some((_, Some((policy, rule)))) => {
                format!("the policy {policy} denies it, by {}", rule.trim_start_matches('-'))
            }
            Some((rule, None)) => format!("the rule {rule} denies it"),
        };
        self.refused = Some(refused(Some(Reason::Denied), text));
    }

    fn policies(&mut self, filter: &HttpRbac, facts: &Facts<'_>, metadata: &mut Metadata) {
        if let Some(shadow) = &filter.shadow {
            let custom = filter.shadow_prefix.strip_prefix(MARK).map(|name| name.trim_end_matches('_'));
            let label = custom.map_or_else(|| action(shadow.action).to_owned(), |_| "CUSTOM".to_owned());
            let facts = Facts { metadata: Some(metadata), ..*facts };
            let judged = rules::judge(shadow, &label, custom.is_none(), &facts);
            let verdict = if judged.refuses { "denied" } else { "allowed" };
            // As a proxy notes it, for the provider's filter.
            let key = format!("{}shadow_engine_result", filter.shadow_prefix);
            metadata.set(HttpFilter::RBAC, &key, Value::Text(verdict.into()));
            self.policies.extend(judged.policies);
        }
        if let Some(rules) = &filter.rules {
            self.rules(rules, &Facts { metadata: Some(metadata), ..*facts });
        }
    }

    fn provider(&mut self, name: &str, check: &ExtAuthz, metadata: &Metadata) {
        let is_asked =
            check.enabled_metadata.as_ref().is_none_or(|test| matches_metadata(test, Some(metadata)));
        if is_asked {
            let cluster = match &check.service {
                AuthService::Grpc { cluster, .. } => cluster,
                AuthService::Http(http) => &http.cluster,
            };
            let name = name.strip_prefix("envoy.filters.http.ext_authz.").unwrap_or(name);
            self.then
                .push(format!("the provider {name} ({cluster}) is asked; what it says is not known here"));
        }
    }

    fn tokens(
        &mut self,
        config: &JwtAuthentication,
        filter: &str,
        head: &RequestHead,
        claims: Option<&Claims>,
        now: f64,
        metadata: &mut Metadata,
    ) {
        let rule = config.rules.iter().find(|rule| takes(&rule.matches, head, Asked::default()));
        let Some(needed) = rule.and_then(|rule| rule.requires.as_ref()) else {
            "tokens are not looked at".clone_into(&mut self.authentication);
            return;
        };
        let good = claims.map_or_else(Vec::new, |claims| good(config, claims, now));
        if let (Some(at), Some(claims)) = (good.first(), claims) {
            let provider = &config.providers[*at];
            if let Some(key) = &provider.payload_in_metadata {
                metadata.set(filter, key, Value::Map(claims.clone()));
            }
        }
        let named: Vec<&str> = config.providers.iter().map(|provider| &*provider.name).collect();
        let named = named.join(", ");
        if is_met(needed, &good, claims.is_some()) {
            self.authentication = match (claims, good.first()) {
                (None, _) => format!("no token; one is not needed (RequestAuthentication {named})"),
                (Some(claims), Some(at)) => {
                    format!(
                        "a good token of {} (RequestAuthentication {})",
                        jwt::issuer(claims),
                        config.providers[*at].name
                    )
                }
                (Some(_), None) => format!("a token that nobody looks at (RequestAuthentication {named})"),
            };
            return;
        }
        let why = claims.map_or(Failure::Missing, |claims| failure(config, claims, now));
        self.authentication = format!("{} (RequestAuthentication {named})", why.text());
        let outcome = refused(Some(Reason::Unauthenticated), format!("its token: {}", why.text()));
        self.refused = Some(Outcome { status: Some(why.status()), ..outcome });
    }
}

/// The providers whose token it is, and good.
fn good(config: &JwtAuthentication, claims: &Claims, now: f64) -> Vec<usize> {
    let is_good = |at: &usize| jwt::judge(claims, &config.providers[*at], None, now).is_ok();
    (0..config.providers.len()).filter(is_good).collect()
}

/// Why a token is not good, by the first provider whose it is.
fn failure(config: &JwtAuthentication, claims: &Claims, now: f64) -> Failure {
    let failures =
        config.providers.iter().filter_map(|provider| jwt::judge(claims, provider, None, now).err());
    let mut theirs = failures.filter(|failure| *failure != Failure::UnknownIssuer);
    theirs.next().unwrap_or(Failure::UnknownIssuer)
}

/// Whether what a request needs is there. Source: Envoy `JwtRequirement`.
fn is_met(needed: &JwtRequirement, good: &[usize], has_token: bool) -> bool {
    match needed {
        JwtRequirement::Provider { provider, .. } => good.contains(provider),
        JwtRequirement::Any(any) => any.iter().any(|one| is_met(one, good, has_token)),
        JwtRequirement::All(all) => all.iter().all(|one| is_met(one, good, has_token)),
        JwtRequirement::AllowMissing => !has_token,
        JwtRequirement::AllowMissingOrFailed => true,
    }
}

fn claims_of(json: &serde_json::Value) -> Result<Claims, String> {
    match value(json) {
        Value::Map(claims) => Ok(claims),
        _ => Err("the claims are a JSON object, as `{\"iss\": \"https://issuer.example\", \"sub\": \"me\"}`"
            .to_owned()),
    }
}

fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Array(values) => Value::List(values.iter().map(value).collect()),
        Json::Object(fields) => {
            Value::Map(fields.iter().map(|(key, field)| (key.as_str().into(), value(field))).collect())
        }
    }
}
