//! PEM text: reading certificates, writing any section. Source: RFC 7468.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

use crate::IdentityError;

/// Characters of base64 on a line. Source: RFC 7468 §2.
const LINE: usize = 64;
/// More certificates than any chain or bundle of a mesh holds; beyond it a text is an attack or a mistake.
const MAX_CERTIFICATES: usize = 64;

/// Writes one section. A secret's text is wiped by the caller: nothing is left behind by growing it here.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / LINE + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for start in (0..body.len()).step_by(LINE) {
        text.push_str(&body[start..body.len().min(start + LINE)]);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Writes certificates one after the other.
pub(crate) fn encode_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// Certificates one after the other, DER.
pub(crate) fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|der| der.iter().copied()).collect()
}

/// The first section of one of these labels, decoded; what it was decoded from and into is wiped.
///
/// `None` where there is no such section, or its text is no base64, as that of an encrypted key with header lines.
pub(crate) fn secret<'l>(text: &[u8], labels: &[&'l str]) -> Option<(&'l str, Zeroizing<Vec<u8>>)> {
    let mut lines = text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let label = lines.find_map(|line| {
        let label = line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----")?;
        labels.iter().copied().find(|known| known.as_bytes() == label)
    })?;
    // Never longer than the text: growing it would leave a copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut has_ended = false;
    for line in lines {
        if let Some(end) = line.strip_prefix(b"-----END ") {
            has_ended = end.strip_suffix(b"-----") == Some(label.as_bytes());
            break;
        }
        body.extend_from_slice(line);
    }
    let mut der = Zeroizing::new(vec![0; body.len()]);
    let length = STANDARD.decode_slice(&*body, &mut der).ok().filter(|_| has_ended)?;
    der.truncate(length);
    Some((label, der))
}

/// Lends the first private key of a text, in any of its forms; what it was decoded from and into is wiped.
pub(crate) fn with_private_key<T>(
    text: &[u8],
    act: impl FnOnce(&PrivateKeyDer<'_>) -> Option<T>,
) -> Option<T> {
    const PKCS1: &str = "RSA PRIVATE KEY";
    const SEC1: &str = "EC PRIVATE KEY";
    let (label, der) = secret(text, &["PRIVATE KEY", PKCS1, SEC1])?;
    let key: PrivateKeyDer<'_> = match label {
        PKCS1 => PrivatePkcs1KeyDer::from(der.as_slice()).into(),
        SEC1 => PrivateSec1KeyDer::from(der.as_slice()).into(),
        _ => PrivatePkcs8KeyDer::from(der.as_slice()).into(),
    };
    act(&key)
}

/// Reads all certificates of a text; at least one. Sections of other kinds are stepped over: a key among them is not
/// decoded into memory that nobody wipes.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let refused = IdentityError::Pem { expected: "certificate" };
    let public = only_certificates(text);
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(public.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    match read {
        Ok(found) if !found.is_empty() && found.len() <= MAX_CERTIFICATES => Ok(found),
        _ => Err(refused),
    }
}

/// The sections of certificates in a text.
fn only_certificates(text: &str) -> String {
    let (mut public, mut is_within) = (String::new(), false);
    for line in text.split(['\n', '\r']) {
        if line.starts_with("-----BEGIN ") {
            is_within = line.trim_end() == "-----BEGIN CERTIFICATE-----";
        }
        if is_within {
            public.push_str(line);
            public.push('\n');
        }
        is_within &= !line.starts_with("-----END ");
    }
    public
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [&str; 2] = ["PRIVATE KEY", "EC PRIVATE KEY"];

    #[test]
    fn a_secret_is_read_as_it_was_written() {
        for length in [0, 1, 2, 3, 47, 48, 49, 500] {
            let bytes: Vec<u8> = (0..length).map(|at: u16| (at % 251) as u8).collect();
            let text = encode("EC PRIVATE KEY", &bytes);
            let before = format!("words\n{}{text}", encode("CERTIFICATE", b"other"));
            for text in [text.clone(), text.replace('\n', "\r\n"), before, format!("  {text}  ")] {
                let (label, found) = secret(text.as_bytes(), &LABELS).expect("found");
                assert_eq!((label, &*found), ("EC PRIVATE KEY", &bytes), "{length}");
            }
        }
    }

    #[test]
    fn certificates_are_read_past_keys_that_are_not_even_decoded() {
        let (one, other) = (CertificateDer::from(vec![1; 100]), CertificateDer::from(vec![2; 100]));
        let both = encode_certificates(&[one.clone(), other.clone()]);
        let (first, last) = (encode("CERTIFICATE", &one), encode("CERTIFICATE", &other));
        for key in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let whole = encode(key, b"secret");
            // That it is no base64 would be found out by whoever decodes it.
            for key in [whole.replace("c2", "!!"), whole] {
                for text in [
                    format!("{key}{both}"),
                    format!("{both}{key}"),
                    format!("words\n{first}{key}{last}").replace('\n', "\r\n"),
                ] {
                    assert_eq!(certificates(&text).expect("read"), [one.clone(), other.clone()], "{text}");
                }
                assert!(certificates(&key).is_err());
            }
        }
        for damaged in [
            both.replace("-----END CERTIFICATE-----\n", ""),
            both.replacen("-----END CERTIFICATE-----", "-----END PRIVATE KEY-----", 1),
            both.replacen("AQEB", "A?EB", 1),
            String::new(),
        ] {
            assert!(certificates(&damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn what_holds_no_secret_is_refused() {
        let good = encode("PRIVATE KEY", b"secret");
        let cases = [
            String::new(),
            encode("CERTIFICATE", b"other"),
            good.replace("END PRIVATE", "END EC PRIVATE"),
            good.replace("-----END PRIVATE KEY-----\n", ""),
            good.replace("-----\nc2", "-----\nProc-Type: 4,ENCRYPTED\n\nc2"),
            good.replace("c2", "c!"),
            encode("ENCRYPTED PRIVATE KEY", b"secret"),
        ];
        for text in cases {
            assert!(secret(text.as_bytes(), &LABELS).is_none(), "{text}");
        }
        for length in 0..good.trim_end().len() {
            assert!(secret(&good.as_bytes()[..length], &LABELS).is_none(), "{length}");
        }
    }
}
