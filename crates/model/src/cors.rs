//! `judge`: what pages of other origins may do (CORS), and whether a preflight is answered in the service's place.
//!
//! Policies are those of a route and of what stands above it, the most specific first; each thing is said by the first
//! that says it. Source: Envoy `extensions.filters.http.cors.v3`; the Fetch standard.

use std::sync::Arc;

use crate::head::RequestHead;
use crate::proxy::CorsPolicy;
use crate::route::matches_text;

/// The method that a preflight asks for.
const REQUEST_METHOD: &[u8] = b"access-control-request-method";

/// What becomes of a request of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'h> {
    /// The page's origin.
    pub origin: &'h [u8],
    /// Whether pages of that origin may ask.
    pub is_allowed: bool,
    /// Whether the request is a preflight that is answered, and goes no further.
    pub is_answered: bool,
}

/// Judges a request that is to be forwarded; `None` where there is nothing to say. `random` is any number, uniformly
/// drawn.
pub fn judge<'h, P: AsRef<CorsPolicy>>(
    policies: &[P],
    head: &'h RequestHead,
    random: u64,
) -> Option<Verdict<'h>> {
    if !policies.first()?.as_ref().enabled.hits(random) {
        return None;
    }
    let origin = head.fields.find(b"origin").filter(|origin| !origin.is_empty())?;
    let is_allowed = allows(policies, origin);
    let is_forwarded = !is_allowed && flag(policies, |policy| policy.forward_others).unwrap_or(true);
    Some(Verdict { origin, is_allowed, is_answered: is_preflight(head) && !is_forwarded })
}

/// Whether a page asks what it may ask for.
pub fn is_preflight(head: &RequestHead) -> bool {
    let has = |name| head.fields.find(name).is_some_and(|value| !value.is_empty());
    head.method() == b"OPTIONS" && has(b"origin") && has(REQUEST_METHOD)
}

/// What policies say in a text; empty where none says it.
pub fn text<P: AsRef<CorsPolicy>>(policies: &[P], of: impl Fn(&CorsPolicy) -> &Arc<str>) -> &str {
    policies.iter().map(|policy| &**of(policy.as_ref())).find(|text| !text.is_empty()).unwrap_or_default()
}

/// What policies say by yes or no; `None` where none says it.
pub fn flag<P: AsRef<CorsPolicy>>(policies: &[P], of: impl Fn(&CorsPolicy) -> Option<bool>) -> Option<bool> {
    policies.iter().find_map(|policy| of(policy.as_ref()))
}

fn allows<P: AsRef<CorsPolicy>>(policies: &[P], origin: &[u8]) -> bool {
    let mut each = policies.iter().map(|policy| &policy.as_ref().allow_origins);
    let origins = each.find(|origins| !origins.is_empty());
    let passes = |test| matches_text(test, b"*") || matches_text(test, origin);
    origins.is_some_and(|origins| origins.iter().any(passes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fraction::Fraction;
    use crate::proxy::StringMatch;

    fn policy(origins: &[&str]) -> CorsPolicy {
        CorsPolicy {
            allow_origins: origins.iter().map(|origin| StringMatch::Exact((*origin).into())).collect(),
            allow_methods: "".into(),
            allow_headers: "".into(),
            expose_headers: "".into(),
            max_age: "".into(),
            allow_credentials: None,
            allow_private_network: None,
            forward_others: None,
            enabled: Fraction::ALL,
            shadow: Fraction { numerator: 0, denominator: 100 },
        }
    }

    #[test]
    fn a_preflight_is_answered_where_somebody_knows_the_answer() {
        let check =
            |change: &dyn Fn(&mut CorsPolicy), fields: &[(&str, &str)], expected: Option<[bool; 2]>| {
                let mut head = RequestHead::default();
                head.set_method(b"OPTIONS");
                for (name, value) in fields {
                    head.fields.push(name.as_bytes(), value.as_bytes());
                }
                let mut own = policy(&[]);
                change(&mut own);
                // What the nearer one does not say, the other does.
                let policies = [Arc::new(own), Arc::new(policy(&["https://a"]))];
                let got = judge(&policies, &head, 0).map(|verdict| [verdict.is_allowed, verdict.is_answered]);
                assert_eq!(got, expected, "{fields:?}");
            };
        let (asks, strange) = ([("origin", "https://a")], ("origin", "https://b"));
        let method = ("access-control-request-method", "PUT");
        check(&|_| (), &[], None);
        check(&|_| (), &asks, Some([true, false]));
        check(&|_| (), &[asks[0], method], Some([true, true]));
        check(&|_| (), &[strange, method], Some([false, false]));
        check(&|policy| policy.forward_others = Some(false), &[strange, method], Some([false, true]));
        let off = |policy: &mut CorsPolicy| policy.enabled.numerator = 0;
        check(&off, &[asks[0], method], None);
        let others = |policy: &mut CorsPolicy| policy.allow_origins = vec![StringMatch::Exact("*".into())];
        check(&others, &[strange, method], Some([true, true]));
    }
}
