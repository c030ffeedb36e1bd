//! The state directory of one identity: `identity.pem` (key and chain in one file, so that they always belong
//! together), `trust.json` (whom it believes), `removed-roots` (whom it believed and does not any more), `pending-key.pem`
//! while a first certificate is asked for, `token.sha256` (which token was tried), and `lock`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use meshwork_identity::{Bundle, IdentityError, Key, Svid, Trust, files};
use rustix::fs::{FlockOperation, flock};
use std::time::SystemTime;
use tracing::warn;
use zeroize::Zeroizing;

use super::EnrolError;
use crate::hex::hex;

const TRUST: &str = "trust.json";
/// Fingerprints of roots that were taken out of trust, a line each, the last one last.
const REMOVED: &str = "removed-roots";
/// How many of them are remembered: rotations of decades.
const MAX_REMOVED: usize = 64;
/// SHA-256 of the last token that was tried: a token is good once, so that one tells nothing any more.
const TRIED: &str = "token.sha256";
const IDENTITY: &str = "identity.pem";
const PENDING_KEY: &str = "pending-key.pem";
const LOCK: &str = "lock";

/// An open, locked state directory.
pub(super) struct State {
    dir: PathBuf,
    /// Held open: the lock ends with it, also when the process is killed.
    _lock: File,
}

/// What the directory has to offer.
pub(super) enum Found {
    /// An SVID that is valid now, under one of the bundles given.
    Valid(Box<Svid>),
    /// None, and why, for a person.
    Nothing(String),
}

impl State {
    pub(super) fn open(dir: &Path) -> Result<Self, EnrolError> {
        files::open_private_dir(dir)?;
        let path = dir.join(LOCK);
        let failed = |source: io::Error| IdentityError::File { action: "open", path: path.clone(), source };
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(EnrolError::Locked(dir.to_owned())),
            Err(errno) => Err(failed(errno.into()).into()),
        }
    }

    /// Reads the SVID; one that cannot be used is left where it is until a better one replaces it.
    pub(super) fn load(&self, bundles: &[&Bundle]) -> Found {
        let path = self.dir.join(IDENTITY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Found::Nothing(format!("there is no identity in {} yet", self.dir.display()));
            }
            Err(error) => return Found::Nothing(format!("{} cannot be read ({error})", path.display())),
        };
        let read = Key::from_pem(&text).and_then(|key| Svid::from_pem(&text, key));
        let svid = match read {
            Ok(svid) => svid,
            Err(error) => return Found::Nothing(format!("{} is damaged ({error})", path.display())),
        };
        if svid.not_after() <= SystemTime::now() {
            return Found::Nothing(expired(&svid));
        }
        let mut refusal = None;
        for bundle in bundles {
            match svid.check_under(bundle) {
                Ok(()) => return Found::Valid(Box::new(svid)),
                Err(error) => refusal = Some(error),
            }
        }
        let refusal = refusal.map_or_else(|| "there is none".to_owned(), |error| error.to_string());
        let path = path.display();
        Found::Nothing(format!("the certificate in {path} is not valid under the trust bundle ({refusal})"))
    }

    /// Whom an earlier process believed, in its last moment; `None` where nothing usable was kept. What is damaged is
    /// left where it is until better comes.
    pub(super) fn trust(&self, trust_domain: &str) -> Option<Trust> {
        let path = self.dir.join(TRUST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!("{} cannot be read ({error}); begins with the trust bundle", path.display());
                return None;
            }
        };
        match Trust::from_json(&text, trust_domain) {
            Ok(trust) => Some(trust),
            Err(error) => {
                warn!("{} is not usable ({error}); begins with the trust bundle", path.display());
                None
            }
        }
    }

    /// Whether this token was not tried with this directory before: then somebody wants a new certificate.
    pub(super) fn is_new_token(&self, token: &str) -> bool {
        fs::read_to_string(self.dir.join(TRIED)).map_or(true, |tried| tried != digest_of(token))
    }

    /// Remembers that a token was tried.
    pub(super) fn tried(&self, token: &str) -> Result<(), IdentityError> {
        files::write_private(&self.dir.join(TRIED), digest_of(token).as_bytes())
    }

    /// Keeps whom to believe.
    pub(super) fn keep_trust(&self, text: &str) -> Result<(), IdentityError> {
        files::write_private(&self.dir.join(TRUST), text.as_bytes())
    }

    /// The roots that were believed once, and are not any more.
    pub(super) fn removed(&self) -> BTreeSet<String> {
        self.removed_in_order().into_iter().collect()
    }

    fn removed_in_order(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join(REMOVED)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Remembers which of the roots that were believed are not any more. One that is again is forgotten.
    pub(super) fn note_removed(&self, before: &[String], now: &[String]) -> Result<(), IdentityError> {
        let known = self.removed_in_order();
        let mut gone: Vec<String> = Vec::new();
        for root in known.iter().chain(before) {
            if !now.contains(root) && !gone.contains(root) {
                gone.push(root.clone());
            }
        }
        gone.drain(..gone.len().saturating_sub(MAX_REMOVED));
        if gone == known {
            return Ok(());
        }
        files::write_private(&self.dir.join(REMOVED), gone.join("\n").as_bytes())
    }

    /// The key of a first request: the one of an interrupted attempt, or a new one that is on disk before it is used.
    pub(super) fn pending_key(&self) -> Result<Key, IdentityError> {
        let path = self.dir.join(PENDING_KEY);
        let left = fs::read_to_string(&path).ok().map(Zeroizing::new);
        if let Some(key) = left.and_then(|text| Key::from_pem(&text).ok()) {
            return Ok(key);
        }
        let key = Key::generate()?;
        files::write_private(&path, key.pem().as_bytes())?;
        Ok(key)
    }

    /// Keeps an SVID; a pending key has done its duty then.
    pub(super) fn store(&self, svid: &Svid) -> Result<(), IdentityError> {
        let (key, chain) = (svid.key_pem(), svid.chain_pem());
        // As long as it will be: growing it would leave a copy of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(key.len() + chain.len()));
        text.push_str(&key);
        text.push_str(&chain);
        files::write_private(&self.dir.join(IDENTITY), text.as_bytes())?;
        match fs::remove_file(self.dir.join(PENDING_KEY)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::File { action: "remove", path: self.dir.join(PENDING_KEY), source })
            }
            _ => Ok(()),
        }
    }
}

fn digest_of(token: &str) -> String {
    hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref())
}

/// Says that a certificate's time has passed, and when.
pub(super) fn expired(svid: &Svid) -> String {
    let when =
        jiff::Timestamp::try_from(svid.not_after()).map_or_else(|_| "long ago".to_owned(), |t| t.to_string());
    format!("the certificate of {} expired at {when}", svid.id())
}
