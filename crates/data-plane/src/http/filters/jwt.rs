//! Tokens (JWT): which a request needs, where they are found in it, and what becomes of their claims.
//!
//! It fails closed: without a good key there is no good token.

mod keys;
mod places;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use meshwork_identity::jwt::{Jwt, padded};
use meshwork_model::head::RequestHead;
use meshwork_model::jwt::{self, Failure};
use meshwork_model::metadata::Value;
use meshwork_model::proxy::{JwtAuthentication, JwtProvider, JwtRequirement, RouteJwt};
use meshwork_model::reason::Reason;
use meshwork_model::route::{Asked, takes};

pub(super) use self::keys::Keys;
use self::places::Token;
use super::{Kept, LocalReply, Scene};
use crate::error::ProxyError;

/// Under which name metadata has claims.
const FILTER: &str = "envoy.filters.http.jwt_authn";
/// Characters of a path in an answer's `www-authenticate`. Source: Envoy.
const REALM_PATH: usize = 256;

/// The filter on a route.
pub(super) struct Authentication {
    config: Arc<JwtAuthentication>,
    keys: Vec<Arc<Keys>>,
    route: Option<RouteJwt>,
}

/// Claims that metadata gets once all of a requirement holds.
type Found = Vec<(Arc<str>, Value)>;

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
        // Also of providers that this request is not asked about: whoever reads these fields believes them.
        self.config.providers.iter().for_each(|provider| places::clean(provider, head));
        if self.config.bypass_cors_preflight && is_preflight(head) {
            return Ok(());
        }
        let requirement = match self.requirement(head) {
            Ok(Some(requirement)) => requirement,
            Ok(None) => return Ok(()),
            Err(text) => return Err(self.refusal(head, 403, &text, None)),
        };
        let mut found = Found::new();
        match self.check(scene, head, requirement, &mut found).await? {
            Ok(()) => {
                for (key, value) in found {
                    scene.record.metadata().set(FILTER, &key, value);
                }
                Ok(())
            }
            Err(failure) => Err(self.refusal(head, failure.status(), failure.text(), Some(failure))),
        }
    }

    /// What a request needs: what its route says, or the first rule that takes it.
    fn requirement(&self, head: &RequestHead) -> Result<Option<&JwtRequirement>, String> {
        match &self.route {
            Some(RouteJwt::Off) => return Ok(None),
            Some(RouteJwt::Named(name)) => {
                let found = self.config.named.iter().find(|(known, _)| known == name);
                let wrong = || format!("Failed JWT authentication: Wrong requirement_name: {name}.");
                return found.map(|(_, requirement)| Some(requirement)).ok_or_else(wrong);
            }
            None => {}
        }
        let rule = self.config.rules.iter().find(|rule| takes(&rule.matches, head, Asked::default()));
        Ok(rule.and_then(|rule| rule.requires.as_ref()))
    }

    /// Whether a requirement holds; the outer error is that the client left.
    async fn check(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
        requirement: &JwtRequirement,
        found: &mut Found,
    ) -> Result<Result<(), Failure>, ProxyError> {
        match requirement {
            JwtRequirement::Provider { provider, audiences } => {
                self.by_provider(scene, head, *provider, audiences.as_deref(), found).await
            }
            JwtRequirement::All(all) => {
                for one in all {
                    if let Err(failure) = Box::pin(self.check(scene, head, one, found)).await? {
                        return Ok(Err(failure));
                    }
                }
                Ok(Ok(()))
            }
            JwtRequirement::Any(any) => self.any(scene, head, any, found).await,
            JwtRequirement::AllowMissing => self.lenient(scene, head, &[], false, found).await,
            JwtRequirement::AllowMissingOrFailed => self.lenient(scene, head, &[], true, found).await,
        }
    }

    /// The first that holds is enough; what allows a token to be missing is looked at last.
    async fn any(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
        any: &[JwtRequirement],
        found: &mut Found,
    ) -> Result<Result<(), Failure>, ProxyError> {
        let is_lenient = |one: &&JwtRequirement| {
            matches!(one, JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed)
        };
        let (mut last, mut telling, mut used) = (Failure::Missing, None, Vec::new());
        for one in any.iter().filter(|one| !is_lenient(one)) {
            if let JwtRequirement::Provider { provider, .. } = one {
                used.push(*provider);
            }
            match Box::pin(self.check(scene, head, one, found)).await? {
                Ok(()) => return Ok(Ok(())),
                Err(failure) => {
                    last = failure;
                    // That there is no token of the right issuer says less than what is wrong with one.
                    if !matches!(failure, Failure::Missing | Failure::UnknownIssuer) {
                        telling = Some(failure);
                    }
                }
            }
        }
        let mut lenient = any.iter().filter(is_lenient).peekable();
        if lenient.peek().is_none() {
            return Ok(Err(telling.unwrap_or(last)));
        }
        let allows_failed = lenient.any(|one| *one == JwtRequirement::AllowMissingOrFailed);
        let result = self.lenient(scene, head, &used, allows_failed, found).await?;
        Ok(result.map_err(|failure| telling.unwrap_or(failure)))
    }

    /// Every token at a provider's places must be good, and there must be one.
    async fn by_provider(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
        index: usize,
        audiences: Option<&[Arc<str>]>,
        found: &mut Found,
    ) -> Result<Result<(), Failure>, ProxyError> {
        let Some(provider) = self.config.providers.get(index) else { return Ok(Err(Failure::UnknownIssuer)) };
        places::clean(provider, head);
        let tokens = match places::tokens(&[provider], head) {
            Ok(tokens) if tokens.is_empty() => return Ok(Err(Failure::Missing)),
            Ok(tokens) if !places::are_same(&tokens) => return Ok(Err(Failure::Several)),
            Ok(tokens) => tokens,
            Err(failure) => return Ok(Err(failure)),
        };
        for token in tokens.iter().rev() {
            let jwt = match Jwt::parse(&token.text) {
                Ok(jwt) => jwt,
                Err(failure) => return Ok(Err(failure)),
            };
            if let Err(failure) = self.verify(scene, index, token, &jwt, audiences).await? {
                return Ok(Err(failure));
            }
            pass_on(provider, token, jwt, head, found);
        }
        Ok(Ok(()))
    }

    /// Tokens of these providers (of all, where none is named) may be missing, or be bad as well.
    async fn lenient(
        &self,
        scene: &mut Scene<'_, '_>,
        head: &mut RequestHead,
        used: &[usize],
        allows_failed: bool,
        found: &mut Found,
    ) -> Result<Result<(), Failure>, ProxyError> {
        let all = self.config.providers.iter().enumerate();
        let chosen: Vec<(usize, &JwtProvider)> = all
            .filter(|(index, _)| used.is_empty() || used.contains(index))
            .map(|(i, p)| (i, &**p))
            .collect();
        let providers: Vec<&JwtProvider> = chosen.iter().map(|(_, provider)| *provider).collect();
        for provider in &providers {
            places::clean(provider, head);
        }
        let tokens = match places::tokens(&providers, head) {
            Ok(tokens) => tokens,
            Err(_) if allows_failed => return Ok(Ok(())),
            Err(failure) => return Ok(Err(failure)),
        };
        let (mut result, mut seen) = (Ok(()), Vec::new());
        for token in tokens.iter().rev() {
            let outcome = match Jwt::parse(&token.text) {
                Err(failure) => Err(failure),
                Ok(jwt) => match self.of_issuer(jwt::issuer(&jwt.claims)) {
                    None => Err(Failure::UnknownIssuer),
                    Some((index, _)) if is_second(&mut seen, index, &token.text) => Err(Failure::Several),
                    Some((index, provider)) => {
                        let verified = self.verify(scene, index, token, &jwt, None).await?;
                        if verified.is_ok() {
                            pass_on(provider, token, jwt, head, found);
                        }
                        verified
                    }
                },
            };
            // A good token does not make up for a bad one, which the application may take.
            result = result.and(outcome);
        }
        Ok(if allows_failed { Ok(()) } else { result })
    }

    /// The first provider that an issuer is named by, or the first that names none.
    fn of_issuer(&self, issuer: &str) -> Option<(usize, &JwtProvider)> {
        let mut all = self.config.providers.iter().enumerate().map(|(index, provider)| (index, &**provider));
        let named = |(_, provider): &(usize, &JwtProvider)| provider.issuer.as_deref() == Some(issuer);
        let mut again = all.clone();
        all.find(named).or_else(|| again.find(|(_, provider)| provider.issuer.is_none()))
    }

    async fn verify(
        &self,
        scene: &mut Scene<'_, '_>,
        index: usize,
        token: &Token,
        jwt: &Jwt,
        audiences: Option<&[Arc<str>]>,
    ) -> Result<Result<(), Failure>, ProxyError> {
        let (Some(provider), Some(keys)) = (self.config.providers.get(index), self.keys.get(index)) else {
            return Ok(Err(Failure::UnknownIssuer));
        };
        if !token.is_for(jwt::issuer(&jwt.claims)) {
            return Ok(Err(Failure::UnknownIssuer));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if let Err(failure) = jwt::judge(&jwt.claims, provider, audiences, now) {
            return Ok(Err(failure));
        }
        let worker = scene.place.worker;
        let known = match scene.wait(keys.now(worker)).await? {
            Ok(known) => known,
            Err(failure) => return Ok(Err(failure)),
        };
        let verified = known.verify(jwt);
        if verified != Err(Failure::NoKey) || jwt.key_id().is_none() {
            return Ok(verified);
        }
        let newer = scene.wait(keys.newer(&known)).await?;
        Ok(newer.map_or(verified, |newer| newer.verify(jwt)))
    }

    fn refusal(&self, head: &RequestHead, status: u16, text: &str, failure: Option<Failure>) -> ProxyError {
        let reason = match failure {
            Some(Failure::NoKeySet | Failure::NoValidKeys) => Reason::NoTokenKeys,
            _ => Reason::Unauthenticated,
        };
        let mut reply = LocalReply::new(reason, status);
        if self.config.strip_failure_response {
            reply.body = Some(Bytes::new());
            return reply.into();
        }
        reply.body = Some(Bytes::copy_from_slice(text.as_bytes()));
        if let Some(failure) = failure {
            reply.fields.set(b"www-authenticate", &challenge(head, failure));
        }
        reply.into()
    }
}

/// Whether a provider has had another token before.
fn is_second<'t>(seen: &mut Vec<(usize, &'t str)>, provider: usize, text: &'t str) -> bool {
    let other = seen.iter().find(|(known, _)| *known == provider);
    let is_second = other.is_some_and(|(_, first)| *first != text);
    seen.push((provider, text));
    is_second
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

/// What a good token leaves: fields, metadata, and itself or not.
fn pass_on(provider: &JwtProvider, token: &Token, jwt: Jwt, head: &mut RequestHead, found: &mut Found) {
    if let Some(name) = &provider.payload_header {
        let payload = if provider.pad_payload_header { padded(&jwt.payload) } else { jwt.payload.clone() };
        head.fields.push(name.as_bytes(), payload.as_bytes());
    }
    for (name, path) in &provider.claim_headers {
        if let Some(claim) = jwt::claim(&jwt.claims, path).filter(|claim| is_field_value(claim)) {
            head.fields.push(name.as_bytes(), claim.as_bytes());
        }
    }
    if !provider.forward {
        token.remove(head);
    }
    if let Some(key) = &provider.header_in_metadata {
        found.push((Arc::clone(key), Value::Map(jwt.header)));
    }
    if let Some(key) = &provider.payload_in_metadata {
        found.push((Arc::clone(key), Value::Map(jwt.claims)));
    }
}

/// Whether a text may stand in a field: a claim must not begin another one.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' && byte != 0x7f || byte == b'\t')
}

fn is_preflight(head: &RequestHead) -> bool {
    let has = |name| head.fields.find(name).is_some_and(|value| !value.is_empty());
    head.method() == b"OPTIONS" && has(b"origin") && has(b"access-control-request-method")
}
