//! The certificate authority: roots that are the trust bundle, and an intermediate that signs.
//!
//! Two directories hold it (0600 in 0700). `dir` is shared by the control planes of a mesh: the roots with their roles and
//! keys ([`directory`]). `issuer_dir` is this control plane's: its own intermediate ([`issuer`]), made under the active
//! root. In place of it a user's own intermediate may be plugged in as files ([`plugged`]); its root is then one that has
//! no key here. Each change on disk is one of whole states, whenever the process is killed ([`disk`]); what is damaged
//! is refused with the name of the file, never replaced.
//!
//! Whoever signs reads one atomic pointer; changes of roots wait for each other, in this process and among others.
//! What a workload asks for is judged in [`request`]; how certificates look is in [`certify`], what signs under which root in
//! [`state`].

mod certify;
mod directory;
mod disk;
mod issuer;
mod plugged;
mod request;
mod signer;
mod state;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meshwork_model::spiffe::{SpiffeId, check_trust_domain};
use rcgen::PublicKeyData;

pub use directory::{AuthorityFile, Role};
pub use issuer::IssuerFacts;
pub use plugged::PluggedIntermediate;
pub use request::request_key_fingerprint;

use crate::{Bundle, IdentityError, JwtSvid, Key, Svid, jwt_svid, pem};
use certify::Validity;
use directory::{Change, Directory, Entry, Index, Loaded, Root};
use disk::Disk;
use plugged::Plugged;
use state::{Parts, State, first_roots, new_root, reconcile};

/// How long a workload's certificate lives where nobody says otherwise.
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
/// How long a control plane's own intermediate lives where nobody says otherwise.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_hours(90 * 24);
/// How long a root lives where nobody says otherwise.
pub const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Below it, an authority would spend its time on its own certificates.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(10);
/// After a failure to renew the intermediate while signing, the pause before the next try.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The directory of the intermediate, where it is in that of the authority.
const ISSUER: &str = "issuer";

/// A name beside the SPIFFE ID, for clients that compare host names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AlternativeName {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

/// What an authority is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorityOptions {
    /// The directory of the roots, which all control planes of a mesh share.
    pub dir: PathBuf,
    /// The directory of this control plane's own intermediate, and nobody else's.
    pub issuer_dir: PathBuf,
    /// The trust domain; fixed once the authority exists.
    pub trust_domain: String,
    /// An intermediate of the user's, in place of an own one.
    pub plugged: Option<PluggedIntermediate>,
    /// How long an own intermediate lives, if its root does; another is made at half of that.
    pub intermediate_lifetime: Duration,
    /// How long a root lives that is made here.
    pub root_lifetime: Duration,
}

/// A root that is trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootFacts {
    /// SHA-256 of the certificate, lowercase hexadecimal.
    pub fingerprint: String,
    /// Its serial number, lowercase hexadecimal without leading zeros.
    pub serial: String,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// What it is for.
    pub role: Role,
    /// Whether it came with a plugged-in intermediate, without its key.
    pub plugged: bool,
}

/// A certificate authority. Its calls block: they read and write files.
pub struct CertificateAuthority {
    options: AuthorityOptions,
    directory: Directory,
    issuer_disk: Disk,
    state: ArcSwap<State>,
    change: Mutex<Changing>,
}

/// What only those who change the authority need.
struct Changing {
    plugged: Option<Plugged>,
    /// No try to renew while signing before that.
    try_again: SystemTime,
}

impl CertificateAuthority {
    /// Opens an authority with its intermediate in its own directory, or makes one where there is none.
    ///
    /// # Errors
    /// As [`CertificateAuthority::open`].
    pub fn open_or_create(dir: &Path, trust_domain: &str) -> Result<Self, IdentityError> {
        Self::open(AuthorityOptions {
            dir: dir.to_owned(),
            issuer_dir: dir.join(ISSUER),
            trust_domain: trust_domain.to_owned(),
            plugged: None,
            intermediate_lifetime: INTERMEDIATE_LIFETIME,
            root_lifetime: ROOT_LIFETIME,
        })
    }

    /// Opens an authority, makes one where its directory is missing or empty, or takes over one of the layout before.
    ///
    /// # Errors
    /// A file that is missing or damaged, by name; files in the directory that are not an authority's; another trust
    /// domain; a plugged-in intermediate that is not good, or leads to a root that nobody trusts yet.
    pub fn open(options: AuthorityOptions) -> Result<Self, IdentityError> {
        let (directory, issuer_disk) = (Disk::new(&options.dir), Disk::new(&options.issuer_dir));
        Self::open_on(options, Directory { disk: directory }, issuer_disk)
    }

    fn open_on(
        options: AuthorityOptions,
        directory: Directory,
        issuer_disk: Disk,
    ) -> Result<Self, IdentityError> {
        check_trust_domain(&options.trust_domain).map_err(|_| {
            IdentityError::Bundle("its trust domain has a character outside a-z, 0-9, '.', '-', '_'")
        })?;
        if options.intermediate_lifetime.min(options.root_lifetime) < SHORTEST_LIFETIME {
            return Err(IdentityError::Lifetime("roots and intermediates must live for 10 seconds at least"));
        }
        let now = SystemTime::now();
        let load = |files: &PluggedIntermediate| files.load(&files.read()?, &options.trust_domain, now);
        let plugged = options.plugged.as_ref().map(load).transpose()?;
        let mut loaded =
            directory.open(&options.trust_domain, || first_roots(&options, plugged.as_ref(), now))?;
        if reconcile(loaded.index.clone(), plugged.as_ref())?.is_some() {
            loaded = directory.change(|index| reconcile(index, plugged.as_ref()))?;
        }
        let issuer = Parts { options: &options, directory: &directory, disk: &issuer_disk, now }.issuer(
            &loaded,
            plugged.as_ref(),
            None,
        )?;
        let state = ArcSwap::from_pointee(State::new(loaded, issuer)?);
        let change = Mutex::new(Changing { plugged, try_again: now });
        Ok(Self { options, directory, issuer_disk, state, change })
    }

    /// The trust bundle: all roots, the active one first, and the keys that sign tokens.
    pub fn bundle(&self) -> Bundle {
        self.state.load().bundle.clone()
    }

    /// All roots, the active one first.
    pub fn roots(&self) -> Vec<RootFacts> {
        let state = self.state.load();
        let facts = |(root, entry): (&Arc<Root>, &Entry)| RootFacts {
            fingerprint: root.fingerprint.clone(),
            serial: root.serial.clone(),
            not_before: root.not_before,
            not_after: root.not_after,
            role: entry.role,
            plugged: entry.plugged,
        };
        state.roots.iter().zip(&state.index.entries).map(facts).collect()
    }

    /// What signs.
    pub fn issuer(&self) -> IssuerFacts {
        self.state.load().issuer.facts().clone()
    }

    /// Adds a root that nothing is signed under yet, and gives its fingerprint; that of the next root, where there is one.
    ///
    /// # Errors
    /// The mesh's roots come from the user's files; files that cannot be written.
    pub fn add_root(&self) -> Result<String, IdentityError> {
        let mut changing = self.lock();
        self.look_again(&mut changing)?;
        let lead = changing.plugged.as_ref().map(|plugged| plugged.issuer.facts().root.clone());
        let mut next = None;
        let loaded = self.directory.change(|index| {
            let of_next = index.entries.iter().filter(|entry| entry.role == Role::Next);
            if let Some(found) = of_next.max_by_key(|entry| lead.as_ref() == Some(&entry.fingerprint)) {
                next = Some(found.fingerprint.clone());
                return Ok(None);
            }
            if lead.is_some() {
                return Err(self.of_files("put the new root beside the old one into"));
            }
            let root = new_root(&self.options, Role::Next, SystemTime::now())?;
            let entry = root.entry();
            next = Some(entry.fingerprint.clone());
            let entries = index.entries.into_iter().chain([entry]).collect();
            Ok(Some(Change { index: Index { entries, ..index }.sorted(), added: vec![root] }))
        })?;
        self.adopt(&changing, loaded)?;
        Ok(next.unwrap_or_default())
    }

    /// Makes the next root `to` the active one; the one that was is still trusted. Nothing is done where that is so.
    ///
    /// # Errors
    /// `to` is not the next root; no intermediate of it can be had.
    pub fn switch(&self, to: &str) -> Result<(), IdentityError> {
        self.activate(to, Role::Next, Role::Previous)
    }

    /// Makes the previous root `to` the active one again; the one that was is next. Nothing is done where that is so.
    ///
    /// # Errors
    /// `to` is not a previous root; no intermediate of it can be had.
    pub fn switch_back(&self, to: &str) -> Result<(), IdentityError> {
        self.activate(to, Role::Previous, Role::Next)
    }

    /// Ends the trust in a previous root, for ever. Nothing is done where it is gone.
    ///
    /// # Errors
    /// It is active or next; it is in the user's file of roots.
    pub fn remove_previous(&self, root: &str) -> Result<(), IdentityError> {
        let mut changing = self.lock();
        self.look_again(&mut changing)?;
        let is_listed = changing.plugged.as_ref().is_some_and(|plugged| plugged.lists(root));
        self.remove(&changing, root, Role::Previous, || {
            if is_listed { Err(self.of_files("take the previous root out of")) } else { Ok(true) }
        })
    }

    /// Takes a next root back, under which nothing was signed. Nothing is done where it is gone, and to one that is in the
    /// user's file of roots, which decides.
    ///
    /// # Errors
    /// It is active or previous.
    pub fn withdraw_next(&self, root: &str) -> Result<(), IdentityError> {
        let mut changing = self.lock();
        self.look_again(&mut changing)?;
        let is_listed = changing.plugged.as_ref().is_some_and(|plugged| plugged.lists(root));
        self.remove(&changing, root, Role::Next, || Ok(!is_listed))
    }

    /// Takes in what others changed (roots, by another control plane; the files of a plugged-in intermediate), and renews
    /// the own intermediate where it is due. Tells whether roots or issuer are others now.
    ///
    /// # Errors
    /// What could not be taken in, or renewed; then what was before stays, and signs on for as long as it is valid.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let mut changing = self.lock();
        let before = self.state.load_full();
        let looked = self.look_again(&mut changing);
        let renewed = self.renew(&changing, SystemTime::now());
        let after = self.state.load();
        looked.and(renewed)?;
        Ok(before.text != after.text || before.issuer.facts() != after.issuer.facts())
    }

    /// Makes another own intermediate in place of the one with this serial number, which is not to sign any more: it is
    /// revoked. Tells whether that was the one that signs.
    ///
    /// # Errors
    /// It is plugged in, and the user's to replace; the root's key cannot be read, or files cannot be written.
    pub fn replace_intermediate(&self, serial: &str) -> Result<bool, IdentityError> {
        let changing = self.lock();
        let facts = self.issuer();
        if facts.serial != serial {
            return Ok(false);
        }
        if facts.plugged {
            let file = self.options.plugged.as_ref().map(|files| files.certificate.clone());
            let problem = "revoked; put another one in its place, with its key".to_owned();
            return Err(IdentityError::Plugged { file: file.unwrap_or_default(), problem });
        }
        self.make_intermediate(&changing, SystemTime::now()).map(|()| true)
    }

    /// Signs the public key of a request for an identity that the caller has proven; gives the chain as PEM text,
    /// the workload's certificate first, without the root.
    ///
    /// Nothing else is taken from the request, and one that asks for what is not given is refused. The certificate begins
    /// 60 s ago and ends after `lifetime`, or with the authority itself.
    ///
    /// # Errors
    /// A request that does not parse, whose signature is wrong, whose key is weak or of an unknown kind, or that asks for
    /// another identity than `id`, for other names than `extra`, to be an authority, or for other usages; an identity of
    /// another trust domain; an authority that has expired.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<String, IdentityError> {
        let public_key = request::public_key(csr_pem, id, extra)?;
        self.sign_key(&public_key, id, lifetime, extra)
    }

    /// Makes a key and signs it: for the process that holds the authority.
    ///
    /// # Errors
    /// An identity of another trust domain; an authority that has expired.
    pub fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<Svid, IdentityError> {
        let key = Key::generate()?;
        let chain = key.with_pair(|pair| self.sign_key(pair, id, lifetime, extra))?;
        Svid::from_pem(&chain, key)
    }

    /// Signs a token for an identity that the caller has proven, by the key beside the active root. It ends after `lifetime`,
    /// or with that root.
    ///
    /// # Errors
    /// An identity of another trust domain; no audience, too many or too long ones; a lifetime of less than a second; an
    /// authority that has expired.
    pub fn sign_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        lifetime: Duration,
    ) -> Result<JwtSvid, IdentityError> {
        self.check_own(id)?;
        let (now, state) = (SystemTime::now(), self.state.load());
        let root = state.active()?;
        let end = Validity::until(now, lifetime, Some(root.not_after))?.not_after;
        jwt_svid::sign(&root.jwt, id, audience, now, end.duration_since(now).unwrap_or_default())
    }

    /// All files of the authority in a directory, for a backup: consistent, by relative name. They hold private keys.
    ///
    /// # Errors
    /// The directory is busy, or a file cannot be read.
    pub fn files(dir: &Path) -> Result<Vec<AuthorityFile>, IdentityError> {
        Directory { disk: Disk::new(dir) }.files()
    }

    /// Whether a relative name is that of a file of an authority, of this layout or the one before.
    pub fn is_file(name: &Path) -> bool {
        directory::is_file(name)
    }

    fn sign_key(
        &self,
        public_key: &impl PublicKeyData,
        id: &SpiffeId,
        lifetime: Duration,
        extra: &[AlternativeName],
    ) -> Result<String, IdentityError> {
        self.check_own(id)?;
        self.renew_while_signing();
        let chain = self.state.load().issuer.sign(public_key, id, lifetime, extra)?;
        Ok(pem::encode_certificates(&chain))
    }

    fn check_own(&self, id: &SpiffeId) -> Result<(), IdentityError> {
        if id.trust_domain() == self.options.trust_domain {
            return Ok(());
        }
        Err(IdentityError::TrustDomain {
            id: id.to_string(),
            trust_domain: self.options.trust_domain.clone(),
        })
    }

    /// Renews the own intermediate where that is overdue, whoever should have done so: a clock may have jumped. What fails
    /// keeps nobody from signing while the intermediate is valid.
    fn renew_while_signing(&self) {
        let now = SystemTime::now();
        if !self.is_due(&self.state.load(), now) {
            return;
        }
        let Ok(mut changing) = self.change.try_lock() else { return };
        if now < changing.try_again && changing.try_again < now + TRY_AGAIN {
            return;
        }
        changing.try_again = now + TRY_AGAIN;
        // Who calls `refresh` is told the same.
        drop(self.renew(&changing, now));
    }

    fn is_due(&self, state: &State, now: SystemTime) -> bool {
        let Ok(root) = state.active() else { return false };
        !state.issuer.facts().plugged
            && state.issuer.is_due(now, self.options.intermediate_lifetime, root.not_after)
    }

    fn renew(&self, held: &Changing, now: SystemTime) -> Result<(), IdentityError> {
        if self.is_due(&self.state.load(), now) { self.make_intermediate(held, now) } else { Ok(()) }
    }

    /// Makes another own intermediate, and signs by it from then on.
    fn make_intermediate(&self, _held: &Changing, now: SystemTime) -> Result<(), IdentityError> {
        let state = self.state.load_full();
        let root = state.active()?;
        let key = self.directory.root_key(&root.fingerprint)?;
        let issuer = self.parts(now).own().make(root, &key)?;
        self.state.store(Arc::new(State { issuer: Arc::new(issuer), ..State::clone(&state) }));
        Ok(())
    }

    /// Reads the shared directory and the plugged-in files again, where they have changed.
    fn look_again(&self, changing: &mut Changing) -> Result<(), IdentityError> {
        if let Some(loaded) = self.directory.reload(&self.state.load().text)? {
            self.adopt(changing, loaded)?;
        }
        let Some(files) = &self.options.plugged else { return Ok(()) };
        let texts = files.read()?;
        if changing.plugged.as_ref().is_some_and(|plugged| plugged.digest == texts.digest) {
            return Ok(());
        }
        let plugged = files.load(&texts, &self.options.trust_domain, SystemTime::now())?;
        let loaded = self.directory.change(|index| reconcile(index, Some(&plugged)))?;
        changing.plugged = Some(plugged);
        self.adopt(changing, loaded)
    }

    /// Puts in place what is on disk now.
    fn adopt(&self, changing: &Changing, loaded: Loaded) -> Result<(), IdentityError> {
        let state = self.state.load();
        let issuer =
            self.parts(SystemTime::now()).issuer(&loaded, changing.plugged.as_ref(), Some(&state.issuer))?;
        self.state.store(Arc::new(State::new(loaded, issuer)?));
        Ok(())
    }

    fn activate(&self, to: &str, from_role: Role, to_role: Role) -> Result<(), IdentityError> {
        let mut changing = self.lock();
        self.look_again(&mut changing)?;
        let state = self.state.load_full();
        let entry = self.entry(&state.index, to, &[from_role, Role::Active])?;
        if entry.role == Role::Active {
            return Ok(());
        }
        // Before anything is changed: what cannot sign is not switched to.
        self.check_can_sign(&changing, &state, entry)?;
        let loaded = self.directory.change(|index| {
            if self.entry(&index, to, &[from_role, Role::Active])?.role == Role::Active {
                return Ok(None);
            }
            let active = index.active().map(|entry| entry.fingerprint.clone()).unwrap_or_default();
            Ok(Some(index.with_role(&active, to_role).with_role(to, Role::Active).into()))
        })?;
        self.adopt(&changing, loaded)
    }

    fn check_can_sign(&self, changing: &Changing, state: &State, entry: &Entry) -> Result<(), IdentityError> {
        let root = state.root(&entry.fingerprint)?;
        if changing.plugged.as_ref().is_some_and(|plugged| plugged.issuer.facts().root == root.fingerprint) {
            return Ok(());
        }
        if entry.plugged {
            return Err(self.of_files(
                "put certificate and key of an intermediate under the next root in place; that root is in",
            ));
        }
        self.directory.root_key(&root.fingerprint)?;
        let now = SystemTime::now();
        Validity::until(now, self.options.intermediate_lifetime, Some(root.not_after)).map(drop)
    }

    /// The entry of a root that must have one of these roles.
    fn entry<'i>(&self, index: &'i Index, root: &str, roles: &[Role]) -> Result<&'i Entry, IdentityError> {
        let found = index.of(root);
        let wrong = |problem: String| IdentityError::Root { fingerprint: root.to_owned(), problem };
        match found {
            None => Err(wrong(format!("none of the roots in {}", self.options.dir.display()))),
            Some(entry) if roles.contains(&entry.role) => Ok(entry),
            Some(entry) => Err(wrong(format!(
                "the {} one, and must be the {} one for that",
                entry.role.name(),
                roles.first().map_or("", |role| role.name())
            ))),
        }
    }

    fn remove(
        &self,
        changing: &Changing,
        root: &str,
        role: Role,
        may: impl FnOnce() -> Result<bool, IdentityError>,
    ) -> Result<(), IdentityError> {
        let loaded = self.directory.change(|index| {
            if index.of(root).is_none() {
                return Ok(None);
            }
            self.entry(&index, root, &[role])?;
            Ok(may()?.then(|| index.without(root).into()))
        })?;
        self.adopt(changing, loaded)
    }

    /// What must be done with the user's file of roots, in words.
    fn of_files(&self, what: &str) -> IdentityError {
        let file = self.options.plugged.as_ref().map(|files| files.root.clone()).unwrap_or_default();
        IdentityError::PluggedRoots { what: what.to_owned(), file }
    }

    fn parts(&self, now: SystemTime) -> Parts<'_> {
        Parts { options: &self.options, directory: &self.directory, disk: &self.issuer_disk, now }
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        // Whoever panicked while holding it left whole files, and the state that they had.
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A serial number as it is compared: without leading zeros.
fn short_serial(serial: &str) -> String {
    serial.trim_start_matches('0').to_owned()
}

/// Lowercase hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
