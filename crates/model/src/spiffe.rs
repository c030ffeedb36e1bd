//! SPIFFE IDs: the names that workloads prove and policies are written against.
//!
//! Source: SPIFFE-ID specification, §2.

use std::fmt;
use std::sync::Arc;

/// A SPIFFE ID, `spiffe://<trust-domain>/<path>`, checked on construction.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SpiffeId {
    uri: Arc<str>,
    domain_end: usize,
}

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpiffeIdError {
    /// The scheme is not `spiffe://`.
    Scheme,
    /// The trust domain is empty or has a character outside `[a-z0-9._-]`.
    TrustDomain,
    /// The path is empty, has an empty, `.` or `..` segment, ends in `/`, or has a character outside `[A-Za-z0-9._-]`.
    Path,
    /// Longer than 2048 bytes.
    TooLong,
}

const SCHEME: &str = "spiffe://";
/// The longest SPIFFE ID that must be supported. Source: SPIFFE-ID §2.3.
const MAX_BYTES: usize = 2048;

impl SpiffeId {
    /// Parses and checks a SPIFFE ID that names a workload (its path is not empty).
    ///
    /// # Errors
    /// The rule of SPIFFE-ID §2 that the text breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let slash = rest.find('/').unwrap_or(rest.len());
        check_trust_domain(&rest[..slash])?;
        let path = rest[slash..].strip_prefix('/').ok_or(SpiffeIdError::Path)?;
        if !path.split('/').all(is_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { uri: Arc::from(text), domain_end: SCHEME.len() + slash })
    }

    /// Makes the ID of a workload: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
    ///
    /// # Errors
    /// A part that is empty or has characters that SPIFFE IDs do not allow.
    pub fn workload(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        if namespace.contains('/') || service_account.contains('/') {
            return Err(SpiffeIdError::Path);
        }
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// The whole ID as a URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain, lowercase.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.domain_end]
    }

    /// The path without its leading slash.
    pub fn path(&self) -> &str {
        &self.uri[self.domain_end + 1..]
    }

    /// Namespace and service account, where the path has the mesh's form.
    pub fn namespace_and_account(&self) -> Option<(&str, &str)> {
        let rest = self.path().strip_prefix("ns/")?;
        let (namespace, rest) = rest.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Display for SpiffeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "a SPIFFE ID starts with spiffe://",
            Self::TrustDomain => "a trust domain has only a-z, 0-9, '.', '-' and '_'",
            Self::Path => "a SPIFFE ID's path has segments of A-Z, a-z, 0-9, '.', '-' and '_' only",
            Self::TooLong => "a SPIFFE ID has at most 2048 bytes",
        })
    }
}

impl std::error::Error for SpiffeIdError {}

/// Checks a trust domain's name.
///
/// # Errors
/// [`SpiffeIdError::TrustDomain`] where a character is not allowed.
pub fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
        return Err(SpiffeIdError::TrustDomain);
    }
    Ok(())
}

fn is_segment(segment: &str) -> bool {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str), SpiffeIdError>) {
        let got = SpiffeId::parse(text);
        let got = got.as_ref().map(|id| (id.trust_domain(), id.path())).map_err(|e| *e);
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn ids_follow_the_specification() {
        check("spiffe://mesh.local/ns/shop/sa/web", Ok(("mesh.local", "ns/shop/sa/web")));
        check("spiffe://td/a", Ok(("td", "a")));
        check("https://td/a", Err(SpiffeIdError::Scheme));
        check("spiffe:///a", Err(SpiffeIdError::TrustDomain));
        check("spiffe://TD/a", Err(SpiffeIdError::TrustDomain));
        check("spiffe://td:80/a", Err(SpiffeIdError::TrustDomain));
        check("spiffe://u@td/a", Err(SpiffeIdError::TrustDomain));
        check("spiffe://td", Err(SpiffeIdError::Path));
        check("spiffe://td/", Err(SpiffeIdError::Path));
        check("spiffe://td/a/", Err(SpiffeIdError::Path));
        check("spiffe://td/a//b", Err(SpiffeIdError::Path));
        check("spiffe://td/a/../b", Err(SpiffeIdError::Path));
        check("spiffe://td/a?q", Err(SpiffeIdError::Path));
        check("spiffe://td/%61", Err(SpiffeIdError::Path));
        check("spiffe://td/a\0b", Err(SpiffeIdError::Path));
    }

    #[test]
    fn a_workload_id_gives_back_its_parts() {
        let id = SpiffeId::workload("mesh.local", "shop", "cart").expect("valid");
        assert_eq!(id.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
        assert_eq!(id.namespace_and_account(), Some(("shop", "cart")));
        assert_eq!(SpiffeId::workload("mesh.local", "a/b", "c"), Err(SpiffeIdError::Path));
        assert_eq!(SpiffeId::parse("spiffe://td/ns/a/sa/b/c").expect("valid").namespace_and_account(), None);
    }
}
