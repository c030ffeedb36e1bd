//! TLS contexts and secrets.
//!
//! Who names the secrets `default` and `ROOTCA`, and not where they come from, means the mesh's own identity; all else
//! is read with Envoy's meaning.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwork_model::proxy::{
    CertificateSource, CipherSuite, ClientContext, DataSource, DownstreamTls, Group, MeshClient, MeshServer,
    SanKind, SanMatch, Sealed, Secret, SecretContent, ServerContext, TlsCertificate, TlsContext, TlsVersion,
    UpstreamTls, Validation, ValidationContext,
};
use meshwork_model::spiffe::SpiffeId;

use super::{is, policy, required, unpack};
use crate::path::{Noted, Path, Problems};
use crate::pb;

/// The name of the transport socket that always fails: what an endpoint that no transport matches is reached by.
pub(crate) const REFUSAL: &str = "meshwork.transport_sockets.refuse";
/// The secret that stands for the workload's own SVID.
const OWN_SVID: &str = "default";
/// The secret that stands for the mesh's trust bundle.
const TRUST_BUNDLE: &str = "ROOTCA";

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
    let common = message.common_tls_context.clone().unwrap_or_default();
    if validation_secret(&common).is_some_and(|secret| is_own(secret, TRUST_BUNDLE)) {
        return mesh_client(&message, &common, &at, problems).map(Some);
    }
    client(&message, &common, &typed, problems).map(Some)
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
    let common = message.common_tls_context.clone().unwrap_or_default();
    let is_mesh = match common.tls_certificate_sds_secret_configs.as_slice() {
        [secret] => is_own(secret, OWN_SVID),
        _ => false,
    };
    if is_mesh && common.tls_certificates.is_empty() {
        return mesh_server(&message, &common, &at, problems).map(Some);
    }
    server(&message, &common, &typed, problems).map(Some)
}

fn is_own(secret: &pb::tls::SdsSecretConfig, name: &str) -> bool {
    secret.sds_config.is_none() && secret.name == name
}

fn validation_secret(common: &pb::tls::CommonTlsContext) -> Option<&pb::tls::SdsSecretConfig> {
    use pb::tls::common_tls_context::ValidationContextType as Type;
    match common.validation_context_type.as_ref()? {
        Type::ValidationContextSdsSecretConfig(secret) => Some(secret),
        Type::CombinedValidationContext(combined) => combined.validation_context_sds_secret_config.as_ref(),
        _ => None,
    }
}

fn alpn(common: &pb::tls::CommonTlsContext) -> Vec<Arc<str>> {
    common.alpn_protocols.iter().map(|protocol| protocol.as_str().into()).collect()
}

// --- Envoy's meaning ---

fn client(
    message: &pb::tls::UpstreamTlsContext,
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<UpstreamTls, Noted> {
    let path = at.field("common_tls_context");
    let common = context(common, (TlsVersion::Tls12, TlsVersion::Tls12), &path, problems)?;
    if common.certificates.len() > 1 {
        let text = "a client shows one certificate";
        return problems.refuse(&path.field("tls_certificates"), text, "leave one");
    }
    if message.auto_sni_san_validation && message.sni.is_empty() && !message.auto_host_sni {
        let text = "no server name is sent that a certificate could be for";
        return problems.refuse(&at.field("auto_sni_san_validation"), text, "write `sni`");
    }
    let judges = common
        .validation
        .as_ref()
        .is_some_and(|validation| validation.secret.is_some() || validation.fixed.trusted_ca.is_some());
    if message.auto_sni_san_validation && !judges {
        let text = "names are worth nothing where no authority is trusted";
        return problems.refuse(&at.field("auto_sni_san_validation"), text, "write `trusted_ca`");
    }
    Ok(UpstreamTls::Context(Arc::new(ClientContext {
        common,
        sni: message.sni.as_str().into(),
        auto_host_sni: message.auto_host_sni,
        validates_sni: message.auto_sni_san_validation,
    })))
}

fn server(
    message: &pb::tls::DownstreamTlsContext,
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<DownstreamTls, Noted> {
    use pb::tls::downstream_tls_context::SessionTicketKeysType as Tickets;
    let path = at.field("common_tls_context");
    let common = context(common, (TlsVersion::Tls12, TlsVersion::Tls13), &path, problems)?;
    if common.certificates.is_empty() {
        let fix = "write `tls_certificates` or `tls_certificate_sds_secret_configs`";
        return problems.refuse(&path, "the certificate is missing", fix);
    }
    let is_true = |value: &Option<pb::BoolValue>| value.as_ref().is_some_and(|value| value.value);
    let without_tickets =
        matches!(message.session_ticket_keys_type, Some(Tickets::DisableStatelessSessionResumption(true)));
    let hides = common.validation.as_ref().is_some_and(|validation| validation.fixed.hide_authorities);
    Ok(DownstreamTls::Context(Arc::new(ServerContext {
        common,
        require_client_certificate: is_true(&message.require_client_certificate),
        scan_all_certificates: is_true(&message.full_scan_certs_on_sni_mismatch),
        tell_authorities: !hides,
        resumes: (!message.disable_stateful_session_resumption, !without_tickets),
    })))
}

fn context(
    common: &pb::tls::CommonTlsContext,
    versions: (TlsVersion, TlsVersion),
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<TlsContext, Noted> {
    let mut certificates = Vec::new();
    let path = at.field("tls_certificates");
    for (index, message) in common.tls_certificates.iter().enumerate() {
        let certificate = certificate(message, &path.index(index), problems)?;
        certificates.push(CertificateSource::Inline(Arc::new(certificate)));
    }
    let path = at.field("tls_certificate_sds_secret_configs");
    if !certificates.is_empty() && !common.tls_certificate_sds_secret_configs.is_empty() {
        return problems.refuse(
            &path,
            "certificates come from here or from `tls_certificates`",
            "leave one out",
        );
    }
    for (index, secret) in common.tls_certificate_sds_secret_configs.iter().enumerate() {
        certificates.push(CertificateSource::Secret(secret_name(secret, &path.index(index), problems)?));
    }
    let parameters = common.tls_params.clone().unwrap_or_default();
    let path = at.field("tls_params");
    Ok(TlsContext {
        certificates,
        validation: validation(common, at, problems)?,
        alpn: alpn(common),
        versions: read_versions(&parameters, versions, &path, problems)?,
        cipher_suites: named(
            &parameters.cipher_suites,
            CIPHER_SUITES,
            &path.field("cipher_suites"),
            problems,
        )?,
        groups: named(&parameters.ecdh_curves, GROUPS, &path.field("ecdh_curves"), problems)?,
    })
}

fn read_versions(
    parameters: &pb::tls::TlsParameters,
    (oldest, newest): (TlsVersion, TlsVersion),
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<(TlsVersion, TlsVersion), Noted> {
    use pb::tls::tls_parameters::TlsProtocol;
    let mut read = |value, default, field| match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(default),
        Ok(TlsProtocol::TlSv12) => Ok(TlsVersion::Tls12),
        Ok(TlsProtocol::TlSv13) => Ok(TlsVersion::Tls13),
        _ => problems.refuse(
            &at.field(field),
            "versions older than 1.2 are not spoken",
            "write TLSv1_2 or TLSv1_3",
        ),
    };
    let oldest = read(parameters.tls_minimum_protocol_version, oldest, "tls_minimum_protocol_version")?;
    let newest = read(parameters.tls_maximum_protocol_version, newest, "tls_maximum_protocol_version")?;
    if oldest > newest {
        let field = at.field("tls_maximum_protocol_version");
        return problems.refuse(&field, "the newest version is older than the oldest", "write TLSv1_3");
    }
    Ok((oldest, newest))
}

/// Source: `BoringSSL`'s names.
pub(crate) const CIPHER_SUITES: &[(&str, CipherSuite)] = &[
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::EcdsaAes128),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::RsaAes128),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::EcdsaAes256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::RsaAes256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::EcdsaChaCha20),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::RsaChaCha20),
];

/// Source: `BoringSSL`'s names.
pub(crate) const GROUPS: &[(&str, Group)] = &[
    ("X25519", Group::X25519),
    ("P-256", Group::P256),
    ("P-384", Group::P384),
    ("X25519MLKEM768", Group::X25519MlKem768),
];

/// Reads names in order; `[a|b]` are as good as one another.
fn named<T: Copy>(
    names: &[String],
    known: &[(&str, T)],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Vec<T>, Noted> {
    let mut found = Vec::new();
    for (index, entry) in names.iter().enumerate() {
        for name in entry.trim_start_matches('[').trim_end_matches(']').split('|') {
            let Some((_, value)) = known.iter().find(|(known, _)| *known == name) else {
                let all: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let fix = format!("write some of {}", all.join(", "));
                return problems.refuse(&at.index(index), format!("`{name}` is not supported"), &fix);
            };
            found.push(*value);
        }
    }
    Ok(found)
}

fn certificate(
    message: &pb::tls::TlsCertificate,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<TlsCertificate, Noted> {
    let chain = data_source(message.certificate_chain.as_ref(), &at.field("certificate_chain"), problems)?;
    let key = data_source(message.private_key.as_ref(), &at.field("private_key"), problems)?;
    let (Some(chain), Some(key)) = (chain, key) else {
        let fix = "write `certificate_chain` and `private_key`";
        return problems.refuse(at, "a certificate is a chain and its key", fix);
    };
    Ok(TlsCertificate { chain, key, is_watched: message.watched_directory.is_some() })
}

fn data_source(
    source: Option<&pb::core::DataSource>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<DataSource>, Noted> {
    use pb::core::data_source::Specifier;
    let Some(source) = source else { return Ok(None) };
    Ok(Some(match &source.specifier {
        Some(Specifier::Filename(path)) => {
            DataSource::File(required(path, &at.field("filename"), problems).ok_or(Noted)?.into())
        }
        Some(Specifier::InlineBytes(bytes)) => DataSource::Inline(Sealed::new(bytes.clone())),
        Some(Specifier::InlineString(text)) => DataSource::Inline(Sealed::new(text.clone().into_bytes())),
        _ => {
            let fix = "write `filename`, `inline_string` or `inline_bytes`";
            return problems.refuse(at, "this source is not supported", fix);
        }
    }))
}

/// The name by which a secret is known here.
#[expect(deprecated, reason = "`path` is honoured still")]
fn secret_name(
    secret: &pb::tls::SdsSecretConfig,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Arc<str>, Noted> {
    use pb::core::config_source::ConfigSourceSpecifier as Source;
    let name = required(&secret.name, &at.field("name"), problems).ok_or(Noted)?;
    let Some(source) = &secret.sds_config else { return Ok(format!("{}{name}", Secret::STATIC).into()) };
    let at = at.field("sds_config");
    let path = match &source.config_source_specifier {
        Some(Source::Ads(_)) if Secret::is_by_stream(name) => return Ok(name.into()),
        Some(Source::Ads(_)) => {
            return problems.refuse(&at, format!("the name `{name}` has a meaning of its own"), "rename it");
        }
        Some(Source::PathConfigSource(file)) => &file.path,
        Some(Source::Path(path)) => path,
        _ => {
            let fix = "write `ads: {}` or `path_config_source`";
            return problems.refuse(&at, "secrets do not come from there", fix);
        }
    };
    let path = required(path, &at.field("path_config_source"), problems).ok_or(Noted)?;
    Ok(Secret::in_file(path, name))
}

fn validation(
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<Validation>, Noted> {
    use pb::tls::common_tls_context::ValidationContextType as Type;
    let (fixed, secret) = match &common.validation_context_type {
        None => return Ok(None),
        Some(Type::ValidationContext(message)) => {
            let at = at.field("validation_context");
            let context = validation_context(message, &at, problems)?;
            check_names(&context, &at, problems)?;
            (context, None)
        }
        Some(Type::ValidationContextSdsSecretConfig(secret)) => {
            let at = at.field("validation_context_sds_secret_config");
            (ValidationContext::default(), Some(secret_name(secret, &at, problems)?))
        }
        Some(Type::CombinedValidationContext(combined)) => {
            let at = at.field("combined_validation_context");
            let fixed = combined.default_validation_context.clone().unwrap_or_default();
            let fixed = validation_context(&fixed, &at.field("default_validation_context"), problems)?;
            let secret = combined.validation_context_sds_secret_config.clone().unwrap_or_default();
            let at = at.field("validation_context_sds_secret_config");
            (fixed, Some(secret_name(&secret, &at, problems)?))
        }
        // The support table has named it.
        Some(_) => return Err(Noted),
    };
    Ok(Some(Validation { fixed: Arc::new(fixed), secret }))
}

/// Source: Envoy refuses names without an authority: anybody could have given them.
fn check_names(context: &ValidationContext, at: &Path<'_>, problems: &mut Problems) -> Result<(), Noted> {
    if context.names.is_empty() || context.trusted_ca.is_some() {
        return Ok(());
    }
    let text = "names are worth nothing where no authority is trusted";
    problems.refuse(&at.field("match_typed_subject_alt_names"), text, "write `trusted_ca`")
}

#[expect(deprecated, reason = "it is honoured still")]
fn validation_context(
    message: &pb::tls::CertificateValidationContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<ValidationContext, Noted> {
    use pb::tls::certificate_validation_context::TrustChainVerification;
    let mut names = Vec::new();
    let path = at.field("match_typed_subject_alt_names");
    for (index, matcher) in message.match_typed_subject_alt_names.iter().enumerate() {
        names.push(san_match(matcher, &path.index(index), problems)?);
    }
    let path = at.field("match_subject_alt_names");
    // Source: Envoy takes the deprecated field only where the other is empty.
    let untyped = if names.is_empty() { message.match_subject_alt_names.as_slice() } else { &[] };
    for (index, matcher) in untyped.iter().enumerate() {
        let test = policy::string(matcher, &path.index(index), problems).ok_or(Noted)?;
        names.push(SanMatch { kind: None, test });
    }
    let accept = TrustChainVerification::AcceptUntrusted as i32;
    Ok(ValidationContext {
        trusted_ca: data_source(message.trusted_ca.as_ref(), &at.field("trusted_ca"), problems)?,
        names,
        hashes: digests(
            &message.verify_certificate_hash,
            hex,
            &at.field("verify_certificate_hash"),
            problems,
        )?,
        keys: digests(
            &message.verify_certificate_spki,
            base64,
            &at.field("verify_certificate_spki"),
            problems,
        )?,
        allow_expired: message.allow_expired_certificate,
        accept_untrusted: message.trust_chain_verification == accept,
        hide_authorities: message.suppress_client_ca_list,
        is_watched: message.watched_directory.is_some(),
    })
}

fn san_match(
    matcher: &pb::tls::SubjectAltNameMatcher,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<SanMatch, Noted> {
    use pb::tls::subject_alt_name_matcher::SanType;
    let kind = match SanType::try_from(matcher.san_type) {
        Ok(SanType::Email) => SanKind::Email,
        Ok(SanType::Dns) => SanKind::Dns,
        Ok(SanType::Uri) => SanKind::Uri,
        Ok(SanType::IpAddress) => SanKind::IpAddress,
        _ => {
            let fix = "write URI, DNS, IP_ADDRESS or EMAIL";
            return problems.refuse(&at.field("san_type"), "names of this kind are not supported", fix);
        }
    };
    let at = at.field("matcher");
    let Some(matcher) = &matcher.matcher else {
        return problems.refuse(&at, "the test is missing", "write `matcher: { exact: … }`");
    };
    let test = policy::string(matcher, &at, problems).ok_or(Noted)?;
    Ok(SanMatch { kind: Some(kind), test })
}

fn digests(
    texts: &[String],
    read: fn(&str) -> Option<[u8; 32]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Vec<[u8; 32]>, Noted> {
    let mut found = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let Some(digest) = read(text) else {
            return problems.refuse(&at.index(index), format!("`{text}` is no SHA-256"), "");
        };
        found.push(digest);
    }
    Ok(found)
}

/// Hexadecimal digits, with or without colons between the bytes.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let mut digest = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(digest)
}

fn base64(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// A secret as it came by the stream.
pub(super) fn secret(message: &pb::tls::Secret, at: &Path<'_>, problems: &mut Problems) -> Option<Secret> {
    use pb::tls::secret::Type;
    let name = required(&message.name, &at.field("name"), problems)?.into();
    let content = match &message.r#type {
        Some(Type::TlsCertificate(message)) => {
            let mut certificate = certificate(message, &at.field("tls_certificate"), problems).ok()?;
            // Source: Envoy watches the files of secrets that come by SDS.
            certificate.is_watched = true;
            SecretContent::Certificate(Arc::new(certificate))
        }
        Some(Type::ValidationContext(message)) => {
            let mut context = validation_context(message, &at.field("validation_context"), problems).ok()?;
            context.is_watched = true;
            SecretContent::Validation(Arc::new(context))
        }
        _ => {
            let fix = "write `tls_certificate` or `validation_context`";
            return problems.error(at, "secrets of this kind are not supported", fix);
        }
    };
    Some(Secret { name, content })
}

/// A secret of the bootstrap.
pub(crate) fn static_secret(
    message: &pb::tls::Secret,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Secret> {
    if [OWN_SVID, TRUST_BUNDLE].contains(&message.name.as_str()) {
        let text = format!("the name `{}` stands for the workload's own identity", message.name);
        return problems.error(&at.field("name"), text, "rename it");
    }
    let secret = secret(message, at, problems)?;
    Some(Secret { name: format!("{}{}", Secret::STATIC, secret.name).into(), ..secret })
}

// --- the mesh's own ---

fn mesh_client(
    message: &pb::tls::UpstreamTlsContext,
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<UpstreamTls, Noted> {
    let certificate = mesh_certificate(common, at, problems)?;
    let Some(validation) = mesh_validation(common, at, problems)? else { return Err(Noted) };
    if validation.identities.is_empty() {
        let fix = "list SPIFFE IDs in `match_typed_subject_alt_names`";
        return problems.refuse(at, "any server would be trusted", fix);
    }
    Ok(UpstreamTls::Mesh(MeshClient {
        certificate,
        validation: validation.secret,
        identities: validation.identities,
        alpn: alpn(common),
        sni: message.sni.as_str().into(),
    }))
}

fn mesh_server(
    message: &pb::tls::DownstreamTlsContext,
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<DownstreamTls, Noted> {
    let Some(certificate) = mesh_certificate(common, at, problems)? else {
        return problems.refuse(at, "the certificate is missing", "name the secret `default`");
    };
    let validation = mesh_validation(common, at, problems)?;
    let require = message.require_client_certificate.is_some_and(|require| require.value);
    if require && validation.is_none() {
        let text = "client certificates would not be verified";
        return problems.refuse(at, text, "name the secret `ROOTCA`");
    }
    let (secret, allowed) = validation.map_or((None, Vec::new()), |v| (Some(v.secret), v.identities));
    Ok(DownstreamTls::Mesh(MeshServer {
        certificate,
        validation: secret,
        require_client_certificate: require,
        alpn: alpn(common),
        allowed,
    }))
}

/// The name of the secret with our certificate.
fn mesh_certificate(
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
        [secret] if is_own(secret, OWN_SVID) => Ok(Some(OWN_SVID.into())),
        _ => problems.refuse(&at, "beside `ROOTCA` the workload's own certificate stands", "name `default`"),
    }
}

/// What a peer is verified by.
struct MeshValidation {
    secret: Arc<str>,
    identities: Vec<SpiffeId>,
}

fn mesh_validation(
    common: &pb::tls::CommonTlsContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Option<MeshValidation>, Noted> {
    use pb::tls::common_tls_context::ValidationContextType;
    match common.validation_context_type.as_ref() {
        None => Ok(None),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            let secret = mesh_bundle(secret, &at.field("validation_context_sds_secret_config"), problems)?;
            Ok(Some(MeshValidation { secret, identities: Vec::new() }))
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_validation(combined, &at.field("combined_validation_context"), problems)
                .map(Some)
                .ok_or(Noted)
        }
        Some(_) => {
            let fix = "name the secret `ROOTCA`, or show another certificate";
            problems.refuse(
                at,
                "clients of the workload's own certificate are judged by the trust bundle",
                fix,
            )
        }
    }
}

fn mesh_bundle(
    secret: &pb::tls::SdsSecretConfig,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Result<Arc<str>, Noted> {
    if is_own(secret, TRUST_BUNDLE) {
        return Ok(TRUST_BUNDLE.into());
    }
    problems.refuse(at, "beside `default` the trust bundle stands", "name `ROOTCA`")
}

fn combined_validation(
    combined: &pb::tls::common_tls_context::CombinedCertificateValidationContext,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<MeshValidation> {
    let path = at.field("validation_context_sds_secret_config");
    let secret = combined.validation_context_sds_secret_config.clone().unwrap_or_default();
    let secret = mesh_bundle(&secret, &path, problems).ok()?;
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
    Some(MeshValidation { secret, identities })
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
