//! What pages of other origins may do (CORS): preflights are answered, and responses say what is allowed.

use std::sync::Arc;

use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::proxy::{CorsPolicy, RouteAction, RouteFilterKind};
use meshwork_model::reason::Reason;
use meshwork_model::route::matches_text;

use super::{LocalReply, Scene};
use crate::error::ProxyError;

const ALLOW_ORIGIN: &[u8] = b"access-control-allow-origin";
const ALLOW_CREDENTIALS: &[u8] = b"access-control-allow-credentials";

/// The filter on a route: its policies, the most specific first. Each thing is said by the first that says it.
pub(super) struct Cors(Vec<Arc<CorsPolicy>>);

impl Cors {
    pub(super) fn new(words: &[&RouteFilterKind]) -> Self {
        let policy = |word: &&RouteFilterKind| match word {
            RouteFilterKind::Cors(policy) => Some(Arc::clone(policy)),
            _ => None,
        };
        Self(words.iter().filter_map(policy).collect())
    }

    /// Answers a preflight, and notes whose page asks.
    pub(super) fn ask(&self, scene: &mut Scene<'_, '_>, head: &RequestHead) -> Result<(), ProxyError> {
        let is_forwarded = scene.route.is_some_and(|route| matches!(route.action, RouteAction::Forward(_)));
        let Some(first) = self.0.first().filter(|_| is_forwarded) else { return Ok(()) };
        if !first.enabled.hits(scene.place.worker.random()) {
            return Ok(());
        }
        let Some(origin) = head.fields.find(b"origin").filter(|origin| !origin.is_empty()) else {
            return Ok(());
        };
        let is_allowed = self.allows(origin);
        if is_allowed {
            scene.passed().origin = Some(origin.to_vec());
        }
        let asked = head.fields.find(b"access-control-request-method").unwrap_or_default();
        let is_preflight = head.method() == b"OPTIONS" && !asked.is_empty();
        if !is_preflight || !is_allowed && self.flag(|policy| policy.forward_others).unwrap_or(true) {
            return Ok(());
        }
        let fields = self.preflight(head, origin, is_allowed);
        Err(LocalReply { fields, is_plain: true, ..LocalReply::new(Reason::DirectResponse, 200) }.into())
    }

    fn preflight(&self, head: &RequestHead, origin: &[u8], is_allowed: bool) -> Fields {
        let mut fields = Fields::default();
        if is_allowed {
            fields.push(ALLOW_ORIGIN, origin);
        }
        if self.flag(|policy| policy.allow_credentials) == Some(true) {
            fields.push(ALLOW_CREDENTIALS, b"true");
        }
        let asked = |name: &[u8]| head.fields.find(name).unwrap_or_default().to_vec();
        let mut say = |name: &[u8], allowed: &str, asks: &[u8]| match allowed {
            "" => {}
            "*" => fields.push(name, &asked(asks)),
            allowed => fields.push(name, allowed.as_bytes()),
        };
        let methods = self.text(|policy| &policy.allow_methods);
        say(b"access-control-allow-methods", methods, b"access-control-request-method");
        let headers = self.text(|policy| &policy.allow_headers);
        say(b"access-control-allow-headers", headers, b"access-control-request-headers");
        let max_age = self.text(|policy| &policy.max_age);
        if !max_age.is_empty() {
            fields.push(b"access-control-max-age", max_age.as_bytes());
        }
        let asks_private = head.fields.find(b"access-control-request-private-network") == Some(b"true");
        if asks_private && self.flag(|policy| policy.allow_private_network) == Some(true) {
            fields.push(b"access-control-allow-private-network", b"true");
        }
        fields
    }

    /// Says in a response what the page may do.
    pub(super) fn answer(&self, origin: &[u8], response: &mut ResponseHead) {
        let fields = &mut response.fields;
        fields.set(ALLOW_ORIGIN, origin);
        if self.flag(|policy| policy.allow_credentials) == Some(true) {
            fields.set(ALLOW_CREDENTIALS, b"true");
        }
        let exposed = self.text(|policy| &policy.expose_headers);
        if !exposed.is_empty() {
            fields.set(b"access-control-expose-headers", exposed.as_bytes());
        }
    }

    fn allows(&self, origin: &[u8]) -> bool {
        let origins = self.0.iter().map(|policy| &policy.allow_origins).find(|origins| !origins.is_empty());
        let passes = |test| matches_text(test, b"*") || matches_text(test, origin);
        origins.is_some_and(|origins| origins.iter().any(passes))
    }

    fn text<'p>(&'p self, of: impl Fn(&'p CorsPolicy) -> &'p Arc<str>) -> &'p str {
        self.0.iter().map(|policy| &**of(policy)).find(|text| !text.is_empty()).unwrap_or_default()
    }

    fn flag(&self, of: impl Fn(&CorsPolicy) -> Option<bool>) -> Option<bool> {
        self.0.iter().find_map(|policy| of(policy))
    }
}
