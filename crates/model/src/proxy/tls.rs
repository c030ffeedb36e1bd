//! TLS as config may ask for it: whose certificates are shown, and by what a peer's is judged.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::StringMatch;
use crate::spiffe::SpiffeId;

/// The server side of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownstreamTls {
    /// mTLS with the mesh's identities.
    Mesh(MeshServer),
    /// Any other.
    Context(Arc<ServerContext>),
}

/// The client side of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTls {
    /// mTLS with the mesh's identities.
    Mesh(MeshClient),
    /// Any other.
    Context(Arc<ClientContext>),
}

/// The server side of mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshServer {
    /// Name of the secret with certificate and key; `default` is the workload's own SVID.
    pub certificate: Arc<str>,
    /// Name of the secret with the trust bundle (`ROOTCA`); `None` asks for no client certificate.
    pub validation: Option<Arc<str>>,
    /// Whether a client without a certificate is refused.
    pub require_client_certificate: bool,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<Arc<str>>,
    /// Client identities that are let in; empty lets in all of the trust bundle.
    pub allowed: Vec<SpiffeId>,
}

/// The client side of mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshClient {
    /// Name of the secret with certificate and key (`default`); `None` sends no certificate.
    pub certificate: Option<Arc<str>>,
    /// Name of the secret with the trust bundle (`ROOTCA`).
    pub validation: Arc<str>,
    /// The identities of which the server must prove one; never empty.
    pub identities: Vec<SpiffeId>,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<Arc<str>>,
    /// Server name that is sent; empty sends none.
    pub sni: Arc<str>,
}

/// What both ends of TLS have in common. Source: Envoy `CommonTlsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsContext {
    /// The certificates that may be shown, in order of preference.
    pub certificates: Vec<CertificateSource>,
    /// What the peer's certificate is judged by; `None` judges nothing.
    pub validation: Option<Validation>,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<Arc<str>>,
    /// The oldest and the newest version.
    pub versions: (TlsVersion, TlsVersion),
    /// Cipher suites of TLS 1.2 in order of preference; empty leaves the choice to the library.
    pub cipher_suites: Vec<CipherSuite>,
    /// Key exchange groups in order of preference; empty leaves the choice to the library.
    pub groups: Vec<Group>,
}

/// The server side of TLS, beside the mesh's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerContext {
    /// Certificates, trust, protocols.
    pub common: TlsContext,
    /// Whether a client without a certificate is refused.
    pub require_client_certificate: bool,
    /// Whether all certificates are tried where none has the server name that the client asks for; else the first.
    pub scan_all_certificates: bool,
    /// Whether clients learn which authorities their certificates may come from.
    pub tell_authorities: bool,
    /// Whether sessions are resumed: with TLS 1.2, and with tickets.
    pub resumes: (bool, bool),
}

/// The client side of TLS, beside the mesh's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientContext {
    /// Certificates, trust, protocols.
    pub common: TlsContext,
    /// Server name that is sent; empty sends none.
    pub sni: Arc<str>,
    /// Whether the name of the host is sent instead, where it is known.
    pub auto_host_sni: bool,
    /// Whether the server's certificate must be for the name that is sent; then no other name is looked for.
    pub validates_sni: bool,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// It stands in the config, or in files that this names.
    Inline(Arc<TlsCertificate>),
    /// It is the secret of this name.
    Secret(Arc<str>),
}

/// A certificate chain with its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    /// The chain, PEM, the certificate itself first.
    pub chain: DataSource,
    /// The key of the first certificate, PEM.
    pub key: DataSource,
    /// Whether files are looked at again.
    pub is_watched: bool,
}

/// What a peer's certificate is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// What the config itself says.
    pub fixed: Arc<ValidationContext>,
    /// The name of a secret that adds to it.
    pub secret: Option<Arc<str>>,
}

/// Rules for a peer's certificate. Source: Envoy `CertificateValidationContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct ValidationContext {
    /// The authorities that are trusted, PEM.
    pub trusted_ca: Option<DataSource>,
    /// Names of which the certificate must have one; empty asks for none.
    pub names: Vec<SanMatch>,
    /// SHA-256 of certificates of which it must be one; empty, with no key listed either, asks for none.
    pub hashes: Vec<[u8; 32]>,
    /// SHA-256 of public keys (`SubjectPublicKeyInfo`) of which it must have one.
    pub keys: Vec<[u8; 32]>,
    /// Whether a certificate whose time is over is taken.
    pub allow_expired: bool,
    /// Whether a certificate that fails is taken, and only known not to be verified.
    pub accept_untrusted: bool,
    /// Whether clients are not told which authorities are trusted.
    pub hide_authorities: bool,
    /// Whether files are looked at again.
    pub is_watched: bool,
}

/// A test of one kind of subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanMatch {
    /// The kind; `None` for all of these.
    pub kind: Option<SanKind>,
    /// The test.
    pub test: StringMatch,
}

/// A kind of subject alternative names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanKind {
    /// Mail addresses.
    Email,
    /// Host names; an exact test takes a wildcard in the certificate for what it stands for.
    Dns,
    /// URIs.
    Uri,
    /// IP addresses as text.
    IpAddress,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

/// A cipher suite of TLS 1.2: all have ephemeral keys and authenticated encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherSuite {
    /// ECDHE-ECDSA-AES128-GCM-SHA256
    EcdsaAes128,
    /// ECDHE-RSA-AES128-GCM-SHA256
    RsaAes128,
    /// ECDHE-ECDSA-AES256-GCM-SHA384
    EcdsaAes256,
    /// ECDHE-RSA-AES256-GCM-SHA384
    RsaAes256,
    /// ECDHE-ECDSA-CHACHA20-POLY1305
    EcdsaChaCha20,
    /// ECDHE-RSA-CHACHA20-POLY1305
    RsaChaCha20,
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// X25519
    X25519,
    /// P-256
    P256,
    /// P-384
    P384,
    /// X25519MLKEM768
    X25519MlKem768,
}

/// A named secret. Source: Envoy `extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name; that of a static one or of one from a file begins with [`Secret::STATIC`] or [`Secret::FILE`].
    pub name: Arc<str>,
    /// What it is.
    pub content: SecretContent,
}

/// What a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretContent {
    /// A certificate that we show.
    Certificate(Arc<TlsCertificate>),
    /// What a peer's certificate is judged by.
    Validation(Arc<ValidationContext>),
}

/// Bytes that stand in the config or in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// They stand here.
    Inline(Sealed),
    /// They stand in the file of this path.
    File(Arc<str>),
}

/// Bytes that are shown to nobody and wiped when the last one lets go of them. Copies of it share them.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Arc<Zeroizing<Vec<u8>>>);

// === impl DownstreamTls ===

impl DownstreamTls {
    /// Whether a client without a certificate is refused.
    pub fn requires_client(&self) -> bool {
        match self {
            Self::Mesh(mesh) => mesh.require_client_certificate,
            Self::Context(context) => context.require_client_certificate,
        }
    }

    /// The context, where it is not the mesh's own.
    pub fn context(&self) -> Option<&TlsContext> {
        match self {
            Self::Mesh(_) => None,
            Self::Context(context) => Some(&context.common),
        }
    }
}

impl From<MeshServer> for DownstreamTls {
    fn from(mesh: MeshServer) -> Self {
        Self::Mesh(mesh)
    }
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// The context, where it is not the mesh's own.
    pub fn context(&self) -> Option<&TlsContext> {
        match self {
            Self::Mesh(_) => None,
            Self::Context(context) => Some(&context.common),
        }
    }

    /// mTLS with the mesh's identities, where it is that.
    pub fn mesh(&self) -> Option<&MeshClient> {
        match self {
            Self::Mesh(mesh) => Some(mesh),
            Self::Context(_) => None,
        }
    }
}

impl From<MeshClient> for UpstreamTls {
    fn from(mesh: MeshClient) -> Self {
        Self::Mesh(mesh)
    }
}

// === impl Secret ===

impl Secret {
    /// What the names of static secrets begin with here.
    pub const STATIC: &str = "static:";
    /// What the names of secrets from files begin with here; the path, `#` and the secret's name follow.
    pub const FILE: &str = "file:";

    /// The name by which a secret of a file is known here.
    pub fn in_file(path: &str, name: &str) -> Arc<str> {
        format!("{}{path}#{name}", Self::FILE).into()
    }

    /// The file that a secret of this name comes from.
    pub fn file_of(name: &str) -> Option<&str> {
        name.strip_prefix(Self::FILE)?.rsplit_once('#').map(|(path, _)| path)
    }

    /// Whether a secret of this name comes by the stream that all resources come by.
    pub fn is_by_stream(name: &str) -> bool {
        !name.starts_with(Self::STATIC) && !name.starts_with(Self::FILE)
    }
}

// === impl TlsContext ===

impl TlsContext {
    /// The names of all secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Secret(name) => Some(name),
            CertificateSource::Inline(_) => None,
        });
        certificates.chain(self.validation.iter().filter_map(|validation| validation.secret.as_ref()))
    }
}

// === impl ValidationContext ===

impl ValidationContext {
    /// The two as one: lists are joined, and what `other` sets stands. Source: protobuf's `MergeFrom`.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        Self {
            trusted_ca: other.trusted_ca.clone().or_else(|| self.trusted_ca.clone()),
            names: self.names.iter().chain(&other.names).cloned().collect(),
            hashes: self.hashes.iter().chain(&other.hashes).copied().collect(),
            keys: self.keys.iter().chain(&other.keys).copied().collect(),
            allow_expired: self.allow_expired || other.allow_expired,
            accept_untrusted: self.accept_untrusted || other.accept_untrusted,
            hide_authorities: self.hide_authorities || other.hide_authorities,
            is_watched: self.is_watched || other.is_watched,
        }
    }
}

// === impl Sealed ===

impl Sealed {
    /// Takes bytes in.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// The bytes, for who makes keys and certificates of them.
    pub fn open(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_are_not_shown() {
        let certificate = TlsCertificate {
            chain: DataSource::File("chain.pem".into()),
            key: DataSource::Inline(Sealed::new(b"secret".to_vec())),
            is_watched: false,
        };
        let shown = format!("{certificate:?}");
        assert!(shown.contains("[redacted]") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_secret_adds_to_what_stands_in_the_config() {
        let named = |hash| ValidationContext { hashes: vec![[hash; 32]], ..ValidationContext::default() };
        let ca = |path: &str| Some(DataSource::File(path.into()));
        let first = ValidationContext { trusted_ca: ca("first"), ..named(1) };
        let second = ValidationContext { allow_expired: true, ..named(2) };
        let merged = first.merged(&second);
        assert_eq!((merged.hashes.len(), merged.allow_expired, merged.trusted_ca), (2, true, ca("first")));
        assert_eq!(
            first.merged(&ValidationContext { trusted_ca: ca("second"), ..second }).trusted_ca,
            ca("second")
        );
    }

    #[test]
    fn names_of_secrets_say_where_they_come_from() {
        let name = Secret::in_file("/etc/sds#1.yaml", "cert");
        assert_eq!(Secret::file_of(&name), Some("/etc/sds#1.yaml"));
        assert!(!Secret::is_by_stream(&name) && !Secret::is_by_stream("static:cert"));
        assert!(Secret::is_by_stream("cert"));
    }
}
