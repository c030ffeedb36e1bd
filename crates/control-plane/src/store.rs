//! What outlives the control plane: join tokens, enrolments, leases and virtual addresses, in one `SQLite` file.
//!
//! An address stays with its name for ever, whether the name is in use or not, and no number is given twice: who holds
//! an address of what is gone reaches nobody else with it.
//!
//! Written by enrolment, by each change of config, and by `meshwork token create`, which may run beside the control plane; read at its start.
//! Tokens are kept as hashes only. A token is consumed in the transaction that stores the certificate it bought, so
//! that a crash in between loses neither: a client that asks again with the same key gets the same certificate.
//!
//! Calls block, for as long as a write to disk takes: async code calls them on a blocking thread.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{Key, Labels, Workload};
use meshwork_model::spiffe::SpiffeId;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use crate::addresses::{Addressee, Addresses};

mod form;

/// The store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
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

/// The file in the state directory.
const FILE: &str = "meshwork.db";
/// Marks our files: "mesh".
const APPLICATION_ID: i64 = 0x6d65_7368;
/// How long another process may hold the file: one transaction of ours is milliseconds.
const BUSY: Duration = Duration::from_secs(5);
/// Tokens that wait to be used; more would be a script gone wild.
const MAX_TOKENS: i64 = 10_000;
/// How long a token is kept behind its end, to tell "expired" and "used" from "unknown".
const KEEP_TOKENS: Duration = Duration::from_hours(24);
/// The longest time a token may be used.
const MAX_TTL: Duration = Duration::from_hours(24 * 30);
/// Begins every token, so that scanners for leaked secrets can know it.
const TOKEN_PREFIX: &str = "mwt_";

/// The names that have an address, those that are gone among them: 50 MB of file, and years of new names by the hundred
/// a day.
const MAX_ADDRESSES: u32 = 1_000_000;

/// What makes each version of the schema from the one before it.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE tokens (
        hash BLOB PRIMARY KEY, namespace TEXT NOT NULL, service_account TEXT NOT NULL, workload TEXT NOT NULL,
        labels TEXT NOT NULL, expires_at INTEGER NOT NULL, used_key BLOB, certificate TEXT
    ) STRICT;
    CREATE TABLE enrolments (
        namespace TEXT NOT NULL, workload TEXT NOT NULL, service_account TEXT NOT NULL, labels TEXT NOT NULL,
        enrolled_at INTEGER NOT NULL, PRIMARY KEY (namespace, workload)
    ) STRICT;
    CREATE TABLE leases (
        namespace TEXT NOT NULL, workload TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (namespace, workload)
    ) STRICT;
    ",
    // AUTOINCREMENT gives no number twice, not even that of a row that is gone.
    "
    CREATE TABLE addresses (number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE) STRICT;
    ",
];
/// The version of the schema: that which the last step makes.
#[expect(clippy::cast_possible_wrap, reason = "a handful")]
const VERSION: i64 = MIGRATIONS.len() as i64;

impl Store {
    /// Opens the store in a state directory; makes both if they are absent, for their owner alone.
    ///
    /// # Errors
    /// The directory cannot be used, or the file is damaged, foreign or newer.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let fail = |e: &dyn std::fmt::Display| StoreError::Open { path: path.clone(), why: e.to_string() };
        make_private(dir, &path).map_err(|e| fail(&e))?;
        let connection = Connection::open(&path).map_err(|e| fail(&e))?;
        connection.busy_timeout(BUSY).map_err(|e| fail(&e))?;
        let store = Self { path, connection: Mutex::new(connection) };
        store.prepare()?;
        Ok(store)
    }

    /// Makes a join token; only its hash is kept.
    ///
    /// # Errors
    /// The request names what can be no workload, or the store fails.
    pub fn create_token(&self, request: &TokenRequest) -> Result<String, StoreError> {
        check_request(request)?;
        let token =
            random_token().map_err(|e| StoreError::Failed { path: self.path.clone(), why: e.to_string() })?;
        let failed = |e: rusqlite::Error| self.failed(&e);
        let now = unix_now();
        let mut connection = self.lock();
        let write = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let forgotten = now - seconds(KEEP_TOKENS);
        write.execute("DELETE FROM tokens WHERE expires_at < ?1", [forgotten]).map_err(failed)?;
        let waiting = "SELECT count(*) FROM tokens WHERE used_key IS NULL AND expires_at > ?1";
        let waiting: i64 = write.query_row(waiting, [now], |row| row.get(0)).map_err(failed)?;
        if waiting >= MAX_TOKENS {
            return Err(StoreError::TooManyTokens);
        }
        insert_token(&write, &hash(token.as_bytes()), request, now).map_err(failed)?;
        write.commit().map_err(failed)?;
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
        let failed = |e: rusqlite::Error| RedeemError::Store(self.failed(&e));
        let (token, key) = (hash(token.as_bytes()), hash(public_key));
        let mut connection = self.lock();
        let write = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let found = write.query_row("SELECT * FROM tokens WHERE hash = ?1", [&token], read_token);
        let found = found.optional().map_err(failed)?.ok_or(TokenError::Unknown)?;
        match found.used {
            Some((used_key, certificate)) if used_key == key => return Ok(certificate),
            Some(_) => return Err(TokenError::Used.into()),
            None if found.expires_at <= unix_now() => return Err(TokenError::Expired.into()),
            None => {}
        }
        let certificate = sign(&found.enrolment).map_err(RedeemError::Sign)?;
        consume(&write, &token, &key, &certificate).map_err(failed)?;
        enrol(&write, &found.enrolment).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(certificate)
    }

    /// All enrolments.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn enrolments(&self) -> Result<Vec<Enrolment>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<Enrolment>> {
            connection.prepare("SELECT * FROM enrolments")?.query_map([], read_enrolment)?.collect()
        };
        read().map_err(|e| self.failed(&e))
    }

    /// Keeps a workload's lease.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn keep_lease(&self, workload: &Workload) -> Result<(), StoreError> {
        let kept = self.lock().execute(
            "INSERT OR REPLACE INTO leases (namespace, workload, record) VALUES (?1, ?2, ?3)",
            params![&*workload.key.namespace, &*workload.key.name, form::workload_to_text(workload)],
        );
        kept.map(|_| ()).map_err(|e| self.failed(&e))
    }

    /// Ends a workload's lease.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn end_lease(&self, workload: &Key) -> Result<(), StoreError> {
        let ended = self.lock().execute(
            "DELETE FROM leases WHERE namespace = ?1 AND workload = ?2",
            params![&*workload.namespace, &*workload.name],
        );
        ended.map(|_| ()).map_err(|e| self.failed(&e))
    }

    /// All leases; one that cannot be read any more is left out.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn leases(&self) -> Result<Vec<Workload>, StoreError> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<String>> {
            connection.prepare("SELECT record FROM leases")?.query_map([], |row| row.get(0))?.collect()
        };
        let records = read().map_err(|e| self.failed(&e))?;
        Ok(records.iter().filter_map(|text| form::workload_from_text(text)).collect())
    }

    /// How many workloads are there, or were when the control plane was last heard of.
    ///
    /// # Errors
    /// The store fails.
    pub fn lease_count(&self) -> Result<usize, StoreError> {
        Ok(self.leases()?.len())
    }

    /// The virtual addresses of these names; one that has none yet is given the next number, while there are any.
    ///
    /// # Errors
    /// The store fails; then none is given.
    pub(crate) fn addresses(&self, names: &[Addressee]) -> Result<Addresses, StoreError> {
        let mut connection = self.lock();
        let mut give = || -> rusqlite::Result<Addresses> {
            let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let addresses = names
                .iter()
                .filter_map(|name| address(&write, name).map(|a| a.map(|a| (name.clone(), a))).transpose())
                .collect::<rusqlite::Result<Addresses>>()?;
            write.commit()?;
            Ok(addresses)
        };
        give().map_err(|e| self.failed(&e))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere rolled its transaction back: the connection itself is sound.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let version = (|| -> rusqlite::Result<(i64, i64)> {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if check != "ok" {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
                return Err(rusqlite::Error::SqliteFailure(code, Some(check)));
            }
            make_schema(&mut connection)
        })();
        match version.map_err(|e| self.failed(&e))? {
            (APPLICATION_ID, VERSION) => Ok(()),
            (APPLICATION_ID, found) => {
                Err(StoreError::Newer { path: self.path.clone(), found, known: VERSION })
            }
            _ => Err(StoreError::Foreign { path: self.path.clone() }),
        }
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        let (path, why) = (self.path.clone(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { path, why },
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                StoreError::Open { path, why }
            }
            _ => StoreError::Failed { path, why },
        }
    }
}

/// Makes the tables of a new file, or those that an older one lacks; gives its application id and version.
fn make_schema(connection: &mut Connection) -> rusqlite::Result<(i64, i64)> {
    // Immediate: of two processes that open a new store, the second waits and finds it made.
    let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let objects: i64 = write.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    let id: i64 = write.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let is_new = objects == 0 && id == 0;
    let version: i64 = write.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if !is_new && id != APPLICATION_ID {
        return Ok((id, version));
    }
    let lacking = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..));
    let Some(lacking @ [_, ..]) = lacking else { return Ok((id, version)) };
    lacking.iter().try_for_each(|step| write.execute_batch(step))?;
    write.pragma_update(None, "application_id", APPLICATION_ID)?;
    write.pragma_update(None, "user_version", VERSION)?;
    write.commit()?;
    Ok((APPLICATION_ID, VERSION))
}

/// A name's address; `None` where it has none, and there is none left to give.
fn address(write: &Transaction<'_>, name: &Addressee) -> rusqlite::Result<Option<VirtualAddress>> {
    let key = name.to_string();
    let found = "SELECT number FROM addresses WHERE key = ?1";
    let found: Option<u32> = write.prepare_cached(found)?.query_row([&key], |row| row.get(0)).optional()?;
    if found.is_some() {
        return Ok(found.and_then(VirtualAddress::of_number));
    }
    let given = "INSERT INTO addresses (key) SELECT ?1 WHERE
         coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'addresses'), 0) < ?2 RETURNING number";
    let given =
        write.prepare_cached(given)?.query_row(params![key, MAX_ADDRESSES], |row| row.get(0)).optional()?;
    Ok(given.and_then(VirtualAddress::of_number))
}

struct Token {
    enrolment: Enrolment,
    expires_at: i64,
    used: Option<(Vec<u8>, String)>,
}

fn read_token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let key: Option<Vec<u8>> = row.get("used_key")?;
    let certificate: Option<String> = row.get("certificate")?;
    Ok(Token {
        enrolment: read_enrolment(row)?,
        expires_at: row.get("expires_at")?,
        used: key.zip(certificate),
    })
}

fn read_enrolment(row: &Row<'_>) -> rusqlite::Result<Enrolment> {
    let (namespace, name): (String, String) = (row.get("namespace")?, row.get("workload")?);
    let labels: String = row.get("labels")?;
    Ok(Enrolment {
        workload: Key::new(namespace, name),
        service_account: row.get("service_account")?,
        labels: form::labels_from_text(&labels).unwrap_or_default(),
    })
}

fn insert_token(
    write: &Transaction<'_>,
    hash: &[u8],
    request: &TokenRequest,
    now: i64,
) -> rusqlite::Result<usize> {
    write.execute(
        "INSERT INTO tokens (hash, namespace, service_account, workload, labels, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            hash,
            request.namespace,
            request.service_account,
            request.workload,
            form::labels_to_text(&request.labels),
            now + seconds(request.ttl),
        ],
    )
}

fn consume(write: &Transaction<'_>, token: &[u8], key: &[u8], certificate: &str) -> rusqlite::Result<usize> {
    write.execute(
        "UPDATE tokens SET used_key = ?2, certificate = ?3 WHERE hash = ?1",
        params![token, key, certificate],
    )
}

impl<E> From<TokenError> for RedeemError<E> {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

fn enrol(write: &Transaction<'_>, enrolment: &Enrolment) -> rusqlite::Result<usize> {
    write.execute(
        "INSERT OR REPLACE INTO enrolments (namespace, workload, service_account, labels, enrolled_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            &*enrolment.workload.namespace,
            &*enrolment.workload.name,
            enrolment.service_account,
            form::labels_to_text(&enrolment.labels),
            unix_now(),
        ],
    )
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

fn make_private(dir: &Path, file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // SQLite gives its journal the mode of the file.
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
    Ok(())
}

/// 256 bits from the kernel, in hexadecimal.
fn random_token() -> std::io::Result<String> {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut token = TOKEN_PREFIX.to_owned();
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(token, "{byte:02x}");
    }
    Ok(token)
}

fn hash(bytes: &[u8]) -> Vec<u8> {
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
