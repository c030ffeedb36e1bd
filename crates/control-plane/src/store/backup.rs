//! Backups: the whole state of a control plane in one file, taken while it runs, and put back while none does.
//!
//! A backup is a `SQLite` file: the store as it was at one moment, and a table with the other files that matter: the
//! CA's (of whichever layout, as one whole; not the intermediate of one control plane, which is made anew), the API's
//! token, the config folder's last good files. It holds private keys, and is its owner's alone.
//!
//! What is put back takes the place of what was there, which is kept beside it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshwork_identity::{CertificateAuthority, files};
use rusqlite::{Connection, OpenFlags, params};

use super::file::{self, APPLICATION_ID, FILE, VERSION};
use super::{StoreError, unix_now};

/// Why a backup is not made, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to back up.
    #[error("there is no state of a control plane in {0}")]
    Empty(PathBuf),
    /// The file of the backup is there already.
    #[error("{0} is there already; name another file, or remove it")]
    Exists(PathBuf),
    /// The file is no backup.
    #[error("{path} is no backup of this program: {why}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The backup is of a later version of the program.
    #[error(
        "the backup {path} has version {found}, and this program knows version {VERSION}; use the newer program"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// A control plane runs on the state.
    #[error("a control plane runs with the state in {0}; stop it first")]
    Running(PathBuf),
    /// The directory of the CA, which is not in that of the state, has something in it.
    #[error("{0} is not empty; move it away, so that the CA of the backup can take its place")]
    Occupied(PathBuf),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
}

/// Marks backups: "mesb".
const BACKUP_ID: i64 = 0x6d65_7362;
/// The files beside the store, by name within the state directory.
const FILES: &[&str] = &["api.token", "last-good-config.json"];
/// The directory of the CA, where it is in that of the state.
const CA: &str = "ca";
/// The largest file beside the store: the folder's last good files are within it.
const MAX_FILE_BYTES: u64 = 512 << 20;
/// How long a write of the running control plane is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// Writes all state of a control plane to a new file, whether it runs or not. `ca` is the directory of its CA, where that
/// is not in the state. Tells whether there was a CA.
///
/// # Errors
/// There is no state, the file is there already, or one of them cannot be read or written.
pub fn backup(state: &Path, ca: Option<&Path>, to: &Path) -> Result<bool, BackupError> {
    let store = state.join(FILE);
    let authority = authority(&ca.map_or_else(|| state.join(CA), Path::to_owned))?;
    if !store.is_file() {
        if authority.is_empty() {
            return Err(BackupError::Empty(state.to_owned()));
        }
        // The store is in an etcd, and that of the backup is empty.
        file::open(state)?;
    }
    // The empty file is ours, and of this mode, before anything is in it.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    made.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => BackupError::Exists(to.to_owned()),
        _ => failed(to)(&error),
    })?;
    let done = copy_store(&store, to).and_then(|()| add_files(state, &authority, to)).and_then(|()| sync(to));
    if done.is_err() {
        // A part of a backup is none. That it cannot be removed says nothing new.
        drop(fs::remove_file(to));
    }
    done.map(|()| !authority.is_empty())
}

/// Puts a backup in the place of the state of a control plane that does not run; what was there is moved to a directory
/// beside it, which is given back. `ca` is where its CA is to be, where that is not in the state.
///
/// # Errors
/// The file is no backup or a newer one, a control plane runs, `ca` has something in it, or a file cannot be read or
/// written.
pub fn restore(from: &Path, state: &Path, ca: Option<&Path>) -> Result<Option<PathBuf>, BackupError> {
    let backup = open_backup(from)?;
    if let Some(ca) = ca.filter(|ca| fs::read_dir(ca).is_ok_and(|mut found| found.next().is_some())) {
        return Err(BackupError::Occupied(ca.to_owned()));
    }
    files::create_private_dir(state).map_err(|error| failed(state)(&error))?;
    let _lock = lock(state)?;
    // All is written beside before anything is replaced.
    let new = state.join(".restored.db");
    write_store(from, &new)?;
    let contents = contents(&backup, from)?;
    let aside = set_aside(state)?;
    for (name, content) in &contents {
        let path = match (name.strip_prefix(CA), ca) {
            (Ok(of_ca), Some(ca)) => ca.join(of_ca),
            _ => state.join(name),
        };
        if let Some(dir) = path.parent() {
            files::create_private_dir(dir).map_err(|error| failed(dir)(&error))?;
        }
        files::write_private(&path, content).map_err(|error| failed(&path)(&error))?;
    }
    let store = state.join(FILE);
    fs::rename(&new, &store).map_err(|error| failed(&store)(&error))?;
    sync(state)?;
    Ok(aside)
}

/// The store as it is at one moment; writes that come meanwhile are not in it.
fn copy_store(store: &Path, to: &Path) -> Result<(), BackupError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = || -> rusqlite::Result<()> {
        let connection = Connection::open_with_flags(store, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
        Ok(())
    };
    copy().map_err(|error| file::failed(store, &error).into())
}

/// A file of a backup: its name there, and what is in it.
type Kept = (PathBuf, Vec<u8>);

/// The files of the CA in a directory; none where there is no CA.
fn authority(dir: &Path) -> Result<Vec<Kept>, BackupError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let files = CertificateAuthority::files(dir).map_err(|error| failed(dir)(&error))?;
    Ok(files.into_iter().map(|(name, content)| (Path::new(CA).join(name), content.to_vec())).collect())
}

fn add_files(state: &Path, authority: &[Kept], to: &Path) -> Result<(), BackupError> {
    let mut contents = Vec::new();
    for name in FILES.iter().filter(|name| state.join(name).is_file()) {
        contents.push((PathBuf::from(name), read(&state.join(name))?));
    }
    let add = || -> rusqlite::Result<()> {
        let mut connection = Connection::open(to)?;
        // One file, also for who may only read it.
        connection.pragma_update(None, "journal_mode", "delete")?;
        let write = connection.transaction()?;
        write
            .execute("CREATE TABLE backup_files (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT", [])?;
        for (name, content) in contents.iter().chain(authority) {
            let name = name.to_string_lossy();
            write.execute("INSERT INTO backup_files VALUES (?1, ?2)", params![name, content])?;
        }
        write.pragma_update(None, "application_id", BACKUP_ID)?;
        write.commit()
    };
    add().map_err(|error| failed(to)(&error))
}

/// Opens a backup, if it is one, whole and of a version that is known.
fn open_backup(from: &Path) -> Result<Connection, BackupError> {
    if !from.is_file() {
        return Err(failed(from)(&"there is no such file"));
    }
    let foreign =
        |why: &dyn std::fmt::Display| BackupError::Foreign { path: from.to_owned(), why: why.to_string() };
    let look = || -> rusqlite::Result<(Connection, i64, i64, String)> {
        let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let id = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let check = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok((connection, id, version, check))
    };
    match look().map_err(|error| foreign(&error))? {
        (_, id, ..) if id != BACKUP_ID => Err(foreign(&"it is not marked as one")),
        (_, _, found, _) if found > VERSION => Err(BackupError::Newer { path: from.to_owned(), found }),
        (.., check) if check != "ok" => Err(foreign(&format_args!("it is damaged ({check})"))),
        (connection, ..) => Ok(connection),
    }
}

/// The store of a backup, as a file of its own.
fn write_store(from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to);
    let mut old = File::open(from);
    let copy = |new: &mut File, old: &mut File| std::io::copy(old, new).and_then(|_| new.flush());
    let copied = match (&mut new, &mut old) {
        (Ok(new), Ok(old)) => copy(new, old).map_err(|error| failed(to)(&error)),
        (Err(error), _) => Err(failed(to)(error)),
        (_, Err(error)) => Err(failed(from)(error)),
    };
    copied?;
    let strip = || -> rusqlite::Result<()> {
        let mut connection = Connection::open(to)?;
        let write = connection.transaction()?;
        write.execute("DROP TABLE backup_files", [])?;
        write.pragma_update(None, "application_id", APPLICATION_ID)?;
        write.commit()?;
        // No private key stays behind in pages that are free.
        connection.execute("VACUUM", [])?;
        Ok(())
    };
    strip().map_err(|error| failed(to)(&error))?;
    sync(to)
}

fn contents(backup: &Connection, from: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, BackupError> {
    let read = || -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
        let mut statement = backup.prepare("SELECT name, content FROM backup_files")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let contents = read().map_err(|error| failed(from)(&error))?;
    // A file that was tampered with must not write elsewhere.
    let is_ours = |name: &Path| {
        FILES.iter().any(|file| name == Path::new(file))
            || name.strip_prefix(CA).is_ok_and(CertificateAuthority::is_file)
    };
    let contents: Vec<_> =
        contents.into_iter().map(|(name, content)| (PathBuf::from(name), content)).collect();
    match contents.iter().find(|(name, _)| !is_ours(name)) {
        Some((name, _)) => {
            let why = format!("it has a file {}", name.display());
            Err(BackupError::Foreign { path: from.to_owned(), why })
        }
        None => Ok(contents),
    }
}

/// Moves what is replaced to a directory of its own; the store itself stays until it is replaced, as a second name.
fn set_aside(state: &Path) -> Result<Option<PathBuf>, BackupError> {
    let journals = [format!("{FILE}-wal"), format!("{FILE}-shm")];
    let moved = journals.iter().map(String::as_str).chain(FILES.iter().copied()).chain([CA]);
    let moved: Vec<&str> = moved.filter(|name| state.join(name).exists()).collect();
    let store = state.join(FILE);
    if moved.is_empty() && !store.exists() {
        return Ok(None);
    }
    let aside = state.join(format!("before-restore-{}", unix_now()));
    files::create_private_dir(&aside).map_err(|error| failed(&aside)(&error))?;
    if store.exists() {
        fs::hard_link(&store, aside.join(FILE)).map_err(|error| failed(&store)(&error))?;
    }
    for name in moved {
        let path = state.join(name);
        fs::rename(&path, aside.join(name)).map_err(|error| failed(&path)(&error))?;
    }
    Ok(Some(aside))
}

fn lock(state: &Path) -> Result<File, BackupError> {
    let path = state.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| failed(&path)(&error))?;
    file.try_lock().map_err(|_| BackupError::Running(state.to_owned()))?;
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<u8>, BackupError> {
    let size = fs::metadata(path).map_err(|error| failed(path)(&error))?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(path)(&format_args!(
            "it has {size} bytes, and at most {MAX_FILE_BYTES} are kept"
        )));
    }
    fs::read(path).map_err(|error| failed(path)(&error))
}

/// Makes a file, or what is in a directory, durable.
fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed(path)(&error))
}

fn failed(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> BackupError + '_ {
    move |why: &dyn std::fmt::Display| BackupError::File { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::kv::{Keys, Kv as _, Operation, Transaction};
    use crate::store::sqlite::Sqlite;

    fn put(store: &Sqlite, value: &str) {
        let put = Operation::Put { key: "/a".to_owned(), value: value.to_owned() };
        store.commit(&Transaction { operations: vec![put], ..Transaction::default() }).expect("written");
    }

    fn value(state: &Path) -> String {
        let found = Sqlite::open(state).expect("a store").read(Keys::One("/a"), None).expect("read");
        found.entries.into_iter().map(|entry| entry.value).collect()
    }

    #[test]
    fn what_was_backed_up_is_put_back_and_what_was_there_is_kept() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let (state, file) = (dir.path().join("state"), dir.path().join("mesh.backup"));
        let store = Sqlite::open(&state).expect("a store");
        fs::create_dir(state.join(CA)).expect("made");
        fs::write(state.join("ca/root.pem"), "root").expect("written");
        fs::write(state.join("api.token"), "mwa_1").expect("written");
        put(&store, "1");
        // It runs meanwhile.
        backup(&state, None, &file).expect("backed up");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        put(&store, "2");
        drop(store);
        fs::write(state.join("ca/root.pem"), "another").expect("written");
        fs::write(state.join("ca/more.pem"), "more").expect("written");
        let aside = restore(&file, &state, None).expect("restored").expect("something was there");
        assert_eq!((value(&state), value(&aside)), ("1".to_owned(), "2".to_owned()));
        assert_eq!(fs::read_to_string(state.join("ca/root.pem")).expect("read"), "root");
        assert!(!state.join("ca/more.pem").exists() && aside.join("ca/more.pem").exists());
        let elsewhere = dir.path().join("elsewhere");
        assert_eq!(restore(&file, &elsewhere, None).expect("restored"), None);
        assert_eq!(value(&elsewhere), "1");
        assert_eq!(fs::read_to_string(elsewhere.join("api.token")).expect("read"), "mwa_1");
        let mode =
            |name: &str| fs::metadata(elsewhere.join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(FILE), mode("ca/root.pem"), mode(CA)), (0o600, 0o600, 0o700));
    }

    fn authority(dir: &Path) -> CertificateAuthority {
        CertificateAuthority::open_or_create(dir, "mesh.local").expect("an authority")
    }

    #[test]
    fn a_ca_is_put_back_whole_with_its_rotation_where_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, file) = (dir.path().join("state"), dir.path().join("mesh.backup"));
        put(&Sqlite::open(&state).expect("a store"), "1");
        assert!(!backup(&state, None, &dir.path().join("without.backup")).expect("backed up"));
        let before = authority(&state.join(CA));
        before.add_root().expect("added");
        assert!(backup(&state, None, &file).expect("backed up"));
        // It goes on, and another is put in its place.
        let next = before.roots()[1].fingerprint.clone();
        before.switch(&next).expect("switched");
        drop(before);
        let aside = restore(&file, &state, None).expect("restored").expect("something was there");
        let after = authority(&state.join(CA));
        assert_eq!((after.roots().len(), after.issuer().root == next), (2, false));
        assert!(aside.join("ca/authority.json").exists());

        // One that is elsewhere.
        let shared = dir.path().join("shared-ca");
        let elsewhere = authority(&shared);
        let file = dir.path().join("shared.backup");
        assert!(backup(&state, Some(&shared), &file).expect("backed up"));
        let to = dir.path().join("new-ca");
        let occupied = restore(&file, &dir.path().join("new"), Some(&shared)).expect_err("refused");
        assert!(matches!(occupied, BackupError::Occupied(_)), "{occupied}");
        restore(&file, &dir.path().join("new"), Some(&to)).expect("restored");
        assert_eq!(authority(&to).roots(), elsewhere.roots());
        assert!(!dir.path().join("new/ca").exists());
    }

    #[test]
    fn what_is_no_backup_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        put(&Sqlite::open(&state).expect("a store"), "1");
        let file = dir.path().join("mesh.backup");
        backup(&state, None, &file).expect("backed up");
        let check = |from: &Path, expected: &str| {
            let error = restore(from, &state, None).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(value(&state), "1");
        };
        check(&state.join(FILE), "not marked as one");
        check(&dir.path().join("none"), "no such file");
        assert!(matches!(backup(&state, None, &file), Err(BackupError::Exists(_))));
        assert!(matches!(backup(&dir.path().join("none"), None, &file), Err(BackupError::Empty(_))));
        let spoiled = dir.path().join("spoiled");
        let spoil = |change: &dyn Fn(&Connection)| {
            fs::copy(&file, &spoiled).expect("copied");
            change(&Connection::open(&spoiled).expect("open"));
        };
        spoil(&|c| c.pragma_update(None, "user_version", VERSION + 1).expect("written"));
        check(&spoiled, "newer program");
        spoil(&|c| {
            c.execute("INSERT INTO backup_files VALUES ('../evil', x'00')", []).expect("written");
        });
        check(&spoiled, "../evil");
        for evil in ["ca/../evil", "ca/roots/../../evil", "ca/more.pem", "/evil"] {
            spoil(&|c| {
                c.execute("INSERT INTO backup_files VALUES (?1, x'00')", [evil]).expect("written");
            });
            check(&spoiled, evil);
        }
        spoil(&|_| fs::write(&spoiled, "x".repeat(4096)).expect("written"));
        check(&spoiled, "no backup");
        let running = lock(&state).expect("free");
        check(&file, "stop it first");
        drop(running);
    }
}
