//! A private key: made here, kept here, shown to nobody but a file of its owner.

use meshwork_model::spiffe::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{IdentityError, pem};

/// The label of a key in PEM. Source: RFC 7468 §10.
const PKCS8: &str = "PRIVATE KEY";

/// An ECDSA P-256 private key, wiped from memory when dropped.
///
/// It can be neither printed nor copied:
/// ```compile_fail
/// println!("{:?}", meshwork_identity::Key::generate());
/// ```
/// ```compile_fail
/// let key = meshwork_identity::Key::generate().unwrap();
/// let copy = key.clone();
/// ```
pub struct Key {
    pkcs8: Zeroizing<Vec<u8>>,
}

impl Key {
    /// Makes a new random key.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut pair = KeyPair::generate()?;
        let pkcs8 = Zeroizing::new(pair.serialized_der().to_vec());
        pair.zeroize();
        Ok(Self { pkcs8 })
    }

    /// Reads a key from PKCS #8 PEM text.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let (_, pkcs8) = pem::secret(text.as_bytes(), &[PKCS8]).ok_or(IdentityError::Key)?;
        let key = Self { pkcs8 };
        key.with_pair(|_| Ok(()))?;
        Ok(key)
    }

    /// Writes the key as PKCS #8 PEM text, for a file of its owner.
    pub fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode(PKCS8, &self.pkcs8))
    }

    /// Makes a certificate signing request for an identity that is known.
    pub fn csr_pem(&self, id: &SpiffeId) -> Result<String, IdentityError> {
        self.request(vec![SanType::URI(id.as_str().try_into()?)])
    }

    /// Makes a certificate signing request that names nobody: the signer knows whom it signs for.
    pub fn unnamed_csr_pem(&self) -> Result<String, IdentityError> {
        self.request(Vec::new())
    }

    fn request(&self, names: Vec<SanType>) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        self.with_pair(|pair| Ok(params.serialize_request(pair)?.pem()?))
    }

    /// Lends the key as PKCS #8, DER.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Lends the key in rcgen's form and wipes that form's copy afterwards.
    pub(crate) fn with_pair<T>(
        &self,
        act: impl FnOnce(&KeyPair) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let mut pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| IdentityError::Key)?;
        let outcome = act(&pair);
        pair.zeroize();
        outcome
    }

    pub(crate) fn signing_key(&self) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, IdentityError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|_| IdentityError::Key)
    }
}
