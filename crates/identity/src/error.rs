//! The one error of this crate: which step failed, and on what.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::Deref;
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
    /// A URI of the certificate is no text.
    #[error("a URI name of the certificate is no text")]
    UriBytes,
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
    /// The certificate's key can be broken, or is not known.
    #[error(
        "the certificate's key is {0}; a workload's is ECDSA on P-256, P-384 or P-521, RSA of 2,048 to 8,192 bits, or Ed25519"
    )]
    WeakKey(String),
    /// The identity belongs to another trust domain than the bundle.
    #[error("{id} is not of the trust domain {trust_domain}")]
    TrustDomain {
        /// The identity found.
        id: String,
        /// The trust domain wanted.
        trust_domain: String,
    },
    /// Nobody vouches for the trust domain.
    #[error("the trust domain {0} is not trusted here: federate with it to admit its workloads")]
    NotTrusted(String),
    /// No chain of good certificates leads to a root of the identity's trust domain.
    #[error("the certificate of {id} is not proven: {}", why(cause))]
    Chain {
        /// The identity that it claims.
        id: String,
        /// What the check of the chain says.
        cause: rustls::Error,
    },
    /// A chain is longer than any hierarchy of authorities.
    #[error("the chain has {0} certificates, at most 9 are read")]
    ChainLength(usize),
    /// A certificate between the workload's and the root may not sign for it.
    #[error("a certificate of the chain that should sign others {0}")]
    Signer(&'static str),
    /// The identity, its certificate, or one that signed it is revoked.
    #[error("the certificate {serial} of {id} is revoked")]
    Revoked {
        /// Whose it is.
        id: String,
        /// The serial number of the certificate, lowercase hexadecimal.
        serial: String,
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
    /// The list of the authority's roots does not parse.
    #[error("the list of roots does not parse: {0}")]
    AuthorityIndex(String),
    /// Another process changes the authority, and does not end.
    #[error("another process holds the certificate authority in {}; is one of its control planes stuck?", .0.display())]
    AuthorityBusy(PathBuf),
    /// A root is not what it must be for that.
    #[error("the root {fingerprint} is {problem}")]
    Root {
        /// SHA-256 of the root, lowercase hexadecimal.
        fingerprint: String,
        /// What it is, and must be.
        problem: String,
    },
    /// A file of a plugged-in intermediate is not good.
    #[error("the plugged-in intermediate's file {} is {problem}", file.display())]
    Plugged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The roots come from a file of the user's, who must change it.
    #[error("the roots of this mesh come from a file: {what} {}", file.display())]
    PluggedRoots {
        /// What must be done.
        what: String,
        /// With which file.
        file: PathBuf,
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
    /// Others may write to a directory whose files are believed.
    #[error(
        "others may write to {}, and whatever they put there would be believed: take that from them (`chmod go-w`), or name \
         a directory within it",
        .0.display()
    )]
    SharedDirectory(PathBuf),
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

    /// Whether all that is wrong is what the certificate is made for: clients or servers.
    pub(crate) fn is_about_purpose(&self) -> bool {
        use rustls::CertificateError::{InvalidPurpose, InvalidPurposeContext};
        let Self::Chain { cause: rustls::Error::InvalidCertificate(cause), .. } = self else { return false };
        matches!(cause, InvalidPurpose | InvalidPurposeContext { .. })
    }
}

/// What the check of a chain says, in words.
fn why(cause: &rustls::Error) -> String {
    use rustls::{CertificateError as Wrong, Error};
    match cause {
        Error::InvalidCertificate(Wrong::UnknownIssuer) => {
            "none of the roots of its trust domain has signed it (UnknownIssuer)".to_owned()
        }
        Error::InvalidCertificate(Wrong::BadSignature) => {
            "a signature of its chain is wrong (BadSignature)".to_owned()
        }
        Error::InvalidCertificate(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl From<IdentityError> for rustls::Error {
    fn from(error: IdentityError) -> Self {
        // rustls tells the peer what kind of thing is wrong, by an alert.
        if let IdentityError::Chain { id, cause } = error {
            UNPROVEN.set(Some((id, cause.clone())));
            return cause;
        }
        let cause = rustls::OtherError(Arc::new(InWords(error)));
        rustls::CertificateError::Other(cause).into()
    }
}

thread_local! {
    /// Of which identity the last chain was that did not prove it, and why: rustls has no place for the first.
    static UNPROVEN: Cell<Option<(String, rustls::Error)>> = const { Cell::new(None) };
}

/// What was wrong with the peer of a handshake that failed with this error, where its certificate was to blame. To be
/// asked at once, on the thread of the handshake: past the next failure there the identity is not known any more.
pub fn refusal(error: &rustls::Error) -> Option<Refusal<'_>> {
    use rustls::{CertificateError::Other, Error::InvalidCertificate, OtherError};
    match error {
        InvalidCertificate(Other(OtherError(cause))) => {
            Some(Refusal::Known(&cause.downcast_ref::<InWords>()?.0))
        }
        InvalidCertificate(_) => {
            let (id, cause) = UNPROVEN.take().filter(|(_, cause)| cause == error)?;
            Some(Refusal::Chain(IdentityError::Chain { id, cause }))
        }
        _ => None,
    }
}

/// What was wrong with a peer.
#[derive(Debug)]
pub enum Refusal<'e> {
    /// What the failure of the handshake carries.
    Known(&'e IdentityError),
    /// What was known of the chain besides.
    Chain(IdentityError),
}

impl Deref for Refusal<'_> {
    type Target = IdentityError;

    fn deref(&self) -> &IdentityError {
        match self {
            Self::Known(error) => error,
            Self::Chain(error) => error,
        }
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
