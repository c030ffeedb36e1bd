//! `authenticate`: whether a request has the tokens that it needs, and what becomes of it by them.
//!
//! Keys are somebody else's. Where they are not at hand, it is told what is lacking, and a request that is judged again
//! once they are is judged as if for the first time. Without a good key there is no good token.
//!
//! Source: Envoy `extensions.filters.http.jwt_authn.v3`.

use std::borrow::Cow;
use std::sync::Arc;

use super::places::{self, Token};
use super::{Claims, Failure, claim, issuer, judge};
use crate::cors::is_preflight;
use crate::head::RequestHead;
use crate::metadata::Value;
use crate::proxy::{JwtAuthentication, JwtProvider, JwtRequirement, RouteJwt};
use crate::reason::Reason;
use crate::route::{Asked, takes};

/// A token, taken apart. Nothing of it is verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// Its header.
    pub header: Claims,
    /// Its claims.
    pub claims: Claims,
    /// The claims as they stand in it, in base64url without padding.
    pub payload: String,
}

/// Reads tokens, and has keys to verify them by.
pub trait Keyring {
    /// What of a token is verified.
    type Signed;
    /// What is lacking to verify a token.
    type Lack;

    /// Takes a token apart.
    ///
    /// # Errors
    /// What of its form is wrong: the fault of who sent it.
    fn read(&mut self, text: &str) -> Result<(Parts, Self::Signed), Failure>;

    /// Verifies a token by the keys of the provider that stands at this place in config.
    ///
    /// # Errors
    /// The outer one is that its keys are not at hand, the inner one that the token is not good.
    fn verify(&mut self, provider: usize, signed: &Self::Signed) -> Result<Result<(), Failure>, Self::Lack>;
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub enum Authentication<L> {
    /// It passes.
    Passed(Passed),
    /// It does not.
    Refused(Refusal),
    /// This is lacking to say so; judge it again once it is there.
    Lacks(L),
}

/// What a request that passes has shown.
#[derive(Debug, Default, PartialEq)]
pub struct Passed {
    /// Whether anything is said of the tokens of such a request.
    pub is_asked: bool,
    /// Whose tokens are good: providers by their place in config, in the order in which they were looked at.
    pub good: Vec<usize>,
    /// What metadata gets, each under its key.
    pub found: Vec<(Arc<str>, Value)>,
}

/// Why a request does not pass.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// What is said of it. Source: Envoy's answers, which clients know.
    pub text: Cow<'static, str>,
    /// What is wrong with its tokens; `None` where config is.
    pub failure: Option<Failure>,
}

/// Judges a request by its tokens at a time in seconds since 1970; `route` is what its route says of them.
///
/// Fields that only a good token sets are removed in any case. Of a request that passes, what good tokens set is there,
/// and tokens that are not forwarded are gone.
pub fn authenticate<K: Keyring>(
    config: &JwtAuthentication,
    route: Option<&RouteJwt>,
    head: &mut RequestHead,
    ring: &mut K,
    now: f64,
) -> Authentication<K::Lack> {
    // Also of providers that this request is not asked about: whoever reads these fields believes them.
    config.providers.iter().for_each(|provider| places::clean(provider, head));
    if config.bypass_cors_preflight && is_preflight(head) {
        return Authentication::Passed(Passed::default());
    }
    let requirement = match requirement(config, route, head) {
        Ok(Some(requirement)) => requirement,
        Ok(None) => return Authentication::Passed(Passed::default()),
        Err(refusal) => return Authentication::Refused(refusal),
    };
    let passed = Passed { is_asked: true, ..Passed::default() };
    let mut check = Check { config, head: Cow::Borrowed(&*head), ring, now, passed };
    let held = check.holds(requirement);
    let Check { head: judged, passed, .. } = check;
    let changed = match judged {
        Cow::Owned(changed) => Some(changed),
        Cow::Borrowed(_) => None,
    };
    match held {
        Ok(()) => {
            if let Some(changed) = changed {
                *head = changed;
            }
            Authentication::Passed(passed)
        }
        Err(Stop::Failed(failure)) => Authentication::Refused(failure.into()),
        Err(Stop::Lacks(lack)) => Authentication::Lacks(lack),
    }
}

/// What a request needs: what its route says, or the first rule that takes it.
fn requirement<'c>(
    config: &'c JwtAuthentication,
    route: Option<&RouteJwt>,
    head: &RequestHead,
) -> Result<Option<&'c JwtRequirement>, Refusal> {
    match route {
        Some(RouteJwt::Off) => Ok(None),
        Some(RouteJwt::Named(name)) => {
            let found = config.named.iter().find(|(known, _)| known == name);
            found.map(|(_, requirement)| Some(requirement)).ok_or_else(|| Refusal {
                status: 403,
                text: format!("Failed JWT authentication: Wrong requirement_name: {name}.").into(),
                failure: None,
            })
        }
        None => {
            let rule = config.rules.iter().find(|rule| takes(&rule.matches, head, Asked::default()));
            Ok(rule.and_then(|rule| rule.requires.as_ref()))
        }
    }
}

/// A request while it is judged.
struct Check<'c, 'h, K> {
    config: &'c JwtAuthentication,
    /// With what tokens that were good so far have changed: who is asked next sees that.
    head: Cow<'h, RequestHead>,
    ring: &'c mut K,
    now: f64,
    passed: Passed,
}

/// Why a requirement does not hold.
enum Stop<L> {
    Failed(Failure),
    /// That is not known yet.
    Lacks(L),
}

type Step<L> = Result<(), Stop<L>>;

impl<L> From<Failure> for Stop<L> {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl<K: Keyring> Check<'_, '_, K> {
    fn holds(&mut self, requirement: &JwtRequirement) -> Step<K::Lack> {
        match requirement {
            JwtRequirement::Provider { provider, audiences } => {
                self.by_provider(*provider, audiences.as_deref())
            }
            JwtRequirement::All(all) => all.iter().try_for_each(|one| self.holds(one)),
            JwtRequirement::Any(any) => self.any(any),
            JwtRequirement::AllowMissing => self.lenient(&[], false),
            JwtRequirement::AllowMissingOrFailed => self.lenient(&[], true),
        }
    }

    /// The first that holds is enough; what allows a token to be missing is looked at last.
    fn any(&mut self, any: &[JwtRequirement]) -> Step<K::Lack> {
        let is_lenient = |one: &&JwtRequirement| {
            matches!(one, JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed)
        };
        let (mut last, mut telling, mut used) = (Failure::Missing, None, Vec::new());
        for one in any.iter().filter(|one| !is_lenient(one)) {
            if let JwtRequirement::Provider { provider, .. } = one {
                used.push(*provider);
            }
            match self.holds(one) {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(failure)) => {
                    last = failure;
                    // That there is no token of the right issuer says less than what is wrong with one.
                    if !matches!(failure, Failure::Missing | Failure::UnknownIssuer) {
                        telling = Some(failure);
                    }
                }
                Err(lack) => return Err(lack),
            }
        }
        let mut lenient = any.iter().filter(is_lenient).peekable();
        if lenient.peek().is_none() {
            return Err(telling.unwrap_or(last).into());
        }
        let allows_failed = lenient.any(|one| *one == JwtRequirement::AllowMissingOrFailed);
        self.lenient(&used, allows_failed).map_err(|stop| match (stop, telling) {
            (Stop::Failed(_), Some(failure)) => Stop::Failed(failure),
            (stop, _) => stop,
        })
    }

    /// Every token at a provider's places must be good, and there must be one.
    fn by_provider(&mut self, index: usize, audiences: Option<&[Arc<str>]>) -> Step<K::Lack> {
        let config = self.config;
        let Some(provider) = config.providers.get(index) else { return Err(Failure::UnknownIssuer.into()) };
        self.clean(provider);
        let tokens = places::tokens(&[provider], &self.head)?;
        if tokens.is_empty() {
            return Err(Failure::Missing.into());
        }
        if !places::are_same(&tokens) {
            return Err(Failure::Several.into());
        }
        for token in tokens.iter().rev() {
            let (parts, signed) = self.ring.read(&token.text)?;
            self.verify(index, token, (&parts, &signed), audiences)?;
            self.pass_on(index, token, parts);
        }
        Ok(())
    }

    /// Tokens of these providers (of all, where none is named) may be missing, or be bad as well.
    fn lenient(&mut self, used: &[usize], allows_failed: bool) -> Step<K::Lack> {
        let config = self.config;
        let all = config.providers.iter().enumerate();
        let chosen = all.filter(|(index, _)| used.is_empty() || used.contains(index));
        let providers: Vec<&JwtProvider> = chosen.map(|(_, provider)| &**provider).collect();
        for provider in &providers {
            self.clean(provider);
        }
        let tokens = match places::tokens(&providers, &self.head) {
            Ok(tokens) => tokens,
            Err(_) if allows_failed => return Ok(()),
            Err(failure) => return Err(failure.into()),
        };
        let (mut result, mut seen) = (Ok(()), Vec::new());
        for token in tokens.iter().rev() {
            match self.of_anybody(token, &mut seen) {
                Err(lack @ Stop::Lacks(_)) => return Err(lack),
                // A good token does not make up for a bad one, which the application may take.
                outcome => result = result.and(outcome),
            }
        }
        if allows_failed { Ok(()) } else { result }
    }

    /// A token of the provider that its issuer is, whichever that may be.
    fn of_anybody<'t>(&mut self, token: &'t Token, seen: &mut Vec<(usize, &'t str)>) -> Step<K::Lack> {
        let (parts, signed) = self.ring.read(&token.text)?;
        let Some(index) = of_issuer(self.config, issuer(&parts.claims)) else {
            return Err(Failure::UnknownIssuer.into());
        };
        if is_second(seen, index, &token.text) {
            return Err(Failure::Several.into());
        }
        self.verify(index, token, (&parts, &signed), None)?;
        self.pass_on(index, token, parts);
        Ok(())
    }

    fn verify(
        &mut self,
        index: usize,
        token: &Token,
        (parts, signed): (&Parts, &K::Signed),
        audiences: Option<&[Arc<str>]>,
    ) -> Step<K::Lack> {
        let config = self.config;
        let Some(provider) = config.providers.get(index) else { return Err(Failure::UnknownIssuer.into()) };
        if !token.is_for(issuer(&parts.claims)) {
            return Err(Failure::UnknownIssuer.into());
        }
        judge(&parts.claims, provider, audiences, self.now)?;
        self.ring.verify(index, signed).map_err(Stop::Lacks)??;
        Ok(())
    }

    /// What a good token leaves: fields, metadata, and itself or not.
    fn pass_on(&mut self, index: usize, token: &Token, parts: Parts) {
        let config = self.config;
        let Some(provider) = config.providers.get(index) else { return };
        if let Some(name) = &provider.payload_header {
            let payload = if provider.pad_payload_header {
                Cow::Owned(padded(&parts.payload))
            } else {
                Cow::Borrowed(&*parts.payload)
            };
            self.head.to_mut().fields.push(name.as_bytes(), payload.as_bytes());
        }
        for (name, path) in &provider.claim_headers {
            if let Some(claim) = claim(&parts.claims, path).filter(|claim| is_field_value(claim)) {
                self.head.to_mut().fields.push(name.as_bytes(), claim.as_bytes());
            }
        }
        if !provider.forward {
            token.remove(self.head.to_mut());
        }
        let found = &mut self.passed.found;
        if let Some(key) = &provider.header_in_metadata {
            found.push((Arc::clone(key), Value::Map(parts.header)));
        }
        if let Some(key) = &provider.payload_in_metadata {
            found.push((Arc::clone(key), Value::Map(parts.claims)));
        }
        self.passed.good.push(index);
    }

    /// Removes fields that another provider's token has set.
    fn clean(&mut self, provider: &JwtProvider) {
        if !self.passed.good.is_empty() {
            places::clean(provider, self.head.to_mut());
        }
    }
}

/// The first provider that an issuer is named by, or the first that names none.
fn of_issuer(config: &JwtAuthentication, issuer: &str) -> Option<usize> {
    let named = |provider: &Arc<JwtProvider>| provider.issuer.as_deref() == Some(issuer);
    let found = config.providers.iter().position(named);
    found.or_else(|| config.providers.iter().position(|provider| provider.issuer.is_none()))
}

/// Whether a provider has had another token before.
fn is_second<'t>(seen: &mut Vec<(usize, &'t str)>, provider: usize, text: &'t str) -> bool {
    let other = seen.iter().find(|(known, _)| *known == provider);
    let is_second = other.is_some_and(|(_, first)| *first != text);
    seen.push((provider, text));
    is_second
}

/// Completes base64 with padding.
fn padded(text: &str) -> String {
    let missing = (4 - text.len() % 4) % 4;
    format!("{text}{}", &"==="[..missing])
}

/// Whether a text may stand in a field: a claim must not begin another one.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' && byte != 0x7f || byte == b'\t')
}

// === impl Refusal ===

impl Refusal {
    /// The reason that is reported for it.
    pub fn reason(&self) -> Reason {
        match self.failure {
            Some(Failure::NoKeySet | Failure::NoValidKeys) => Reason::NoTokenKeys,
            _ => Reason::Unauthenticated,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { status: failure.status(), text: failure.text().into(), failure: Some(failure) }
    }
}

#[cfg(test)]
mod tests;
