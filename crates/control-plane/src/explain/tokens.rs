//! Tokens of a request that is only thought of: the claims that the question tells of, and tokens that stand in its fields.

use std::convert::Infallible;
use std::sync::Arc;

use meshwork_identity::jwt::{Jwt, KeySet, unsigned};
use meshwork_model::head::RequestHead;
use meshwork_model::jwt::{self, Authentication, Failure, Keyring, Parts, Refusal, authenticate};
use meshwork_model::metadata::Metadata;
use meshwork_model::proxy::{HttpFilter, JwtAuthentication, JwtKeys, JwtProvider, RouteJwt};

/// The token of which the question tells the claims, on its way through proxies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens<'q> {
    /// It; its signature is taken to be good.
    told: Option<&'q str>,
    /// Whether it was put into the request, where it may be no more.
    is_put: bool,
    /// When it is judged, in seconds since 1970.
    now: f64,
}

/// What a request's tokens come to.
pub(super) struct Said {
    /// In words.
    pub(super) text: String,
    pub(super) refusal: Option<Refusal>,
}

/// A token with these claims.
///
/// # Errors
/// They are no claims; in words.
pub(super) fn of_claims(claims: &serde_json::Value) -> Result<String, String> {
    if !claims.is_object() {
        return Err(
            "the claims are a JSON object, as `{\"iss\": \"https://issuer.example\", \"sub\": \"me\"}`"
                .to_owned(),
        );
    }
    let token = unsigned(&claims.to_string());
    match Jwt::parse(&token) {
        Ok(_) => Ok(token),
        Err(_) => Err("no proxy reads these claims: they are too long, or too deep".to_owned()),
    }
}

impl<'q> Tokens<'q> {
    pub(super) fn new(told: Option<&'q str>, now: f64) -> Self {
        Self { told, is_put: false, now }
    }

    /// Has a proxy judge by the tokens of a request, and change it as they have it.
    pub(super) fn judge(
        &mut self,
        config: &JwtAuthentication,
        route: Option<&RouteJwt>,
        head: &mut RequestHead,
        metadata: &mut Metadata,
    ) -> Said {
        self.put(config, head);
        let mut ring = Ring { config, told: self.told, has_read: false, has_trusted: false };
        let named: Vec<&str> = config.providers.iter().map(|provider| &*provider.name).collect();
        let named = named.join(", ");
        match authenticate(config, route, head, &mut ring, self.now) {
            Authentication::Passed(passed) => {
                for (key, value) in passed.found {
                    metadata.set(HttpFilter::JWT, &key, value);
                }
                let good = passed.good.first().and_then(|at| config.providers.get(*at));
                let text = match good {
                    _ if !passed.is_asked => "tokens are not looked at".to_owned(),
                    Some(provider) => {
                        let issuer = provider.issuer.as_deref().unwrap_or("somebody");
                        let how = if ring.has_trusted { " (whose keys are not known here)" } else { "" };
                        format!("a good token of {issuer}{how} (RequestAuthentication {})", provider.name)
                    }
                    None if ring.has_read => {
                        format!("a token that need not be good (RequestAuthentication {named})")
                    }
                    None => format!("no token; one is not needed (RequestAuthentication {named})"),
                };
                Said { text, refusal: None }
            }
            Authentication::Refused(refusal) => {
                let text = format!("{} (RequestAuthentication {named})", refusal.text);
                Said { text, refusal: Some(refusal) }
            }
            Authentication::Lacks(never) => match never {},
        }
    }

    /// Puts the token where the first proxy that asks for tokens looks for those of its issuer.
    fn put(&mut self, config: &JwtAuthentication, head: &mut RequestHead) {
        let Some(told) = self.told.filter(|_| !self.is_put) else { return };
        let Ok((Parts { claims, .. }, _)) = Jwt::read(told) else { return };
        let issuer = jwt::issuer(&claims);
        let of_issuer = |provider: &&Arc<JwtProvider>| provider.issuer.as_deref() == Some(issuer);
        let provider = config.providers.iter().find(of_issuer).or_else(|| config.providers.first());
        if let Some(provider) = provider {
            jwt::put(provider, told, head);
            self.is_put = true;
        }
    }
}

/// The keys that config has.
struct Ring<'q> {
    config: &'q JwtAuthentication,
    told: Option<&'q str>,
    /// Whether a token was read.
    has_read: bool,
    /// Whether a signature was taken to be good, since only the proxy has the keys.
    has_trusted: bool,
}

impl Keyring for Ring<'_> {
    /// The token, and whether it is the one whose signature is taken to be good.
    type Signed = (Jwt, bool);
    type Lack = Infallible;

    fn read(&mut self, text: &str) -> Result<(Parts, Self::Signed), Failure> {
        self.has_read = true;
        let (parts, jwt) = Jwt::read(text)?;
        Ok((parts, (jwt, self.told == Some(text))))
    }

    fn verify(
        &mut self,
        provider: usize,
        (jwt, is_told): &Self::Signed,
    ) -> Result<Result<(), Failure>, Infallible> {
        let Some(provider) = self.config.providers.get(provider) else {
            return Ok(Err(Failure::UnknownIssuer));
        };
        Ok(match &provider.keys {
            JwtKeys::Inline(text) => match KeySet::parse(text) {
                Err(_) => Err(Failure::NoValidKeys),
                Ok(_) if *is_told => Ok(()),
                Ok(keys) => keys.verify(jwt),
            },
            JwtKeys::File(_) | JwtKeys::Remote(_) => {
                self.has_trusted |= !is_told;
                Ok(())
            }
        })
    }
}
