//! What a certificate says, whoever made it: for logs, header fields and rules, never for trust.
//!
//! Source: RFC 5280; RFC 2253 for names as text.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::pem;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, as `CN=web,O=shop`: the most specific part first.
    pub subject: String,
    /// Who signed it, in the same form.
    pub issuer: String,
    /// Alternative names that are URIs, in order.
    pub uris: Vec<String>,
    /// Those that are DNS names.
    pub dns_names: Vec<String>,
    /// Those that are IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Those that are mail addresses.
    pub emails: Vec<String>,
    /// Serial number, lowercase hexadecimal, of an even number of digits.
    pub serial: String,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// SHA-256 of the whole, lowercase hexadecimal.
    pub sha256: String,
}

impl CertificateFacts {
    /// Reads a certificate; `None` where it is none.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let mut facts = Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            uris: Vec::new(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            emails: Vec::new(),
            serial: hex(certificate.raw_serial().iter().skip_while(|byte| **byte == 0)),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            sha256: hex(Sha256::digest(der).iter()),
        };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            names.value.general_names.iter().for_each(|name| facts.note(name));
        }
        Some(facts)
    }

    fn note(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.addresses.extend(address(bytes)),
            _ => {}
        }
    }
}

/// A chain of certificates as PEM text, in its order.
pub fn certificates_pem(chain: &[CertificateDer<'static>]) -> String {
    pem::encode_certificates(chain)
}

/// SHA-256 of a certificate, lowercase hexadecimal.
pub(crate) fn fingerprint(der: &CertificateDer<'static>) -> String {
    hex(Sha256::digest(der).iter())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn time(seconds: i64) -> SystemTime {
    let apart = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(apart)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(apart)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn hex<'b>(bytes: impl Iterator<Item = &'b u8>) -> String {
    let text = bytes.fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    if text.is_empty() { "00".to_owned() } else { text }
}

/// A name as text, its last part first.
fn name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        let begin = if text.is_empty() { "" } else { "," };
        for (at, attribute) in part.iter().enumerate() {
            text.push_str(if at == 0 { begin } else { "+" });
            let kind = attribute.attr_type().to_id_string();
            match (short(&kind), attribute.as_str()) {
                (Some(short), Ok(value)) => {
                    text.push_str(short);
                    text.push('=');
                    escape(value, &mut text);
                }
                (short, _) => {
                    let value: &Any<'_> = attribute.attr_value();
                    let _ = write!(text, "{}=#{}", short.unwrap_or(&kind), hex(value.data.iter()));
                }
            }
        }
    }
    text
}

/// The usual short names. Source: RFC 4519 §2, RFC 2985 §5.2.1, and those of OpenSSL.
fn short(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.17" => "postalCode",
        "2.5.4.42" => "GN",
        "2.5.4.46" => "dnQualifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// Source: RFC 2253 §2.4; what is not ASCII is escaped byte by byte.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', char::from(byte)]),
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    #[test]
    fn a_certificate_says_whose_it_is() {
        let mut params = CertificateParams::new(vec!["a.example.com".into()]).expect("valid");
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Shop, Inc.");
        subject.push(DnType::CommonName, "wéb");
        params.distinguished_name = subject;
        let uri = "spiffe://mesh.local/ns/shop/sa/web";
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        params.serial_number = Some(SerialNumber::from(vec![0, 0x0a, 0xbc]));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        let facts = CertificateFacts::read(certificate.der()).expect("a certificate");
        assert_eq!(facts.subject, "CN=w\\C3\\A9b,O=Shop\\, Inc.");
        assert_eq!(facts.issuer, facts.subject);
        assert_eq!(facts.uris, [uri]);
        assert_eq!(facts.dns_names, ["a.example.com"]);
        assert_eq!(facts.addresses, [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(facts.serial, "0abc");
        assert_eq!(facts.sha256.len(), 64);
        assert!(facts.not_before < facts.not_after);
        assert_eq!(CertificateFacts::read(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
