//! The embedded certificate authority: a root that is the trust bundle, and an intermediate that signs.
//!
//! Its directory holds `root.pem`, `root-key.pem`, `intermediate.pem` and `intermediate-key.pem` (0600 in 0700) and
//! nothing else. It is made aside and renamed into place, so it is whole or not there; one that is damaged is
//! refused with the name of the file, never replaced. The control plane's process is the only user.

mod request;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::{SpiffeId, check_trust_domain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

pub use request::request_key_fingerprint;

use crate::{Bundle, IdentityError, Key, Svid, files, pem, source, svid};

/// How long a workload's certificate lives where nobody says otherwise.
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
/// How long the root and the intermediate live.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Certificates begin a little in the past, for hosts whose clock is behind.
const BACKDATE: Duration = Duration::from_mins(1);

const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root-key.pem";
const INTERMEDIATE: &str = "intermediate.pem";
const INTERMEDIATE_KEY: &str = "intermediate-key.pem";

/// A name beside the SPIFFE ID, for clients that compare host names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AlternativeName {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

/// A certificate authority in a directory.
pub struct CertificateAuthority {
    bundle: Bundle,
    bundle_path: PathBuf,
    issuer: CertificateDer<'static>,
    issuer_key: Key,
    issuer_not_after: SystemTime,
}

impl CertificateAuthority {
    /// Opens the authority in `dir`, or makes one where the directory is missing or empty.
    ///
    /// # Errors
    /// A file that is missing or damaged, by name; files in `dir` that are not an authority's; another trust domain.
    pub fn open_or_create(dir: &Path, trust_domain: &str) -> Result<Self, IdentityError> {
        check_trust_domain(trust_domain).map_err(|_| {
            IdentityError::Bundle("its trust domain has a character outside a-z, 0-9, '.', '-', '_'")
        })?;
        if is_missing_or_empty(dir)? {
            create(dir, trust_domain)?;
        }
        Self::open(dir, trust_domain)
    }

    fn open(dir: &Path, trust_domain: &str) -> Result<Self, IdentityError> {
        let bundle = read(dir, ROOT, Bundle::from_pem)?;
        let damaged = |file: &str, problem: &str| IdentityError::AuthorityFile {
            file: dir.join(file),
            problem: problem.to_owned(),
        };
        if bundle.trust_domain() != trust_domain {
            let problem = format!("of the trust domain {}, not {trust_domain}", bundle.trust_domain());
            return Err(damaged(ROOT, &problem));
        }
        let issuer = read(dir, INTERMEDIATE, |text| {
            let first = pem::certificates(text)?.swap_remove(0);
            svid::check_authority(&first).map(|()| first)
        })?;
        let issuer_key = read(dir, INTERMEDIATE_KEY, Key::from_pem)?;
        let root_key = read(dir, ROOT_KEY, Key::from_pem)?;
        if !request::is_key_of(&issuer_key, &issuer)? {
            return Err(damaged(INTERMEDIATE_KEY, "not the key of intermediate.pem"));
        }
        if !bundle.certificates().iter().any(|root| request::is_key_of(&root_key, root).unwrap_or(false)) {
            return Err(damaged(ROOT_KEY, "not the key of root.pem"));
        }
        let issuer_not_after = svid::not_after(&issuer)?;
        let authority = Self { bundle, bundle_path: dir.join(ROOT), issuer, issuer_key, issuer_not_after };
        authority.try_out().map_err(|_| damaged(INTERMEDIATE, "not signed by root.pem, or expired"))?;
        Ok(authority)
    }

    /// Signs a throw-away certificate and checks it as a peer would.
    fn try_out(&self) -> Result<(), IdentityError> {
        let id = SpiffeId::workload(self.bundle.trust_domain(), "meshwork-system", "self-check")
            .map_err(|cause| IdentityError::SpiffeId { uri: "self-check".to_owned(), cause })?;
        self.issue(&id, BACKDATE, &[])?.check_under(&self.bundle)
    }

    /// The trust bundle: the root.
    pub fn bundle(&self) -> Bundle {
        self.bundle.clone()
    }

    /// The file of the trust bundle, which enrolling workloads need.
    pub fn bundle_path(&self) -> &Path {
        &self.bundle_path
    }

    /// Signs the public key of a request for an identity that the caller has proven; gives the chain as PEM text,
    /// the workload's certificate first, without the root.
    ///
    /// Nothing else that the request asks for is honoured. The certificate begins 60 s ago and ends
    /// after `lifetime`, or with the authority itself.
    ///
    /// # Errors
    /// A request that does not parse, whose signature is wrong, whose key is weak or of an unknown kind, or that
    /// names another identity than `id`; an identity of another trust domain.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<String, IdentityError> {
        let public_key = request::public_key(csr_pem, id)?;
        self.sign_key(&public_key, id, lifetime, extra)
    }

    /// Makes a key and signs it: for the process that holds the authority.
    ///
    /// # Errors
    /// An identity of another trust domain.
    pub fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<Svid, IdentityError> {
        let key = Key::generate()?;
        let chain = key.with_pair(|pair| self.sign_key(pair, id, lifetime, extra))?;
        Svid::from_pem(&chain, key)
    }

    fn sign_key(
        &self,
        public_key: &impl PublicKeyData,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<String, IdentityError> {
        if id.trust_domain() != self.bundle.trust_domain() {
            let trust_domain = self.bundle.trust_domain().to_owned();
            return Err(IdentityError::TrustDomain { id: id.to_string(), trust_domain });
        }
        let params = self.workload_params(id, lifetime, extra)?;
        let leaf = self.issuer_key.with_pair(|pair| {
            let issuer = Issuer::from_ca_cert_der(&self.issuer, pair)?;
            Ok(params.signed_by(public_key, &issuer)?)
        })?;
        Ok(pem::encode_certificates(&[leaf.der().clone(), self.issuer.clone()]))
    }

    /// Source: X.509-SVID §4, §5; RFC 5280 §4.2.1.6 (an alternative name is critical where the subject is empty).
    fn workload_params(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<CertificateParams, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into()?));
        for name in extra {
            params.subject_alt_names.push(match name {
                AlternativeName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                AlternativeName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        let now = SystemTime::now();
        if lifetime.is_zero() {
            return Err(IdentityError::Lifetime("a lifetime of zero was asked for"));
        }
        if self.issuer_not_after <= now {
            return Err(IdentityError::Lifetime("the certificate authority has expired"));
        }
        let wanted = now.checked_add(lifetime).unwrap_or(self.issuer_not_after);
        params.not_before = (now - BACKDATE).into();
        params.not_after = wanted.min(self.issuer_not_after).into();
        Ok(params)
    }
}

/// Makes the directory's content aside, then renames the whole into place.
fn create(dir: &Path, trust_domain: &str) -> Result<(), IdentityError> {
    let parent = files::parent(dir);
    files::create_private_dir(parent)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = parent.join(format!(".{name}.new-{}", std::process::id()));
    files::create_private_dir(&aside)?;
    write_authority(&aside, trust_domain)?;
    match fs::rename(&aside, dir) {
        Ok(()) => files::sync_dir(parent),
        Err(error) => {
            drop(fs::remove_dir_all(&aside));
            // Another process was first: its authority counts.
            if is_missing_or_empty(dir)? { Err(IdentityError::file("create", dir)(error)) } else { Ok(()) }
        }
    }
}

fn write_authority(dir: &Path, trust_domain: &str) -> Result<(), IdentityError> {
    let (root_key, issuer_key) = (Key::generate()?, Key::generate()?);
    let root_params = authority_params(trust_domain, "root", 1)?;
    let root = root_key.with_pair(|pair| Ok(root_params.self_signed(pair)?))?;
    let issuer_params = authority_params(trust_domain, "intermediate", 0)?;
    let issuer = root_key.with_pair(|root_pair| {
        let issuer = Issuer::from_ca_cert_der(root.der(), root_pair)?;
        issuer_key.with_pair(|pair| Ok(issuer_params.signed_by(pair, &issuer)?))
    })?;
    files::write_private(&dir.join(ROOT_KEY), root_key.pem().as_bytes())?;
    files::write_private(&dir.join(INTERMEDIATE_KEY), issuer_key.pem().as_bytes())?;
    files::write_public(&dir.join(INTERMEDIATE), pem::encode("CERTIFICATE", issuer.der()).as_bytes())?;
    files::write_public(&dir.join(ROOT), pem::encode("CERTIFICATE", root.der()).as_bytes())
}

/// Source: X.509-SVID §3.2 (an authority's URI is the trust domain's), §4.1, §4.3.
fn authority_params(trust_domain: &str, role: &str, below: u8) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    let serial = serial()?;
    // The number tells the authorities of two meshes with one trust domain apart, for people and for OpenSSL.
    let number = serial.to_bytes().iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Meshwork");
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {role} {number:08x}"));
    params.subject_alt_names.push(SanType::URI(format!("spiffe://{trust_domain}").try_into()?));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial);
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_LIFETIME).into();
    Ok(params)
}

/// Random, positive, 127 bits. Source: RFC 5280 §4.1.2.2.
fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = [0; 16];
    source::provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| IdentityError::Crypto("no random numbers".to_owned()))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn is_missing_or_empty(dir: &Path) -> Result<bool, IdentityError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(IdentityError::file("read", dir)(error)),
    }
}

fn read<T>(
    dir: &Path,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, IdentityError>,
) -> Result<T, IdentityError> {
    let file = dir.join(name);
    let damaged = |problem: String| IdentityError::AuthorityFile { file: file.clone(), problem };
    let text = match fs::read_to_string(&file) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("missing".to_owned())),
        Err(error) => return Err(damaged(format!("not readable ({error})"))),
    };
    parse(&text).map_err(|error| damaged(format!("damaged ({error})")))
}

#[cfg(test)]
mod tests;
