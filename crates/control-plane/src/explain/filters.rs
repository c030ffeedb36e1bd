//! What the filters of a chain say of a request, in their order: faults, pages of other origins, tokens, policies,
//! providers, limits. Which filters there are for its route, and what each does, is `model`'s to say.

use std::sync::Arc;

use meshwork_model::cors;
use meshwork_model::fault;
use meshwork_model::fraction::Fraction;
use meshwork_model::head::RequestHead;
use meshwork_model::metadata::{Metadata, Value, matches_metadata};
use meshwork_model::policy::Facts;
use meshwork_model::proxy::{
    Action, Applied, AuthService, CorsPolicy, ExtAuthz, Fault, Gate, HttpFilter, HttpRbac, Rbac, Route,
    RouteAction, RouteFilter,
};
use meshwork_model::reason::Reason;

use super::answer::{Outcome, PolicyAnswer};
use super::tokens::Tokens;
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

/// The filters of a chain, and the route of a request.
#[derive(Clone, Copy)]
pub(super) struct Asked<'f> {
    pub(super) filters: &'f [HttpFilter],
    pub(super) route: Option<&'f Route>,
    /// What that, and what stands above it, says of filters, the most specific first.
    pub(super) words: &'f [&'f [RouteFilter]],
}

/// Asks each filter in turn, until one refuses; those that let the request pass may change it.
pub(super) fn judge(
    asked: Asked<'_>,
    head: &mut RequestHead,
    facts: &Facts<'_>,
    tokens: &mut Tokens<'_>,
) -> Through {
    let mut through = Through::default();
    let mut metadata = Metadata::default();
    for filter in asked.filters {
        let Some(applied) = filter.applied(asked.words) else { continue };
        match applied {
            Applied::Fault { config, .. } => through.fault(config, head, asked.route),
            Applied::Cors(policies) => through.page(&policies, head, asked.route),
            Applied::Jwt(config, route) => {
                let said = tokens.judge(config, route, head, &mut metadata);
                through.authentication = said.text;
                through.refused = said.refusal.map(|refusal| Outcome {
                    status: Some(refusal.status),
                    ..refused(Some(refusal.reason()), format!("its token: {}", refusal.text))
                });
            }
            Applied::Rbac(rbac) => {
                through.policies(rbac, &Facts { head: Some(head), ..*facts }, &mut metadata);
            }
            Applied::ExtAuthz(check, _) => through.provider(&filter.name, check, &metadata),
            Applied::LocalRateLimit(limit) => through.then.push(terms::rate_limit(limit)),
            Applied::Buffer(most) => through.then.push(format!("its body is held, {most} bytes at most")),
            Applied::HealthCheck(_) => {}
        }
        if through.refused.is_some() {
            break;
        }
    }
    through
}

/// Asks each gate of connections in turn, until one refuses.
pub(super) fn admit(gates: &[Gate], facts: &Facts<'_>) -> Through {
    let mut through = Through::default();
    for gate in gates {
        match gate {
            Gate::Rbac(rbac) => through.rules(rbac, facts),
            Gate::Tried(rbac, _) => {
                let judged = rules::judge(rbac, action(rbac.action), true, facts);
                through.policies.extend(judged.policies);
            }
            Gate::Limit(limit) => through.then.push(format!("at most {} connections", limit.most)),
        }
        if let Some(refused) = &mut through.refused {
            // It is closed: nobody is answered.
            refused.status = None;
            break;
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

/// The number that is the last to be one of a share: what it hits, every number hits.
fn last(share: Fraction) -> u64 {
    u64::from(share.denominator.saturating_sub(1))
}

impl Through {
    fn fault(&mut self, config: &Fault, head: &RequestHead, route: Option<&Route>) {
        if !fault::concerns(config, head, route.and_then(Route::cluster)) {
            return;
        }
        if let Some(delay) = config.delay.as_ref().filter(|_| fault::delay(config, head, 0).is_some()) {
            self.then.push(terms::delay(delay));
        }
        let Some(abort) = config.abort.as_ref().filter(|_| fault::abort(config, head, 0).is_some()) else {
            return;
        };
        self.then.push(terms::abort(abort));
        // With a limit of such requests there are some that have none.
        let of_all = fault::abort(config, head, last(abort.share)).filter(|_| config.max_active.is_none());
        if let Some(abort) = of_all {
            let outcome = refused(Some(Reason::Fault), "a fault on purpose answers it".to_owned());
            self.refused = Some(Outcome { status: Some(abort.status), ..outcome });
        }
    }

    fn page(&mut self, policies: &[&Arc<CorsPolicy>], head: &RequestHead, route: Option<&Route>) {
        let is_forwarded = route.is_some_and(|route| matches!(route.action, RouteAction::Forward(_)));
        let Some(first) = policies.first().filter(|_| is_forwarded) else { return };
        let answered = cors::judge(policies, head, last(first.enabled)).filter(|verdict| verdict.is_answered);
        if answered.is_none() {
            self.then.push("CORS is answered for".to_owned());
            return;
        }
        let text = "a page asks what it may ask for (CORS), and the proxy answers".to_owned();
        self.refused = Some(Outcome { status: Some(200), ..refused(Some(Reason::DirectResponse), text) });
    }

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
}
