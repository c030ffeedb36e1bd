//! An intermediate that the user plugs in: files as Istio's `cacerts` has them, read again when they change.
//!
//! Source: Istio "Plug in CA Certificates".

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use super::directory::{NewRoot, Role};
use super::disk;
use super::issuer::Issuer;
use super::request::MIN_RSA_BITS;
use super::signer::Pair;
use crate::certificate::fingerprint;
use crate::{CertificateFacts, IdentityError, pem, svid};

/// Certificates between a workload's and its root; verifiers refuse longer ones.
const MAX_CHAIN: usize = 4;
/// Roots in a user's file: the one in use, and some that are to be, or were.
const MAX_ROOTS: usize = 8;

/// Where the files of a plugged-in intermediate are, all PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PluggedIntermediate {
    /// The intermediate's certificate; what signed it may follow (`ca-cert.pem`).
    pub certificate: PathBuf,
    /// Its private key, unencrypted: ECDSA P-256 or P-384, or RSA (`ca-key.pem`).
    pub key: PathBuf,
    /// What is between it and the root, where there is anything (`cert-chain.pem`).
    pub chain: Option<PathBuf>,
    /// The root that it leads to; others beside it are trusted, too (`root-cert.pem`).
    pub root: PathBuf,
}

/// The files as they were read.
pub(super) struct Texts {
    certificate: Zeroizing<String>,
    key: Zeroizing<String>,
    chain: Option<Zeroizing<String>>,
    root: Zeroizing<String>,
    /// Tells other content.
    pub(super) digest: [u8; 32],
}

/// A plugged-in intermediate that is good.
pub(super) struct Plugged {
    pub(super) issuer: Arc<Issuer>,
    /// All that the file of the root has, in its order.
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) digest: [u8; 32],
}

impl Plugged {
    /// Whether the file of roots has one.
    pub(super) fn lists(&self, root: &str) -> bool {
        self.roots.iter().any(|listed| fingerprint(listed) == root)
    }

    /// The roots of the file that are wanted, as next ones.
    pub(super) fn new_roots(&self, wanted: impl Fn(&str) -> bool) -> Vec<NewRoot> {
        let listed = self.roots.iter().filter(|root| wanted(&fingerprint(root)));
        listed.map(|root| NewRoot { certificate: root.clone(), key: None, role: Role::Next }).collect()
    }
}

impl PluggedIntermediate {
    pub(super) fn read(&self) -> Result<Texts, IdentityError> {
        let read = |file: &Path| disk::text(file).map_err(|problem| refused(file, problem));
        let (certificate, key, root) = (read(&self.certificate)?, read(&self.key)?, read(&self.root)?);
        let chain = self.chain.as_deref().map(read).transpose()?;
        let mut digest = Sha256::new();
        let none = Zeroizing::new(String::new());
        for text in [&certificate, &key, &root, chain.as_ref().unwrap_or(&none)] {
            digest.update(text.len().to_le_bytes());
            digest.update(text.as_bytes());
        }
        Ok(Texts { certificate, key, chain, root, digest: digest.finalize().into() })
    }

    /// Makes an issuer of the files, where all is good.
    ///
    /// # Errors
    /// What is wrong, with the name of the file.
    pub(super) fn load(
        &self,
        texts: &Texts,
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Plugged, IdentityError> {
        let roots = self.roots(texts, trust_domain)?;
        let of_certificate = |problem: String| refused(&self.certificate, problem);
        let mut certificates =
            pem::certificates(&texts.certificate).map_err(|error| of_certificate(unusable(&error)))?;
        let certificate = certificates.remove(0);
        check(&certificate, trust_domain, now).map_err(of_certificate)?;
        let pair = Pair::from_pem(&texts.key).map_err(|error| refused(&self.key, unusable(&error)))?;
        check_key(&pair, &certificate).map_err(|problem| refused(&self.key, problem))?;
        let chain = self.chain_of(texts, &certificate, certificates, &roots, (trust_domain, now))?;
        let issuer = Issuer::new(trust_domain, &certificate, pair, chain, &roots, true).map_err(|error| {
            of_certificate(format!(
                "not good under the roots of {}: {error}; is what is between them in the chain's file?",
                self.root.display()
            ))
        })?;
        Ok(Plugged { issuer: Arc::new(issuer), roots, digest: texts.digest })
    }

    fn roots(
        &self,
        texts: &Texts,
        trust_domain: &str,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let of_root = |problem: String| refused(&self.root, problem);
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for root in pem::certificates(&texts.root).map_err(|error| of_root(unusable(&error)))? {
            svid::check_authority(&root).map_err(|error| of_root(unusable(&error)))?;
            check_trust_domain(&root, trust_domain).map_err(of_root)?;
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        if roots.len() > MAX_ROOTS {
            return Err(of_root(format!(
                "not usable: it has {} roots, and {MAX_ROOTS} at most",
                roots.len()
            )));
        }
        Ok(roots)
    }

    /// What goes behind each certificate: the intermediate, and what signed it, in order, without roots.
    fn chain_of(
        &self,
        texts: &Texts,
        certificate: &CertificateDer<'static>,
        behind: Vec<CertificateDer<'static>>,
        roots: &[CertificateDer<'static>],
        (trust_domain, now): (&str, SystemTime),
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let file = self.chain.as_deref().unwrap_or(&self.certificate);
        let of_chain = |problem: String| refused(file, problem);
        let listed = texts.chain.as_deref().map(|text| pem::certificates(text)).transpose();
        let listed = listed.map_err(|error| of_chain(unusable(&error)))?.unwrap_or_default();
        let mut chain = vec![certificate.clone()];
        chain.retain(|certificate| !roots.contains(certificate));
        for parent in behind.into_iter().chain(listed) {
            if parent != *certificate && !roots.contains(&parent) && !chain.contains(&parent) {
                check(&parent, trust_domain, now).map_err(of_chain)?;
                chain.push(parent);
            }
        }
        if chain.len() > MAX_CHAIN {
            return Err(of_chain(format!(
                "not usable: with it a chain has {} intermediates, and {MAX_CHAIN} at most",
                chain.len()
            )));
        }
        Ok(chain)
    }
}

/// Checks what a certificate of an authority says of itself.
fn check(der: &CertificateDer<'_>, trust_domain: &str, now: SystemTime) -> Result<(), String> {
    svid::check_authority(der)
        .map_err(|_| "not that of a certificate authority (CA:TRUE, keyCertSign)".to_owned())?;
    let facts = CertificateFacts::read(der).ok_or("not a certificate")?;
    if facts.subject.is_empty() {
        return Err("not usable: its subject is empty".to_owned());
    }
    if facts.not_after <= now {
        return Err("expired; put a new one in its place, with its key".to_owned());
    }
    if facts.not_before > now {
        return Err("not yet valid; is the clock right?".to_owned());
    }
    check_trust_domain(der, trust_domain)
}

/// An authority that names a trust domain, or is constrained to names, must be good for ours.
///
/// Source: X.509-SVID §3.1, §4.2; RFC 5280 §4.2.1.10.
fn check_trust_domain(der: &CertificateDer<'_>, trust_domain: &str) -> Result<(), String> {
    let certificate = svid::parse(der).map_err(|error| unusable(&error))?;
    let facts = CertificateFacts::read(der).ok_or("not a certificate")?;
    for uri in facts.uris.iter().filter(|uri| uri.starts_with("spiffe://")) {
        if uri.trim_start_matches("spiffe://").split('/').next() != Some(trust_domain) {
            return Err(format!("of another trust domain: it is named {uri}, and this is {trust_domain}"));
        }
    }
    for extension in certificate.iter_extensions() {
        let ParsedExtension::NameConstraints(constraints) = extension.parsed_extension() else { continue };
        let uris = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| -> Vec<String> {
            let uri = |subtree: &GeneralSubtree<'_>| match &subtree.base {
                GeneralName::URI(host) => Some((*host).to_owned()),
                _ => None,
            };
            subtrees.iter().flatten().filter_map(uri).collect()
        };
        let (permitted, excluded) =
            (uris(&constraints.permitted_subtrees), uris(&constraints.excluded_subtrees));
        let holds = |host: &String| covers(host, trust_domain);
        if (!permitted.is_empty() && !permitted.iter().any(holds)) || excluded.iter().any(holds) {
            return Err(format!(
                "not allowed to sign for the trust domain {trust_domain}, by its name constraints"
            ));
        }
        // The verifiers of proxies, ours among them, refuse whatever is under such constraints.
        if !permitted.is_empty() || !excluded.is_empty() {
            return Err("not usable: it has name constraints on URIs, which proxies do not read".to_owned());
        }
    }
    Ok(())
}

/// A constraint on URIs is a host, or a domain with a dot before it.
fn covers(constraint: &str, trust_domain: &str) -> bool {
    let constraint = constraint.to_ascii_lowercase();
    match constraint.strip_prefix('.') {
        Some(domain) => trust_domain.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => constraint == trust_domain,
    }
}

/// The key must be of a kind that every peer can verify, and the certificate's.
fn check_key(pair: &Pair, certificate: &CertificateDer<'_>) -> Result<(), String> {
    let known = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256];
    if !known.contains(&pair.algorithm()) {
        return Err("of a kind that is not used here; it must be ECDSA P-256 or P-384, or RSA".to_owned());
    }
    let certificate = svid::parse(certificate).map_err(|error| unusable(&error))?;
    let public = certificate.public_key();
    if let Ok(PublicKey::RSA(key)) = public.parsed()
        && key.key_size() < MIN_RSA_BITS
    {
        return Err(format!("weak: RSA of {} bits, and {MIN_RSA_BITS} at least are needed", key.key_size()));
    }
    if *public.subject_public_key.data != *pair.der_bytes() {
        return Err("not the key of the intermediate's certificate".to_owned());
    }
    Ok(())
}

fn unusable(error: &IdentityError) -> String {
    format!("not usable ({error})")
}

fn refused(file: &Path, problem: String) -> IdentityError {
    IdentityError::Plugged { file: file.to_owned(), problem }
}
