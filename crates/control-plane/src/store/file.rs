//! The `SQLite` file: opened with full durability, checked, and brought to this program's version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::StoreError;

/// The file in the state directory.
pub(super) const FILE: &str = "meshwork.db";
/// Marks our files: "mesh".
pub(super) const APPLICATION_ID: i64 = 0x6d65_7368;
/// How long another process may hold the file: one transaction of ours is milliseconds.
const BUSY: Duration = Duration::from_secs(5);

/// What makes each version of the schema from the one before it.
pub(super) const MIGRATIONS: &[&str] = &[
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
    // A row for each revision of each key; a row without a value is the revision that deleted it.
    "
    CREATE TABLE kv (
        key TEXT NOT NULL, revision INTEGER NOT NULL, created INTEGER NOT NULL, value TEXT,
        PRIMARY KEY (key, revision)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX kv_revisions ON kv (revision);
    CREATE TABLE kv_state (
        one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, compacted INTEGER NOT NULL
    ) STRICT;
    INSERT INTO kv_state VALUES (1, 1, 0);
    ",
    // What had tables of its own has keys, as in an etcd.
    "
    INSERT INTO kv (key, revision, created, value)
        SELECT '/meshwork/tokens/' || lower(hex(hash)), revision + 1, revision + 1, json_object(
            'namespace', namespace, 'serviceAccount', service_account, 'workload', workload,
            'labels', json(labels), 'expiresAt', expires_at,
            'used', json(iif(used_key IS NULL, 'null', json_object(
                'key', lower(hex(used_key)), 'certificate', certificate))))
        FROM tokens, kv_state;
    INSERT INTO kv (key, revision, created, value)
        SELECT '/meshwork/workloads/enrolments/' || namespace || '/' || workload, revision + 1, revision + 1,
            json_object('namespace', namespace, 'workload', workload, 'serviceAccount', service_account,
                'labels', json(labels), 'enrolledAt', enrolled_at)
        FROM enrolments, kv_state;
    INSERT INTO kv (key, revision, created, value)
        SELECT '/meshwork/workloads/leases/' || namespace || '/' || workload, revision + 1, revision + 1, record
        FROM leases, kv_state;
    INSERT INTO kv (key, revision, created, value)
        SELECT '/meshwork/addresses/' || key, revision + 1, revision + 1, CAST(number AS TEXT)
        FROM addresses, kv_state;
    INSERT INTO kv (key, revision, created, value)
        SELECT '/meshwork/last-address', revision + 1, revision + 1, CAST(seq AS TEXT)
        FROM sqlite_sequence, kv_state WHERE name = 'addresses';
    UPDATE kv_state SET revision = revision + 1;
    DROP TABLE tokens;
    DROP TABLE enrolments;
    DROP TABLE leases;
    DROP TABLE addresses;
    ",
];
/// The version of the schema: that which the last step makes.
#[expect(clippy::cast_possible_wrap, reason = "a handful")]
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Opens the file in a state directory; makes both if they are absent, for their owner alone.
///
/// # Errors
/// The directory cannot be used, or the file is damaged, foreign or newer.
pub(super) fn open(dir: &Path) -> Result<(PathBuf, Connection), StoreError> {
    let path = dir.join(FILE);
    let fail = |e: &dyn std::fmt::Display| StoreError::Open { path: path.clone(), why: e.to_string() };
    make_private(dir, &path).map_err(|e| fail(&e))?;
    let mut connection = Connection::open(&path).map_err(|e| fail(&e))?;
    connection.busy_timeout(BUSY).map_err(|e| fail(&e))?;
    match prepare(&mut connection).map_err(|e| failed(&path, &e))? {
        (APPLICATION_ID, VERSION) => Ok((path, connection)),
        (APPLICATION_ID, found) => Err(StoreError::Newer { path, found, known: VERSION }),
        _ => Err(StoreError::Foreign { path }),
    }
}

/// What failed, in the words of the store.
pub(super) fn failed(path: &Path, error: &rusqlite::Error) -> StoreError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { path, why },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            StoreError::Open { path, why }
        }
        _ => StoreError::Failed { path, why },
    }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<(i64, i64)> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(check)));
    }
    make_schema(connection)
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

fn make_private(dir: &Path, file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // SQLite gives its journal the mode of the file.
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
    Ok(())
}
