//! Why TLS handshakes fail, in a word each.

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unproven {
    /// The peer's identity, or its certificate, is revoked.
    Revoked,
    /// Its certificate's time has passed.
    Expired,
    /// Its certificate's time has not begun.
    NotYetValid,
    /// It is of a trust domain that is not trusted.
    TrustDomain,
    /// No authority that is trusted vouches for its certificate.
    Authority,
    /// Its certificate is no workload's X.509-SVID.
    NotAnSvid,
    /// It is somebody else than may come.
    Unexpected,
    /// It showed no certificate.
    NoCertificate,
    /// It speaks no version, suite or group of TLS that is spoken here.
    Version,
    /// It refused what it was shown.
    RefusedUs,
    /// It was too slow.
    TooSlow,
    /// It broke off, or what it sent is no TLS.
    Broken,
}

impl Unproven {
    /// Every cause.
    pub const ALL: [Self; 12] = [
        Self::Revoked,
        Self::Expired,
        Self::NotYetValid,
        Self::TrustDomain,
        Self::Authority,
        Self::NotAnSvid,
        Self::Unexpected,
        Self::NoCertificate,
        Self::Version,
        Self::RefusedUs,
        Self::TooSlow,
        Self::Broken,
    ];

    /// The value of the label `why`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::TrustDomain => "unknown_trust_domain",
            Self::Authority => "unknown_authority",
            Self::NotAnSvid => "not_an_svid",
            Self::Unexpected => "unexpected_identity",
            Self::NoCertificate => "no_certificate",
            Self::Version => "version",
            Self::RefusedUs => "refused_by_peer",
            Self::TooSlow => "too_slow",
            Self::Broken => "broken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_place_and_its_word() {
        let words: std::collections::HashSet<_> = Unproven::ALL.iter().map(|why| why.label()).collect();
        assert_eq!(words.len(), Unproven::ALL.len());
        assert!(Unproven::ALL.iter().enumerate().all(|(at, why)| *why as usize == at));
    }
}
