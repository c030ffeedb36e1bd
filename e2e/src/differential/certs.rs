//! Certificates that the cases use, made anew for every run. `$CERTS` is their folder; a certificate `x` is `x.pem`
//! and `x.key`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use serde::Deserialize;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate that a case asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cert {
    /// Its subject's common name.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) dns: Vec<String>,
    #[serde(default)]
    pub(super) uri: Vec<String>,
    #[serde(default)]
    pub(super) ip: Vec<String>,
    #[serde(default)]
    pub(super) email: Vec<String>,
    /// `ca`, or `other-ca`.
    pub(super) ca: Option<String>,
    #[serde(default)]
    pub(super) expired: bool,
}

/// The folder with every certificate.
pub(super) struct Certs {
    folder: PathBuf,
    authorities: BTreeMap<String, CertifiedIssuer<'static, KeyPair>>,
    /// Certificates by what they are in DER, to name those that peers show.
    known: BTreeMap<Vec<u8>, String>,
}

/// Authorities: `ca` is trusted by convention, `other-ca` is not.
const AUTHORITIES: &[&str] = &["ca", "other-ca"];

/// The certificates that every case may use: name, DNS names, URIs, authority.
const USUAL: &[(&str, &[&str], &[&str], &str)] = &[
    ("server", &["server.test", "*.server.test", "localhost"], &[], "ca"),
    ("server2", &["second.test"], &[], "ca"),
    ("upstream", &["upstream.test"], &["spiffe://mesh.test/ns/shop/sa/upstream"], "ca"),
    ("client", &["client.test"], &["spiffe://mesh.test/ns/shop/sa/client"], "ca"),
    ("client2", &["client2.test"], &["spiffe://mesh.test/ns/shop/sa/client2"], "ca"),
    ("other-client", &["client.test"], &["spiffe://mesh.test/ns/shop/sa/client"], "other-ca"),
    ("other-server", &["server.test"], &[], "other-ca"),
];

impl Certs {
    /// Makes the usual ones in a folder.
    pub(super) fn make(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let mut certs =
            Self { folder: folder.to_owned(), authorities: BTreeMap::new(), known: BTreeMap::new() };
        for name in AUTHORITIES {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.distinguished_name.push(DnType::CommonName, *name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
            certs.write(name, "pem", &issuer.pem());
            certs.write(name, "key", &issuer.key().serialize_pem());
            certs.authorities.insert((*name).to_owned(), issuer);
        }
        for (name, dns, uri, ca) in USUAL {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let cert = Cert {
                name: (*name).to_owned(),
                dns: owned(dns),
                uri: owned(uri),
                ca: Some((*ca).to_owned()),
                ..Cert::default()
            };
            certs.add(name, &cert);
        }
        certs.add("expired", &Cert { dns: vec!["server.test".to_owned()], expired: true, ..Cert::default() });
        certs
    }

    /// Makes one more.
    pub(super) fn add(&mut self, name: &str, cert: &Cert) {
        let mut params = CertificateParams::new(cert.dns.clone()).expect("DNS names");
        let uris = cert.uri.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        params.subject_alt_names.extend(uris);
        let ips = cert.ip.iter().map(|ip| SanType::IpAddress(ip.parse().expect("an address")));
        params.subject_alt_names.extend(ips);
        let mails =
            cert.email.iter().map(|mail| SanType::Rfc822Name(mail.as_str().try_into().expect("ASCII")));
        params.subject_alt_names.extend(mails);
        let common = if cert.name.is_empty() { name } else { &cert.name };
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.distinguished_name.push(DnType::OrganizationName, "Tests");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if cert.expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let issuer = &self.authorities[cert.ca.as_deref().unwrap_or("ca")];
        let made = params.signed_by(&key, issuer).expect("a certificate");
        self.write(name, "pem", &made.pem());
        self.write(name, "key", &key.serialize_pem());
        self.known.insert(made.der().to_vec(), name.to_owned());
    }

    fn write(&self, name: &str, ending: &str, text: &str) {
        std::fs::write(self.folder.join(format!("{name}.{ending}")), text).expect("written");
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A certificate's chain and key.
    pub(super) fn pair(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::from_pem_file(self.folder.join(format!("{name}.key"))).expect("a key");
        (self.chain(name), key)
    }

    /// A certificate.
    pub(super) fn chain(&self, name: &str) -> Vec<CertificateDer<'static>> {
        let chain = CertificateDer::pem_file_iter(self.folder.join(format!("{name}.pem")));
        chain.and_then(Iterator::collect).unwrap_or_else(|e| panic!("certificate {name}: {e}"))
    }

    /// The name of a certificate that a peer showed.
    pub(super) fn name_of(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<String> {
        let first = chain?.first()?;
        let known = self.known.get(first.as_ref()).cloned();
        Some(known.unwrap_or_else(|| "an unknown certificate".to_owned()))
    }
}
