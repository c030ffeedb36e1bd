//! The one error of this crate: which step failed, and on what.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshwork_model::spiffe::SpiffeIdError;

/// Why an identity, a certificate or a file of them is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A text holds no section of the PEM kind that was looked for, or a damaged one.
    #[error("no usable {expected} in the PEM text")]
    Pem {
        /// The kind of section, in words.
        expected: &'static str,
    },
    /// A certificate's bytes do not parse.
    #[error("the certificate does not parse: {0}")]
    Certificate(String),
    /// A peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// An X.509-SVID has exactly one URI in its subject alternative names.
    #[error("an X.509-SVID has exactly one URI name, this certificate has {0}")]
    UriNames(usize),
    /// The URI is not a SPIFFE ID of a workload.
    #[error("the certificate's name {uri:?} is not a workload's SPIFFE ID: {cause}")]
    SpiffeId {
        /// The URI as it stands in the certificate.
        uri: String,
        /// The rule that it breaks.
        cause: SpiffeIdError,
    },
    /// The certificate may sign others; a workload's must not.
    #[error("a workload's certificate must not be a certificate authority's")]
    IsAuthority,
    /// The key usage lacks digitalSignature, or allows to sign certificates or revocation lists.
    #[error(
        "the key usage of a workload's certificate must be digitalSignature, without keyCertSign and cRLSign"
    )]
    KeyUsage,
    /// The identity belongs to another trust domain than the bundle.
    #[error("{id} is not of the trust domain {trust_domain}")]
    TrustDomain {
        /// The identity found.
        id: String,
        /// The trust domain wanted.
        trust_domain: String,
    },
    /// The certificate is somebody else's than expected.
    #[error("the certificate is that of {found}, expected {expected}")]
    Unexpected {
        /// Whose it is.
        found: String,
        /// Who would have been right, separated by commas.
        expected: String,
    },
    /// The certificate's time has passed.
    #[error("the certificate of {0} has expired")]
    Expired(String),
    /// The private key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The private key does not parse, or is of a kind that is not used here.
    #[error("the private key is not an ECDSA P-256 key in PKCS #8")]
    Key,
    /// The private key does not parse, or is of a kind that TLS does not know.
    #[error("the private key is none of RSA, ECDSA and Ed25519 in PEM, unencrypted")]
    AnyKey,
    /// A peer's certificate has none of the names that are asked for.
    #[error("the certificate has none of the names that are asked for")]
    Names,
    /// A peer's certificate and its key are none of those that are listed.
    #[error("neither the certificate nor its key is listed")]
    Hash,
    /// A trust bundle is empty, or its roots name no or several trust domains.
    #[error("the trust bundle is not usable: {0}")]
    Bundle(&'static str),
    /// A certificate signing request is refused.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// A file of the certificate authority is missing or damaged.
    #[error("the certificate authority's file {} is {problem}; restore it from a backup, or move the directory away to begin with a new authority", file.display())]
    AuthorityFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The authority can sign nothing any more, or was asked for an empty lifetime.
    #[error("no certificate can be issued: {0}")]
    Lifetime(&'static str),
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What a file holds cannot be used.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<IdentityError>,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library failed: {0}")]
    Crypto(String),
}

impl IdentityError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl From<IdentityError> for rustls::Error {
    fn from(error: IdentityError) -> Self {
        let cause = rustls::OtherError(Arc::new(InWords(error)));
        rustls::CertificateError::Other(cause).into()
    }
}

/// rustls shows such a cause by its `Debug`, in the messages that people read.
#[derive(thiserror::Error)]
#[error(transparent)]
struct InWords(IdentityError);

impl fmt::Debug for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
