//! An identity that somebody else keeps in files: read at start, looked at again, taken over where it changed and is
//! good.
//!
//! For proxies that no agent enrols: a certificate tool writes the files, we follow. What is damaged, half-written or
//! somebody else's is refused, and the last good identity stays.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{Bundle, IdentityError, IdentitySource, Key, Svid};

/// Permission bits of those who are not the owner.
const OF_OTHERS: u32 = 0o077;

/// Where an identity is kept, all in PEM.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// The certificate chain, the workload's own first.
    pub certificate: PathBuf,
    /// The private key of its first certificate, PKCS #8.
    pub private_key: PathBuf,
    /// The roots of the workload's trust domain.
    pub trust_bundle: PathBuf,
}

/// An identity that follows its files.
pub struct FileIdentity {
    files: IdentityFiles,
    source: Arc<IdentitySource>,
    seen: Seen,
}

/// What a look at the files showed, so that the same is judged and reported once.
#[derive(PartialEq, Eq)]
enum Seen {
    Content([u8; 32]),
    Unreadable(String),
}

/// The files' content at one time.
struct Content {
    certificate: String,
    private_key: Zeroizing<String>,
    trust_bundle: String,
}

impl IdentityFiles {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// A file cannot be read or does not parse, the key is not the certificate's, or the chain does not lead to the
    /// roots now.
    pub fn open(self) -> Result<FileIdentity, IdentityError> {
        let content = self.read()?;
        let (svid, bundle) = self.parse(&content)?;
        let source = IdentitySource::new(svid, bundle).map_err(about(&self.certificate))?;
        Ok(FileIdentity { seen: Seen::Content(content.digest()), files: self, source })
    }

    /// Whether others than its owner may use the key's file.
    pub fn is_key_exposed(&self) -> bool {
        fs::metadata(&self.private_key).is_ok_and(|found| found.permissions().mode() & OF_OTHERS != 0)
    }

    fn read(&self) -> Result<Content, IdentityError> {
        let read = |path: &Path| fs::read_to_string(path).map_err(IdentityError::file("read", path));
        Ok(Content {
            certificate: read(&self.certificate)?,
            private_key: Zeroizing::new(read(&self.private_key)?),
            trust_bundle: read(&self.trust_bundle)?,
        })
    }

    fn parse(&self, content: &Content) -> Result<(Svid, Bundle), IdentityError> {
        let key = Key::from_pem(&content.private_key).map_err(about(&self.private_key))?;
        let svid = Svid::from_pem(&content.certificate, key).map_err(about(&self.certificate))?;
        // Roots of other tools rarely name their trust domain: it is that of the identity.
        let bundle = Bundle::of_trust_domain(svid.id().trust_domain(), &content.trust_bundle);
        Ok((svid, bundle.map_err(about(&self.trust_bundle))?))
    }
}

impl FileIdentity {
    /// What the handshakes read.
    pub fn source(&self) -> &Arc<IdentitySource> {
        &self.source
    }

    /// The files.
    pub fn files(&self) -> &IdentityFiles {
        &self.files
    }

    /// Looks at the files: `None` where they are as they were at the last look, else whether they were taken over.
    ///
    /// # Errors
    /// What stands there now cannot be used; the last good identity stays. Told once per change.
    pub fn look(&mut self) -> Option<Result<(), IdentityError>> {
        let read = self.files.read();
        let seen = match &read {
            Ok(content) => Seen::Content(content.digest()),
            Err(error) => Seen::Unreadable(error.to_string()),
        };
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        let (done, now) = (read.and_then(|content| self.take_over(&content)), SystemTime::now());
        self.source.note_renewal(|renewal| match &done {
            Ok(()) => renewal.last = Some(now),
            Err(error) => renewal.failure = Some((now, error.to_string())),
        });
        Some(done)
    }

    fn take_over(&self, content: &Content) -> Result<(), IdentityError> {
        let (svid, bundle) = self.files.parse(content)?;
        self.source.replace_both(svid, bundle).map_err(about(&self.files.certificate))
    }
}

impl Content {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.certificate, &*self.private_key, &self.trust_bundle] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

fn about(path: &Path) -> impl FnOnce(IdentityError) -> IdentityError {
    let path = path.to_owned();
    move |cause| IdentityError::InFile { path, cause: Box::new(cause) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::Forge;

    const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

    struct Folder {
        dir: tempfile::TempDir,
        files: IdentityFiles,
    }

    impl Folder {
        fn new(forge: &Forge) -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let at = |name: &str| dir.path().join(name);
            let files = IdentityFiles {
                certificate: at("chain.pem"),
                private_key: at("key.pem"),
                trust_bundle: at("roots.pem"),
            };
            let folder = Self { dir, files };
            folder.write(&forge.svid(WEB));
            folder.write_roots(forge);
            folder
        }

        fn write(&self, svid: &Svid) {
            fs::write(&self.files.certificate, svid.chain_pem()).expect("written");
            crate::files::write_private(&self.files.private_key, svid.key_pem().as_bytes()).expect("written");
        }

        fn write_roots(&self, forge: &Forge) {
            fs::write(&self.files.trust_bundle, forge.bundle().pem()).expect("written");
        }

        fn open(&self) -> Result<FileIdentity, IdentityError> {
            self.files.clone().open()
        }
    }

    #[test]
    fn a_renewed_pair_is_taken_over_once() {
        let forge = Forge::new("mesh.local");
        let folder = Folder::new(&forge);
        let mut identity = folder.open().expect("opened");
        assert!(identity.look().is_none());
        let next = forge.svid(WEB);
        folder.write(&next);
        assert!(matches!(identity.look(), Some(Ok(()))));
        assert_eq!(identity.source().svid().serial(), next.serial());
        assert!(identity.look().is_none());
    }

    #[test]
    fn a_new_authority_is_taken_over_with_what_it_signed() {
        let folder = Folder::new(&Forge::new("mesh.local"));
        let mut identity = folder.open().expect("opened");
        let next = Forge::new("mesh.local");
        folder.write(&next.svid(WEB));
        assert!(matches!(identity.look(), Some(Err(_))), "its root is not there yet");
        folder.write_roots(&next);
        assert!(matches!(identity.look(), Some(Ok(()))));
    }

    #[test]
    fn what_cannot_be_used_is_told_once_and_changes_nothing() {
        let forge = Forge::new("mesh.local");
        let folder = Folder::new(&forge);
        let mut identity = folder.open().expect("opened");
        let serial = identity.source().svid().serial();
        let mut check = |what: &str, words: &str| {
            let error = identity.look().expect("a change").expect_err(what).to_string();
            assert!(error.contains(words), "{what}: {error}");
            assert!(identity.look().is_none(), "{what}: told once");
            assert_eq!(identity.source().svid().serial(), serial, "{what}");
        };
        let chain = forge.svid(WEB).chain_pem();
        fs::write(&folder.files.certificate, &chain[..chain.len() / 2]).expect("written");
        check("half a certificate", "chain.pem: no usable certificate");
        fs::write(&folder.files.certificate, &chain).expect("written");
        check("a certificate before its key", "the private key does not belong to the certificate");
        fs::write(&folder.files.private_key, "").expect("written");
        check("no key", "key.pem: the private key is not");
        fs::remove_file(&folder.files.private_key).expect("removed");
        check("no file", "cannot read");
        folder.write(&forge.svid("spiffe://mesh.local/ns/shop/sa/cart"));
        check("somebody else's", "expected spiffe://mesh.local/ns/shop/sa/web");
        folder.write(&Forge::new("mesh.local").svid(WEB));
        check(
            "a stranger's",
            "chain.pem: the certificate of spiffe://mesh.local/ns/shop/sa/web is not proven",
        );
        folder.write(&forge.svid(WEB));
        assert!(matches!(identity.look(), Some(Ok(()))), "the next good one is taken");
        let renewal = identity.source().renewal();
        assert!(renewal.due.is_none() && renewal.last.is_some(), "{renewal:?}");
        let why = renewal.failure.map(|(_, why)| why).unwrap_or_default();
        assert!(why.contains("is not proven"), "{why}: the last failure stays");
    }

    #[test]
    fn a_key_that_others_may_read_is_noticed() {
        let folder = Folder::new(&Forge::new("mesh.local"));
        assert!(!folder.files.is_key_exposed());
        fs::set_permissions(&folder.files.private_key, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(folder.files.is_key_exposed());
        drop(folder.dir);
    }
}
