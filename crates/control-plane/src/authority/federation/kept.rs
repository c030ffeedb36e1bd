//! Bundles that were fetched, in the store: `/meshwork/federation/domains/<trust domain>`.

use std::collections::BTreeMap;

use meshwork_model::mesh::FederatedDomain;
use serde::{Deserialize, Serialize};

use crate::store::KvError;
use crate::store::kv::{Keys, Kv, Operation, Transaction};
use crate::store::{hash, hex};

const DOMAINS: &str = "/meshwork/federation/domains/";

/// A bundle that was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    pub(super) document: String,
    pub(super) sequence: Option<u64>,
    /// In seconds since 1970.
    pub(super) refreshed_at: i64,
    /// What config said then: the hash of the bundle there.
    configured: String,
}

impl Kept {
    pub(super) fn new(config: &FederatedDomain, document: String, sequence: Option<u64>, now: i64) -> Self {
        Self { document, sequence, refreshed_at: now, configured: configured(config) }
    }

    /// Whether config says the same bundle as when this was fetched.
    pub(super) fn is_for(&self, config: &FederatedDomain) -> bool {
        self.configured == configured(config)
    }
}

fn configured(config: &FederatedDomain) -> String {
    config.bundle.as_deref().map(|bundle| hex(&hash(bundle.as_bytes()))).unwrap_or_default()
}

/// All that were kept, by trust domain; what cannot be read is left out.
///
/// # Errors
/// The store fails.
pub(super) fn read(kv: &dyn Kv) -> Result<BTreeMap<String, Kept>, KvError> {
    let found = kv.read(Keys::Under(DOMAINS), None)?;
    let kept = found.entries.into_iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(DOMAINS)?.to_owned();
        Some((name, serde_json::from_str(&entry.value).ok()?))
    });
    Ok(kept.collect())
}

/// Keeps a bundle in place of an earlier one.
///
/// # Errors
/// The store fails.
pub(super) fn write(kv: &dyn Kv, trust_domain: &str, kept: &Kept) -> Result<(), KvError> {
    let value = serde_json::to_string(kept).map_err(|error| KvError::Unavailable(error.to_string()))?;
    let operations = vec![Operation::Put { key: format!("{DOMAINS}{trust_domain}"), value }];
    kv.commit(&Transaction { operations, ..Transaction::default() }).map(drop)
}

/// Forgets what was kept of these trust domains.
///
/// # Errors
/// The store fails.
pub(super) fn forget<'n>(kv: &dyn Kv, names: impl Iterator<Item = &'n String>) -> Result<(), KvError> {
    let operations: Vec<Operation> =
        names.map(|name| Operation::Delete { key: format!("{DOMAINS}{name}") }).collect();
    for some in operations.chunks(kv.max_operations()) {
        kv.commit(&Transaction { operations: some.to_vec(), ..Transaction::default() })?;
    }
    Ok(())
}
