//! TLS contexts.

mod context;

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::proxy::{
    DownstreamTls, MeshClient, MeshServer, StringMatch, TransportMatch, UpstreamTls,
};
use meshwork_model::spiffe::SpiffeId;

use super::policy::string;
use super::{SdsSource, Writer, boolean, pack};
use crate::decode::REFUSAL;
use crate::node::Dialect;
use crate::pb;

const TLS: &str = "envoy.transport_sockets.tls";
const RAW_BUFFER: &str = "envoy.transport_sockets.raw_buffer";
/// The certificate provider of gRPC's bootstrap file.
const PROVIDER: &str = "default";
/// The name of the trust bundle's secret.
const ROOTCA: &str = "ROOTCA";
/// An identity that nothing can have: its trust domain is reserved.
const NOBODY: &str = "spiffe://refused.invalid/nobody";

impl Writer<'_> {
    pub(super) fn upstream(&self, tls: Option<&UpstreamTls>) -> pb::core::TransportSocket {
        match tls {
            Some(UpstreamTls::Mesh(tls)) => socket(TLS, pack(&self.upstream_context(tls))),
            // gRPC knows no trust but that of its bootstrap file; nothing is sent in plaintext that was to be encrypted.
            Some(UpstreamTls::Context(_)) if self.is_grpc() => self.refusal(&[]),
            Some(UpstreamTls::Context(context)) => socket(TLS, pack(&self.client(context))),
            None => socket(RAW_BUFFER, pack(&pb::RawBuffer::default())),
        }
    }

    fn upstream_context(&self, tls: &MeshClient) -> pb::tls::UpstreamTlsContext {
        let identities: Vec<&str> = tls.identities.iter().map(SpiffeId::as_str).collect();
        let mut common = self.common(tls.certificate.as_deref(), &tls.alpn);
        common.validation_context_type = Some(self.validation(&tls.validation, &identities));
        pb::tls::UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: tls.sni.to_string(),
            ..pb::tls::UpstreamTlsContext::default()
        }
    }

    pub(super) fn downstream(&self, tls: &DownstreamTls) -> pb::core::TransportSocket {
        match tls {
            DownstreamTls::Mesh(tls) => self.mesh_server(tls),
            // A chain without a certificate takes nobody.
            DownstreamTls::Context(_) if self.is_grpc() => {
                socket(TLS, pack(&pb::tls::DownstreamTlsContext::default()))
            }
            DownstreamTls::Context(context) => socket(TLS, pack(&self.server(context))),
        }
    }

    fn mesh_server(&self, tls: &MeshServer) -> pb::core::TransportSocket {
        let identities: Vec<&str> = tls.allowed.iter().map(SpiffeId::as_str).collect();
        let mut common = self.common(Some(&tls.certificate), &tls.alpn);
        // gRPC refuses names to compare with on the server's side: it authorizes by RBAC.
        let identities = if self.is_grpc() { &[][..] } else { &identities };
        common.validation_context_type =
            tls.validation.as_ref().map(|secret| self.validation(secret, identities));
        let context = pb::tls::DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: tls.require_client_certificate.then(|| boolean(true)),
            ..pb::tls::DownstreamTlsContext::default()
        };
        socket(TLS, pack(&context))
    }

    /// gRPC has one transport for all endpoints of a cluster: the first TLS one, for the identities of all. None at all
    /// would be plaintext, so that TLS of which it knows nothing is one that always fails.
    pub(super) fn only_transport(&self, transports: &[TransportMatch]) -> Option<pb::core::TransportSocket> {
        let all = || transports.iter().filter_map(|transport| transport.tls.as_ref()?.mesh());
        if all().next().is_none() && transports.iter().any(|transport| transport.tls.is_some()) {
            return Some(self.refusal(transports));
        }
        let identities: BTreeSet<_> = all().flat_map(|tls| &tls.identities).cloned().collect();
        let tls = MeshClient { identities: identities.into_iter().collect(), ..all().next()?.clone() };
        Some(self.upstream(Some(&tls.into())))
    }

    /// A transport that always fails, for endpoints that no transport matches.
    pub(super) fn refusal(&self, transports: &[TransportMatch]) -> pb::core::TransportSocket {
        let secret = transports.iter().find_map(|transport| transport.tls.as_ref()?.mesh());
        let secret = secret.map_or(ROOTCA, |tls| &tls.validation);
        let mut common = self.common(None, &[]);
        common.validation_context_type = Some(self.validation(secret, &[NOBODY]));
        let context = pb::tls::UpstreamTlsContext {
            common_tls_context: Some(common),
            ..pb::tls::UpstreamTlsContext::default()
        };
        socket(REFUSAL, pack(&context))
    }

    fn common(&self, certificate: Option<&str>, alpn: &[Arc<str>]) -> pb::tls::CommonTlsContext {
        let mut common = pb::tls::CommonTlsContext::default();
        match (certificate, self.sds) {
            (None, _) => {}
            (Some(_), SdsSource::Grpc) => common.tls_certificate_provider_instance = Some(provider()),
            (Some(name), _) => common.tls_certificate_sds_secret_configs = vec![self.secret(name)],
        }
        if !self.is_grpc() {
            common.alpn_protocols = alpn.iter().map(ToString::to_string).collect();
        }
        if self.dialect == Dialect::Envoy {
            common.tls_params = Some(tls13());
        }
        common
    }

    fn validation(
        &self,
        secret: &str,
        identities: &[&str],
    ) -> pb::tls::common_tls_context::ValidationContextType {
        use pb::tls::common_tls_context::{
            CombinedCertificateValidationContext, ValidationContextType as Context,
        };
        if *self.sds == SdsSource::Grpc {
            return Context::ValidationContext(by_provider(identities));
        }
        if identities.is_empty() {
            return Context::ValidationContextSdsSecretConfig(self.secret(secret));
        }
        Context::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(by_identity(identities)),
            validation_context_sds_secret_config: Some(self.secret(secret)),
            ..CombinedCertificateValidationContext::default()
        })
    }

    fn secret(&self, name: &str) -> pb::tls::SdsSecretConfig {
        let sds_config = match self.sds {
            SdsSource::Directory(directory) => Some(file(&format!("{directory}/{name}.yaml"))),
            SdsSource::Named | SdsSource::Grpc => None,
        };
        pb::tls::SdsSecretConfig { name: name.to_owned(), sds_config }
    }
}

fn socket(name: &str, config: pb::Any) -> pb::core::TransportSocket {
    pb::core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(pb::core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// Envoy's clients offer TLS 1.2 at most by default, and our servers demand 1.3.
fn tls13() -> pb::tls::TlsParameters {
    use pb::tls::tls_parameters::TlsProtocol;
    pb::tls::TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv13 as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..pb::tls::TlsParameters::default()
    }
}

fn provider() -> pb::tls::CertificateProviderPluginInstance {
    pb::tls::CertificateProviderPluginInstance {
        instance_name: PROVIDER.to_owned(),
        ..pb::tls::CertificateProviderPluginInstance::default()
    }
}

/// gRPC's cores compare with `match_subject_alt_names` alone; without it, they would trust any certificate.
#[expect(deprecated, reason = "the field that gRPC reads")]
fn by_provider(identities: &[&str]) -> pb::tls::CertificateValidationContext {
    let exact = |identity: &&str| string(&StringMatch::Exact((*identity).into()));
    pb::tls::CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider()),
        match_subject_alt_names: identities.iter().map(exact).collect(),
        ..pb::tls::CertificateValidationContext::default()
    }
}

fn by_identity(identities: &[&str]) -> pb::tls::CertificateValidationContext {
    use pb::tls::subject_alt_name_matcher::SanType;
    let uri = |identity: &&str| pb::tls::SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(string(&StringMatch::Exact((*identity).into()))),
        ..pb::tls::SubjectAltNameMatcher::default()
    };
    pb::tls::CertificateValidationContext {
        match_typed_subject_alt_names: identities.iter().map(uri).collect(),
        ..pb::tls::CertificateValidationContext::default()
    }
}

/// A resource in a file, which is watched for being replaced by rename.
fn file(path: &str) -> pb::core::ConfigSource {
    use pb::core::config_source::ConfigSourceSpecifier;
    pb::core::ConfigSource {
        resource_api_version: pb::core::ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(pb::core::PathConfigSource {
            path: path.to_owned(),
            ..pb::core::PathConfigSource::default()
        })),
        ..pb::core::ConfigSource::default()
    }
}
