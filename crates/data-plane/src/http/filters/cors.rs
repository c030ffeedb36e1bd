//! What pages of other origins may do (CORS): preflights are answered, and responses say what is allowed.

use std::sync::Arc;

use meshwork_model::cors;
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::proxy::{CorsPolicy, RouteAction};
use meshwork_model::reason::Reason;

use super::{LocalReply, Scene};
use crate::error::ProxyError;

const ALLOW_ORIGIN: &[u8] = b"access-control-allow-origin";
const ALLOW_CREDENTIALS: &[u8] = b"access-control-allow-credentials";

/// The filter on a route: its policies, the most specific first. Each thing is said by the first that says it.
pub(super) struct Cors(Vec<Arc<CorsPolicy>>);

impl Cors {
    pub(super) fn new(policies: &[&Arc<CorsPolicy>]) -> Self {
        Self(policies.iter().map(|policy| Arc::clone(policy)).collect())
    }

    /// Answers a preflight, and notes whose page asks.
    pub(super) fn ask(&self, scene: &mut Scene<'_, '_>, head: &RequestHead) -> Result<(), ProxyError> {
        let is_forwarded = scene.route.is_some_and(|route| matches!(route.action, RouteAction::Forward(_)));
        if self.0.is_empty() || !is_forwarded {
            return Ok(());
        }
        let Some(verdict) = cors::judge(&self.0, head, scene.place.worker.random()) else { return Ok(()) };
        if verdict.is_allowed {
            scene.passed().origin = Some(verdict.origin.to_vec());
        }
        if !verdict.is_answered {
            return Ok(());
        }
        let fields = self.preflight(head, verdict.origin, verdict.is_allowed);
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

    fn text(&self, of: impl Fn(&CorsPolicy) -> &Arc<str>) -> &str {
        cors::text(&self.0, of)
    }

    fn flag(&self, of: impl Fn(&CorsPolicy) -> Option<bool>) -> Option<bool> {
        cors::flag(&self.0, of)
    }
}
