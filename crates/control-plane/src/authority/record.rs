//! What control planes of one mesh know of the authority beside its files: the rotation, who drives it, how far each
//! control plane's peers are, and who is revoked.
//!
//! ```text
//! /meshwork/ca/rotation                  the rotation of now, or the last one
//! /meshwork/ca/driver                    which control plane does its steps
//! /meshwork/ca/replicas/<replica>        how far one control plane's peers are, while a rotation runs
//! /meshwork/ca/intermediates/<replica>   what one control plane signs with
//! /meshwork/ca/tokens/<root>             when the last token ends that the key beside a root has signed
//! /meshwork/ca/revoked/<kind>/<what>     an identity or a serial number
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::facts::Known;
use super::held::Holding;
use super::rotation::{Presence, Rotation, Said};
use crate::store::KvError;
use crate::store::kv::{Entry, Keys, Kv, Operation, Outcome, Revision, Transaction};

/// All of it.
pub(super) const CA: &str = "/meshwork/ca/";
/// The rotation.
pub(super) const ROTATION: &str = "/meshwork/ca/rotation";
/// Who drives it.
const DRIVER: &str = "/meshwork/ca/driver";
/// What control planes say.
const REPLICAS: &str = "/meshwork/ca/replicas/";
/// What control planes sign with.
const INTERMEDIATES: &str = "/meshwork/ca/intermediates/";
/// Until when keys for tokens are needed.
const TOKENS: &str = "/meshwork/ca/tokens/";
/// Who is revoked.
pub(super) const REVOKED: &str = "/meshwork/ca/revoked/";

/// What was read of the store at one moment.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) rotation: Option<Kept<Rotation>>,
    pub(super) driver: Option<Kept<Driver>>,
    pub(super) replicas: BTreeMap<String, Summary>,
    pub(super) intermediates: BTreeMap<String, Intermediate>,
    /// By root, in seconds since 1970.
    pub(super) tokens: BTreeMap<String, i64>,
    pub(super) revoked: Vec<Revoked>,
    pub(super) revision: Revision,
}

/// A value, and when it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) modified: Revision,
}

/// What a control plane signs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intermediate {
    pub(super) serial: String,
    /// In seconds since 1970.
    pub(super) ends: i64,
    pub(super) root: String,
    pub(super) plugged: bool,
}

/// The control plane that does a rotation's steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Driver {
    pub(super) replica: String,
    /// Grows while it is there.
    pub(super) beat: u64,
}

/// What a control plane says while a rotation runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// The rotation of which this is.
    pub(super) rotation: u64,
    /// When it began to run, in seconds since 1970: of what was issued before, others may know more.
    pub(super) started: i64,
    /// Grows while it is there.
    pub(super) beat: u64,
    pub(super) issuer: String,
    /// Roots, which rows name by their place here.
    pub(super) roots: Vec<String>,
    /// Places of those that it trusts.
    pub(super) trusts: Vec<u8>,
    pub(super) rows: Vec<Row>,
}

/// Somebody who has a certificate, in few letters: there are as many as proxies, and they are written every second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    #[serde(rename = "n")]
    name: String,
    /// `f`ollows, `u`nfollowing, `o`ffline, `d`elegated.
    #[serde(rename = "p")]
    presence: char,
    /// Why it refuses trust.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    /// Since when it is offline.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    trusts: Vec<u8>,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    holding: Option<RowHolding>,
}

/// The root of all that somebody may hold, when the last of it ends, when one was shown last, and when one was signed last.
type RowHolding = (Option<u8>, i64, i64, i64);

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Subject {
    /// All certificates of an identity.
    Identity(String),
    /// One certificate, by its serial number: lowercase hexadecimal without leading zeros.
    Serial(String),
}

/// A revocation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Revoked {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) reason: String,
    pub(crate) by: String,
    /// In seconds since 1970.
    pub(crate) at: i64,
    /// When the certificate ends, in seconds since 1970, where that is known: the revocation says nothing then any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends: Option<i64>,
}

impl Read {
    /// Reads all of it.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn all(kv: &dyn Kv) -> Result<Self, KvError> {
        let found = kv.read(Keys::Under(CA), None)?;
        let mut read = Self { revision: found.revision, ..Self::default() };
        for entry in &found.entries {
            read.take(entry);
        }
        Ok(read)
    }

    fn take(&mut self, entry: &Entry) {
        if entry.key == ROTATION {
            self.rotation = kept(entry);
        } else if entry.key == DRIVER {
            self.driver = kept(entry);
        } else if let Some(replica) = entry.key.strip_prefix(REPLICAS) {
            self.replicas.extend(parsed(entry).map(|summary| (replica.to_owned(), summary)));
        } else if let Some(replica) = entry.key.strip_prefix(INTERMEDIATES) {
            self.intermediates.extend(parsed(entry).map(|one| (replica.to_owned(), one)));
        } else if let Some(root) = entry.key.strip_prefix(TOKENS) {
            self.tokens.extend(parsed(entry).map(|ends| (root.to_owned(), ends)));
        } else if entry.key.starts_with(REVOKED) {
            self.revoked.extend(parsed(entry));
        }
    }

    /// The rotation, while it has not ended.
    pub(super) fn running(&self) -> Option<&Kept<Rotation>> {
        self.rotation.as_ref().filter(|kept| kept.value.end.is_none())
    }
}

/// A value as it is kept; one of a later version of the program is passed over where it cannot be read.
fn parsed<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    serde_json::from_str(&entry.value).ok()
}

fn kept<T: DeserializeOwned>(entry: &Entry) -> Option<Kept<T>> {
    Some(Kept { value: parsed(entry)?, modified: entry.modified })
}

/// Writes the rotation where it is as it was read; says whether it was.
///
/// # Errors
/// The store fails.
pub(super) fn put_rotation(
    kv: &dyn Kv,
    earlier: Option<&Kept<Rotation>>,
    rotation: &Rotation,
) -> Result<bool, KvError> {
    put(kv, ROTATION, Some(earlier.map_or(0, |kept| kept.modified)), rotation)
}

/// Says that this control plane drives; fails where another said so meanwhile.
///
/// # Errors
/// The store fails.
pub(super) fn put_driver(
    kv: &dyn Kv,
    earlier: Option<&Kept<Driver>>,
    driver: &Driver,
) -> Result<bool, KvError> {
    put(kv, DRIVER, Some(earlier.map_or(0, |kept| kept.modified)), driver)
}

/// Says how far this control plane's peers are.
///
/// # Errors
/// The store fails.
pub(super) fn put_summary(kv: &dyn Kv, replica: &str, summary: &Summary) -> Result<(), KvError> {
    put(kv, &format!("{REPLICAS}{replica}"), None, summary).map(drop)
}

/// Says what this control plane signs with.
///
/// # Errors
/// The store fails.
pub(super) fn put_intermediate(kv: &dyn Kv, replica: &str, one: &Intermediate) -> Result<(), KvError> {
    put(kv, &format!("{INTERMEDIATES}{replica}"), None, one).map(drop)
}

/// Takes out what these control planes, which are gone, signed with.
///
/// # Errors
/// The store fails.
pub(super) fn forget_intermediates(kv: &dyn Kv, gone: &[String]) -> Result<(), KvError> {
    for some in gone.chunks(kv.max_operations()) {
        let delete = |name: &String| Operation::Delete { key: format!("{INTERMEDIATES}{name}") };
        let operations = some.iter().map(delete).collect();
        kv.commit(&Transaction { operations, ..Transaction::default() })?;
    }
    Ok(())
}

/// Says until when the key for tokens beside a root is needed.
///
/// # Errors
/// The store fails.
pub(super) fn put_tokens(kv: &dyn Kv, root: &str, ends: i64) -> Result<(), KvError> {
    put(kv, &format!("{TOKENS}{root}"), None, &ends).map(drop)
}

/// Takes out what control planes said, who drives, and what is over now.
///
/// # Errors
/// The store fails.
pub(super) fn clear(kv: &dyn Kv, read: &Read, now: i64) -> Result<(), KvError> {
    let replicas = read.replicas.keys().map(|replica| format!("{REPLICAS}{replica}"));
    let driver = read.driver.iter().map(|_| DRIVER.to_owned());
    let over =
        read.tokens.iter().filter(|(_, ends)| **ends <= now).map(|(root, _)| format!("{TOKENS}{root}"));
    let operations: Vec<_> =
        replicas.chain(driver).chain(over).map(|key| Operation::Delete { key }).collect();
    for some in operations.chunks(kv.max_operations()) {
        kv.commit(&Transaction { operations: some.to_vec(), ..Transaction::default() })?;
    }
    Ok(())
}

fn put(kv: &dyn Kv, key: &str, modified: Option<Revision>, value: &impl Serialize) -> Result<bool, KvError> {
    let value = serde_json::to_string(value).map_err(|error| KvError::Unavailable(error.to_string()))?;
    let expected = modified.map(|modified| (key.to_owned(), modified)).into_iter().collect();
    let operations = vec![Operation::Put { key: key.to_owned(), value }];
    Ok(kv.commit(&Transaction { expected, operations })? != Outcome::Conflict)
}

impl Subject {
    /// The key under which it is kept.
    fn key(&self) -> String {
        match self {
            Self::Identity(id) => format!("{REVOKED}identity/{id}"),
            Self::Serial(serial) => format!("{REVOKED}serial/{serial}"),
        }
    }
}

/// Keeps a revocation, in place of an earlier one of the same.
///
/// # Errors
/// The store fails.
pub(super) fn put_revoked(kv: &dyn Kv, revoked: &Revoked) -> Result<(), KvError> {
    put(kv, &revoked.subject.key(), None, revoked).map(drop)
}

/// Takes a revocation back; says whether there was one.
///
/// # Errors
/// The store fails.
pub(super) fn delete_revoked(kv: &dyn Kv, subject: &Subject) -> Result<bool, KvError> {
    let key = subject.key();
    if kv.read(Keys::One(&key), None)?.entries.is_empty() {
        return Ok(false);
    }
    let operations = vec![Operation::Delete { key }];
    kv.commit(&Transaction { operations, ..Transaction::default() })?;
    Ok(true)
}

impl Summary {
    /// What a control plane says, of a rotation.
    pub(super) fn new(rotation: u64, said: &Said, known: &[Known]) -> Self {
        let mut roots = Places::default();
        let issuer = said.issuer.clone();
        let trusts = said.trusts.iter().map(|root| roots.of(root)).collect();
        // Of some who are not connected nothing is known here: nothing is said of them.
        let says_something = |known: &&Known| match known.presence {
            Presence::Offline { since } => since.is_some() || known.holding.is_some(),
            _ => true,
        };
        let rows = known.iter().filter(says_something).map(|known| Row::new(known, &mut roots)).collect();
        Self { rotation, issuer, trusts, rows, roots: roots.0, ..Self::default() }
    }

    /// What it says of itself.
    pub(super) fn said(&self) -> Said {
        Said { trusts: self.named(&self.trusts), issuer: self.issuer.clone() }
    }

    /// What it says of its peers.
    pub(super) fn known(&self) -> impl Iterator<Item = Known> {
        let root = |place: Option<u8>| place.and_then(|place| self.roots.get(usize::from(place)).cloned());
        self.rows.iter().map(move |row| {
            let presence = match row.presence {
                'f' => Presence::Follows { refusal: row.refusal.clone() },
                'd' => Presence::Delegated,
                'o' => Presence::Offline { since: row.since },
                _ => Presence::Unfollowing,
            };
            let holding = row.holding.map(|(place, ends, shown, issued)| Holding {
                root: root(place),
                ends,
                shown,
                issued,
            });
            Known { name: row.name.clone(), presence, trusts: self.named(&row.trusts), holding }
        })
    }

    fn named(&self, places: &[u8]) -> BTreeSet<String> {
        places.iter().filter_map(|place| self.roots.get(usize::from(*place)).cloned()).collect()
    }
}

impl Row {
    fn new(known: &Known, roots: &mut Places) -> Self {
        let (presence, refusal, since) = match &known.presence {
            Presence::Follows { refusal } => ('f', refusal.clone(), None),
            Presence::Unfollowing => ('u', None, None),
            Presence::Offline { since } => ('o', None, *since),
            Presence::Delegated => ('d', None, None),
        };
        let holding = known.holding.as_ref().map(|holding| {
            let root = holding.root.as_deref().map(|root| roots.of(root));
            (root, holding.ends, holding.shown, holding.issued)
        });
        let trusts = known.trusts.iter().map(|root| roots.of(root)).collect();
        Self { name: known.name.clone(), presence, refusal, since, trusts, holding }
    }
}

/// Roots by their place in a list. A mesh has a handful; those past a byte's numbers are one that nobody knows.
#[derive(Debug, Default)]
struct Places(Vec<String>);

impl Places {
    fn of(&mut self, root: &str) -> u8 {
        let place = self.0.iter().position(|known| known == root).unwrap_or_else(|| {
            if self.0.len() < usize::from(u8::MAX) {
                self.0.push(root.to_owned());
            }
            self.0.len() - 1
        });
        u8::try_from(place).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::rotation::Roots;
    use crate::store::sqlite::Sqlite;

    fn set(roots: &[&str]) -> BTreeSet<String> {
        roots.iter().map(|&root| root.to_owned()).collect()
    }

    fn known(name: &str, presence: Presence, trusts: &[&str], root: Option<&str>) -> Known {
        let holding = Holding { root: root.map(str::to_owned), ends: 7, shown: 3, issued: 2 };
        Known { name: name.to_owned(), presence, trusts: set(trusts), holding: Some(holding) }
    }

    #[test]
    fn a_summary_tells_what_was_put_in() {
        let said = Said { trusts: set(&["a", "b"]), issuer: "a".to_owned() };
        let refusal = Some("no".to_owned());
        let all = [
            known("shop/web", Presence::Follows { refusal: None }, &["a", "b"], Some("b")),
            known("shop/cart", Presence::Follows { refusal }, &["a"], Some("a")),
            Known { holding: None, ..known("shop/old", Presence::Unfollowing, &[], None) },
            known("shop/gone", Presence::Offline { since: Some(3) }, &["a"], Some("c")),
            known("shop/mixed", Presence::Offline { since: None }, &["a"], None),
            known("shop/agent for spiffe://x/y", Presence::Delegated, &[], Some("a")),
        ];
        let summary = Summary::new(3, &said, &all);
        let text = serde_json::to_string(&summary).expect("JSON");
        let summary: Summary = serde_json::from_str(&text).expect("a summary");
        assert_eq!((summary.rotation, summary.said()), (3, said));
        let again: Vec<Known> = summary.known().collect();
        assert_eq!(again, all, "{text}");
    }

    #[test]
    fn who_read_an_older_record_does_not_write_over_a_newer_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = Sqlite::open(dir.path()).expect("a store");
        let roots = Roots { active: "a".to_owned(), ..Roots::default() };
        let rotation = Rotation::begin(1, &roots, "ann".to_owned(), 1);
        assert!(put_rotation(&kv, None, &rotation).expect("written"));
        assert!(!put_rotation(&kv, None, &rotation).expect("a conflict"));
        let read = Read::all(&kv).expect("read");
        let earlier = read.rotation.clone().expect("there");
        let next = Rotation { to: Some("b".to_owned()), ..rotation };
        assert!(put_rotation(&kv, Some(&earlier), &next).expect("written"));
        assert!(!put_rotation(&kv, Some(&earlier), &next).expect("a conflict"));
        assert_eq!(Read::all(&kv).expect("read").running().expect("runs").value, next);
    }

    #[test]
    fn what_was_said_is_cleared_and_revocations_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = Sqlite::open(dir.path()).expect("a store");
        put_summary(&kv, "r1", &Summary::default()).expect("written");
        put_driver(&kv, None, &Driver { replica: "r1".to_owned(), beat: 1 }).expect("written");
        let (reason, by) = ("lost".to_owned(), "ann".to_owned());
        let revoked =
            |subject| Revoked { subject, reason: reason.clone(), by: by.clone(), at: 5, ends: None };
        let of_web = revoked(Subject::Identity("spiffe://mesh.local/ns/shop/sa/web".to_owned()));
        let of_serial = revoked(Subject::Serial("abc".to_owned()));
        for one in [&of_web, &of_serial, &of_web] {
            put_revoked(&kv, one).expect("written");
        }
        let read = Read::all(&kv).expect("read");
        assert_eq!((read.replicas.len(), read.driver.is_some()), (1, true));
        let root = "a".to_owned();
        let one = Intermediate { serial: "1".to_owned(), ends: 9, root, plugged: false };
        put_intermediate(&kv, "r1", &one).expect("written");
        put_intermediate(&kv, "r2", &one).expect("written");
        forget_intermediates(&kv, &["r2".to_owned()]).expect("forgotten");
        assert_eq!(Read::all(&kv).expect("read").intermediates, [("r1".to_owned(), one)].into());
        put_tokens(&kv, "a", 9).expect("written");
        put_tokens(&kv, "b", 11).expect("written");
        let read = Read::all(&kv).expect("read");
        clear(&kv, &read, 10).expect("cleared");
        let read = Read::all(&kv).expect("read");
        assert_eq!((read.replicas.len(), read.driver.is_some()), (0, false));
        assert_eq!(read.tokens, [("b".to_owned(), 11)].into());
        assert_eq!(read.revoked, [of_web.clone(), of_serial.clone()]);
        assert!(delete_revoked(&kv, &of_web.subject).expect("deleted"));
        assert!(!delete_revoked(&kv, &of_web.subject).expect("none"));
        assert_eq!(Read::all(&kv).expect("read").revoked, [of_serial]);
    }
}
