//! What the authority's certificates look like: roots, intermediates, and those of workloads.
//!
//! Source: X.509-SVID §3 to §5; RFC 5280.

use std::time::{Duration, SystemTime};

use meshwork_model::spiffe::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::AlternativeName;
use crate::{IdentityError, Key, source};

/// Certificates begin a little in the past, for hosts whose clock is behind.
pub(super) const BACKDATE: Duration = Duration::from_mins(1);

/// From when until when a certificate is valid; whole seconds in the certificate.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// From a little before now, for `lifetime`, but not past `end`.
    ///
    /// # Errors
    /// `end` has passed, or nothing would be left.
    pub(super) fn until(
        now: SystemTime,
        lifetime: Duration,
        end: Option<SystemTime>,
    ) -> Result<Self, IdentityError> {
        if lifetime.is_zero() {
            return Err(IdentityError::Lifetime("a lifetime of zero was asked for"));
        }
        if end.is_some_and(|end| end <= now) {
            return Err(IdentityError::Lifetime(
                "the certificate authority has expired; begin with a new one in an empty directory, or plug in an intermediate \
                 that is valid",
            ));
        }
        let last = end.map_or(*LAST, |end| end.min(*LAST));
        let not_after = now.checked_add(lifetime).map_or(last, |wanted| wanted.min(last));
        Ok(Self { not_before: now.checked_sub(BACKDATE).unwrap_or(now), not_after })
    }
}

/// The last moment that is written in certificates: what lies behind it, some libraries cannot read.
static LAST: std::sync::LazyLock<SystemTime> =
    std::sync::LazyLock::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799));

/// Makes a root of a trust domain.
pub(super) fn root(
    trust_domain: &str,
    key: &Key,
    validity: Validity,
) -> Result<CertificateDer<'static>, IdentityError> {
    let params = authority(trust_domain, "root", 1, validity)?;
    key.with_pair(|pair| Ok(params.self_signed(pair)?.der().clone()))
}

/// Makes an intermediate that signs workloads' certificates and no further authority.
pub(super) fn intermediate(
    trust_domain: &str,
    key: &Key,
    root: &CertificateDer<'_>,
    root_key: &Key,
    validity: Validity,
) -> Result<CertificateDer<'static>, IdentityError> {
    let params = authority(trust_domain, "intermediate", 0, validity)?;
    root_key.with_pair(|root_pair| {
        let issuer = Issuer::from_ca_cert_der(root, root_pair)?;
        key.with_pair(|pair| Ok(params.signed_by(pair, &issuer)?.der().clone()))
    })
}

/// What the certificate of a workload says.
///
/// Source: X.509-SVID §4, §5; RFC 5280 §4.2.1.6 (an alternative name is critical where the subject is empty).
pub(super) fn workload(
    id: &SpiffeId,
    extra: &[AlternativeName],
    validity: Validity,
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
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    Ok(params)
}

/// Source: X.509-SVID §3.2 (an authority's URI is the trust domain's), §4.1, §4.3.
fn authority(
    trust_domain: &str,
    role: &str,
    below: u8,
    validity: Validity,
) -> Result<CertificateParams, IdentityError> {
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
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
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
