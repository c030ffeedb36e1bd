//! A forger's workshop: certificates that a mesh's own authority would never sign, under its own root or another one.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A day.
pub const DAY: Duration = Duration::from_hours(24);

/// An authority whose key the test has.
pub struct Forge {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

/// A chain and its key: what somebody shows in a handshake.
pub struct Shown {
    /// The certificates, the one that proves first.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Files of an authority in a control plane's folder of its CA: certificate and key.
fn authority(ca: &Path) -> (PathBuf, PathBuf) {
    let mut folders = vec![ca.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let key = folder.join("root-key.pem");
        if key.exists() {
            return (folder.join("root.pem"), key);
        }
        let entries = std::fs::read_dir(&folder).expect("a folder").filter_map(Result::ok);
        folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    panic!("{} has no root", ca.display());
}

impl Forge {
    /// The root of a control plane, by the folder of its CA, which has one root.
    pub fn of(ca: &Path) -> Self {
        let (certificate, key) = authority(ca);
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("readable");
        let key = KeyPair::from_pem(&read(key)).expect("a key");
        Self { certificate: certificates(&read(certificate)).swap_remove(0), key }
    }

    /// A root of somebody else, which names a trust domain.
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority_params(&[&format!("spiffe://{trust_domain}")], "a root");
        let certificate = params.self_signed(&key).expect("signed").der().clone();
        Self { certificate, key }
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> String {
        pem(&self.certificate)
    }

    /// A certificate with a key of its own.
    pub fn sign(&self, params: &CertificateParams) -> Shown {
        let key = KeyPair::generate().expect("a key");
        let chain = vec![self.signed(params, &key)];
        Shown { chain, key: of(&key) }
    }

    /// A certificate of a key that somebody has.
    pub fn signed(&self, params: &CertificateParams, key: &impl PublicKeyData) -> CertificateDer<'static> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).expect("an authority");
        params.signed_by(key, &issuer).expect("signed").der().clone()
    }

    /// An authority below this one.
    #[must_use]
    pub fn below(&self, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self { certificate: self.signed(params, &key), key }
    }

    /// What it signed is shown with its own certificate behind it.
    pub fn sign_with_chain(&self, params: &CertificateParams) -> Shown {
        let mut shown = self.sign(params);
        shown.chain.push(self.certificate.clone());
        shown
    }
}

impl Shown {
    /// What is in PEM texts: of `meshwork`'s state folders, where they are one, of `openssl`.
    pub fn read(chain: &str, key: &str) -> Self {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        Self { chain: certificates(chain), key }
    }

    /// What a state folder keeps of an identity.
    pub fn of(state: &Path) -> Self {
        let text = std::fs::read_to_string(state.join("identity.pem")).expect("an identity");
        Self::read(&text, &text)
    }

    /// Signs itself.
    pub fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self { chain: vec![params.self_signed(&key).expect("signed").der().clone()], key: of(&key) }
    }

    /// The same certificates with another's key: somebody who saw them and did not steal the key.
    #[must_use]
    pub fn with_key_of(mut self, other: &Self) -> Self {
        self.key = other.key();
        self
    }

    /// The first certificate alone.
    #[must_use]
    pub fn without_chain(mut self) -> Self {
        self.chain.truncate(1);
        self
    }

    /// The key, for a handshake.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(pem).collect()
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> String {
        section("PRIVATE KEY", self.key.secret_der())
    }
}

fn of(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// What makes a good certificate of a workload with these URIs, one of which is right.
pub fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = named(uris);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// What makes a good authority.
pub fn authority_params(uris: &[&str], name: &str) -> CertificateParams {
    let mut params = named(uris);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Valid from a minute ago for a day.
fn named(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    between(&mut params, now - Duration::from_mins(1), now + DAY);
    params
}

/// Sets when a certificate is valid.
pub fn between(params: &mut CertificateParams, begin: SystemTime, end: SystemTime) {
    params.not_before = begin.into();
    params.not_after = end.into();
}

/// Sets a serial number.
pub fn number(params: &mut CertificateParams, serial: &[u8]) {
    params.serial_number = Some(SerialNumber::from_slice(serial));
}

/// The certificates in a text of PEM.
pub fn certificates(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).map(|one| one.expect("PEM")).collect()
}

/// A certificate as PEM.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    section("CERTIFICATE", certificate)
}

/// SHA-256 of a certificate, lowercase hexadecimal.
pub fn fingerprint(certificate: &CertificateDer<'static>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Bytes as a section of PEM.
pub fn section(label: &str, bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
