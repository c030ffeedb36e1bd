//! Tokens (JWT).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    JwtAuthentication, JwtKeys, JwtProvider, JwtRequirement, JwtRule, RemoteKeys, TokenPlace,
};

use super::super::{Read, duration, policy, required, route};
use super::{HttpUri, http_uri};
use crate::path::{Path, Problems};
use crate::pb;

/// By how much clocks may differ, where nothing is said. Source: Envoy `clock_skew_seconds`.
const CLOCK_SKEW_SECONDS: u32 = 60;
/// How long keys are believed, where nothing is said. Source: Envoy `cache_duration`.
const CACHE: Duration = Duration::from_mins(10);

/// The filter.
pub(super) fn authentication(
    message: &pb::jwt::JwtAuthentication,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<JwtAuthentication> {
    let mut sorted: Vec<_> = message.providers.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let path = at.field("providers");
    let mut providers = Vec::new();
    for (name, message) in sorted {
        providers.push(Arc::new(provider(name, message, &path.key(name), problems)?));
    }
    let known = Providers(&providers);
    let mut named = Vec::new();
    for (name, message) in sorted_by_name(&message.requirement_map) {
        let at = at.field("requirement_map");
        if let Some(requirement) = known.requirement(message, &at.key(name), problems)? {
            named.push((name.as_str().into(), requirement));
        }
    }
    let mut rules = Vec::new();
    for (index, message) in message.rules.iter().enumerate() {
        let at = at.field("rules");
        rules.push(known.rule(message, &named, &at.index(index), problems)?);
    }
    Some(JwtAuthentication {
        rules,
        named,
        bypass_cors_preflight: message.bypass_cors_preflight,
        strip_failure_response: message.strip_failure_response,
        providers,
    })
}

fn sorted_by_name<T>(map: &HashMap<String, T>) -> Vec<(&String, &T)> {
    let mut sorted: Vec<_> = map.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    sorted
}

struct Providers<'p>(&'p [Arc<JwtProvider>]);

impl Providers<'_> {
    fn rule(
        &self,
        message: &pb::jwt::RequirementRule,
        named: &[(Arc<str>, JwtRequirement)],
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Option<JwtRule> {
        use pb::jwt::requirement_rule::RequirementType;
        let matches = route::route_match(message.r#match.as_ref(), false, &at.field("match"), problems)?;
        let requires = match &message.requirement_type {
            None => None,
            Some(RequirementType::Requires(message)) => {
                self.requirement(message, &at.field("requires"), problems)?
            }
            Some(RequirementType::RequirementName(name)) => {
                let found = named.iter().find(|(known, _)| **known == **name);
                let Some((_, requirement)) = found else {
                    let text = format!("no requirement is named `{name}`");
                    return problems.error(
                        &at.field("requirement_name"),
                        text,
                        "add it to `requirement_map`",
                    );
                };
                Some(requirement.clone())
            }
        };
        Some(JwtRule { matches, requires })
    }

    /// A requirement; the inner `None` is one that asks for nothing.
    fn requirement(
        &self,
        message: &pb::jwt::JwtRequirement,
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Read<Option<JwtRequirement>> {
        use pb::jwt::jwt_requirement::RequiresType;
        Some(Some(match &message.requires_type {
            None => return Some(None),
            Some(RequiresType::ProviderName(name)) => {
                let provider = self.index(name, &at.field("provider_name"), problems)?;
                JwtRequirement::Provider { provider, audiences: None }
            }
            Some(RequiresType::ProviderAndAudiences(message)) => {
                let at = at.field("provider_and_audiences");
                let provider = self.index(&message.provider_name, &at.field("provider_name"), problems)?;
                let audiences = texts(&message.audiences);
                JwtRequirement::Provider { provider, audiences: (!audiences.is_empty()).then_some(audiences) }
            }
            Some(RequiresType::RequiresAny(list)) => {
                JwtRequirement::Any(self.list(&list.requirements, &at.field("requires_any"), problems)?)
            }
            Some(RequiresType::RequiresAll(list)) => {
                JwtRequirement::All(self.list(&list.requirements, &at.field("requires_all"), problems)?)
            }
            Some(RequiresType::AllowMissing(_)) => JwtRequirement::AllowMissing,
            Some(RequiresType::AllowMissingOrFailed(_)) => JwtRequirement::AllowMissingOrFailed,
            Some(_) => return problems.error(at, "this requirement is not supported", ""),
        }))
    }

    fn list(
        &self,
        messages: &[pb::jwt::JwtRequirement],
        at: &Path<'_>,
        problems: &mut Problems,
    ) -> Option<Vec<JwtRequirement>> {
        let path = at.field("requirements");
        if messages.len() < 2 {
            return problems.error(&path, "there must be two at least", "");
        }
        let mut list = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let at = path.index(index);
            match self.requirement(message, &at, problems)? {
                Some(requirement) => list.push(requirement),
                None => return problems.error(&at, "the requirement is missing", ""),
            }
        }
        Some(list)
    }

    fn index(&self, name: &str, at: &Path<'_>, problems: &mut Problems) -> Option<usize> {
        let found = self.0.iter().position(|provider| *provider.name == *name);
        found.or_else(|| problems.error(at, format!("no provider is named `{name}`"), ""))
    }
}

fn provider(
    name: &str,
    message: &pb::jwt::JwtProvider,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<JwtProvider> {
    let max_lifetime = match message.max_lifetime {
        Some(time) => Some(duration(time, &at.field("max_lifetime"), problems)?),
        None => None,
    };
    let subjects = match &message.subjects {
        Some(matcher) => Some(policy::string(matcher, &at.field("subjects"), problems)?),
        None => None,
    };
    if message.clear_route_cache {
        let text = "a request keeps the route that it has";
        problems.error::<()>(&at.field("clear_route_cache"), text, "leave it out");
    }
    let mut claim_headers = Vec::new();
    for (index, message) in message.claim_to_headers.iter().enumerate() {
        let at = at.field("claim_to_headers");
        claim_headers.push(claim_header(message, &at.index(index), problems)?);
    }
    let skew = message.clock_skew_seconds;
    Some(JwtProvider {
        name: name.into(),
        issuer: optional(&message.issuer),
        audiences: texts(&message.audiences),
        subjects,
        require_expiration: message.require_expiration,
        max_lifetime,
        clock_skew_seconds: if skew == 0 { CLOCK_SKEW_SECONDS } else { skew },
        keys: keys(message, at, problems)?,
        places: places(message, at, problems)?,
        forward: message.forward,
        payload_header: optional(&message.forward_payload_header.to_ascii_lowercase()),
        pad_payload_header: message.pad_forward_payload_header,
        claim_headers,
        payload_in_metadata: optional(&message.payload_in_metadata),
        header_in_metadata: optional(&message.header_in_metadata),
    })
}

fn claim_header(
    message: &pb::jwt::JwtClaimToHeader,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<(Arc<str>, Vec<Arc<str>>)> {
    let name = required(&message.header_name, &at.field("header_name"), problems)?;
    let claim = required(&message.claim_name, &at.field("claim_name"), problems)?;
    Some((name.to_ascii_lowercase().into(), claim.split('.').map(Into::into).collect()))
}

fn places(message: &pb::jwt::JwtProvider, at: &Path<'_>, problems: &mut Problems) -> Option<Vec<TokenPlace>> {
    let mut places = Vec::new();
    for (index, header) in message.from_headers.iter().enumerate() {
        let at = at.field("from_headers");
        let at = at.index(index);
        let name = required(&header.name, &at.field("name"), problems)?.to_ascii_lowercase();
        places.push(TokenPlace::Header { name: name.into(), prefix: header.value_prefix.as_str().into() });
    }
    places.extend(message.from_params.iter().map(|name| TokenPlace::Param(name.as_str().into())));
    places.extend(message.from_cookies.iter().map(|name| TokenPlace::Cookie(name.as_str().into())));
    Some(places)
}

fn keys(message: &pb::jwt::JwtProvider, at: &Path<'_>, problems: &mut Problems) -> Option<JwtKeys> {
    use pb::core::data_source::Specifier;
    use pb::jwt::jwt_provider::JwksSourceSpecifier as From;
    match &message.jwks_source_specifier {
        Some(From::RemoteJwks(message)) => {
            remote(message, &at.field("remote_jwks"), problems).map(JwtKeys::Remote)
        }
        Some(From::LocalJwks(source)) => match &source.specifier {
            Some(Specifier::InlineString(text)) => Some(JwtKeys::Inline(text.as_str().into())),
            Some(Specifier::InlineBytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Some(JwtKeys::Inline(text.into())),
                Err(_) => problems.error(&at.field("local_jwks"), "this is not UTF-8", ""),
            },
            Some(Specifier::Filename(path)) => Some(JwtKeys::File(path.as_str().into())),
            _ => problems.error(&at.field("local_jwks"), "the keys are missing", "write `inline_string`"),
        },
        None => problems.error(at, "the keys are missing", "write `local_jwks` or `remote_jwks`"),
    }
}

fn remote(message: &pb::jwt::RemoteJwks, at: &Path<'_>, problems: &mut Problems) -> Option<RemoteKeys> {
    let uri = at.field("http_uri");
    let Some(http) = &message.http_uri else { return problems.error(&uri, "this is missing", "") };
    let HttpUri { cluster, authority, path, timeout } = http_uri(http, &uri, problems)?;
    let cache = match message.cache_duration {
        Some(time) => duration(time, &at.field("cache_duration"), problems)?,
        None => CACHE,
    };
    let policy = message.retry_policy.as_ref();
    let pause = policy.and_then(|policy| policy.retry_back_off.as_ref()?.base_interval);
    let at = at.field("retry_policy");
    let at = at.field("retry_back_off");
    let retry_pause = match pause {
        Some(pause) => duration(pause, &at.field("base_interval"), problems)?,
        None => Duration::from_secs(1),
    };
    let retries = policy.map_or(0, |policy| policy.num_retries.map_or(1, |number| number.value));
    Some(RemoteKeys { cluster, authority, path, timeout, cache, retries, retry_pause })
}

fn optional(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn texts(texts: &[String]) -> Vec<Arc<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}
