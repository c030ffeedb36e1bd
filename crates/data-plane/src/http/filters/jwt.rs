//! Tokens (JWT): which a request needs, and what becomes of their claims. `model::jwt` says so; this has the keys, and
//! waits for them.
//!
//! It fails closed: without a good key there is no good token.

mod keys;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use meshwork_identity::jwt::{Jwt, KeySet};
use meshwork_model::head::RequestHead;
use meshwork_model::jwt::{Authentication as Judged, Failure, Keyring, Parts, Refusal, authenticate};
use meshwork_model::proxy::{HttpFilter, JwtAuthentication, RouteJwt};

pub(super) use self::keys::Keys;
use super::{Kept, LocalReply, Scene};
use crate::error::ProxyError;
use crate::worker::Worker;

/// Characters of a path in an answer's `www-authenticate`. Source: Envoy.
const REALM_PATH: usize = 256;

/// The filter on a route.
pub(super) struct Authentication {
    config: Arc<JwtAuthentication>,
    keys: Vec<Arc<Keys>>,
    route: Option<RouteJwt>,
}

/// The keys of all providers, as one request sees them.
struct Ring<'r> {
    worker: &'r Rc<Worker>,
    keys: &'r [Arc<Keys>],
    /// Those that it has waited for; most requests wait for none.
    awaited: Vec<Awaited>,
}

/// Keys that a request has waited for.
struct Awaited {
    provider: usize,
    keys: Result<Arc<KeySet>, Failure>,
    /// Whether newer ones were asked for in vain, or these are what came.
    is_newest: bool,
}

/// Keys that a request has to wait for: those of a provider.
struct Lack {
    provider: usize,
    /// The present ones, which lack the one that a token names.
    than: Option<Arc<KeySet>>,
}

impl Authentication {
    pub(super) fn new(config: &Arc<JwtAuthentication>, route: Option<&RouteJwt>, kept: &mut Kept) -> Self {
        let keys = config.providers.iter().map(|provider| kept.keys(provider)).collect();
        Self { config: Arc::clone(config), keys, route: route.cloned() }
    }

    /// Lets a request pass whose tokens are good.
    pub(super) async fn ask(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
    ) -> Result<(), ProxyError> {
        let mut ring = Ring { worker: scene.place.worker, keys: &self.keys, awaited: Vec::new() };
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            match authenticate(&self.config, self.route.as_ref(), head, &mut ring, now) {
                Judged::Passed(passed) => {
                    for (key, value) in passed.found {
                        scene.record.metadata().set(HttpFilter::JWT, &key, value);
                    }
                    return Ok(());
                }
                Judged::Refused(refusal) => return Err(self.refusal(head, &refusal)),
                Judged::Lacks(lack) => ring.wait(scene, lack).await?,
            }
        }
    }

    fn refusal(&self, head: &RequestHead, refusal: &Refusal) -> ProxyError {
        let mut reply = LocalReply::new(refusal.reason(), refusal.status);
        if self.config.strip_failure_response {
            reply.body = Some(Bytes::new());
            return reply.into();
        }
        reply.body = Some(Bytes::copy_from_slice(refusal.text.as_bytes()));
        if let Some(failure) = refusal.failure {
            reply.fields.set(b"www-authenticate", &challenge(head, failure));
        }
        reply.into()
    }
}

// === impl Ring ===

impl Ring<'_> {
    /// The keys of a provider, and whether there are none newer; `None` where they have to be waited for.
    fn of(&self, provider: usize) -> Option<(Result<Arc<KeySet>, Failure>, bool)> {
        if let Some(last) = self.awaited.iter().rfind(|awaited| awaited.provider == provider) {
            return Some((last.keys.clone(), last.is_newest));
        }
        match self.keys.get(provider) {
            Some(keys) => Some((keys.at_hand(self.worker)?, false)),
            None => Some((Err(Failure::UnknownIssuer), true)),
        }
    }

    /// Waits for keys, unless the client leaves meanwhile. Of each provider that is twice at most.
    async fn wait(&mut self, scene: &mut Scene<'_, '_>, lack: Lack) -> Result<(), ProxyError> {
        let Lack { provider, than } = lack;
        let is_newest = than.is_some();
        let keys = match (self.keys.get(provider), than) {
            (None, _) => Err(Failure::UnknownIssuer),
            (Some(keys), None) => scene.wait(keys.now(self.worker)).await?,
            (Some(keys), Some(known)) => {
                let newer = scene.wait(keys.newer(&known)).await?;
                Ok(newer.unwrap_or(known))
            }
        };
        self.awaited.push(Awaited { provider, keys, is_newest });
        Ok(())
    }
}

impl Keyring for Ring<'_> {
    type Signed = Jwt;
    type Lack = Lack;

    fn read(&mut self, text: &str) -> Result<(Parts, Jwt), Failure> {
        Jwt::read(text)
    }

    fn verify(&mut self, provider: usize, jwt: &Jwt) -> Result<Result<(), Failure>, Lack> {
        let (known, is_newest) = self.of(provider).ok_or(Lack { provider, than: None })?;
        let known = match known {
            Ok(known) => known,
            Err(failure) => return Ok(Err(failure)),
        };
        let verified = known.verify(jwt);
        // Issuers begin with a new key at once.
        if verified == Err(Failure::NoKey) && jwt.key_id().is_some() && !is_newest {
            return Err(Lack { provider, than: Some(known) });
        }
        Ok(verified)
    }
}

/// Source: RFC 6750 §3; the realm is the address that was asked for, as Envoy has it.
fn challenge(head: &RequestHead, failure: Failure) -> Vec<u8> {
    let path = head.path_and_query();
    let scheme = head.fields.find(b"x-forwarded-proto").unwrap_or(b"http");
    let mut text = b"Bearer realm=\"".to_vec();
    for part in [scheme, b"://", head.authority(), &path[..path.len().min(REALM_PATH)]] {
        // A quote would end the realm early.
        text.extend(part.iter().filter(|byte| !matches!(byte, b'"' | b'\\')));
    }
    text.push(b'"');
    if failure != Failure::Missing {
        text.extend(b", error=\"invalid_token\"");
    }
    text
}
