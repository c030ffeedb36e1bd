//! Accepted resources as bytes that outlive the process: the format, without files.
//!
//! A text line names the format and its version, a second one is the SHA-256 of all that follows. What is damaged is
//! refused whole. The bytes hold private keys where secrets came by the stream: whoever writes them writes for their
//! owner alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use meshwork_model::proxy::Kind;
use sha2::{Digest as _, Sha256};

use crate::client::Carried;
use crate::resource::{Raw, Rejection, Update, kind_of_type_url, type_url};

/// Names the format. Another version gets another number, and is not read by this one.
const HEADER: &str = "meshwork last good 1";
/// Digits of a SHA-256.
const DIGEST: usize = 64;

/// What was accepted, by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    /// Whose config it is: what is kept for somebody else is of no use.
    pub owner: String,
    resources: BTreeMap<(Kind, String), (String, Raw)>,
}

/// Why bytes are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// They begin with something else.
    #[error("it is not of this format")]
    Format,
    /// They are not what was written.
    #[error("its content does not have its checksum")]
    Checksum,
    /// They are whole, and make no sense.
    #[error("its content cannot be read")]
    Content,
    /// They are somebody else's.
    #[error("it is the config of {0}")]
    Owner(String),
}

impl LastGood {
    /// Begins with nothing.
    pub fn new(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), resources: BTreeMap::new() }
    }

    /// Takes in what an update changed, of which these were refused. Says whether anything did.
    pub fn note(&mut self, update: &Update, rejections: &[Rejection]) -> bool {
        let mut changed = false;
        for key in &update.removed {
            changed |= self.resources.remove(key).is_some();
        }
        for (key, bytes) in &update.bytes {
            let is_refused = rejections.iter().any(|r| (r.kind, &r.name) == (key.0, &key.1));
            if is_refused {
                continue;
            }
            let version = update.versions.get(key).cloned().unwrap_or_default();
            let kept = (version, bytes.clone());
            changed |= self.resources.insert(key.clone(), kept.clone()) != Some(kept);
        }
        changed
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// What is kept, as it came.
    pub fn carried(&self) -> BTreeMap<Kind, Vec<Carried>> {
        let mut carried: BTreeMap<Kind, Vec<Carried>> = BTreeMap::new();
        for ((kind, name), (version, bytes)) in &self.resources {
            carried.entry(*kind).or_default().push(Carried {
                name: name.clone(),
                version: version.clone(),
                type_url: type_url(*kind).to_owned(),
                bytes: bytes.clone(),
            });
        }
        carried
    }

    /// Writes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put(&mut body, self.owner.as_bytes());
        for ((kind, name), (version, bytes)) in &self.resources {
            for part in [type_url(*kind).as_bytes(), name.as_bytes(), version.as_bytes(), &bytes.0] {
                put(&mut body, part);
            }
        }
        let mut out = format!("{HEADER}\n{}\n", digest(&body)).into_bytes();
        out.append(&mut body);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is damaged, or not `owner`'s.
    pub fn read(bytes: &[u8], owner: &str) -> Result<Self, Damaged> {
        let rest = bytes.strip_prefix(HEADER.as_bytes()).and_then(|rest| rest.strip_prefix(b"\n"));
        let (sum, rest) = rest.and_then(|rest| rest.split_at_checked(DIGEST)).ok_or(Damaged::Format)?;
        let body = rest.strip_prefix(b"\n").ok_or(Damaged::Format)?;
        if digest(body).as_bytes() != sum {
            return Err(Damaged::Checksum);
        }
        let mut left = body;
        let found = text(&mut left)?;
        if found != owner {
            return Err(Damaged::Owner(found));
        }
        let mut last_good = Self::new(owner);
        while !left.is_empty() {
            let kind = kind_of_type_url(&text(&mut left)?).ok_or(Damaged::Content)?;
            let (name, version) = (text(&mut left)?, text(&mut left)?);
            let bytes = Raw(Bytes::copy_from_slice(take(&mut left)?));
            last_good.resources.insert((kind, name), (version, bytes));
        }
        Ok(last_good)
    }
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a part, its length first.
fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&(part.len() as u64).to_be_bytes());
    out.extend_from_slice(part);
}

fn take<'b>(left: &mut &'b [u8]) -> Result<&'b [u8], Damaged> {
    let (length, rest) = left.split_first_chunk::<8>().ok_or(Damaged::Content)?;
    let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| Damaged::Content)?;
    let (part, rest) = rest.split_at_checked(length).ok_or(Damaged::Content)?;
    *left = rest;
    Ok(part)
}

fn text(left: &mut &[u8]) -> Result<String, Damaged> {
    String::from_utf8(take(left)?.to_vec()).map_err(|_| Damaged::Content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(names: &[&str], removed: &[&str]) -> Update {
        let key = |name: &str| (Kind::Cluster, name.to_owned());
        Update {
            removed: removed.iter().map(|name| key(name)).collect(),
            versions: names.iter().map(|name| (key(name), "1".to_owned())).collect(),
            bytes: names.iter().map(|name| (key(name), Raw(Bytes::from_static(b"\n\x01a")))).collect(),
            ..Update::default()
        }
    }

    fn filled() -> LastGood {
        let mut last_good = LastGood::new("web");
        let refused = Rejection { kind: Kind::Cluster, name: "c".to_owned(), why: String::new() };
        assert!(last_good.note(&update(&["a", "b", "c"], &[]), &[refused]));
        assert!(!last_good.note(&update(&["a"], &["z"]), &[]));
        last_good
    }

    #[test]
    fn what_was_accepted_comes_back() {
        let last_good = filled();
        let read = LastGood::read(&last_good.to_bytes(), "web").expect("whole");
        assert_eq!(read, last_good);
        let names: Vec<_> = read.carried()[&Kind::Cluster].iter().map(|it| it.name.clone()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = filled().to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(LastGood::read(&damaged, "web").is_err(), "a changed byte {at}");
            assert!(LastGood::read(&bytes[..at], "web").is_err(), "cut at {at}");
        }
        assert_eq!(LastGood::read(&bytes, "cart"), Err(Damaged::Owner("web".to_owned())));
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(LastGood::read(&longer, "web"), Err(Damaged::Checksum));
    }
}
