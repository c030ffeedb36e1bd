//! Tokens (JWT).

use std::sync::Arc;

use meshwork_model::proxy::{
    JwtAuthentication, JwtKeys, JwtProvider, JwtRequirement, JwtRule, RemoteKeys, TokenPlace,
};

use super::super::policy::string;
use super::super::{Writer, duration, number};
use crate::pb;

impl Writer<'_> {
    pub(super) fn jwt(&self, config: &JwtAuthentication) -> pb::jwt::JwtAuthentication {
        let providers = &config.providers;
        let named = config.named.iter();
        pb::jwt::JwtAuthentication {
            providers: providers.iter().map(|found| (found.name.to_string(), provider(found))).collect(),
            rules: config.rules.iter().map(|rule| self.jwt_rule(rule, providers)).collect(),
            requirement_map: named
                .map(|(name, needed)| (name.to_string(), requirement(needed, providers)))
                .collect(),
            bypass_cors_preflight: config.bypass_cors_preflight,
            strip_failure_response: config.strip_failure_response,
            ..pb::jwt::JwtAuthentication::default()
        }
    }

    fn jwt_rule(&self, rule: &JwtRule, providers: &[Arc<JwtProvider>]) -> pb::jwt::RequirementRule {
        use pb::jwt::requirement_rule::RequirementType;
        let requires = rule.requires.as_ref();
        pb::jwt::RequirementRule {
            r#match: Some(self.route_match(&rule.matches, &rule.matches.path)),
            requirement_type: requires
                .map(|needed| RequirementType::Requires(requirement(needed, providers))),
        }
    }
}

fn requirement(needed: &JwtRequirement, providers: &[Arc<JwtProvider>]) -> pb::jwt::JwtRequirement {
    use pb::jwt::jwt_requirement::RequiresType;
    let each = |list: &[JwtRequirement]| list.iter().map(|needed| requirement(needed, providers)).collect();
    // What names no provider is refused by whoever reads it.
    let name = |at: &usize| providers.get(*at).map(|provider| provider.name.to_string()).unwrap_or_default();
    let requires = match needed {
        // A list has two at least.
        JwtRequirement::Any(list) | JwtRequirement::All(list) if list.len() == 1 => {
            return list.first().map(|only| requirement(only, providers)).unwrap_or_default();
        }
        JwtRequirement::Provider { provider, audiences: None } => RequiresType::ProviderName(name(provider)),
        JwtRequirement::Provider { provider, audiences: Some(audiences) } => {
            RequiresType::ProviderAndAudiences(pb::jwt::ProviderWithAudiences {
                provider_name: name(provider),
                audiences: audiences.iter().map(ToString::to_string).collect(),
            })
        }
        JwtRequirement::Any(list) => {
            RequiresType::RequiresAny(pb::jwt::JwtRequirementOrList { requirements: each(list) })
        }
        JwtRequirement::All(list) => {
            RequiresType::RequiresAll(pb::jwt::JwtRequirementAndList { requirements: each(list) })
        }
        JwtRequirement::AllowMissing => RequiresType::AllowMissing(pb::Empty {}),
        JwtRequirement::AllowMissingOrFailed => RequiresType::AllowMissingOrFailed(pb::Empty {}),
    };
    pb::jwt::JwtRequirement { requires_type: Some(requires) }
}

fn provider(provider: &JwtProvider) -> pb::jwt::JwtProvider {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let claim = |(header, path): &(Arc<str>, Vec<Arc<str>>)| pb::jwt::JwtClaimToHeader {
        header_name: header.to_string(),
        claim_name: path.join("."),
        ..pb::jwt::JwtClaimToHeader::default()
    };
    let mut message = pb::jwt::JwtProvider {
        issuer: text(&provider.issuer),
        audiences: provider.audiences.iter().map(ToString::to_string).collect(),
        subjects: provider.subjects.as_ref().map(string),
        require_expiration: provider.require_expiration,
        max_lifetime: provider.max_lifetime.map(duration),
        forward: provider.forward,
        forward_payload_header: text(&provider.payload_header),
        pad_forward_payload_header: provider.pad_payload_header,
        payload_in_metadata: text(&provider.payload_in_metadata),
        header_in_metadata: text(&provider.header_in_metadata),
        clock_skew_seconds: provider.clock_skew_seconds,
        claim_to_headers: provider.claim_headers.iter().map(claim).collect(),
        jwks_source_specifier: Some(keys(&provider.keys)),
        ..pb::jwt::JwtProvider::default()
    };
    for place in &provider.places {
        match place {
            TokenPlace::Header { name, prefix } => message
                .from_headers
                .push(pb::jwt::JwtHeader { name: name.to_string(), value_prefix: prefix.to_string() }),
            TokenPlace::Param(name) => message.from_params.push(name.to_string()),
            TokenPlace::Cookie(name) => message.from_cookies.push(name.to_string()),
        }
    }
    message
}

fn keys(keys: &JwtKeys) -> pb::jwt::jwt_provider::JwksSourceSpecifier {
    use pb::core::data_source::Specifier;
    use pb::jwt::jwt_provider::JwksSourceSpecifier as From;
    let specifier = match keys {
        JwtKeys::Remote(keys) => return From::RemoteJwks(remote(keys)),
        JwtKeys::Inline(text) => Specifier::InlineString(text.to_string()),
        JwtKeys::File(path) => Specifier::Filename(path.to_string()),
    };
    From::LocalJwks(pb::core::DataSource { specifier: Some(specifier), ..pb::core::DataSource::default() })
}

fn remote(keys: &RemoteKeys) -> pb::jwt::RemoteJwks {
    use pb::core::http_uri::HttpUpstreamType;
    pb::jwt::RemoteJwks {
        // Whether it is asked by TLS is the cluster's business.
        http_uri: Some(pb::core::HttpUri {
            uri: format!("http://{}{}", keys.authority, keys.path),
            timeout: Some(duration(keys.timeout)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(keys.cluster.to_string())),
        }),
        cache_duration: Some(duration(keys.cache)),
        retry_policy: (keys.retries > 0).then(|| pb::core::RetryPolicy {
            num_retries: Some(number(keys.retries)),
            retry_back_off: Some(pb::core::BackoffStrategy {
                base_interval: Some(duration(keys.retry_pause)),
                max_interval: None,
            }),
            ..pb::core::RetryPolicy::default()
        }),
        ..pb::jwt::RemoteJwks::default()
    }
}
