//! TLS beside the mesh's own: any certificate, any trust. Keys that stand in config are never written: one that is
//! to be used elsewhere has to be there, in a file or as a secret.

#![expect(deprecated, reason = "names of any kind have no newer form")]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwork_model::proxy::{
    CertificateSource, ClientContext, DataSource, SanKind, SanMatch, Secret, ServerContext, TlsCertificate,
    TlsContext, TlsVersion, Validation, ValidationContext,
};

use super::super::policy::string;
use super::super::{SdsSource, Writer, ads, boolean};
use super::file;
use crate::decode::{CIPHER_SUITES, GROUPS};
use crate::pb;

impl Writer<'_> {
    pub(super) fn client(&self, context: &ClientContext) -> pb::tls::UpstreamTlsContext {
        let usual = (TlsVersion::Tls12, TlsVersion::Tls12);
        pb::tls::UpstreamTlsContext {
            common_tls_context: Some(self.context(&context.common, usual)),
            sni: context.sni.to_string(),
            auto_host_sni: context.auto_host_sni,
            auto_sni_san_validation: context.validates_sni,
            ..pb::tls::UpstreamTlsContext::default()
        }
    }

    pub(super) fn server(&self, context: &ServerContext) -> pb::tls::DownstreamTlsContext {
        use pb::tls::downstream_tls_context::SessionTicketKeysType as Tickets;
        let usual = (TlsVersion::Tls12, TlsVersion::Tls13);
        let (remembers, has_tickets) = context.resumes;
        pb::tls::DownstreamTlsContext {
            common_tls_context: Some(self.context(&context.common, usual)),
            require_client_certificate: context.require_client_certificate.then(|| boolean(true)),
            full_scan_certs_on_sni_mismatch: context.scan_all_certificates.then(|| boolean(true)),
            disable_stateful_session_resumption: !remembers,
            session_ticket_keys_type: (!has_tickets)
                .then_some(Tickets::DisableStatelessSessionResumption(true)),
            ..pb::tls::DownstreamTlsContext::default()
        }
    }

    /// `usual` are the versions that Envoy takes for granted.
    fn context(&self, context: &TlsContext, usual: (TlsVersion, TlsVersion)) -> pb::tls::CommonTlsContext {
        let mut message = pb::tls::CommonTlsContext {
            tls_params: parameters(context, usual),
            alpn_protocols: context.alpn.iter().map(ToString::to_string).collect(),
            validation_context_type: context.validation.as_ref().map(|known| self.judged_by(known)),
            ..pb::tls::CommonTlsContext::default()
        };
        for source in &context.certificates {
            match source {
                CertificateSource::Inline(found) => message.tls_certificates.push(certificate(found)),
                CertificateSource::Secret(name) => {
                    message.tls_certificate_sds_secret_configs.push(self.any_secret(name));
                }
            }
        }
        message
    }

    fn judged_by(&self, known: &Validation) -> pb::tls::common_tls_context::ValidationContextType {
        use pb::tls::common_tls_context::{
            CombinedCertificateValidationContext, ValidationContextType as Context,
        };
        match &known.secret {
            None => Context::ValidationContext(validation(&known.fixed)),
            Some(name) if *known.fixed == ValidationContext::default() => {
                Context::ValidationContextSdsSecretConfig(self.any_secret(name))
            }
            Some(name) => Context::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(validation(&known.fixed)),
                validation_context_sds_secret_config: Some(self.any_secret(name)),
                ..CombinedCertificateValidationContext::default()
            }),
        }
    }

    /// A secret of the bootstrap, of a file, or of the stream; Envoy has what is none of these in a directory.
    fn any_secret(&self, name: &str) -> pb::tls::SdsSecretConfig {
        let (name, sds_config) = if let Some(name) = name.strip_prefix(Secret::STATIC) {
            (name, None)
        } else if let Some((path, name)) = name.strip_prefix(Secret::FILE).and_then(|at| at.rsplit_once('#'))
        {
            (name, Some(file(path)))
        } else if let SdsSource::Directory(_) = self.sds {
            return self.secret(name);
        } else {
            (name, Some(ads()))
        };
        pb::tls::SdsSecretConfig { name: name.to_owned(), sds_config }
    }
}

fn parameters(
    context: &TlsContext,
    (oldest, newest): (TlsVersion, TlsVersion),
) -> Option<pb::tls::TlsParameters> {
    let version = |version: TlsVersion, usual: TlsVersion| {
        use pb::tls::tls_parameters::TlsProtocol;
        match version {
            version if version == usual => TlsProtocol::TlsAuto,
            TlsVersion::Tls12 => TlsProtocol::TlSv12,
            TlsVersion::Tls13 => TlsProtocol::TlSv13,
        }
    };
    let parameters = pb::tls::TlsParameters {
        tls_minimum_protocol_version: version(context.versions.0, oldest) as i32,
        tls_maximum_protocol_version: version(context.versions.1, newest) as i32,
        cipher_suites: names(&context.cipher_suites, CIPHER_SUITES),
        ecdh_curves: names(&context.groups, GROUPS),
        ..pb::tls::TlsParameters::default()
    };
    (parameters != pb::tls::TlsParameters::default()).then_some(parameters)
}

fn names<T: PartialEq>(values: &[T], known: &[(&str, T)]) -> Vec<String> {
    let name = |value: &T| known.iter().find(|(_, known)| known == value).map(|(name, _)| (*name).to_owned());
    values.iter().filter_map(name).collect()
}

/// A chain and, where that is in a file, its key.
fn certificate(certificate: &TlsCertificate) -> pb::tls::TlsCertificate {
    let is_file = matches!(certificate.key, DataSource::File(_));
    pb::tls::TlsCertificate {
        certificate_chain: Some(data_source(&certificate.chain)),
        private_key: is_file.then(|| data_source(&certificate.key)),
        watched_directory: certificate.is_watched.then(|| directory_of(Some(&certificate.chain))),
        ..pb::tls::TlsCertificate::default()
    }
}

fn data_source(source: &DataSource) -> pb::core::DataSource {
    use pb::core::data_source::Specifier;
    let specifier = match source {
        DataSource::File(path) => Specifier::Filename(path.to_string()),
        DataSource::Inline(sealed) => match std::str::from_utf8(sealed.open()) {
            Ok(text) => Specifier::InlineString(text.to_owned()),
            Err(_) => Specifier::InlineBytes(sealed.open().to_vec()),
        },
    };
    pb::core::DataSource { specifier: Some(specifier), ..pb::core::DataSource::default() }
}

/// Where a file is replaced.
fn directory_of(source: Option<&DataSource>) -> pb::core::WatchedDirectory {
    let path = match source {
        Some(DataSource::File(path)) => path.rsplit_once('/').map(|(directory, _)| directory),
        _ => None,
    };
    let path = path.filter(|path| !path.is_empty()).unwrap_or("/").to_owned();
    pb::core::WatchedDirectory { path, ..pb::core::WatchedDirectory::default() }
}

fn validation(context: &ValidationContext) -> pb::tls::CertificateValidationContext {
    use pb::tls::certificate_validation_context::TrustChainVerification as Verification;
    // Envoy takes names of any kind only where no other is listed.
    let is_untyped = context.names.iter().all(|name| name.kind.is_none());
    let (typed, untyped) =
        if is_untyped { (&[][..], &context.names[..]) } else { (&context.names[..], &[][..]) };
    let verification =
        if context.accept_untrusted { Verification::AcceptUntrusted } else { Verification::VerifyTrustChain };
    pb::tls::CertificateValidationContext {
        trusted_ca: context.trusted_ca.as_ref().map(data_source),
        watched_directory: context.is_watched.then(|| directory_of(context.trusted_ca.as_ref())),
        verify_certificate_hash: context.hashes.iter().map(hex).collect(),
        verify_certificate_spki: context.keys.iter().map(|key| STANDARD.encode(key)).collect(),
        match_typed_subject_alt_names: typed.iter().flat_map(san_matchers).collect(),
        match_subject_alt_names: untyped.iter().map(|name| string(&name.test)).collect(),
        allow_expired_certificate: context.allow_expired,
        trust_chain_verification: verification as i32,
        suppress_client_ca_list: context.hide_authorities,
        ..pb::tls::CertificateValidationContext::default()
    }
}

/// A test of one kind of names, or of every kind.
fn san_matchers(name: &SanMatch) -> Vec<pb::tls::SubjectAltNameMatcher> {
    use pb::tls::subject_alt_name_matcher::SanType;
    let matcher = |kind: SanKind| pb::tls::SubjectAltNameMatcher {
        san_type: match kind {
            SanKind::Email => SanType::Email,
            SanKind::Dns => SanType::Dns,
            SanKind::Uri => SanType::Uri,
            SanKind::IpAddress => SanType::IpAddress,
        } as i32,
        matcher: Some(string(&name.test)),
        ..pb::tls::SubjectAltNameMatcher::default()
    };
    match name.kind {
        Some(kind) => vec![matcher(kind)],
        None => [SanKind::Email, SanKind::Dns, SanKind::Uri, SanKind::IpAddress].map(matcher).into(),
    }
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
