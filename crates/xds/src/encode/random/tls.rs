//! Random TLS.

use std::sync::Arc;

use meshwork_model::proxy::{
    CertificateSource, CipherSuite, ClientContext, DataSource, DownstreamTls, Group, MeshClient, MeshServer,
    SanKind, SanMatch, Sealed, Secret, ServerContext, TlsCertificate, TlsContext, TlsVersion, UpstreamTls,
    Validation, ValidationContext,
};

use super::{Plain, Random};

impl Random {
    pub(super) fn upstream(&mut self) -> UpstreamTls {
        if self.1 == Plain::No && self.0.bool() {
            return UpstreamTls::Context(Arc::new(self.client_context()));
        }
        UpstreamTls::Mesh(MeshClient {
            certificate: self.0.bool().then(|| "default".into()),
            validation: "ROOTCA".into(),
            identities: self.some(1, Self::identity),
            alpn: self.some(0, Self::text),
            sni: self.optional_text(),
        })
    }

    pub(super) fn downstream(&mut self) -> DownstreamTls {
        if self.1 == Plain::No && self.0.bool() {
            return DownstreamTls::Context(Arc::new(self.server_context()));
        }
        let validation = self.0.bool().then(|| "ROOTCA".into());
        DownstreamTls::Mesh(MeshServer {
            certificate: "default".into(),
            require_client_certificate: validation.is_some() && self.0.bool(),
            alpn: self.some(0, Self::text),
            allowed: if validation.is_some() { self.some(0, Self::identity) } else { Vec::new() },
            validation,
        })
    }

    fn client_context(&mut self) -> ClientContext {
        let mut common = self.tls_context();
        common.certificates.truncate(1);
        let sni = self.optional_text();
        let auto_host_sni = self.0.bool();
        let judges = common
            .validation
            .as_ref()
            .is_some_and(|known| known.secret.is_some() || known.fixed.trusted_ca.is_some());
        let has_name = !sni.is_empty() || auto_host_sni;
        ClientContext { common, sni, auto_host_sni, validates_sni: judges && has_name && self.0.bool() }
    }

    fn server_context(&mut self) -> ServerContext {
        let mut common = self.tls_context();
        if common.certificates.is_empty() {
            common.certificates.push(CertificateSource::Secret(self.secret_name()));
        }
        let hides = common.validation.as_ref().is_some_and(|known| known.fixed.hide_authorities);
        ServerContext {
            common,
            require_client_certificate: self.0.bool(),
            scan_all_certificates: self.0.bool(),
            tell_authorities: !hides,
            resumes: (self.0.bool(), self.0.bool()),
        }
    }

    fn tls_context(&mut self) -> TlsContext {
        let certificates = if self.0.bool() {
            self.some(0, |random| CertificateSource::Secret(random.secret_name()))
        } else {
            self.some(0, |random| CertificateSource::Inline(Arc::new(random.certificate())))
        };
        TlsContext {
            certificates,
            validation: self.maybe(Self::validation),
            alpn: self.some(0, Self::text),
            versions: self.pick(&[
                (TlsVersion::Tls12, TlsVersion::Tls12),
                (TlsVersion::Tls12, TlsVersion::Tls13),
                (TlsVersion::Tls13, TlsVersion::Tls13),
            ]),
            cipher_suites: self.some(0, |random| {
                random.pick(&[CipherSuite::EcdsaAes128, CipherSuite::RsaAes256, CipherSuite::RsaChaCha20])
            }),
            groups: self.some(0, |random| random.pick(&[Group::X25519, Group::P256, Group::X25519MlKem768])),
        }
    }

    fn secret_name(&mut self) -> Arc<str> {
        let name = self.text();
        match self.0.u8(0..3) {
            0 => format!("{}{name}", Secret::STATIC).into(),
            1 => Secret::in_file(&self.text(), &name),
            _ => name,
        }
    }

    fn file(&mut self) -> DataSource {
        DataSource::File(format!("/etc/{}.pem", self.text()).into())
    }

    /// Its key is in a file: one that stands in config is not written.
    fn certificate(&mut self) -> TlsCertificate {
        TlsCertificate { chain: self.pem(), key: self.file(), is_watched: self.0.bool() }
    }

    fn pem(&mut self) -> DataSource {
        if self.0.bool() {
            return self.file();
        }
        DataSource::Inline(Sealed::new(self.text().as_bytes().to_vec()))
    }

    fn validation(&mut self) -> Validation {
        let secret = self.maybe(Self::secret_name);
        let trusted_ca = self.maybe(Self::pem);
        let fixed = if secret.is_some() && self.0.bool() {
            ValidationContext::default()
        } else {
            let is_typed = self.0.bool();
            let name = |random: &mut Self| SanMatch {
                kind: is_typed
                    .then(|| random.pick(&[SanKind::Email, SanKind::Dns, SanKind::Uri, SanKind::IpAddress])),
                test: random.string(),
            };
            let judges = secret.is_some() || trusted_ca.is_some();
            ValidationContext {
                names: if judges { self.some(0, name) } else { Vec::new() },
                trusted_ca,
                hashes: self.some(0, |random| [random.0.u8(..); 32]),
                keys: self.some(0, |random| [random.0.u8(..); 32]),
                allow_expired: self.0.bool(),
                accept_untrusted: self.0.bool(),
                hide_authorities: self.0.bool(),
                is_watched: self.0.bool(),
            }
        };
        Validation { fixed: Arc::new(fixed), secret }
    }
}
