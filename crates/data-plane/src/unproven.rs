//! Why a TLS handshake failed: in a word to be counted by, and in words for people.

use std::io;

use meshwork_identity::{IdentityError, refusal};
use meshwork_telemetry::Unproven;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// What TLS said, where a connection failed by it.
pub(crate) fn of_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref::<Error>()
}

/// Why the handshake with a peer failed.
pub(crate) fn of_io(error: &io::Error) -> (Unproven, String) {
    of_tls(error).map_or_else(|| (Unproven::Broken, error.to_string()), of_error)
}

/// The same, where TLS said so.
pub(crate) fn of_error(error: &Error) -> (Unproven, String) {
    if let Some(refusal) = refusal(error) {
        return (of_identity(&refusal), refusal.to_string());
    }
    let why = match error {
        Error::NoCertificatesPresented => Unproven::NoCertificate,
        Error::InvalidCertificate(wrong) => of_certificate(wrong),
        Error::AlertReceived(alert) => return (Unproven::RefusedUs, of_alert(*alert)),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => {
            let words =
                "the peer speaks no version of TLS that is spoken here; in the mesh that is TLS 1.3 alone";
            return (Unproven::Version, words.to_owned());
        }
        Error::PeerIncompatible(_) => Unproven::Version,
        _ => Unproven::Broken,
    };
    (why, error.to_string())
}

/// The same, of an identity that was judged here.
pub(crate) fn of_identity(error: &IdentityError) -> Unproven {
    match error {
        IdentityError::Revoked { .. } => Unproven::Revoked,
        IdentityError::Expired(_) => Unproven::Expired,
        IdentityError::NotTrusted(_) | IdentityError::TrustDomain { .. } => Unproven::TrustDomain,
        IdentityError::Unexpected { .. } => Unproven::Unexpected,
        IdentityError::NoCertificate => Unproven::NoCertificate,
        IdentityError::Chain { cause: Error::InvalidCertificate(wrong), .. } => of_certificate(wrong),
        IdentityError::Chain { .. } => Unproven::Authority,
        _ => Unproven::NotAnSvid,
    }
}

fn of_certificate(wrong: &CertificateError) -> Unproven {
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Unproven::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Unproven::NotYetValid,
        CertificateError::Revoked => Unproven::Revoked,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Unproven::Authority,
        _ => Unproven::NotAnSvid,
    }
}

/// That the peer refuses what it was shown, in words. Source: RFC 8446 §6.2.
pub(crate) fn of_alert(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::CertificateExpired => "says that this workload's certificate has expired",
        AlertDescription::CertificateRevoked => "says that this workload's certificate is revoked",
        AlertDescription::UnknownCA => "trusts no authority that vouches for this workload's certificate",
        AlertDescription::CertificateRequired => "asks for a certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => "refuses this workload's certificate",
        AlertDescription::ProtocolVersion => "speaks no version of TLS that is spoken here",
        _ => return format!("the peer ended the handshake ({alert:?})"),
    };
    format!("the peer {what} ({alert:?})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_word() {
        let check = |error: Error, expected: Unproven, part: &str| {
            let (why, words) = of_io(&io::Error::new(io::ErrorKind::InvalidData, error));
            assert_eq!(why, expected, "{words}");
            assert!(words.contains(part), "{words}");
        };
        let revoked = IdentityError::Revoked { id: "spiffe://m/ns/a/sa/b".into(), serial: "1f".into() };
        check(revoked.into(), Unproven::Revoked, "spiffe://m/ns/a/sa/b");
        check(IdentityError::NotTrusted("other".into()).into(), Unproven::TrustDomain, "other");
        check(IdentityError::UriNames(2).into(), Unproven::NotAnSvid, "2");
        let id = "spiffe://m/ns/a/sa/b".to_owned();
        let cause = Error::InvalidCertificate(CertificateError::Expired);
        check(IdentityError::Chain { id, cause }.into(), Unproven::Expired, "spiffe://m/ns/a/sa/b");
        check(Error::NoCertificatesPresented, Unproven::NoCertificate, "certificate");
        check(PeerIncompatible::Tls12NotOfferedOrEnabled.into(), Unproven::Version, "TLS 1.3 alone");
        check(PeerIncompatible::NoKxGroupsInCommon.into(), Unproven::Version, "");
        let alert = Error::AlertReceived(AlertDescription::CertificateExpired);
        check(alert, Unproven::RefusedUs, "has expired");
        check(Error::DecryptError, Unproven::Broken, "decrypt");
        let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(of_io(&gone).0, Unproven::Broken);
    }
}
