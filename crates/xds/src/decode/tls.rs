//! TLS contexts.

use std::sync::Arc;

use meshwork_model::proxy::{DownstreamTls, UpstreamTls};
use meshwork_model::spiffe::SpiffeId;

use super::{is, required, unpack};
use crate::path::{Noted, Path, Problems};
use crate::pb;

/// The name of the transport socket that always fails: what an endpoint that no transport matches is reached by.
pub(crate) const REFUSAL: &str = "meshwork.transport_sockets.refuse";

/// Whether a transport socket stands for "not at all".
pub(super) fn is_refusal(socket: &pb::core::TransportSocket) -> bool {
    socket.name == REFUSAL
}

fn typed_config(socket: &pb::core::TransportSocket) -> Option<&pb::Any> {
    match &socket.config_type {
        Some(pb::core::transport_socket::ConfigType::TypedConfig(any)) => Some(any),
        None => None,
    }
}

/// The client side: `Ok(None)` is plaintext.
pub(super) fn upstream(
    socket: &pb::core::TransportSocket,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<UpstreamTls>, Noted> {
    let config = typed_config(socket);
    if config.is_some_and(is::<pb::RawBuffer>) {
        return Ok(None);
    }
    let Some(message) = config.and_then(unpack::<pb::tls::UpstreamTlsContext>) else {
        return problems.refuse(at, "this transport socket is not supported", "write tls or raw_buffer");
    };
    let typed = at.field("typed_config");
    let at = typed.field("common_tls_context");
    let common = message.common_tls_context.unwrap_or_default();
    let certificate = certificate(&common, &at, problems)?;
    let Some(Validation { secret, identities }) = validation(&common, &at, problems)? else {
        return problems.refuse(&at, "the server would not be verified", "name the secret `ROOTCA`");
    };
    if identities.is_empty() {
        let fix = "list SPIFFE IDs in `match_typed_subject_alt_names`";
        return problems.refuse(&at, "any server would be trusted", fix);
    }
    Ok(Some(UpstreamTls {
        certificate,
        validation: secret,
        identities,
        alpn: alpn(&common),
        sni: message.sni.as_str().into(),
    }))
}

/// The server side: `Ok(None)` is plaintext.
pub(super) fn downstream(
    socket: &pb::core::TransportSocket,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<DownstreamTls>, Noted> {
    let config = typed_config(socket);
    if config.is_some_and(is::<pb::RawBuffer>) {
        return Ok(None);
    }
    let Some(message) = config.and_then(unpack::<pb::tls::DownstreamTlsContext>) else {
        return problems.refuse(at, "this transport socket is not supported", "write tls or raw_buffer");
    };
    let typed = at.field("typed_config");
    let at = typed.field("common_tls_context");
    let common = message.common_tls_context.unwrap_or_default();
    let Some(certificate) = certificate(&common, &at, problems)? else {
        return problems.refuse(&at, "the certificate is missing", "name the secret `default`");
    };
    let validation = validation(&common, &at, problems)?;
    let require = message.require_client_certificate.is_some_and(|require| require.value);
    if require && validation.is_none() {
        let text = "client certificates would not be verified";
        return problems.refuse(&at, text, "name the secret `ROOTCA`");
    }
    let (secret, allowed) = validation.map_or((None, Vec::new()), |v| (Some(v.secret), v.identities));
    Ok(Some(DownstreamTls {
        certificate,
        validation: secret,
        require_client_certificate: require,
        alpn: alpn(&common),
        allowed,
    }))
}

fn alpn(common: &pb::tls::CommonTlsContext) -> Vec<Arc<str>> {
    common.alpn_protocols.iter().map(|protocol| protocol.as_str().into()).collect()
}

/// The name of the secret with our certificate.
fn certificate(
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<Arc<str>>, Noted> {
    use pb::tls::tls_parameters::TlsProtocol;
    let maximum = common.tls_params.as_ref().map(|parameters| parameters.tls_maximum_protocol_version);
    if maximum.is_some_and(|m| m != TlsProtocol::TlsAuto as i32 && m != TlsProtocol::TlSv13 as i32) {
        let at = at.field("tls_params");
        return problems.refuse(&at, "TLS 1.3 is always demanded", "write TLSv1_3 as maximum");
    }
    let at = at.field("tls_certificate_sds_secret_configs");
    match common.tls_certificate_sds_secret_configs.as_slice() {
        [] => Ok(None),
        [secret] => {
            let at = at.index(0);
            let name = required(&secret.name, &at.field("name"), problems).ok_or(Noted)?;
            Ok(Some(name.into()))
        }
        _ => problems.refuse(&at, "one certificate is enough", ""),
    }
}

/// What a peer is verified by.
struct Validation {
    secret: Arc<str>,
    identities: Vec<SpiffeId>,
}

fn validation(
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<Validation>, Noted> {
    use pb::tls::common_tls_context::ValidationContextType;
    match common.validation_context_type.as_ref() {
        None => Ok(None),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            let path = at.field("validation_context_sds_secret_config");
            let secret = required(&secret.name, &path.field("name"), problems).ok_or(Noted)?.into();
            Ok(Some(Validation { secret, identities: Vec::new() }))
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_validation(combined, &at.field("combined_validation_context"), problems)
                .map(Some)
                .ok_or(Noted)
        }
        // The support table has named it.
        Some(_) => Err(Noted),
    }
}

fn combined_validation(
    combined: &pb::tls::common_tls_context::CombinedCertificateValidationContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Validation> {
    let path = at.field("validation_context_sds_secret_config");
    let name = combined.validation_context_sds_secret_config.as_ref().map_or("", |secret| &secret.name);
    let secret = required(name, &path.field("name"), problems)?.into();
    let path = at.field("default_validation_context");
    let path = path.field("match_typed_subject_alt_names");
    let matchers = combined
        .default_validation_context
        .as_ref()
        .map_or(&[][..], |context| context.match_typed_subject_alt_names.as_slice());
    let mut identities = Vec::new();
    for (index, matcher) in matchers.iter().enumerate() {
        identities.push(identity(matcher, &path.index(index), problems)?);
    }
    Some(Validation { secret, identities })
}

fn identity(
    matcher: &pb::tls::SubjectAltNameMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<SpiffeId> {
    use pb::matcher::string_matcher::MatchPattern;
    use pb::tls::subject_alt_name_matcher::SanType;
    if matcher.san_type != SanType::Uri as i32 {
        return problems.error(&at.field("san_type"), "peers are known by their SPIFFE IDs", "write URI");
    }
    let pattern = matcher.matcher.as_ref().and_then(|matcher| matcher.match_pattern.as_ref());
    let Some(MatchPattern::Exact(text)) = pattern else {
        return problems.error(&at.field("matcher"), "SPIFFE IDs are compared whole", "write `exact`");
    };
    SpiffeId::parse(text).ok().or_else(|| {
        let at = at.field("matcher");
        problems.error(&at.field("exact"), format!("`{text}` is no SPIFFE ID"), "")
    })
}
