//! The forms in which config and its history are kept, and their keys.
//!
//! ```text
//! /meshwork/config/<kind>/<namespace>/<name>   a resource
//! /meshwork/history/<revision>                 what changed, by whom, and how it was before
//! /meshwork/head                               the newest revision; each transaction compares it
//! ```
//!
//! Config's revision counts its transactions; it is not the store's, which others raise too.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::ingest::ResourceId;
use crate::store::kv::Operation;

/// All resources.
pub(crate) const CONFIG: &str = "/meshwork/config/";
/// All of history.
pub(crate) const HISTORY: &str = "/meshwork/history/";
/// The newest revision.
pub(crate) const HEAD: &str = "/meshwork/head";

/// How many revisions are kept: years of careful work, or a busy week of a pipeline.
const MAX_REVISIONS: usize = 1_000;
/// How many bytes of them: what a small disk has to spare.
const MAX_HISTORY_BYTES: u64 = 256 << 20;
/// How many are forgotten at once, so that a transaction stays small.
const MAX_FORGOTTEN: usize = 16;

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Created,
    Changed,
    Unchanged,
    Deleted,
}

/// A change of one resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) action: Action,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Empty where the kind has none.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) before: Option<Json>,
    pub(crate) after: Option<Json>,
}

/// A revision of config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) revision: u64,
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) by: String,
    pub(crate) note: String,
    pub(crate) changes: Vec<Change>,
}

/// The newest revision, and which are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) revision: u64,
    /// The bytes of each record that is kept, the newest last.
    kept: VecDeque<u64>,
}

impl Change {
    /// What a resource's change from one content to another is; `None` where there is none, before and after.
    pub(crate) fn of(id: &ResourceId, before: Option<&Json>, after: Option<&Json>) -> Option<Self> {
        let action = match (before, after) {
            (None, None) => return None,
            (None, Some(_)) => Action::Created,
            (Some(_), None) => Action::Deleted,
            (Some(before), Some(after)) if before == after => Action::Unchanged,
            (Some(_), Some(_)) => Action::Changed,
        };
        let api_version =
            after.or(before).and_then(|json| json.get("apiVersion")?.as_str()).unwrap_or_default();
        Some(Self {
            action,
            api_version: api_version.to_owned(),
            kind: id.kind.clone(),
            namespace: id.key.namespace.to_string(),
            name: id.key.name.to_string(),
            before: before.cloned(),
            after: after.cloned(),
        })
    }

    /// The resource.
    pub(crate) fn id(&self) -> ResourceId {
        ResourceId::new(&self.kind, &self.namespace, &self.name)
    }
}

impl Head {
    /// The oldest revision that is kept; one behind the newest where none is.
    pub(crate) fn oldest(&self) -> u64 {
        self.revision + 1 - self.kept.len() as u64
    }

    /// The head behind a new record of this size, and what makes room for it.
    pub(crate) fn next(&self, bytes: usize) -> (Self, Vec<Operation>) {
        let mut next = Self { revision: self.revision + 1, kept: self.kept.clone() };
        next.kept.push_back(bytes as u64);
        let mut forgotten = Vec::new();
        let mut total: u64 = next.kept.iter().sum();
        while (next.kept.len() > MAX_REVISIONS || total > MAX_HISTORY_BYTES)
            && next.kept.len() > 1
            && forgotten.len() < MAX_FORGOTTEN
        {
            forgotten.push(Operation::Delete { key: history_key(next.oldest()) });
            total -= next.kept.pop_front().unwrap_or_default();
        }
        (next, forgotten)
    }
}

/// Where a revision's record is; keys sort as revisions do.
pub(crate) fn history_key(revision: u64) -> String {
    format!("{HISTORY}{revision:012}")
}

/// Where a resource is.
pub(crate) fn config_key(id: &ResourceId) -> String {
    let namespace = if id.is_global() { "_" } else { &id.key.namespace };
    format!("{CONFIG}{}/{namespace}/{}", id.kind, id.key.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_revisions_make_room() {
        let mut head = Head::default();
        assert_eq!((head.revision, head.oldest()), (0, 1));
        for _ in 0..MAX_REVISIONS {
            let (next, forgotten) = head.next(10);
            assert_eq!((next.oldest(), forgotten.len()), (1, 0));
            head = next;
        }
        let (next, forgotten) = head.next(10);
        assert_eq!((next.revision, next.oldest()), (1_001, 2));
        assert_eq!(forgotten, [Operation::Delete { key: "/meshwork/history/000000000001".to_owned() }]);
        // A record that is as large as all may be makes room step by step, and stays itself.
        let huge = usize::try_from(MAX_HISTORY_BYTES).expect("64 bits");
        let (next, forgotten) = next.next(huge);
        assert_eq!((next.oldest(), forgotten.len()), (18, MAX_FORGOTTEN));
        let (only, _) = Head::default().next(huge + 1);
        assert_eq!((only.revision, only.oldest()), (1, 1));
    }

    #[test]
    fn keys_name_their_resource() {
        assert_eq!(config_key(&ResourceId::new("Service", "", "a")), "/meshwork/config/Service/default/a");
        assert_eq!(config_key(&ResourceId::new("Namespace", "x", "a")), "/meshwork/config/Namespace/_/a");
        assert!(history_key(99) < history_key(100));
    }
}
