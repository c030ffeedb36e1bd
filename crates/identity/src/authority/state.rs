//! One consistent state of an authority, what signs in it, and how the user's files bear on it.

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde_json::json;

use super::AuthorityOptions;
use super::certify::{self, Validity};
use super::directory::{Change, Directory, Entry, Index, Loaded, NewRoot, Role, Root};
use super::disk::Disk;
use super::issuer::{Issuer, Own};
use super::plugged::Plugged;
use crate::certificate::fingerprint;
use crate::{Bundle, IdentityError, Key, jwt_svid, pem};

/// One consistent state.
#[derive(Clone)]
pub(super) struct State {
    pub(super) index: Index,
    /// The index as it stands in its file.
    pub(super) text: String,
    /// In the order of the index.
    pub(super) roots: Vec<Arc<Root>>,
    pub(super) bundle: Bundle,
    pub(super) issuer: Arc<Issuer>,
}

impl State {
    pub(super) fn new(loaded: Loaded, issuer: Arc<Issuer>) -> Result<Self, IdentityError> {
        let Loaded { index, text, roots } = loaded;
        let certificates: Vec<CertificateDer<'static>> =
            roots.iter().map(|root| root.certificate.clone()).collect();
        let keys: Result<Vec<_>, _> = roots.iter().map(|root| jwt_svid::public_jwk(&root.jwt)).collect();
        let bundle = Bundle::of_trust_domain(&index.trust_domain, &pem::encode_certificates(&certificates))?
            .with_jwt_keys(&json!({ "keys": keys? }).to_string())?;
        Ok(Self { index, text, roots, bundle, issuer })
    }

    pub(super) fn root(&self, fingerprint: &str) -> Result<&Arc<Root>, IdentityError> {
        let found = self.roots.iter().find(|root| root.fingerprint == fingerprint);
        found.ok_or_else(|| IdentityError::AuthorityIndex("a root is gone".to_owned()))
    }

    pub(super) fn active(&self) -> Result<&Arc<Root>, IdentityError> {
        let active = self.index.active();
        self.root(active.map_or("", |entry| entry.fingerprint.as_str()))
    }
}

/// What an issuer is made of.
pub(super) struct Parts<'a> {
    pub(super) options: &'a AuthorityOptions,
    pub(super) directory: &'a Directory,
    pub(super) disk: &'a Disk,
    pub(super) now: SystemTime,
}

impl<'a> Parts<'a> {
    /// What signs under the active root: the plugged-in intermediate where it leads there, else this replica's own: the
    /// one that signs already, the one on disk, or another.
    pub(super) fn issuer(
        &self,
        loaded: &Loaded,
        plugged: Option<&Plugged>,
        current: Option<&Arc<Issuer>>,
    ) -> Result<Arc<Issuer>, IdentityError> {
        let no_root = || IdentityError::AuthorityIndex("no root is active".to_owned());
        let mut active = loaded.index.entries.iter().zip(&loaded.roots);
        let (entry, root) = active.find(|(entry, _)| entry.role == Role::Active).ok_or_else(no_root)?;
        // While files are replaced control plane by control plane, each signs by its own, if it is trusted.
        let leads = |plugged: &&Plugged| {
            let lead = &plugged.issuer.facts().root;
            *lead == root.fingerprint || (entry.plugged && loaded.index.of(lead).is_some())
        };
        if let Some(plugged) = plugged.filter(leads) {
            return Ok(plugged.issuer.clone());
        }
        if entry.plugged {
            let fingerprint = root.fingerprint.clone();
            let problem =
                "active, and came with a plugged-in intermediate, whose files must be given as before";
            return Err(IdentityError::Root { fingerprint, problem: problem.to_owned() });
        }
        let is_good = |issuer: &&Arc<Issuer>| {
            let facts = issuer.facts();
            !facts.plugged
                && facts.root == root.fingerprint
                && !issuer.is_due(self.now, self.options.intermediate_lifetime, root.not_after)
        };
        if let Some(issuer) = current.filter(is_good) {
            return Ok(issuer.clone());
        }
        let own = self.own();
        if let Some(issuer) = own.kept(root) {
            return Ok(Arc::new(issuer));
        }
        let key = self.directory.root_key(&root.fingerprint)?;
        own.make(root, &key).map(Arc::new)
    }

    pub(super) fn own(&self) -> Own<'a> {
        Own {
            disk: self.disk,
            trust_domain: &self.options.trust_domain,
            lifetime: self.options.intermediate_lifetime,
            now: self.now,
        }
    }
}

/// The roots of a new authority: an own one, or those of a plugged-in intermediate.
pub(super) fn first_roots(
    options: &AuthorityOptions,
    plugged: Option<&Plugged>,
    now: SystemTime,
) -> Result<Vec<NewRoot>, IdentityError> {
    let Some(plugged) = plugged else { return Ok(vec![new_root(options, Role::Active, now)?]) };
    let mut roots = plugged.new_roots(|_| true);
    for root in &mut roots {
        if fingerprint(&root.certificate) == plugged.issuer.facts().root {
            root.role = Role::Active;
        }
    }
    roots.sort_by_key(|root| root.role);
    Ok(roots)
}

pub(super) fn new_root(
    options: &AuthorityOptions,
    role: Role,
    now: SystemTime,
) -> Result<NewRoot, IdentityError> {
    let key = Key::generate()?;
    let validity = Validity::until(now, options.root_lifetime, None)?;
    let certificate = certify::root(&options.trust_domain, &key, validity)?;
    Ok(NewRoot { certificate, key: Some(key), role })
}

/// Brings the roots of an index into line with the user's files; `None` where they are.
///
/// All roots of the file are trusted. Where the active root is the user's, the intermediate decides which one is: the
/// user rotates by putting the new root beside the old one first, and an intermediate of it later. Where the active root
/// is our own, those of the file are next, until a rotation switches.
///
/// # Errors
/// The intermediate leads to a root that was not trusted before, so that nobody would believe what it signs.
pub(super) fn reconcile(index: Index, plugged: Option<&Plugged>) -> Result<Option<Change>, IdentityError> {
    let before = index.clone();
    let Some(plugged) = plugged else {
        let stale = |entry: &Entry| entry.plugged && entry.role == Role::Next;
        let mut index = index;
        index.entries.retain(|entry| !stale(entry));
        return Ok((index != before).then(|| index.into()));
    };
    let lead = &plugged.issuer.facts().root;
    let mut index = index;
    if let Some(active) = index.active().filter(|active| active.plugged).cloned() {
        match index.of(lead).map(|entry| entry.role) {
            None => {
                let problem = "what the plugged-in intermediate leads to, and nobody trusts it yet: keep the \
                               intermediate of before, put this root beside that one's into the file of roots, \
                               and replace the intermediate when all trust both (`meshwork ca status`)";
                return Err(IdentityError::Root { fingerprint: lead.clone(), problem: problem.to_owned() });
            }
            Some(Role::Next) => {
                index = index.with_role(&active.fingerprint, Role::Previous).with_role(lead, Role::Active);
            }
            Some(Role::Active | Role::Previous) => {}
        }
    }
    let is_kept =
        |entry: &Entry| !entry.plugged || entry.role == Role::Active || plugged.lists(&entry.fingerprint);
    index.entries.retain(is_kept);
    let added = plugged.new_roots(|fingerprint| index.of(fingerprint).is_none());
    index.entries.extend(added.iter().map(NewRoot::entry));
    let index = index.sorted();
    Ok((index != before).then_some(Change { index, added }))
}
