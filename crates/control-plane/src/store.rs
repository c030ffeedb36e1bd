//! What outlives the control plane: join tokens, enrolments, leases and virtual addresses, beside its config: in one
//! `SQLite` file, or in an etcd that several control planes share.
//!
//! An address stays with its name for ever, whether the name is in use or not, and no number is given twice: who holds
//! an address of what is gone reaches nobody else with it.
//!
//! Written by enrolment, by each change of config, and by `meshwork token create`, which may run beside the control plane; read at its start.
//! Tokens are kept as hashes only. A token is consumed in the transaction that stores the certificate it bought, so
//! that a crash in between loses neither: a client that asks again with the same key gets the same certificate.
//!
//! Calls block, for as long as a write to disk takes: async code calls them on a blocking thread.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshwork_identity::files;
use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{Key, Labels, Workload};
use meshwork_model::spiffe::SpiffeId;
use sha2::{Digest, Sha256};

use crate::addresses::{Addressee, Addresses};
pub use kv::KvError;
use kv::{Keys, Kv, Operation, Outcome, Revision, Transaction};
pub(crate) use records::hex;
use records::{
    ENROLMENTS, LAST_ADDRESS, LEASES, TOKENS, Token, Used, address_key, enrolment_key, lease_key, token_key,
};
pub(crate) use records::{Lease, SHARED, Shared};

pub mod backup;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
mod file;
mod form;
pub(crate) mod kv;
mod records;
pub(crate) mod sqlite;

/// The store.
#[derive(Debug)]
pub struct Store {
    kv: Arc<dyn Kv>,
    /// This control plane's name.
    replica: Arc<str>,
    /// Addresses that were given: they never change.
    known: Mutex<Addresses>,
}

/// Whom a join token lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Namespace of the workload.
    pub namespace: String,
    /// Its service account, the last part of its identity.
    pub service_account: String,
    /// Its name.
    pub workload: String,
    /// Its labels: selectors look at these.
    pub labels: Labels,
    /// How long the token may be used.
    pub ttl: Duration,
}

/// A workload that has enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Namespace and name.
    pub workload: Key,
    /// The service account, which the identity is made of.
    pub service_account: String,
    /// The labels of its token.
    pub labels: Labels,
}

/// Why the store fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the file cannot be made or opened.
    #[error("the store {path} cannot be opened: {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The file is damaged.
    #[error(
        "the store {path} is damaged ({why}); restore it from a copy, or remove it: workloads then need new tokens"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `SQLite`'s words.
        why: String,
    },
    /// The file was written by a later version of the program.
    #[error(
        "the store {path} has version {found}, and this program knows version {known}; use the newer program"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file belongs to another program.
    #[error("{path} is a SQLite file, but not a store of this program")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A read or write failed.
    #[error("the store {path} failed: {why}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// `SQLite`'s words.
        why: String,
    },
    /// The store does not answer, or not as it should.
    #[error("the store failed: {0}")]
    Unavailable(String),
    /// A token is asked for a workload that could have no identity, or no name.
    #[error("{0}")]
    Request(String),
    /// There are too many tokens that nobody used.
    #[error("there are {MAX_TOKENS} tokens waiting to be used; wait until some expire")]
    TooManyTokens,
}

/// Why a token is not honoured. The client is told no more than that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is no such token.
    #[error("there is no such token")]
    Unknown,
    /// It is too late for it.
    #[error("the token has expired")]
    Expired,
    /// It was used with another key.
    #[error("the token is used already")]
    Used,
}

/// Why a token did not become a certificate.
#[derive(Debug)]
pub(crate) enum RedeemError<E> {
    Store(StoreError),
    Token(TokenError),
    Sign(E),
}

/// Opens what config is kept in: etcd, where members of it are named, or the file in the state directory.
///
/// # Errors
/// The file or etcd cannot be used, or this program is made without etcd.
pub(crate) fn open_kv(state: &Path, etcd: &[String]) -> Result<Arc<dyn Kv>, KvError> {
    if etcd.is_empty() {
        return Ok(Arc::new(sqlite::Sqlite::open(state)?));
    }
    #[cfg(feature = "etcd")]
    return Ok(Arc::new(etcd::Etcd::open(etcd)?));
    #[cfg(not(feature = "etcd"))]
    Err(KvError::Unavailable("this program is made without etcd: build it with `--features etcd`".to_owned()))
}

/// Tokens that wait to be used; more would be a script gone wild.
const MAX_TOKENS: usize = 10_000;
/// How long a token is kept behind its end, to tell "expired" and "used" from "unknown".
const KEEP_TOKENS: Duration = Duration::from_hours(24);
/// How many tokens are forgotten at once, so that a transaction stays small.
const MAX_FORGOTTEN: usize = 64;
/// How often addresses are given anew where another control plane came before.
const MAX_TRIES: usize = 10;
/// The file with the members of the etcd that a control plane runs with.
const ETCD: &str = "etcd";
/// Digits of a control plane's name.
const REPLICA_DIGITS: usize = 12;
/// The longest time a token may be used.
const MAX_TTL: Duration = Duration::from_hours(24 * 30);
/// Begins every token, so that scanners for leaked secrets can know it.
const TOKEN_PREFIX: &str = "mwt_";

/// The names that have an address, those that are gone among them: 50 MB of file, and years of new names by the hundred
/// a day.
const MAX_ADDRESSES: u32 = 1_000_000;

impl Store {
    /// Opens the store of a control plane whose state is in a directory; makes both if they are absent, for their owner
    /// alone.
    ///
    /// # Errors
    /// The directory cannot be used, or the file is damaged, foreign or newer.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_shared(dir, &[])
    }

    /// Opens the store of a control plane, which may be in an etcd: its members, as URLs. Where none are named, those
    /// that the control plane was run with last.
    ///
    /// # Errors
    /// As [`Store::open`], or etcd does not answer, or this program is made without it.
    pub fn open_shared(dir: &Path, etcd: &[String]) -> Result<Self, StoreError> {
        let remembered = if etcd.is_empty() { remembered_etcd(dir) } else { etcd.to_vec() };
        Self::on(open_kv(dir, &remembered)?, dir)
    }

    /// The store on what is open already.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn on(kv: Arc<dyn Kv>, dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { kv, replica: replica(dir)?.into(), known: Mutex::default() })
    }

    /// The name of this control plane among those that share the store.
    pub(crate) fn replica(&self) -> &str {
        &self.replica
    }

    /// Makes a join token; only its hash is kept.
    ///
    /// # Errors
    /// The request names what can be no workload, or the store fails.
    pub fn create_token(&self, request: &TokenRequest) -> Result<String, StoreError> {
        check_request(request)?;
        let token = random_token(TOKEN_PREFIX).map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let now = unix_now();
        let (mut operations, mut waiting) = (Vec::new(), 0);
        for entry in self.kv.read(Keys::Under(TOKENS), None)?.entries {
            let Some(kept) = Token::from_text(&entry.value) else { continue };
            if kept.expires_at < now - seconds(KEEP_TOKENS) && operations.len() < MAX_FORGOTTEN {
                operations.push(Operation::Delete { key: entry.key });
            } else if kept.used.is_none() && kept.expires_at > now {
                waiting += 1;
            }
        }
        if waiting >= MAX_TOKENS {
            return Err(StoreError::TooManyTokens);
        }
        let value = Token::new(request, now + seconds(request.ttl)).to_text();
        operations.push(Operation::Put { key: token_key(&hash(token.as_bytes())), value });
        self.kv.commit(&Transaction { operations, ..Transaction::default() })?;
        Ok(token)
    }

    /// Exchanges a token for a certificate: `sign` makes it for the workload of the token.
    ///
    /// `public_key` is the key that the certificate is for; the same token with the same key gives the same
    /// certificate again. The token is used up, and the workload enrolled, only once the certificate is made.
    ///
    /// # Errors
    /// The store, the token, or `sign`.
    pub(crate) fn redeem<E>(
        &self,
        token: &str,
        public_key: &[u8],
        sign: impl FnOnce(&Enrolment) -> Result<String, E>,
    ) -> Result<String, RedeemError<E>> {
        let failed = |e: KvError| RedeemError::Store(e.into());
        let (token, key) = (token_key(&hash(token.as_bytes())), hex(&hash(public_key)));
        let (mut kept, modified) = match self.token::<E>(&token, &key)? {
            Found::Bought(certificate) => return Ok(certificate),
            Found::Good(kept, modified) => (kept, modified),
        };
        let enrolment = kept.enrolment();
        let certificate = sign(&enrolment).map_err(RedeemError::Sign)?;
        kept.used = Some(Used { key: key.clone(), certificate: certificate.clone() });
        let operations = vec![
            Operation::Put { key: token.clone(), value: kept.to_text() },
            Operation::Put {
                key: enrolment_key(&enrolment.workload),
                value: records::enrolment_to_text(&enrolment, unix_now()),
            },
        ];
        let expected = vec![(token.clone(), modified)];
        match self.kv.commit(&Transaction { expected, operations }).map_err(failed)? {
            Outcome::Committed(_) => Ok(certificate),
            // Somebody else was faster: with another key, or this one.
            Outcome::Conflict => match self.token::<E>(&token, &key)? {
                Found::Bought(certificate) => Ok(certificate),
                Found::Good(..) => Err(RedeemError::Store(StoreError::Unavailable(
                    "the token has changed; ask again".to_owned(),
                ))),
            },
        }
    }

    fn token<E>(&self, token: &str, key: &str) -> Result<Found, RedeemError<E>> {
        let found = self.kv.read(Keys::One(token), None).map_err(|e| RedeemError::Store(e.into()))?;
        let entry = found.entries.first().ok_or(TokenError::Unknown)?;
        let kept = Token::from_text(&entry.value).ok_or(TokenError::Unknown)?;
        match kept.used {
            Some(used) if used.key == key => Ok(Found::Bought(used.certificate)),
            Some(_) => Err(TokenError::Used.into()),
            None if kept.expires_at <= unix_now() => Err(TokenError::Expired.into()),
            None => Ok(Found::Good(kept, entry.modified)),
        }
    }

    /// All enrolments.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn enrolments(&self) -> Result<Vec<Enrolment>, StoreError> {
        let found = self.kv.read(Keys::Under(ENROLMENTS), None)?;
        Ok(found.entries.iter().filter_map(|e| records::enrolment_from_text(&e.value)).collect())
    }

    /// Ends leases, but those that another control plane holds by now, and keeps others as held by this one.
    ///
    /// # Errors
    /// The store fails; some may be done then.
    pub(crate) fn move_leases(&self, ended: &[Key], taken: &[Arc<Workload>]) -> Result<(), StoreError> {
        for some in ended.chunks(self.kv.max_operations() / 2) {
            // What another one takes over meanwhile is not ours to end; then the others are ended one by one.
            if self.end_leases(some)? == Outcome::Conflict {
                some.iter().try_for_each(|key| self.end_leases(std::slice::from_ref(key)).map(drop))?;
            }
        }
        for some in taken.chunks(self.kv.max_operations()) {
            let put = |workload: &Arc<Workload>| Operation::Put {
                key: lease_key(&workload.key),
                value: Lease::to_text(workload, &self.replica),
            };
            let operations = some.iter().map(put).collect();
            self.kv.commit(&Transaction { operations, ..Transaction::default() })?;
        }
        Ok(())
    }

    fn end_leases(&self, ended: &[Key]) -> Result<Outcome, KvError> {
        let mut write = Transaction::default();
        for workload in ended {
            let key = lease_key(workload);
            let found = self.kv.read(Keys::One(&key), None)?;
            let Some(entry) = found.entries.first() else { continue };
            if Lease::from_text(&entry.value).is_none_or(|lease| self.is_own(&lease)) {
                write.expected.push((key.clone(), entry.modified));
                write.operations.push(Operation::Delete { key });
            }
        }
        self.kv.commit(&write)
    }

    /// Whether a lease is held by this control plane, or was before it was run anew.
    pub(crate) fn is_own(&self, lease: &Lease) -> bool {
        lease.replica.is_empty() || *lease.replica == *self.replica
    }

    /// All leases that this control plane holds, or held before it was run anew, which are all where it shares the store with
    /// nobody; one that cannot be read is left out.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn own_leases(&self) -> Result<Vec<Workload>, StoreError> {
        let is_own = |lease: &Lease| !self.kv.is_shared() || self.is_own(lease);
        let leases = self.leases()?.into_iter().filter(is_own);
        Ok(leases.map(|lease| lease.workload).collect())
    }

    /// How many workloads are there, or were when a control plane was last heard of.
    ///
    /// # Errors
    /// The store fails.
    pub fn lease_count(&self) -> Result<usize, StoreError> {
        Ok(self.leases()?.len())
    }

    fn leases(&self) -> Result<Vec<Lease>, KvError> {
        let found = self.kv.read(Keys::Under(LEASES), None)?;
        Ok(found.entries.iter().filter_map(|entry| Lease::from_text(&entry.value)).collect())
    }

    /// All that control planes tell of workloads, and the revision of which it is.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn shared(&self) -> Result<(Vec<Shared>, Revision), KvError> {
        let found = self.kv.read(Keys::Under(SHARED), None)?;
        Ok((found.entries.iter().filter_map(Shared::of_entry).collect(), found.revision))
    }

    /// The virtual addresses of these names; one that has none yet is given the next number, while there are any.
    ///
    /// # Errors
    /// The store fails; names that were given one before that keep it.
    pub(crate) fn addresses(&self, names: &[Addressee]) -> Result<Addresses, StoreError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let lacking: BTreeSet<&Addressee> = names.iter().filter(|name| !known.contains_key(*name)).collect();
        let lacking: Vec<&Addressee> = lacking.into_iter().collect();
        // A transaction has a name's key twice, and the last number's.
        for some in lacking.chunks(self.kv.max_operations() / 2) {
            self.give(some, &mut known)?;
        }
        Ok(names.iter().filter_map(|name| Some((name.clone(), *known.get(name)?))).collect())
    }

    /// Gives numbers to names that have none; those that have one by another control plane are learnt.
    fn give(&self, names: &[&Addressee], known: &mut Addresses) -> Result<(), KvError> {
        for _ in 0..MAX_TRIES {
            let last = self.kv.read(Keys::One(LAST_ADDRESS), None)?;
            let (mut number, modified) = last.entries.first().map_or((0, 0), |entry| {
                // What is no number is as good as used up: none is given twice.
                (entry.value.parse().unwrap_or(MAX_ADDRESSES), entry.modified)
            });
            let mut write =
                Transaction { expected: vec![(LAST_ADDRESS.to_owned(), modified)], operations: Vec::new() };
            let mut given = Addresses::new();
            for name in names.iter().filter(|name| !known.contains_key(**name)) {
                let Some(address) = VirtualAddress::of_number(number + 1).filter(|_| number < MAX_ADDRESSES)
                else {
                    break;
                };
                number += 1;
                let key = address_key(name);
                write.expected.push((key.clone(), 0));
                write.operations.push(Operation::Put { key, value: number.to_string() });
                given.insert((*name).clone(), address);
            }
            if given.is_empty() {
                return Ok(());
            }
            write.operations.push(Operation::Put { key: LAST_ADDRESS.to_owned(), value: number.to_string() });
            match self.kv.commit(&write)? {
                Outcome::Committed(_) => {
                    known.extend(given);
                    return Ok(());
                }
                Outcome::Conflict => self.learn(names, known)?,
            }
        }
        Err(KvError::Unavailable("others give addresses at the same time".to_owned()))
    }

    /// Reads the addresses that these names have already.
    fn learn(&self, names: &[&Addressee], known: &mut Addresses) -> Result<(), KvError> {
        for name in names {
            let found = self.kv.read(Keys::One(&address_key(name)), None)?;
            let number = found.entries.first().and_then(|entry| entry.value.parse().ok());
            if let Some(address) = number.and_then(VirtualAddress::of_number) {
                known.insert((*name).clone(), address);
            }
        }
        Ok(())
    }
}

/// A token that is asked with.
enum Found {
    /// It was used with the same key, for this.
    Bought(String),
    /// It may be used; when it was changed last.
    Good(Token, Revision),
}

impl<E> From<TokenError> for RedeemError<E> {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<KvError> for StoreError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::File(error) => error,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// Notes which etcd a control plane runs with, for the commands that are told its state directory only.
///
/// # Errors
/// The note cannot be written.
pub(crate) fn remember_etcd(dir: &Path, etcd: &[String]) -> Result<(), StoreError> {
    let path = dir.join(ETCD);
    let fail = |why: &dyn std::fmt::Display| StoreError::Open { path: path.clone(), why: why.to_string() };
    if !etcd.is_empty() {
        return files::write_private(&path, etcd.join(",").as_bytes()).map_err(|e| fail(&e));
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(&error)),
        _ => Ok(()),
    }
}

fn remembered_etcd(dir: &Path) -> Vec<String> {
    let note = std::fs::read_to_string(dir.join(ETCD)).unwrap_or_default();
    note.trim().split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

/// The name of a control plane, which stays with its state.
fn replica(dir: &Path) -> Result<String, StoreError> {
    let path = dir.join("replica");
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        _ => {}
    }
    let fail = |why: &dyn std::fmt::Display| StoreError::Open { path: path.clone(), why: why.to_string() };
    let name = random_token("").map_err(|e| fail(&e))?;
    let name = name.get(..REPLICA_DIGITS).unwrap_or(&name);
    files::create_private_dir(dir).map_err(|e| fail(&e))?;
    files::write_private(&path, name.as_bytes()).map_err(|e| fail(&e))?;
    Ok(name.to_owned())
}

impl Enrolment {
    /// The identity of the workload; `None` where the names can be no SPIFFE ID.
    pub fn identity(&self, trust_domain: &str) -> Option<SpiffeId> {
        SpiffeId::workload(trust_domain, &self.workload.namespace, &self.service_account).ok()
    }
}

fn check_request(request: &TokenRequest) -> Result<(), StoreError> {
    let refuse = |message: String| Err(StoreError::Request(message));
    let names = [
        ("namespace", &request.namespace),
        ("service account", &request.service_account),
        ("workload", &request.workload),
    ];
    for (what, name) in names {
        if !crate::ingest::is_label(name) {
            return refuse(format!(
                "\"{name}\" is not a name of a {what}: use a-z, 0-9 and '-', with a letter or digit at both ends"
            ));
        }
    }
    if request.namespace == crate::SYSTEM_NAMESPACE {
        return refuse(format!("the namespace {} belongs to the control plane", crate::SYSTEM_NAMESPACE));
    }
    if request.ttl.is_zero() || request.ttl > MAX_TTL {
        return refuse("a token lives from one second to 30 days".to_owned());
    }
    Ok(())
}

/// A prefix with 256 bits from the kernel, in hexadecimal.
pub(crate) fn random_token(prefix: &str) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{prefix}{}", hex(&bytes)))
}

/// SHA-256, by which tokens are kept.
pub(crate) fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn unix_now() -> i64 {
    seconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
