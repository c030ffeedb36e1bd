//! The directory that control planes of one mesh share: which roots there are, what each is for, and their keys.
//!
//! `authority.json` names the roots and their roles; it is one file, replaced whole, and what it says is so. A root is
//! `roots/<begin of its fingerprint>/` with `root.pem`, `root-key.pem` (not where its intermediate is plugged in) and
//! `jwt-key.pem`. One that is to be added, or has been taken away, is under a hidden name: who finds it named in
//! `authority.json` gives it its name, else it is removed. So each step leaves a whole authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::disk::{self, Disk};
use super::request::is_key_of;
use crate::certificate::fingerprint;
use crate::{CertificateFacts, IdentityError, Key, pem, svid};

const INDEX: &str = "authority.json";
const ROOTS: &str = "roots";
const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root-key.pem";
const JWT_KEY: &str = "jwt-key.pem";
/// The version of `authority.json`.
const VERSION: u64 = 1;
/// Digits of a fingerprint that name a root's directory.
const DIGITS: usize = 16;
/// Roots at once: two while a rotation runs, more only where a user's file lists them.
const MAX_ROOTS: usize = 16;

/// The files of the layout before, in the order in which they are removed: while the last is there, they are known.
const OLD: [&str; 4] = [ROOT_KEY, "intermediate-key.pem", "intermediate.pem", ROOT];
/// What may be in a directory that has no authority yet, beside the lock: the beginnings of one.
const BEGINNINGS: [&str; 3] = [ROOTS, super::ISSUER, ".authority.json.new"];

/// A file of an authority: its name in the directory, and what is in it.
pub type AuthorityFile = (PathBuf, Zeroizing<Vec<u8>>);

/// What a root is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Certificates are issued under it.
    Active,
    /// It is trusted already; certificates may be issued under it once everybody does.
    Next,
    /// It is still trusted; certificates under it are being replaced.
    Previous,
}

impl Role {
    const ALL: [(&str, Self); 3] =
        [("active", Self::Active), ("next", Self::Next), ("previous", Self::Previous)];

    /// `active`, `next` or `previous`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

/// A root as `authority.json` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) fingerprint: String,
    pub(super) role: Role,
    /// It came with a plugged-in intermediate, without its key.
    pub(super) plugged: bool,
}

/// What `authority.json` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Index {
    pub(super) trust_domain: String,
    pub(super) entries: Vec<Entry>,
}

impl Index {
    fn parse(text: &str) -> Result<Self, IdentityError> {
        let refused = |why: &str| IdentityError::AuthorityIndex(why.to_owned());
        let value: Value =
            serde_json::from_str(text).map_err(|error| IdentityError::AuthorityIndex(error.to_string()))?;
        if value["version"].as_u64() != Some(VERSION) {
            return Err(refused("it is of another version of the program"));
        }
        let trust_domain = value["trustDomain"].as_str().ok_or_else(|| refused("it has no trustDomain"))?;
        let listed = value["roots"].as_array().ok_or_else(|| refused("it has no list of roots"))?;
        let entries: Option<Vec<_>> = listed.iter().map(Entry::read).collect();
        let entries = entries.ok_or_else(|| refused("a root has no good fingerprint and role"))?;
        let is_one = entries.iter().filter(|entry| entry.role == Role::Active).count() == 1;
        if !is_one || entries.len() > MAX_ROOTS {
            return Err(refused("exactly one of its roots must be active, and it has 16 at most"));
        }
        let mut places: Vec<_> = entries.iter().map(|entry| place(&entry.fingerprint)).collect();
        places.sort();
        places.dedup();
        if places.len() != entries.len() {
            return Err(refused("a root is in it twice"));
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), entries }.sorted())
    }

    fn text(&self) -> String {
        let root = |entry: &Entry| {
            let mut value = json!({"fingerprint": entry.fingerprint, "role": entry.role.name()});
            if entry.plugged {
                value["plugged"] = true.into();
            }
            value
        };
        let roots: Vec<_> = self.entries.iter().map(root).collect();
        let all = json!({"version": VERSION, "trustDomain": self.trust_domain, "roots": roots});
        format!("{all:#}\n")
    }

    /// The root that certificates are issued under.
    pub(super) fn active(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.role == Role::Active)
    }

    pub(super) fn of(&self, fingerprint: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.fingerprint == fingerprint)
    }

    /// The same, with another role for a root.
    pub(super) fn with_role(mut self, fingerprint: &str, role: Role) -> Self {
        for entry in self.entries.iter_mut().filter(|entry| entry.fingerprint == fingerprint) {
            entry.role = role;
        }
        self.sorted()
    }

    /// The same, the active root first, then the next and the previous ones.
    pub(super) fn sorted(mut self) -> Self {
        self.entries.sort_by_key(|entry| entry.role);
        self
    }

    /// The same, without a root.
    pub(super) fn without(mut self, fingerprint: &str) -> Self {
        self.entries.retain(|entry| entry.fingerprint != fingerprint);
        self
    }
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let fingerprint = value["fingerprint"].as_str()?;
        let is_digest =
            fingerprint.len() == 64 && fingerprint.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let role = value["role"].as_str()?;
        let (_, role) = Role::ALL.iter().find(|(name, _)| *name == role)?;
        let plugged = value["plugged"].as_bool().unwrap_or(false);
        is_digest.then(|| Self { fingerprint: fingerprint.to_owned(), role: *role, plugged })
    }
}

/// A root that is trusted.
pub(super) struct Root {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) fingerprint: String,
    /// Lowercase hexadecimal, without leading zeros.
    pub(super) serial: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// Signs tokens.
    pub(super) jwt: Key,
}

impl Root {
    fn new(certificate: CertificateDer<'static>, jwt: Key) -> Result<Self, IdentityError> {
        let facts = CertificateFacts::read(&certificate)
            .ok_or_else(|| IdentityError::Certificate("it is none".to_owned()))?;
        Ok(Self {
            fingerprint: facts.sha256,
            serial: super::short_serial(&facts.serial),
            not_before: facts.not_before,
            not_after: facts.not_after,
            certificate,
            jwt,
        })
    }
}

/// A root to be added.
pub(super) struct NewRoot {
    pub(super) certificate: CertificateDer<'static>,
    /// None where its intermediate is plugged in.
    pub(super) key: Option<Key>,
    pub(super) role: Role,
}

impl NewRoot {
    pub(super) fn entry(&self) -> Entry {
        let fingerprint = fingerprint(&self.certificate);
        Entry { fingerprint, role: self.role, plugged: self.key.is_none() }
    }
}

/// The directory as it is on disk.
pub(super) struct Loaded {
    pub(super) index: Index,
    /// As it stands in the file: tells whether somebody has changed it.
    pub(super) text: String,
    /// In the order of the index.
    pub(super) roots: Vec<Arc<Root>>,
}

/// What a change makes of an index.
pub(super) struct Change {
    pub(super) index: Index,
    pub(super) added: Vec<NewRoot>,
}

impl From<Index> for Change {
    fn from(index: Index) -> Self {
        Self { index, added: Vec::new() }
    }
}

/// The shared directory.
pub(super) struct Directory {
    pub(super) disk: Disk,
}

impl Directory {
    /// Opens it; makes it with the roots of `begin` where there is nothing, and takes over the layout before.
    pub(super) fn open(
        &self,
        trust_domain: &str,
        begin: impl FnOnce() -> Result<Vec<NewRoot>, IdentityError>,
    ) -> Result<Loaded, IdentityError> {
        self.disk.create_dir("")?;
        let _lock = self.disk.lock_exclusive()?;
        if self.disk.has(INDEX) {
            let index = self.disk.read(INDEX, Index::parse)?;
            self.settle(&index)?;
        } else {
            let added = if OLD.iter().any(|name| self.disk.has(name)) {
                vec![self.old_root(trust_domain)?]
            } else {
                self.check_empty()?;
                begin()?
            };
            let entries = added.iter().map(NewRoot::entry).collect();
            let index = Index { trust_domain: trust_domain.to_owned(), entries };
            self.put(None, &Change { index, added })?;
        }
        self.load(Some(trust_domain))
    }

    /// Reads it again, where it is not as `text` has it.
    pub(super) fn reload(&self, text: &str) -> Result<Option<Loaded>, IdentityError> {
        if self.disk.read(INDEX, |found| Ok(found == text))? {
            return Ok(None);
        }
        let _lock = self.disk.lock_shared()?;
        self.load(None).map(Some)
    }

    /// Changes it, alone, from what it is now; nothing where `alter` wants nothing.
    pub(super) fn change(
        &self,
        alter: impl FnOnce(Index) -> Result<Option<Change>, IdentityError>,
    ) -> Result<Loaded, IdentityError> {
        let _lock = self.disk.lock_exclusive()?;
        let before = self.disk.read(INDEX, Index::parse)?;
        if let Some(change) = alter(before.clone())? {
            self.put(Some(&before), &change)?;
        }
        self.load(None)
    }

    /// The key of a root, for as long as it is needed.
    pub(super) fn root_key(&self, fingerprint: &str) -> Result<Key, IdentityError> {
        self.disk.read(self.find(fingerprint).join(ROOT_KEY), Key::from_pem)
    }

    fn load(&self, trust_domain: Option<&str>) -> Result<Loaded, IdentityError> {
        let text = self.disk.read(INDEX, |text| Ok(text.to_owned()))?;
        let index = self.disk.read(INDEX, Index::parse)?;
        if trust_domain.is_some_and(|wanted| wanted != index.trust_domain) {
            let problem =
                format!("of the trust domain {}, not {}", index.trust_domain, trust_domain.unwrap_or(""));
            return Err(IdentityError::AuthorityFile { file: self.disk.path(INDEX), problem });
        }
        let roots: Result<_, _> = index.entries.iter().map(|entry| self.load_root(entry)).collect();
        Ok(Loaded { roots: roots?, index, text })
    }

    fn load_root(&self, entry: &Entry) -> Result<Arc<Root>, IdentityError> {
        let place = self.find(&entry.fingerprint);
        let damaged = |name: &str, problem: &str| IdentityError::AuthorityFile {
            file: self.disk.path(place.join(name)),
            problem: problem.to_owned(),
        };
        let certificate = self.disk.read(place.join(ROOT), only_authority)?;
        let jwt = self.disk.read(place.join(JWT_KEY), Key::from_pem)?;
        let root = Root::new(certificate, jwt)?;
        if root.fingerprint != entry.fingerprint {
            return Err(damaged(ROOT, "another root than authority.json names"));
        }
        if !entry.plugged {
            let key = self.disk.read(place.join(ROOT_KEY), Key::from_pem)?;
            if !is_key_of(&key, &root.certificate)? {
                return Err(damaged(ROOT_KEY, "not the key of root.pem"));
            }
        }
        Ok(Arc::new(root))
    }

    /// Writes what is added, under hidden names; hides what is left out; says so in one step; gives names their due.
    fn put(&self, before: Option<&Index>, change: &Change) -> Result<(), IdentityError> {
        let text = change.index.text();
        // What could not be read back is not written.
        Index::parse(&text)?;
        self.disk.create_dir(ROOTS)?;
        for root in &change.added {
            self.write_root(root)?;
        }
        let left_out = |entry: &&Entry| change.index.of(&entry.fingerprint).is_none();
        for entry in before.iter().flat_map(|index| &index.entries).filter(left_out) {
            let visible = place(&entry.fingerprint);
            if self.disk.has(&visible) {
                self.disk.rename(&visible, &hidden(&entry.fingerprint))?;
            }
        }
        self.disk.write(INDEX, text.as_bytes())?;
        self.settle(&change.index)
    }

    fn write_root(&self, root: &NewRoot) -> Result<(), IdentityError> {
        let dir = hidden(&fingerprint(&root.certificate));
        if self.disk.has(&dir) {
            self.disk.remove_dir(&dir)?;
        }
        self.disk.create_dir(&dir.to_string_lossy())?;
        if let Some(key) = &root.key {
            self.disk.write(dir.join(ROOT_KEY), key.pem().as_bytes())?;
        }
        self.disk.write(dir.join(JWT_KEY), Key::generate()?.pem().as_bytes())?;
        self.disk.write(dir.join(ROOT), pem::encode("CERTIFICATE", &root.certificate).as_bytes())
    }

    /// Brings everything into the order that the index says, after whatever was interrupted.
    fn settle(&self, index: &Index) -> Result<(), IdentityError> {
        for name in self.disk.names(ROOTS)?.iter().filter(|name| name.starts_with('.')) {
            let (from, to) = (Path::new(ROOTS).join(name), Path::new(ROOTS).join(&name[1..]));
            let is_named = index.entries.iter().any(|entry| place(&entry.fingerprint) == to);
            if is_named && !self.disk.has(&to) {
                self.disk.rename(&from, &to)?;
            } else {
                self.disk.remove_dir(&from)?;
            }
        }
        if self.disk.has(ROOT) {
            let root = self.disk.read(ROOT, only_authority)?;
            if index.of(&fingerprint(&root)).is_none_or(|entry| entry.plugged) {
                let problem = "that of another authority than authority.json names".to_owned();
                return Err(IdentityError::AuthorityFile { file: self.disk.path(ROOT), problem });
            }
            for name in OLD.iter().filter(|name| self.disk.has(name)) {
                self.disk.remove_file(name)?;
            }
        }
        Ok(())
    }

    /// The root of the layout before. Its intermediate is not needed: it lives on in the chains that it has signed.
    fn old_root(&self, trust_domain: &str) -> Result<NewRoot, IdentityError> {
        let damaged = |name: &str, problem: String| IdentityError::AuthorityFile {
            file: self.disk.path(name),
            problem,
        };
        let certificate = self.disk.read(ROOT, only_authority)?;
        let named = svid::trust_domain_of_root(&certificate)?.unwrap_or_default();
        if named != trust_domain {
            return Err(damaged(ROOT, format!("of the trust domain {named}, not {trust_domain}")));
        }
        let key = self.disk.read(ROOT_KEY, Key::from_pem)?;
        if !is_key_of(&key, &certificate)? {
            return Err(damaged(ROOT_KEY, "not the key of root.pem".to_owned()));
        }
        Ok(NewRoot { certificate, key: Some(key), role: Role::Active })
    }

    /// A directory of something else is nobody's authority, and one whose index is gone must not get another.
    fn check_empty(&self) -> Result<(), IdentityError> {
        let is_beginning = |name: &str| disk::is_lock(name) || BEGINNINGS.contains(&name);
        let foreign = self.disk.names("")?.into_iter().find(|name| !is_beginning(name));
        let whole = self.disk.names(ROOTS)?.into_iter().find(|name| !name.starts_with('.'));
        if let Some(name) = foreign.or_else(|| whole.map(|name| format!("{ROOTS}/{name}"))) {
            let problem = format!("missing, though there is {name}");
            return Err(IdentityError::AuthorityFile { file: self.disk.path(INDEX), problem });
        }
        Ok(())
    }

    /// Where a root is now.
    fn find(&self, fingerprint: &str) -> PathBuf {
        let (visible, hidden) = (place(fingerprint), hidden(fingerprint));
        if !self.disk.has(&visible) && self.disk.has(&hidden) { hidden } else { visible }
    }

    /// All files, by their names in a directory that nothing interrupted.
    pub(super) fn files(&self) -> Result<Vec<AuthorityFile>, IdentityError> {
        let _lock = self.disk.lock_shared()?;
        let index = if self.disk.has(INDEX) { Some(self.disk.read(INDEX, Index::parse)?) } else { None };
        let top = if index.is_some() { vec![INDEX] } else { OLD.to_vec() };
        let mut found: Vec<_> =
            top.into_iter().map(|name| (PathBuf::from(name), PathBuf::from(name))).collect();
        for entry in index.iter().flat_map(|index| &index.entries) {
            let (from, to) = (self.find(&entry.fingerprint), place(&entry.fingerprint));
            found.extend([ROOT, ROOT_KEY, JWT_KEY].map(|name| (to.join(name), from.join(name))));
        }
        let read = |(to, from): (PathBuf, PathBuf)| {
            let content = self.disk.read(from, |text| Ok(text.as_bytes().to_vec()))?;
            Ok((to, Zeroizing::new(content)))
        };
        found.into_iter().filter(|(_, from)| self.disk.has(from)).map(read).collect()
    }
}

/// Whether a relative name is one that [`Directory::files`] may give.
pub(super) fn is_file(name: &Path) -> bool {
    let parts: Option<Vec<_>> = name.iter().map(|part| part.to_str()).collect();
    let is_place = |text: &str| text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
    match parts.as_deref() {
        Some([file]) => *file == INDEX || OLD.contains(file),
        Some([ROOTS, dir, ROOT | ROOT_KEY | JWT_KEY]) => is_place(dir),
        _ => false,
    }
}

fn only_authority(text: &str) -> Result<CertificateDer<'static>, IdentityError> {
    let mut certificates = pem::certificates(text)?;
    if certificates.len() > 1 {
        return Err(IdentityError::Bundle("it has several roots"));
    }
    let root = certificates.swap_remove(0);
    svid::check_authority(&root).map(|()| root)
}

fn place(fingerprint: &str) -> PathBuf {
    Path::new(ROOTS).join(begin(fingerprint))
}

fn hidden(fingerprint: &str) -> PathBuf {
    Path::new(ROOTS).join(format!(".{}", begin(fingerprint)))
}

fn begin(fingerprint: &str) -> &str {
    fingerprint.get(..DIGITS).unwrap_or(fingerprint)
}
